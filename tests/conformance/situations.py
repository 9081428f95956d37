"""A job in any state, brought there by the engine's own verbs, with the token it holds or last held."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.engine import Engine, Retention
from switchtower.jobs import ClaimedJob, ErrorKind, Job, JobError, NewJob
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.states import JobState
from switchtower.workers import Outcome, OutcomeKind

Document = dict[str, Any]

CALLER = Caller("olga")
HOUR_MS = 3_600_000
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ERROR = JobError(ErrorKind.EXCEPTION, "ValueError", "it broke", "Traceback …", "0123456789abcdef")

_numbers = itertools.count()


def fresh(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{next(_numbers)}"


def another(engine: Engine) -> Engine:
    """The same queue, seen from another process."""
    return Engine(engine._store, url=engine.url, payload_limit=PAYLOAD_LIMIT, retention=Retention())


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, happens: Callable[[], Awaitable[object]]) -> None:
    """The next call of this function is made after something else has happened."""
    whole = getattr(owner, name)

    async def call(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, whole)
        await happens()
        return await whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@dataclass(slots=True)
class Situation:
    """One job, alone in its queue."""

    engine: Engine
    id: str
    queue: str
    token: str = ""
    worker: str = ""
    dependency: str | None = None

    async def document(self) -> Document:
        """The job exactly as it is stored."""
        found: Document | None = await self.engine._store.jobs.find_one({"_id": self.id})
        assert found is not None, "the document is gone"
        return found

    async def set(self, **fields: Any) -> None:
        await self.engine._store.jobs.update_one({"_id": self.id}, {"$set": fields})

    async def job(self) -> Job:
        found = await self.engine.jobs.get(self.id, caller=CALLER)
        assert found is not None
        return found

    async def state(self) -> str:
        return str((await self.document())["state"])

    def outcome(self, kind: OutcomeKind, **fields: Any) -> Outcome:
        return Outcome(self.id, self.token, kind, **fields)

    async def report(self, kind: OutcomeKind, **fields: Any) -> set[str]:
        lost = await self.engine.claims.report([self.outcome(kind, **fields)])
        await quiet(self.engine)
        return lost

    async def claim(self, *, start: bool = False) -> ClaimedJob:
        """Hands the job to a worker of its own."""
        self.worker = fresh("worker")
        (claimed,) = await self.engine.claims.claim(self.worker, [self.queue], limit=1)
        assert claimed.id == self.id
        self.token = claimed.token
        if start:
            assert await self.engine.claims.start([claimed]) == set()
        return claimed


async def quiet(engine: Engine) -> None:
    """Waits until everything that transitions declared has been carried out."""
    await engine.effects.close()
    while await engine.effects.relay():
        pass


async def enqueue(engine: Engine, **fields: Any) -> Job:
    return (await engine.jobs.enqueue(NewJob(**{"name": "work", **fields}), caller=CALLER)).job


async def job_in(engine: Engine, state: JobState | str, *, started: bool = True, **fields: Any) -> Situation:
    """A job in this state; an active one is `started` unless told otherwise."""
    state = JobState(state)
    queue = fields.setdefault("queue", fresh("queue"))
    dependency = None
    if state is JobState.SCHEDULED:
        fields.setdefault("delay_ms", HOUR_MS)
    if state is JobState.BLOCKED:
        dependency = (await enqueue(engine, queue=fresh("elsewhere"), delay_ms=HOUR_MS)).id
        fields["depends_on"] = [dependency]
    job = await enqueue(engine, **fields)
    found = Situation(engine, job.id, queue, dependency=dependency)
    if state in (JobState.ACTIVE, JobState.RETRYING, JobState.COMPLETED, JobState.FAILED):
        await found.claim(start=started)
    match state:
        case JobState.RETRYING:
            assert await found.report(OutcomeKind.FAIL, error=ERROR, wait_ms=HOUR_MS) == set()
        case JobState.COMPLETED:
            assert await found.report(OutcomeKind.COMPLETE, result={"answer": 42}, ran_ms=3) == set()
        case JobState.FAILED:
            assert await found.report(OutcomeKind.BURY, error=ERROR, ran_ms=3) == set()
        case JobState.CANCELLED:
            await engine.jobs.cancel(job.id, caller=CALLER)
        case _:
            pass
    await quiet(engine)
    assert await found.state() == state.value
    return found
