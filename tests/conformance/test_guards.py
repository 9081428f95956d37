"""Something else happens between the read and the write of a verb: the write's own guard must see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.engine import claims as claiming
from switchtower.jobs import NewJob
from switchtower.store import jobs as job_commands
from switchtower.store import leases
from switchtower.workers import WorkerInfo, WorkerState
from tests.conformance.situations import CALLER, enqueue, fresh, job_in


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, happens: Callable[[], Awaitable[object]]) -> None:
    """The next call of this function is made after something else has happened."""
    whole = getattr(owner, name)

    async def call(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, whole)
        await happens()
        return await whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


async def test_a_job_that_is_put_off_while_it_is_staged_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    s = await job_in(engine, "scheduled")
    await s.set(run_at=engine.clock.now() - timedelta(seconds=1))
    later = datetime.now(UTC) + timedelta(days=1)
    before(monkeypatch, job_commands, "move_many", lambda: s.set(run_at=later))
    assert await engine.upkeep.stage() == 0
    assert await s.state() == "scheduled"


async def test_a_worker_that_renews_while_it_is_declared_lost_is_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=1))
    passed = engine.clock.now() - timedelta(seconds=1)
    await engine._store.workers.update_one({"_id": "w"}, {"$set": {"expires_at": passed}})
    engine.upkeep._healthy_since = float("-inf")
    await engine.upkeep.observe()
    before(monkeypatch, leases, "lose", lambda: engine.workers.renew("w", lease_seconds=60))
    await engine.upkeep.rescue()
    assert (await engine.workers.get_many(["w"]))["w"].state is WorkerState.LIVE


async def test_an_urgent_job_below_the_floor_waits_for_half_a_second_at_most(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, now = fresh("queue"), [100.0]
    monkeypatch.setattr(claiming, "time", SimpleNamespace(monotonic=lambda: now[0]))
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 50, caller=CALLER)
    for _ in range(3):
        assert len(await engine.claims.claim("w", [queue], limit=5)) in (1, 5)
    urgent = await enqueue(engine, queue=queue, priority=-1)
    now[0] += 0.6
    assert urgent.id in {job.id for job in await engine.claims.claim("w", [queue], limit=5)}


async def test_a_worker_that_takes_any_name_ends_what_jobs_were_parked_for(engine: Engine) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    await engine._store.jobs.update_one({"_id": job.id}, {"$set": {"parked": "no_handler"}})
    assert await engine.upkeep.unpark() == 0
    info = WorkerInfo(id=fresh("worker"), queues=[queue], names=[])
    await leases.register(engine._store, info)
    assert await engine.upkeep.unpark() == 1
    assert [found.id for found in await engine.claims.claim(info.id, [queue])] == [job.id]
