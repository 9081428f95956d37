"""What happens to jobs that wait for each other?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.account.flows import Node
from tests.model.operations.bulk import Interrupted
from tests.model.operations.flows import CancelFlow, RetryFlow, StartFlow
from tests.model.operations.jobs import Enqueue, Operate
from tests.model.operations.upkeep import Die, Duty, Then
from tests.model.operations.workers import Claim, Register, Report
from tests.model.rules.base import Comparing, picks, seldom

SHAPES: dict[str, tuple[Node, ...]] = {
    "pair": (Node(), Node(), Node()),
    "chain": (Node(), Node(0), Node(1)),
    "diamond": (Node(), Node(), Node(depends_on=(1,)), Node(depends_on=(1,))),
    "ignores": (Node(on_child_failure="ignore"), Node(), Node(0), Node(2)),
    "removes": (Node(on_child_failure="remove"), Node(), Node(0, delayed=True)),
    "holds a key": (Node(), Node(unique_key="k1"), Node()),
}
shapes = st.sampled_from(sorted(SHAPES))
ENDS = {"c": OutcomeKind.COMPLETE, "f": OutcomeKind.BURY}
ends = st.text("cccf", min_size=1, max_size=4)


class FlowRules(Comparing):
    """Flows made at once, children of running handlers, and what their ends come to."""

    def a_flow(self, shape: str, key: str | None = None) -> str | None:
        """A flow that has just been made; None where a key is in the way."""
        answer: str | None = self.do(StartFlow(SHAPES[shape], self.mark(), key=key)).value
        return answer

    def mark(self) -> str:
        return f"flow {len(self.history)}"

    def run_some(self, ends: str, *, writes: int = 9) -> None:
        """Jobs of the flows' queue, one after the other; whoever tells of an end may die on the way."""
        self.do(Register("runner", frozenset()))
        for end in ends:
            for run in self.do(Claim("runner", "right")).value:
                self.do(Report(ENDS[end], *run))
            self.do(Die(Duty("relay"), writes) if writes < 4 else Duty("relay"))

    def in_a_flow(self, number: int) -> str | None:
        return self.pick(number, lambda job: job.flow is not None)

    @rule(shape=shapes, key=st.sampled_from([None, None, "flow"]), dies=seldom, writes=st.integers(0, 1))
    def start_flow(self, shape: str, key: str | None, dies: bool, writes: int) -> None:
        if dies:
            self.do(Die(StartFlow(SHAPES[shape], self.mark(), key=key, dies=True), writes, recovery=()))
        self.a_flow(shape, key)

    @rule(shape=shapes, ends=ends, writes=st.integers(0, 9))
    def flow_runs(self, shape: str, ends: str, writes: int) -> None:
        self.a_flow(shape)
        self.run_some(ends, writes=writes)

    @rule(shape=shapes, before=ends, after=ends, cancelled=st.booleans())
    def flow_runs_again(self, shape: str, before: str, after: str, cancelled: bool) -> None:
        if root := self.a_flow(shape):
            self.run_some(before)
            if cancelled:
                self.do(CancelFlow(root))
            self.do(RetryFlow(root))
            self.run_some(after)

    @rule(number=picks, cancel=st.booleans())
    def operate_on_flow(self, number: int, cancel: bool) -> None:
        if id := self.in_a_flow(number):
            self.do(CancelFlow(id) if cancel else RetryFlow(id))

    @rule(shape=shapes, nth=st.integers(0, 2), noting=st.booleans(), end=st.sampled_from(["cancel", "c", "f", ""]))
    def flow_is_cancelled_half_way(self, shape: str, nth: int, noting: bool, end: str) -> None:
        """Ends of its jobs are told before the cancel has come to those that wait for them."""
        root = self.a_flow(shape)
        if root is None:
            return
        meanwhile = []
        self.do(Register("runner", frozenset()))
        runs = self.do(Claim("runner", "right")).value if end in ENDS else []
        meanwhile += [Report(ENDS[end], *run) for run in runs]
        self.do(Interrupted(CancelFlow(root), nth, noting, [*meanwhile, Duty("relay")]))
        self.do(Duty("relay"))

    @rule(
        children=st.integers(0, 2),
        before=st.sampled_from(["", "", "c", "f", "cc"]),
        policy=st.sampled_from([None, "ignore", "remove"]),
        cancel=seldom,
        alone=st.booleans(),
        after=ends,
    )
    def handler_waits_for_children(
        self, children: int, before: str, policy: str | None, cancel: bool, alone: bool, after: str
    ) -> None:
        """It adds children under its lease, of which some end before it waits."""
        run = self.a_run(max_attempts=1, on_child_failure=policy)
        if run is None:
            return
        for _ in range(children):
            self.do(Enqueue("right", priority=-99, max_attempts=1, parent=run[0], lease=run[1]))
        self.run_some(before)
        if cancel:
            self.do(Operate("cancel", run[0]))
        self.do(Report(OutcomeKind.SUSPEND, *run, alone=alone))
        self.do(Enqueue("right", parent=run[0], lease=run[1]))
        self.run_some(after)

    # Races of two processes.

    @rule(shape=shapes, limit=st.integers(1, 4))
    def flow_against_claim(self, shape: str, limit: int) -> None:
        """No part of a flow runs before all of it is there."""
        self.race(StartFlow(SHAPES[shape], self.mark()), Claim("w0", "right", limit=limit))

    @rule(shape=shapes, other=shapes)
    def flow_against_flow(self, shape: str, other: str) -> None:
        key = f"key {len(self.history)}"
        self.race(
            StartFlow(SHAPES[shape], f"one {self.mark()}", key=key),
            StartFlow(SHAPES[other], f"two {self.mark()}", key=key),
        )

    @rule(end=st.sampled_from(["c", "f"]), policy=st.sampled_from([None, "ignore"]), lag=st.sampled_from([0.0, 0.004]))
    def suspend_against_the_end_of_a_child(self, end: str, policy: str | None, lag: float) -> None:
        if run := self.a_run(on_child_failure=policy):
            self.do(Enqueue("right", priority=-99, max_attempts=1, parent=run[0], lease=run[1]))
            for child in self.do(Claim("runner", "right")).value:
                self.race(
                    Report(OutcomeKind.SUSPEND, *run),
                    Then(Report(ENDS[end], *child), lambda _: Duty("relay")),
                    lag_seconds=lag,
                )

    @rule(leased=st.booleans())
    def suspend_against_a_new_child(self, leased: bool) -> None:
        if run := self.a_run():
            child = Enqueue("right", parent=run[0], lease=run[1] if leased else None)
            self.race(Report(OutcomeKind.SUSPEND, *run), child)

    @rule(end=st.sampled_from(["c", "f"]), lag=st.sampled_from([0.0, 0.002, 0.004]))
    def retry_of_a_flow_against_the_end_of_a_child(self, end: str, lag: float) -> None:
        """One child has failed, and its parent with it; the other ends while they are to run again."""
        root = self.a_flow("pair")
        self.do(Register("runner", frozenset()))
        runs = self.do(Claim("runner", "right", limit=2)).value
        if root is None or len(runs) < 2:
            return
        self.do(Report(OutcomeKind.BURY, *runs[0]))
        self.do(Duty("relay"))
        self.race(
            RetryFlow(root),
            Then(Report(ENDS[end], *runs[1]), lambda _: Duty("relay")),
            lag_seconds=lag,
        )

    @rule(shape=shapes, claims=st.booleans(), lag=st.sampled_from([0.0, 0.004, 0.008]))
    def cancel_of_a_flow_against_a_worker(self, shape: str, claims: bool, lag: float) -> None:
        root = self.a_flow(shape)
        if root is None:
            return
        self.do(Register("runner", frozenset()))
        if claims:
            self.race(Claim("runner", "right"), CancelFlow(root), lag_seconds=lag)
        else:
            for run in self.do(Claim("runner", "right")).value:
                self.race(Report(OutcomeKind.COMPLETE, *run), CancelFlow(root), lag_seconds=lag)
