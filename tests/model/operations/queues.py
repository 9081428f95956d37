"""How are queues paused, limited and cleared?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from switchtower.engine import Engine
from switchtower.limits import Limit, QueueLimits
from switchtower.states import JobState
from tests.model.model import Model
from tests.model.operations.base import CALLER, Answer, Documents, Operation, ask


@dataclass
class Control(Operation):
    verb: str
    queue: str
    name: str | None = None
    group: str | None = None

    async def run(self, engine: Engine) -> Answer:
        await getattr(engine.queues, self.verb)(self.queue, caller=CALLER, job_name=self.name, group=self.group)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        part = self.name or self.group
        held: set[Any] = model.paused
        if part is not None:
            held = model.paused_names if self.group is None else model.paused_groups
        key: Any = self.queue if part is None else (self.queue, part)
        (held.add if self.verb == "pause" else held.discard)(key)
        if self.verb == "resume" and self.name is not None:
            model.unpark("paused", [self.queue], [self.name])


@dataclass
class Bound(Operation):
    """Limits how many jobs of a queue run at once, of all of it and of each group; or takes the limits away."""

    queue: str
    most: int | None
    per_group: int | None = None

    async def run(self, engine: Engine) -> Answer:
        await engine.queues.set_limits(
            self.queue, QueueLimits(Limit(self.most), per_group=Limit(self.per_group)), caller=CALLER
        )
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.limits.pop(self.queue, None)
        model.group_limits.pop(self.queue, None)
        if self.most is not None:
            model.limits[self.queue] = self.most
        if self.per_group is not None:
            model.group_limits[self.queue] = self.per_group


@dataclass
class Clear(Operation):
    """Drain a queue, or clean one state of it."""

    queue: str
    state: str | None = None

    async def run(self, engine: Engine) -> Answer:
        # What changed in the very millisecond of a clean is not older than it.
        await asyncio.sleep(0.004)
        if self.state is None:
            return await ask(engine.queues.drain(self.queue, caller=CALLER))
        return await ask(engine.queues.clean(self.queue, JobState(self.state), caller=CALLER))

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        states = {"waiting", "scheduled", "retrying", "blocked"} if self.state is None else {self.state}
        return model.clear(self.queue, states)
