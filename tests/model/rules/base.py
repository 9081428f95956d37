"""How is each operation done on both sides and compared, and what is the next one done to?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from switchtower.clock import to_ms
from tests.model.account.entries import Violation, observed, observed_cron
from tests.model.model import Model
from tests.model.operations.base import QUEUES, Answer, Operation, Steps
from tests.model.operations.jobs import Enqueue
from tests.model.operations.workers import Claim, Progress, Register, Report, Start
from tests.model.world import World

NAMES = ("a", "b")
WORKERS = ("w0", "w1", "w2")

queues = st.sampled_from(QUEUES)
# One queue is busier than the other, so that its jobs meet.
busy_queues = st.sampled_from(("left", "left", "left", "right"))
names = st.sampled_from(NAMES)
handlers = st.sampled_from([None, None, None, frozenset({"a"}), frozenset({"b"}), frozenset(NAMES)])
picks = st.integers(0, 63)
keys = st.sampled_from([None, "k1", "k2"])
seldom = st.sampled_from([False, False, False, True])


class Comparing(RuleBasedStateMachine):
    """Set `world` on a subclass before running it."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.leases: list[tuple[str, str, str]] = []
        """Every (job, token, worker) that was ever won."""
        self.calls: list[Operation] = []
        """Reports made so far, to be repeated."""
        self.letters: dict[tuple[str, int], str] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.crons: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.history: list[str] = []
        self.world.clear()

    # Doing and comparing.

    def do(self, operation: Operation) -> Answer:
        with self.explained(operation):
            answer: Answer = self.world.run(operation.run(self.world.engine))
            self.look()
            operation.apply(self.model, answer, self.documents)
            self.compare(self.model)
            self.remember(operation, answer)
        self.history.append(f"{operation} -> {answer}")
        return answer

    @contextlib.contextmanager
    def explained(self, doing: object) -> Iterator[None]:
        """A failure inside the block is kept, with what led to it."""
        try:
            yield
        except Exception as failure:
            documents = "\n".join(map(str, self.documents.values()))
            story = "\n".join([*self.history[-40:], f"then {doing}: {type(failure).__name__}: {failure}", documents])
            self.world.failures.append(story)
            raise

    def race(self, one: Operation, two: Operation, *, lag_seconds: float = 0) -> None:
        """Both at once, by two processes: the outcome must be one that some order of their steps has.

        The second begins `lag_seconds` later: the first may have read by then, and not yet written.
        """

        async def later() -> Answer:
            await asyncio.sleep(lag_seconds)
            return await two.run(self.world.engine)

        async def both() -> list[Answer]:
            return list(await asyncio.gather(one.run(self.world.engine), later()))

        with self.explained((one, two)):
            first, second = self.world.run(both())
            self.look()
            refusals = []
            for order in _merged(one.steps(first), two.steps(second)):
                model = self.model.copy()
                try:
                    for operation, answer in order:
                        operation.apply(model, answer, self.documents)
                    self.compare(model)
                except Violation as violation:
                    refusals.append(str(violation))
                    continue
                self.model = model
                for operation, answer in order:
                    self.remember(operation, answer)
                self.history.append(f"{one} -> {first} at once with {two} -> {second}")
                return
            raise Violation(f"{first} and {second}: neither order explains it: {refusals}")

    def remember(self, operation: Operation, answer: Answer) -> None:
        if isinstance(operation, Claim) and answer.value:
            self.leases += [(id, token, operation.worker) for id, token in answer.value]
        if isinstance(operation, Start | Report | Progress):
            self.calls.append(operation)

    def look(self) -> None:
        self.world.steps += 1
        self.documents = {document["_id"]: document for document in self.world.view["jobs"].find()}
        self.crons = {document["_id"]: document for document in self.world.view["crons"].find()}
        self.events = {document["_id"]: document for document in self.world.view["events"].find()}

    def compare(self, model: Model) -> None:
        if set(self.documents) != set(model.jobs):
            missing, extra = set(model.jobs) - set(self.documents), set(self.documents) - set(model.jobs)
            raise Violation(f"jobs lost: {missing}; jobs that should not be: {extra}")
        for id, job in model.jobs.items():
            expected, found = model.expected(job), observed(self.documents[id])
            if expected != found:
                wrong = {k: (found[k], expected[k]) for k in expected if found[k] != expected[k]}
                raise Violation(f"job {id}: (found, expected) {wrong}")
        if set(self.crons) != set(model.crons):
            raise Violation(f"crons {set(self.crons)}, and expected {set(model.crons)}")
        for id, cron in model.crons.items():
            if model.expected_cron(cron) != observed_cron(self.crons[id], to_ms_utc):
                raise Violation(
                    f"cron {id}: {observed_cron(self.crons[id], to_ms_utc)}, and expected {model.expected_cron(cron)}"
                )

        consumed = {id: document["consumed_by"] for id, document in self.events.items()}
        if consumed != (expected := {id: event.consumed_by for id, event in model.events.items()}):
            raise Violation(f"events were consumed by {consumed}, and expected {expected}")

    def view_letters(self) -> dict[tuple[str, int], str]:
        rows = list(self.world.view["dead_letters"].find({}, {"job_id": 1, "generation": 1}))
        found = {(row["job_id"], row["generation"]): row["_id"] for row in rows}
        assert len(found) == len(rows), "two dead letters for one generation (I8)"
        return found

    # Choosing.

    def pick(self, number: int, condition: Callable[[Any], bool] = lambda job: True) -> str | None:
        found = sorted(job.id for job in self.model.jobs.values() if condition(job))
        return found[number % len(found)] if found else None

    def a_lease(self, number: int) -> tuple[str, str] | None:
        """Mostly a lease that is held now, else any that ever was."""
        current = [(job.id, job.token) for job in self.model.jobs.values() if job.token is not None]
        current.sort()
        if current and number % 4:
            return current[number % len(current)]
        return self.leases[number % len(self.leases)][:2] if self.leases else None

    @initialize()
    def staff(self) -> None:
        self.do(Register("w0", frozenset()))

    def a_run(self, worker: str = "runner", **options: Any) -> tuple[str, str] | None:
        """A job that has just been claimed, whatever else there is; None when a pause is in the way."""
        call = Enqueue("left", priority=-99, **options)
        self.do(call)
        self.do(Register(worker, frozenset()))
        answer = self.do(Claim(worker, "left"))
        return answer.value[0] if answer.value else None


def _merged(one: Steps, two: Steps) -> Iterator[Steps]:
    """Every order of the steps of two processes."""
    for places in itertools.combinations(range(len(one) + len(two)), len(one)):
        ones, twos = iter(one), iter(two)
        yield [next(ones) if place in places else next(twos) for place in range(len(one) + len(two))]


def to_ms_utc(at: Any) -> int:
    return to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
