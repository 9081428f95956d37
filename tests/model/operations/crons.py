"""What happens to crons, and who schedules them?

The engine's schedulers are told the model's time, which goes by the hour; everything else keeps the database's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from switchtower.clock import from_ms
from switchtower.crons import CatchUp, NewCron, Overlap, Schedule
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.model.account.entries import BASE_MS, ModelCron, ModelJob, Violation
from tests.model.model import Model
from tests.model.operations.base import CALLER, Answer, Documents, Operation, ask

HOURLY = Schedule("0 * * * *")


class Hours:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.ms = BASE_MS

    def now(self) -> Any:
        return from_ms(self.ms)


class AtTheHour:
    """A store whose clock is another."""

    def __init__(self, store: Any) -> None:
        self._whole = store
        self.clock = Hours()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


@dataclass
class CreateCron(Operation):
    name: str
    queue: str
    overlap: str = "allow"
    catch_up: str = "one"
    limit: int | None = None
    ends_ms: int | None = None
    unique: bool = False

    async def run(self, engine: Engine) -> Answer:
        new = NewCron(
            name=self.name,
            schedule=HOURLY,
            job=NewJob(name="a", queue=self.queue, max_attempts=2, unique_key=self.key),
            overlap=Overlap(self.overlap),
            catch_up=CatchUp(self.catch_up),
            limit=self.limit,
            ends_at=None if self.ends_ms is None else from_ms(self.ends_ms),
        )
        answer = await ask(engine.crons.create(new, caller=CALLER))
        return answer if answer.error else Answer(answer.value.id)

    @property
    def key(self) -> str | None:
        return f"cron {self.name}" if self.unique else None

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        model.create_cron(
            ModelCron(
                str(answer.value),
                self.name,
                self.queue,
                self.overlap,
                self.catch_up,
                self.limit,
                self.ends_ms,
                self.key,
            )
        )


@dataclass
class ChangeCron(Operation):
    """Enables, disables, updates or deletes a cron."""

    id: str
    verb: str
    changes: dict[str, Any] = field(default_factory=dict)

    async def run(self, engine: Engine) -> Answer:
        crons: Any = engine.crons
        call = getattr(crons, self.verb)
        answer = await ask(call(self.id, *([self._given()] if self.verb == "update" else []), caller=CALLER))
        return answer if answer.error else Answer()

    def _given(self) -> dict[str, Any]:
        given = dict(self.changes)
        if "overlap" in given:
            given["overlap"] = Overlap(given["overlap"])
        return given

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        model.cron(self.id)
        if self.verb == "delete":
            del model.crons[self.id]
        elif self.verb == "update":
            model.change_cron(self.id, **self.changes)
        else:
            model.change_cron(self.id, enabled=self.verb == "enable")


@dataclass
class Trigger(Operation):
    """Runs a cron's job now."""

    id: str
    key: str | None = None

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.crons.trigger(self.id, caller=CALLER, idempotency_key=self.key))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        cron = model.cron(self.id)
        new = ModelJob(
            id="",
            queue=cron.queue,
            name="a",
            state="waiting",
            max_attempts=2,
            unique_key=cron.unique_key,
            idempotency_key=self.key,
            cron=cron.id,
        )
        model.enqueue(new, depends_on=(), answered=answer.value)


@dataclass
class HoursPass(Operation):
    """Nobody schedules until so much later."""

    ms: int

    async def run(self, engine: Engine) -> Answer:
        store: Any = engine.crons._store
        store.clock.ms += self.ms
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        model.now_ms += self.ms


class Loud(logging.Handler):
    """Scheduling one cron that cannot fire must not stop the others: here it must not happen."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()}: {record.exc_info}")


@dataclass
class Tick(Operation):
    """A scheduler's round; with `whole`, rounds until there is nothing left to do."""

    whole: bool = False

    async def run(self, engine: Engine) -> Answer:
        loud = Loud()
        logger = logging.getLogger("switchtower.engine.crons")
        logger.addHandler(loud)
        try:
            dealt = await engine.crons.tick()
            while self.whole and dealt:
                dealt = await engine.crons.tick()
        finally:
            logger.removeHandler(loud)
        if loud.said:
            raise Violation(f"a cron could not fire: {loud.said}")
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        made = {job["custom_id"]: id for id, job in settled.items() if "cron_id" in job and "custom_id" in job}
        dealt = model.tick(made)
        while self.whole and dealt:
            dealt = model.tick(made)
