"""What happens in a queue that tenants and groups share?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.operations.base import SHARED
from tests.model.operations.groups import ClaimInTurn
from tests.model.operations.jobs import Enqueue, Operate
from tests.model.operations.queues import Bound, Clear, Control
from tests.model.operations.workers import Depart, Register, Report
from tests.model.rules.base import WORKERS, Comparing, picks, seldom

GROUPS = ("g1", "g2", "g3")
groups = st.sampled_from([None, *GROUPS])
orgs = st.sampled_from(["", "", "", "acme"])
mosts = st.sampled_from([None, None, 0, 1, 2])
sizes = st.integers(1, 4)
lags = st.sampled_from([0.0, 0.003])


class GroupRules(Comparing):
    """Lanes that take turns, and groups that are paused and limited."""

    def ends(self, number: int, kind: OutcomeKind = OutcomeKind.COMPLETE) -> None:
        """One of the shared queue's runs."""
        held = [(job.id, job.token) for job in self.model.jobs.values() if job.token and job.queue == SHARED]
        if held:
            id, token = sorted(held)[number % len(held)]
            self.do(Report(kind, id, token))

    @rule(group=groups, org=orgs, priority=st.sampled_from([0, 0, -1]), delayed=seldom, many=seldom, lifo=seldom)
    def enqueue_in_group(
        self, group: str | None, org: str, priority: int, delayed: bool, many: bool, lifo: bool
    ) -> None:
        self.do(Enqueue(SHARED, priority=priority, delayed=delayed, many=many, lifo=lifo, group=group, org=org))

    @rule(org=orgs, plain=st.booleans())
    def fill_groups(self, org: str, plain: bool) -> None:
        for group in (*GROUPS, *([None] if plain else [])):
            self.do(Enqueue(SHARED, group=group, org=org))

    @rule(worker=st.sampled_from(WORKERS), limit=sizes, fresh=st.sampled_from([True, True, False]))
    def claim_in_turn(self, worker: str, limit: int, fresh: bool) -> None:
        self.do(ClaimInTurn(worker, limit=limit, fresh=fresh))

    @rule(number=picks, kind=st.sampled_from([OutcomeKind.COMPLETE, OutcomeKind.COMPLETE, *OutcomeKind]))
    def end_in_group(self, number: int, kind: OutcomeKind) -> None:
        if kind not in (OutcomeKind.RETRY_AT, OutcomeKind.EXPIRE):
            self.ends(number, kind)

    @rule(limit=sizes, most=st.sampled_from([None, 1, 1, 2]), per_group=st.sampled_from([None, None, 1]), two=seldom)
    def lanes_take_turns(self, limit: int, most: int | None, per_group: int | None, two: bool) -> None:
        """Several claims one after the other, of more than there is room for."""
        for group in GROUPS[: 2 if two else 3]:
            for _ in range(2):
                self.do(Enqueue(SHARED, group=group))
        self.do(Enqueue(SHARED))
        self.do(Bound(SHARED, most, per_group))
        for number in range(4):
            self.do(ClaimInTurn("w0", limit=limit))
            self.ends(number)

    @rule(group=st.sampled_from(GROUPS), verb=st.sampled_from(["pause", "resume", "resume"]))
    def control_group(self, group: str, verb: str) -> None:
        self.do(Control(verb, SHARED, group=group))

    @rule(worker=st.sampled_from(WORKERS), group=st.sampled_from(GROUPS))
    def pause_group_unseen(self, worker: str, group: str) -> None:
        """A claimer that has just read the controls claims again behind a pause."""
        self.do(Enqueue(SHARED, group=group, priority=-9))
        self.do(ClaimInTurn(worker))
        self.do(Enqueue(SHARED, group=group, priority=-9))
        self.do(Control("pause", SHARED, group=group))
        self.do(ClaimInTurn(worker, limit=4, fresh=False))
        self.do(Control("resume", SHARED, group=group))

    @rule(most=mosts, per_group=mosts)
    def limit_groups(self, most: int | None, per_group: int | None) -> None:
        self.do(Bound(SHARED, most, per_group))

    @rule(worker=st.sampled_from(WORKERS), per_group=st.integers(0, 1), limit=sizes)
    def limit_groups_unseen(self, worker: str, per_group: int, limit: int) -> None:
        for group in (None, "g1", "g1", "g2"):
            self.do(Enqueue(SHARED, group=group, priority=-9))
        self.do(ClaimInTurn(worker))
        self.do(Bound(SHARED, None, per_group))
        self.do(ClaimInTurn(worker, limit=limit, fresh=False))
        self.do(Bound(SHARED, None))

    @rule(number=picks, verb=st.sampled_from(["cancel", "retry", "promote", "remove", "update"]))
    def operate_in_group(self, number: int, verb: str) -> None:
        if id := self.pick(number, lambda job: job.queue == SHARED):
            self.do(Operate(verb, id, priority=number % 3))

    @rule(worker=st.sampled_from(WORKERS))
    def worker_of_groups_dies(self, worker: str) -> None:
        self.do(Register(worker, frozenset()))
        self.do(ClaimInTurn(worker, limit=2))
        self.do(Depart(worker))

    @rule(state=st.sampled_from([None, "completed", "waiting"]))
    def clear_shared(self, state: str | None) -> None:
        self.do(Clear(SHARED, state))

    # Races of two processes.

    @rule(per_group=st.integers(1, 2), limit=sizes, late=st.booleans(), lag=lags)
    def claims_against_each_other_under_a_group_limit(self, per_group: int, limit: int, late: bool, lag: float) -> None:
        for group in ("g1", "g1", "g2"):
            self.do(Enqueue(SHARED, group=group))
        two = ClaimInTurn("w1", limit=limit, fresh=False)
        if late:
            self.race(Bound(SHARED, None, per_group), two, lag_seconds=lag)
        else:
            self.do(Bound(SHARED, None, per_group))
            self.race(ClaimInTurn("w0", limit=limit, fresh=False), two, lag_seconds=lag)
        self.do(Bound(SHARED, None))

    @rule(group=st.sampled_from(GROUPS), lag=lags)
    def pause_group_against_claim(self, group: str, lag: float) -> None:
        self.do(Enqueue(SHARED, group=group))
        self.race(Control("pause", SHARED, group=group), ClaimInTurn("w0", limit=4, fresh=False), lag_seconds=lag)
        self.do(Control("resume", SHARED, group=group))
