"""How does one verb reach many jobs, and what is left of it when its process dies between two chunks?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from switchtower.engine import Engine
from switchtower.jobs import JobFilter
from switchtower.store import bulk as commands
from tests.model.model import Model
from tests.model.operations.base import CALLER, Answer, Documents, Operation, Steps, ask
from tests.model.operations.upkeep import ProcessDied


class Ranging(Operation):
    """An operation on many jobs: it begins, goes through them, and says how many there were."""

    def begin(self, model: Model) -> None:
        raise NotImplementedError

    @staticmethod
    def answer(asked: Answer) -> Answer:
        found = asked.value
        return asked if asked.error else Answer((found.matched, found.changed, found.failed, found.done))

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        self.begin(model)
        model.end_bulk()
        bulk = model.bulk
        return (bulk.matched, bulk.changed, bulk.failed, bulk.done)

    def steps(self, answer: Answer) -> Steps:
        if answer.error is not None:
            return [(self, answer)]
        return [(Begun(self), Answer()), *[(Reached(), Answer())] * answer.value[0], (Ended(), answer)]


@dataclass
class Begun(Operation):
    """It is known which jobs there were."""

    inner: Ranging

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        self.inner.begin(model)


@dataclass
class Reached(Operation):
    """The next job is dealt with."""

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        model.bulk_chunk(size=1)


@dataclass
class Ended(Operation):
    """All are: the answer says how many. One that changed between the look at it and the write may be counted as
    matched or not."""

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        matched, *_ = answer.value
        return (max(matched, model.bulk.changed), model.bulk.changed, model.bulk.failed, True)


@dataclass
class Bulk(Ranging):
    verb: str
    queue: str

    async def run(self, engine: Engine) -> Answer:
        return self.answer(await ask(engine.bulk.start(self.verb, JobFilter(queues=[self.queue]), caller=CALLER)))

    def begin(self, model: Model) -> None:
        model.begin_bulk(self.verb, queue=self.queue)


@dataclass
class Interrupted(Operation):
    """A bulk operation's process dies at its n-th chunk (`nth` counts from 0), before the jobs are moved or before it
    is noted that they were; something else happens; then another process takes it up."""

    inner: Ranging
    nth: int
    noting: bool
    meanwhile: Sequence[Operation] = ()
    answers: list[Answer] = field(default_factory=list)

    async def run(self, engine: Engine) -> Answer:
        name = "advance" if self.noting else "move_chunk"
        whole = getattr(commands, name)
        left = self.nth

        async def dying(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise ProcessDied
            left -= 1
            return await whole(*arguments, **options)

        answer = Answer()
        with patch.object(commands, name, dying):
            try:
                answer = await self.inner.run(engine)
            except ProcessDied:
                answer = Answer("died")
        # What is enqueued in the very millisecond of the cut is not later than it.
        await asyncio.sleep(0.004)
        self.answers = [await operation.run(engine) for operation in self.meanwhile]
        await engine.upkeep.resume_bulk()
        return answer

    def apply(self, model: Model, answer: Answer, settled: Documents) -> None:
        died = answer.value == "died"
        if died:
            self.inner.begin(model)
            left = self.nth
            while left:
                left -= model.bulk_chunk() or self.noting
            model.bulk_chunk(until="moved" if self.noting else "told")
        else:
            self.inner.apply(model, answer, settled)
        for operation, one in zip(self.meanwhile, self.answers, strict=True):
            operation.apply(model, one, settled)
        if died:
            model.end_bulk()
