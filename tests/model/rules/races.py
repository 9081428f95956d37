"""What happens when two processes act on the same jobs at once?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.account.entries import FINAL
from tests.model.operations.jobs import Enqueue, Operate, TimePasses
from tests.model.operations.queues import Bound, Control
from tests.model.operations.upkeep import Duty, Then
from tests.model.operations.workers import Claim, Depart, Register, Report
from tests.model.rules.base import WORKERS, Comparing, picks


class Races(Comparing):
    """Two at once: the outcome must be one that some order has."""

    @rule(number=picks)
    def debounce_against_debounce(self, number: int) -> None:
        self.race(
            Enqueue("left", delayed=True, priority=number % 3, debounce_key="d"),
            Enqueue("left", delayed=True, priority=-1, debounce_key="d"),
        )

    @rule(replaces=st.booleans(), delayed=st.booleans(), over=st.booleans())
    def throttle_against_throttle(self, replaces: bool, delayed: bool, over: bool) -> None:
        call = Enqueue("left", delayed=delayed, throttle_key="r", replaces=replaces)
        id = self.do(call).value
        if over:
            self.do(TimePasses(id, "unique_until"))
        self.race(call, call)

    @rule(delayed=st.booleans())
    def throttle_against_its_end(self, delayed: bool) -> None:
        call = Enqueue("left", delayed=delayed, throttle_key="r")
        self.do(TimePasses(self.do(call).value, "unique_until"))
        self.race(call, Duty("let_go"))

    @rule(number=picks)
    def debounce_against_promote(self, number: int) -> None:
        if id := self.pick(number, lambda job: job.dedup == "debounce" and job.state == "scheduled"):
            self.race(Operate("promote", id), Enqueue("left", delayed=True, debounce_key="d"))

    @rule(worker=st.sampled_from(WORKERS), lag_seconds=st.sampled_from([0.0, 0.004]))
    def cancel_against_claim(self, worker: str, lag_seconds: float) -> None:
        self.do(Enqueue("left", priority=-9))
        id = self.pick(0, lambda job: job.state == "waiting" and job.priority == -9)
        if id:
            self.race(Operate("cancel", id), Claim(worker, "left"), lag_seconds=lag_seconds)

    @rule(number=picks, kind=st.sampled_from([OutcomeKind.COMPLETE, OutcomeKind.FAIL]))
    def cancel_against_report(self, number: int, kind: OutcomeKind) -> None:
        if lease := self.a_lease(number):
            self.race(Operate("cancel", lease[0]), Report(kind, *lease, alone=True))

    @rule(number=picks)
    def report_against_report(self, number: int) -> None:
        if lease := self.a_lease(number):
            self.race(Report(OutcomeKind.COMPLETE, *lease), Report(OutcomeKind.FAIL, *lease, alone=True))

    @rule(worker=st.sampled_from(WORKERS), number=picks)
    def rescue_against_late_report(self, worker: str, number: int) -> None:
        """A worker taken for dead hands its job on at the last moment: the rescuer must not take it from the next."""
        self.do(Enqueue("left", priority=-9))
        self.do(Register("late", frozenset()))
        won = self.do(Claim("late", "left")).value
        if won:
            late = Report(OutcomeKind.RELEASE if number % 2 else OutcomeKind.FAIL, *won[0])
            self.race(Depart("late"), Then(late, lambda _: Claim(worker, "left")))

    @rule(number=picks)
    def retry_against_enqueue(self, number: int) -> None:
        self.do(Duty("relay"))
        if id := self.pick(number, lambda job: job.state in FINAL and job.unique_key is not None and job.dedup is None):
            job = self.model.jobs[id]
            self.race(Operate("retry", id), Enqueue("left", unique_key=job.unique_key))

    @rule(number=picks)
    def retry_twice(self, number: int) -> None:
        if id := self.pick(number, lambda job: job.state in FINAL):
            self.race(Operate("retry", id), Operate("retry", id))

    @rule(key=st.sampled_from(["k1", "k3"]))
    def enqueue_against_enqueue(self, key: str) -> None:
        self.race(Enqueue("left", unique_key=key, many=True), Enqueue("left", unique_key=key))

    @rule(one=st.sampled_from(WORKERS), two=st.sampled_from(WORKERS))
    def claim_against_claim(self, one: str, two: str) -> None:
        self.do(Enqueue("left"))
        self.race(Claim(one, "left"), Claim(two, "left", limit=2, fresh=False))

    @rule(worker=st.sampled_from(WORKERS))
    def pause_against_claim(self, worker: str) -> None:
        self.race(Control("pause", "left"), Claim(worker, "left", fresh=False))
        self.do(Control("resume", "left"))

    @rule(one=st.sampled_from(WORKERS), two=st.sampled_from(WORKERS), most=st.integers(1, 2), late=st.booleans())
    def claim_against_claim_under_a_limit(self, one: str, two: str, most: int, late: bool) -> None:
        for _ in range(2):
            self.do(Enqueue("left"))
        if late:
            self.race(Bound("left", most), Claim(two, "left", limit=2, fresh=False))
        else:
            self.do(Bound("left", most))
            self.race(Claim(one, "left"), Claim(two, "left", limit=2, fresh=False))
        self.do(Bound("left", None))
