"""What does the worker's durable code ask for a run, and what do those who start it and publish events?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.engine.workflows import Workflows
from switchtower.ids import run_id
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.store import workflows as commands
from switchtower.workflows import NewRun, Step, StepKind, StepStatus, WorkflowRun
from tests.model.account.entries import ModelEvent, ModelJob, ModelStep
from tests.model.model import Model
from tests.model.operations.base import CALLER, Answer, Documents, Operation, Steps, ask

WORKFLOW = "flow"
BROKEN = JobError(ErrorKind.EXCEPTION, "ValueError", "no", None, "")

READ: dict[tuple[str, str], WorkflowRun] = {}
"""The runs as their workers read them, by id and token: what they do next they do with that."""


def as_asked(step: ModelStep) -> Step:
    """The step as the durable code gives it to the engine."""
    return Step(
        name=step.name,
        kind=StepKind(step.kind),
        status=StepStatus(step.status),
        result=step.result,
        events=step.events,
        match=Workflows.conditions(dict(step.match)),
    )


@dataclass
class StartRun(Operation):
    queue: str = "right"
    key: str | None = None
    custom_id: str | None = None

    async def run(self, engine: Engine) -> Answer:
        new = NewRun(
            workflow=WORKFLOW,
            version=1,
            queue=self.queue,
            priority=-99,
            idempotency_key=self.key,
            run_id=self.custom_id,
        )
        answer = await ask(engine.workflows.start(new, caller=CALLER))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        new = ModelJob(
            id="",
            queue=self.queue,
            name=f"{WORKFLOW}#1",
            state="waiting",
            max_attempts=100,
            priority=-99,
            idempotency_key=self.key,
            custom_id=self.custom_id,
            on_child_failure="ignore",
            run=True,
        )
        model.enqueue(new, depends_on=(), answered=answer.value)


@dataclass
class Resume(Operation):
    """Reads the run under its lease; a plain job of a workflow's name becomes a run."""

    id: str
    token: str

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.workflows.resume(run_id(self.id), self.token))
        if answer.error:
            return answer
        READ[self.id, self.token] = answer.value
        return Answer([(step.name, step.kind.value, step.status.value, step.result) for step in answer.value.steps])

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        return model.resume(self.id, self.token)


@dataclass
class Record(Operation):
    id: str
    token: str
    step: ModelStep
    compensating: bool = False

    async def run(self, engine: Engine) -> Answer:
        return await ask(
            engine.workflows.checkpoint(
                run_id(self.id), self.token, as_asked(self.step), compensating=self.compensating
            )
        )

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.record(self.id, self.token, self.step, compensating=self.compensating)


@dataclass
class Consume(Operation):
    """Asks for the event of a step, with the run as it was read under this token."""

    id: str
    token: str
    step: ModelStep

    async def run(self, engine: Engine) -> Answer:
        return await ask(engine.workflows.consume(READ[self.id, self.token], self.token, as_asked(self.step)))

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        expected = model.consume(self.id, self.token, self.step)
        return (None,) if expected is None and answer.value is not None else expected


@dataclass
class Recheck(Operation):
    """What a worker asks after its run was put aside."""

    id: str

    async def run(self, engine: Engine) -> Answer:
        return Answer(await engine.workflows.recheck(run_id(self.id)))

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        return model.wake(job=self.id) > 0


@dataclass
class Wake(Operation):
    """Maintenance's round."""

    async def run(self, engine: Engine) -> Answer:
        return Answer(await engine.workflows.wake())

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        return model.wake()


@dataclass
class Publish(Operation):
    """`dies` is a publisher that tells nobody."""

    name: str
    x: int = 1
    key: str | None = None
    org: str | None = None
    dies: bool = False

    async def run(self, engine: Engine) -> Answer:
        if self.dies:
            event = await commands.publish(
                engine._store,
                self.name,
                {"x": self.x},
                org=self.org or "",
                actor="model",
                now=engine.clock.now(),
                key=self.key,
            )
            return Answer(event["_id"])
        caller = CALLER if self.org is None else Caller("model", org=self.org)
        answer = await ask(engine.workflows.publish(self.name, {"x": self.x}, caller=caller, idempotency_key=self.key))
        return answer if answer.error else Answer(answer.value[0])

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        id = model.publish(ModelEvent(answer.value, self.name, {"x": self.x}, self.org or "", self.key))
        if not self.dies:
            model.wake(id)
        return id

    def steps(self, answer: Answer) -> Steps:
        if self.dies or answer.error:
            return [(self, answer)]
        return [(replace(self, dies=True), answer), (_Tell(answer.value), Answer())]


@dataclass
class _Tell(Operation):
    """The second half of a publish."""

    event: str

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.wake(self.event)


@dataclass
class ReplayRun(Operation):
    id: str
    from_step: str

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.workflows.replay(run_id(self.id), self.from_step, caller=CALLER))
        return answer if answer.error else Answer([step.name for step in answer.value.steps])

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.replay_run(self.id, self.from_step)
        return [step.name for step in model.jobs[self.id].steps]


@dataclass
class FanOut(Operation):
    """Children whose ids are recorded before they exist; a worker that dies in between leaves that to the next."""

    id: str
    token: str
    ids: Sequence[str]
    dies: bool = False

    step = ModelStep("children", "fan_out", "waiting")

    async def run(self, engine: Engine) -> Answer:
        run = READ[self.id, self.token]
        step = replace(as_asked(self.step), children=tuple(self.ids))
        answer = await ask(engine.workflows.checkpoint(run.id, self.token, step, adopt=self.ids))
        if answer.error:
            return answer
        jobs = [(id, NewJob(name="a", queue="right", priority=-100, max_attempts=1)) for id in self.ids]
        if self.dies:
            await engine.workflows.enqueue_children(run, jobs[:1], caller=CALLER, linked=True)
        await engine.workflows.enqueue_children(run, jobs, caller=CALLER, linked=True)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.record(self.id, self.token, self.step, compensating=False)
        for id in self.ids:
            model.adopt(self.id, ModelJob(id, "right", "a", "waiting", 1, -100, parent=self.id, awaited=True))
