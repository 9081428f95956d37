"""The folder of counters keeps up with a burst: it may be late, and neither drops events nor counts all jobs again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.maintenance import Maintenance
from switchtower.states import JobState
from tests.waiting import until

CALLER = Caller("test")


async def _maintained(engine: Engine) -> tuple[asyncio.Event, asyncio.Task[None]]:
    await engine.prepare()
    stop = asyncio.Event()
    return stop, asyncio.create_task(Maintenance(engine).run(stop))


async def test_a_burst_is_folded_without_a_recount(
    mongodb_url: str, database_name: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name, driver=driver)
    recounts: list[str] = []
    recount = engine.upkeep.recount

    async def counted(*, reached: str) -> int:
        recounts.append(reached)
        return await recount(reached=reached)

    monkeypatch.setattr(engine.upkeep, "recount", counted)
    fold, may_fold = engine.upkeep.fold, asyncio.Event()
    may_fold.set()

    async def held_up(events: Any, **position: Any) -> bool:
        await may_fold.wait()
        return await fold(events, **position)

    monkeypatch.setattr(engine.upkeep, "fold", held_up)
    stop, running = await _maintained(engine)
    # The first count is over and the folder reads: what follows can only be folded.
    await until(lambda: recounts)
    await engine.jobs.enqueue(NewJob(name="n"), caller=CALLER)
    await until(lambda: _counted(engine, 1))
    burst = 12_000
    may_fold.clear()
    await engine.jobs.enqueue_many([NewJob(name="n", payload={"i": i}) for i in range(burst)], caller=CALLER)
    may_fold.set()
    await until(lambda: _counted(engine, burst + 1), timeout_seconds=60)
    assert len(recounts) == 1
    stop.set()
    await running
    await engine.close()


async def _counted(engine: Engine, waiting: int) -> bool:
    return (await engine.jobs.counts(caller=CALLER))[JobState.WAITING] == waiting
