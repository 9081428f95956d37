"""How are jobs enqueued, operated on and replayed, and how does their time pass?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from switchtower.clock import from_ms
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.engine import Engine
from switchtower.errors import SwitchtowerError
from switchtower.jobs import ChildFailure, JobUpdate, NewJob
from tests.model.account.entries import ModelJob
from tests.model.model import Model
from tests.model.operations.base import CALLER, HOUR_MS, Answer, Documents, Operation, ask


@dataclass
class Enqueue(Operation):
    queue: str
    name: str = "a"
    priority: int = 0
    delayed: bool = False
    max_attempts: int = 3
    unique_key: str | None = None
    keeps_hold: bool = False
    idempotency_key: str | None = None
    custom_id: str | None = None
    parent: str | None = None
    lease: str | None = None
    """The token of the parent's run that adds this child."""
    on_child_failure: str | None = None
    depends_on: tuple[str, ...] = ()
    lifo: bool = False
    ttl: bool = False
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    many: bool = False
    debounce_key: str | None = None
    throttle_key: str | None = None
    simple_key: str | None = None
    replaces: bool = False
    """A later enqueue of a deduplication takes the place of a job that waits for its time."""
    group: str | None = None
    org: str = ""

    @property
    def deduplication(self) -> DeduplicationOptions | None:
        key = self.debounce_key or self.throttle_key or self.simple_key
        if key is None:
            return None
        mode = DeduplicationMode.DEBOUNCE if self.debounce_key else DeduplicationMode.SIMPLE
        if self.throttle_key:
            return DeduplicationOptions(mode=DeduplicationMode.THROTTLE, key=key, ttl_ms=HOUR_MS, replace=self.replaces)
        return DeduplicationOptions(mode=mode, key=key, replace=self.replaces)

    async def run(self, engine: Engine) -> Answer:
        new = NewJob(
            name=self.name,
            queue=self.queue,
            payload={"$gt": "$token"},
            priority=self.priority,
            delay_ms=HOUR_MS if self.delayed else None,
            max_attempts=self.max_attempts,
            unique_key=self.unique_key,
            unique_for_ms=HOUR_MS if self.keeps_hold and self.unique_key else None,
            idempotency_key=self.idempotency_key,
            job_id=self.custom_id,
            parent_id=self.parent,
            on_child_failure=None if self.on_child_failure is None else ChildFailure(self.on_child_failure),
            depends_on=self.depends_on,
            group=self.group,
            lifo=self.lifo,
            ttl_ms=HOUR_MS if self.ttl else None,
            remove_on_complete=self.remove_on_complete,
            remove_on_fail=self.remove_on_fail,
            deduplication=self.deduplication,
        )
        caller = replace(CALLER, org=self.org) if self.org else CALLER
        if self.many:
            [first] = await engine.jobs.enqueue_many([new], caller=caller)
            return Answer(error=type(first).__name__) if isinstance(first, SwitchtowerError) else Answer(first.job.id)
        answer = await ask(engine.jobs.enqueue(new, caller=caller, lease=self.lease))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        dedup = self.deduplication
        new = ModelJob(
            id="",
            queue=self.queue,
            name=self.name,
            state="waiting",
            max_attempts=self.max_attempts,
            priority=self.priority,
            unique_key=f"{self.queue}\x1f{dedup.key}" if dedup else self.unique_key,
            dedup=dedup.mode.value if dedup else None,
            replaces=self.replaces,
            keeps_hold=self.keeps_hold or self.throttle_key is not None,
            idempotency_key=self.idempotency_key,
            custom_id=self.custom_id,
            parent=self.parent,
            on_child_failure=self.on_child_failure,
            due=not self.delayed,
            ttl=self.ttl,
            remove_on_complete=self.remove_on_complete,
            remove_on_fail=self.remove_on_fail,
            group=self.group,
            org=self.org,
        )
        model.enqueue(new, depends_on=self.depends_on, answered=answer.value, lease=self.lease)


@dataclass
class Operate(Operation):
    """An operator's verb on one job: cancel, retry, promote, remove (force too), update."""

    verb: str
    id: str
    force: bool = False
    priority: int = 0

    async def run(self, engine: Engine) -> Answer:
        jobs: Any = engine.jobs
        if self.verb == "update":
            call = jobs.update(self.id, JobUpdate(priority=self.priority), caller=CALLER)
        elif self.verb == "remove":
            call = jobs.remove(self.id, force=self.force, caller=CALLER)
        else:
            call = getattr(jobs, self.verb)(self.id, caller=CALLER)
        answer = await ask(call)
        return answer if answer.error else Answer(answer.value.state.value)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        job = model.jobs.get(self.id)
        before = job.state if job is not None else None
        if self.verb == "update":
            model.update(self.id, self.priority)
        elif self.verb == "remove":
            model.remove(self.id, force=self.force)
            return before
        else:
            getattr(model, self.verb)(self.id)
        return model.jobs[self.id].state


@dataclass
class Replay(Operation):
    """Replays a dead letter, under a key that makes it one replay however often it is asked for."""

    letter: str
    job: str
    generation: int
    key: str | None

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.dead_letters.replay(self.letter, caller=CALLER, idempotency_key=self.key))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        letter = model.letters[(self.job, self.generation)]
        entry = letter.entry
        new = ModelJob(
            id="",
            queue=entry.queue,
            name=entry.name,
            state="waiting",
            max_attempts=entry.max_attempts,
            priority=entry.priority,
            unique_key=None if entry.dedup else entry.unique_key,
            keeps_hold=entry.keeps_hold,
            idempotency_key=self.key,
            ttl=entry.ttl,
            remove_on_complete=entry.remove_on_complete,
            remove_on_fail=entry.remove_on_fail,
            group=entry.group,
            org=entry.org,
        )
        model.enqueue(new, depends_on=(), answered=answer.value)
        if answer.value not in letter.replays:
            letter.replays.append(answer.value)


@dataclass
class TimePasses(Operation):
    """A job's due time, its time to live, or that of its throttle is over."""

    id: str
    field: str
    lifo: bool = False

    async def run(self, engine: Engine) -> Answer:
        past = engine.clock.now_ms() - 1_000
        changes: dict[str, Any] = {self.field: from_ms(past)}
        if self.field == "run_at":
            changes["order"] = -past if self.lifo else past
        if self.field == "unique_until":
            changes["release_at"] = changes["unique_until"]
        await engine._store.jobs.update_one({"_id": self.id}, {"$set": changes})
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        if self.field == "run_at":
            model.jobs[self.id].due = True
        elif self.field == "unique_until":
            model.jobs[self.id].hold_over = True
        else:
            model.jobs[self.id].over = True
