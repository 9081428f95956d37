"""What does maintenance do, and what is left when a process dies in the middle of something?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from switchtower.engine import Engine
from switchtower.store import outbox
from tests.model.model import Model
from tests.model.operations.base import Answer, Documents, Operation, Steps


@dataclass
class Rescue(Operation):
    in_grace: bool = False

    async def run(self, engine: Engine) -> Answer:
        engine.upkeep._healthy_since = time.monotonic() if self.in_grace else float("-inf")
        await engine.upkeep.rescue()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.lose(in_grace=self.in_grace)


@dataclass
class Duty(Operation):
    """One of maintenance's rounds: stage, expire, relay, prune, unpark, let_go."""

    name: str

    async def run(self, engine: Engine) -> Answer:
        await asyncio.sleep(0.004 if self.name == "prune" else 0)
        await getattr(engine.upkeep, self.name)()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        if self.name == "unpark":
            for job in model.jobs.values():
                served = model.served(job.queue)
                free = {
                    None: False,
                    "paused": (job.queue, job.name) not in model.paused_names,
                    "no_handler": served is None or job.name in served,
                }[job.parked]
                job.parked = None if free else job.parked
        else:
            getattr(model, self.name)()


@dataclass
class RelayTwice(Operation):
    """Two processes relay the same effects, the second from what it read before the first began."""

    async def run(self, engine: Engine) -> Answer:
        seen = await outbox.pending(engine._store, 200)
        await engine.upkeep.relay()
        await outbox.relay(engine._store, seen)
        await engine.upkeep.relay()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.relay()


class ProcessDied(BaseException):
    """The process that ran the engine is gone in the middle of a verb."""


class Dying:
    """A collection whose process dies before its n-th write (`left` counts down over all of them)."""

    def __init__(self, collection: Any, left: list[int]) -> None:
        self._collection = collection
        self._left = left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in ("update_many", "update_one", "insert_many", "insert_one", "find_one_and_update", "delete_many"):
            return method

        async def counted(*arguments: Any, **options: Any) -> Any:
            if self._left[0] == 0:
                raise ProcessDied
            self._left[0] -= 1
            return await method(*arguments, **options)

        return counted


@dataclass
class Die(Operation):
    """Another operation's process dies before its n-th write; maintenance then finishes what was declared."""

    inner: Operation
    writes: int
    recovery: Sequence[Operation] = field(default_factory=lambda: [Rescue(), Duty("relay")])

    async def run(self, engine: Engine) -> Answer:
        store, left = engine._store, [self.writes]
        whole = {name: getattr(store, name) for name in ("jobs", "dead_letters", "workers", "crons")}
        for name, collection in whole.items():
            setattr(store, name, Dying(collection, left))
        try:
            with contextlib.suppress(ProcessDied):
                await self.inner.run(engine)
        finally:
            for name, collection in whole.items():
                setattr(store, name, collection)
        for operation in self.recovery:
            await operation.run(engine)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        self.inner.expect(model, answer, settled)
        for operation in self.recovery:
            operation.expect(model, answer, settled)


@dataclass
class Then(Operation):
    """One process's operations in a row, in a race with another process; `later` makes the next from the answers."""

    first: Operation
    later: Any
    made: list[Operation] = field(default_factory=list)

    async def run(self, engine: Engine) -> Answer:
        self.made = [self.first]
        answers = [await self.first.run(engine)]
        following = self.later(answers)
        if following is not None:
            self.made.append(following)
            answers.append(await following.run(engine))
        return Answer(answers)

    def apply(self, model: Model, answer: Answer, settled: Documents) -> None:
        for operation, one in self.steps(answer):
            operation.apply(model, one, settled)

    def steps(self, answer: Answer) -> Steps:
        return list(zip(self.made, answer.value, strict=True))
