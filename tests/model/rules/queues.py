"""What happens to whole queues, and what does maintenance do?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.operations.jobs import Enqueue
from tests.model.operations.queues import Bound, Clear, Control
from tests.model.operations.upkeep import Die, Duty, RelayTwice, Rescue
from tests.model.operations.workers import Claim, Depart, Register, Report
from tests.model.rules.base import WORKERS, Comparing, busy_queues, picks, queues


class QueueRules(Comparing):
    """Controls, limits, maintenance, and processes that die in it."""

    @rule(queue=busy_queues, name=st.sampled_from([None, "a"]), verb=st.sampled_from(["pause", "resume", "resume"]))
    def control(self, queue: str, name: str | None, verb: str) -> None:
        self.do(Control(verb, queue, name))

    @rule(worker=st.sampled_from(WORKERS), name=st.sampled_from([None, "a"]))
    def pause_unseen(self, worker: str, name: str | None) -> None:
        """A claimer that has just read the controls claims again behind a pause."""
        self.do(Enqueue("right"))
        self.do(Claim(worker, "right"))
        self.do(Enqueue("right"))
        self.do(Control("pause", "right", name))
        self.do(Claim(worker, "right", fresh=False))
        self.do(Control("resume", "right", name))

    @rule(queue=busy_queues, most=st.sampled_from([None, None, 0, 1, 2]))
    def limit(self, queue: str, most: int | None) -> None:
        self.do(Bound(queue, most))

    @rule(worker=st.sampled_from(WORKERS), most=st.sampled_from([0, 1, 2]), limit=st.integers(1, 4))
    def limit_unseen(self, worker: str, most: int, limit: int) -> None:
        """A claimer that has just read the controls claims again behind a limit, and behind its end."""
        self.do(Enqueue("right", many=True))
        self.do(Claim(worker, "right"))
        self.do(Bound("right", most))
        self.do(Claim(worker, "right", limit=limit, fresh=False))
        self.do(Bound("right", None))

    @rule(queue=queues, state=st.sampled_from([None, "failed", "completed", "waiting"]))
    def clear(self, queue: str, state: str | None) -> None:
        self.do(Clear(queue, state))

    @rule(name=st.sampled_from(["stage", "stage", "expire", "relay", "relay", "relay", "prune", "unpark", "let_go"]))
    def maintain(self, name: str) -> None:
        self.do(Duty(name))

    @rule(writes=st.integers(0, 3), what=st.sampled_from(["relay", "rescue", "seen"]), worker=st.sampled_from(WORKERS))
    def die_half_way(self, writes: int, what: str, worker: str) -> None:
        if what == "relay":
            self.do(Die(Duty("relay"), writes))
        elif what == "rescue":
            self.do(Die(Rescue(), writes))
        elif worker in self.model.workers:
            self.do(Die(Depart(worker), writes + 1))

    @rule()
    def relay_twice(self) -> None:
        self.do(RelayTwice())

    @rule(ends=st.sampled_from(["cc", "cc", "cf", "fc"]), writes=st.integers(0, 3), parent=picks)
    def family(self, ends: str, writes: int, parent: int) -> None:
        """A parent and two children; whoever tells it of the first's end dies on the way."""
        self.do(Enqueue("left", name="b"))
        id = self.pick(parent, lambda job: job.state in ("waiting", "blocked", "scheduled"))
        if id is None:
            return
        for _ in ends:
            self.do(Enqueue("right", priority=-99, parent=id, max_attempts=1))
        self.do(Register("runner", frozenset()))
        for end in ends:
            answer = self.do(Claim("runner", "right"))
            for run in answer.value:
                self.do(Report(OutcomeKind.COMPLETE if end == "c" else OutcomeKind.BURY, *run))
            self.do(Die(Duty("relay"), writes))
