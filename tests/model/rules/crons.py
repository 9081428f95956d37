"""What happens to schedules, and who makes their jobs?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.account.entries import HOUR_MS
from tests.model.operations.crons import ChangeCron, CreateCron, HoursPass, Tick, Trigger
from tests.model.operations.upkeep import Die
from tests.model.operations.workers import Claim, Report
from tests.model.rules.base import Comparing, picks, queues, seldom

overlaps = st.sampled_from(["allow", "skip", "skip", "replace"])
policies = st.sampled_from(["one", "all", "all", "skip"])
limits = st.sampled_from([None, None, 1, 2])
UP_TO_DATE_MS = 5_000


class CronRules(Comparing):
    """Crons, their slots, and schedulers that die in them or meet."""

    def a_cron(self, number: int) -> str | None:
        found = sorted(self.model.crons)
        return found[number % len(found)] if found else None

    def to_the_next_hour(self, hours: int = 0, late_ms: int = UP_TO_DATE_MS) -> None:
        now = self.model.now_ms
        self.do(HoursPass((now // HOUR_MS + 1 + hours) * HOUR_MS + late_ms - now))

    @rule(
        name=st.sampled_from(["c0", "c1"]),
        queue=queues,
        overlap=overlaps,
        catch_up=policies,
        limit=limits,
        ends=st.sampled_from([None, None, 2]),
        unique=seldom,
    )
    def create_cron(
        self, name: str, queue: str, overlap: str, catch_up: str, limit: int | None, ends: int | None, unique: bool
    ) -> None:
        ends_ms = None if ends is None else self.model.now_ms + ends * HOUR_MS
        call = CreateCron(name, queue, overlap, catch_up, limit, ends_ms, unique)
        self.do(call)
        self.do(call)

    @rule(hours=st.integers(0, 3), late_ms=st.sampled_from([0, UP_TO_DATE_MS, 30_000, 120_000]))
    def slots_come(self, hours: int, late_ms: int) -> None:
        self.to_the_next_hour(hours, late_ms)
        self.do(Tick())

    @rule(overlap=overlaps, catch_up=policies, limit=limits, hours=st.integers(0, 2), writes=st.integers(0, 6))
    def scheduler_dies(self, overlap: str, catch_up: str, limit: int | None, hours: int, writes: int) -> None:
        """Behind a slot whose job may be open; another scheduler goes on."""
        created = self.do(CreateCron(f"d{len(self.history)}", "left", overlap, catch_up, limit, unique=writes == 3))
        self.to_the_next_hour()
        self.do(Tick(whole=True))
        self.to_the_next_hour(hours)
        self.do(Die(Tick(), writes, recovery=[Tick(whole=True)]))
        if len(self.model.crons) > 3:
            self.do(ChangeCron(created.value, "delete"))

    @rule(
        number=picks,
        verb=st.sampled_from(["disable", "enable", "enable", "update", "delete"]),
        limit=st.sampled_from([1, 2, 9]),
        overlap=overlaps,
    )
    def change_cron(self, number: int, verb: str, limit: int, overlap: str) -> None:
        if id := self.a_cron(number):
            changes = {"limit": limit} if number % 2 else {"overlap": overlap}
            self.do(ChangeCron(id, verb, changes if verb == "update" else {}))

    @rule(number=picks, key=st.sampled_from([None, "t1"]))
    def trigger_cron(self, number: int, key: str | None) -> None:
        if id := self.a_cron(number):
            self.do(Trigger(id, key))

    # Races of two processes.

    @rule(hours=st.integers(0, 2), overlap=overlaps, lag=st.sampled_from([0.0, 0.003]))
    def scheduler_against_scheduler(self, hours: int, overlap: str, lag: float) -> None:
        if not self.model.crons:
            self.do(CreateCron("c0", "left", overlap, "all"))
        self.to_the_next_hour(hours)
        self.race(Tick(), Tick(), lag_seconds=lag)

    @rule(number=picks, verb=st.sampled_from(["disable", "update", "delete"]), lag=st.sampled_from([0.0, 0.003, 0.006]))
    def scheduler_against_operator(self, number: int, verb: str, lag: float) -> None:
        self.to_the_next_hour()
        if id := self.a_cron(number):
            self.race(Tick(), ChangeCron(id, verb, {"limit": 9} if verb == "update" else {}), lag_seconds=lag)

    @rule(overlap=st.sampled_from(["skip", "replace"]), lag=st.sampled_from([0.0, 0.003]))
    def scheduler_against_the_end_of_the_slot_before(self, overlap: str, lag: float) -> None:
        cron = self.do(CreateCron(f"e{len(self.history)}", "right", overlap)).value
        self.to_the_next_hour()
        self.do(Tick(whole=True))
        for run in self.do(Claim("w0", "right")).value:
            self.to_the_next_hour()
            self.race(Report(OutcomeKind.COMPLETE, *run), Tick(), lag_seconds=lag)
        self.do(ChangeCron(cron, "delete"))
