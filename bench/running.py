"""How fast does one worker run jobs, does it stay as fast, and how soon does it pick one up?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bench import processes, raw
from bench.figures import percentile
from bench.waiting import until
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.workers import WorkerInfo

__all__ = ["Drain", "bulk_rate", "claim_cost", "database", "drain", "finished", "pickup", "raw_pipeline"]

CALLER = Caller("bench")
BULK = 5_000
COUNTED_SECONDS = 30.0
DRAIN_SECONDS = 300.0
PAUSE_SECONDS = 0.025
CLOCK_SECONDS = 0.001

_numbers = iter(range(1_000_000))


@contextlib.asynccontextmanager
async def database(url: str, *, driver: str = "pymongo") -> AsyncIterator[Engine]:
    """An engine on a fresh database with every index, which is dropped at the end."""
    engine = await Engine.connect(url, database=f"bench_{next(_numbers)}", driver=driver)
    try:
        await engine.prepare()
        yield engine
    finally:
        await engine._store.database.command({"dropDatabase": 1})
        await engine.close()


async def bulk_rate(engine: Engine, count: int, *, name: str = "noop") -> float:
    """Enqueues `count` jobs in bulk through the engine; returns jobs a second."""
    news = [NewJob(name=name, payload={"i": i}) for i in range(count)]
    began = time.perf_counter()
    for start in range(0, count, BULK):
        answers = await engine.jobs.enqueue_many(news[start : start + BULK], caller=CALLER)
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed is not None:
            raise failed
    return count / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Drain:
    """How a backlog went: jobs a second over all of it, over its first and last eighth, and how many seconds after the
    last job the counters (which maintenance folds from the change stream) were right."""

    rate: float
    first_eighth: float
    last_eighth: float
    counters_behind_seconds: float


async def drain(url: str, count: int, *, concurrency: int, driver: str = "pymongo") -> Drain:
    """One worker process runs `count` no-op jobs that are there before it starts, beside a maintenance process.

    Times are those that the database stamped on each completion, the start of the first claim included.
    """
    async with database(url, driver=driver) as engine:
        async with processes.maintenance(url, engine.database_name, driver=driver):
            await bulk_rate(engine, count)
            await _counted(engine, JobState.WAITING, count)
            async with processes.worker(url, engine.database_name, concurrency=concurrency, driver=driver):
                await finished(engine, count)
                behind = await _counted(engine, JobState.COMPLETED, count)
        times = await _completions(engine)
    assert len(times) == count, f"{len(times)} of {count} completed"
    eighth = count // 8
    return Drain(
        rate=count / max(CLOCK_SECONDS, times[-1] - times[0]),
        first_eighth=eighth / max(CLOCK_SECONDS, times[eighth] - times[0]),
        last_eighth=eighth / max(CLOCK_SECONDS, times[-1] - times[-1 - eighth]),
        counters_behind_seconds=behind,
    )


async def _completions(engine: Engine) -> list[float]:
    """When the first job was claimed, and every completion behind the first, in seconds, in order."""
    rows = await engine._store.jobs.find({"state": "completed"}, {"finished_at": 1, "claimed_at": 1}).to_list(None)
    # A run that was marked as started has lost the time of its claim; the first jobs of a backlog are too quick for it.
    began = min(row["claimed_at"].timestamp() for row in rows if "claimed_at" in row)
    return [began, *sorted(row["finished_at"].timestamp() for row in rows)[1:]]


async def finished(engine: Engine, count: int) -> None:
    """Waits until `count` jobs are there and none of them is waiting or active."""
    jobs = engine._store.jobs

    async def over() -> bool:
        for match in ({"state": "waiting", "parked": None, "queue": "default"}, {"state": "active"}):
            if await jobs.find_one(match, {"_id": 1}):
                return False
        return bool(await jobs.count_documents({"state": "completed"}) == count)

    async with asyncio.timeout(DRAIN_SECONDS):
        await until(over, every_seconds=0.2)


async def _counted(engine: Engine, state: JobState, count: int) -> float:
    """Waits until the counters say that `count` jobs are in `state`; returns how many seconds that took."""
    began = time.perf_counter()
    while (await engine.jobs.counts(caller=CALLER))[state] != count:
        if time.perf_counter() - began > COUNTED_SECONDS:
            raise RuntimeError(f"The counters did not reach {count} {state} jobs in {COUNTED_SECONDS:g} s.")
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


async def raw_pipeline(url: str, count: int) -> tuple[float, float]:
    """`raw.pipeline` on a database of its own: jobs inserted and completed a second."""
    return await raw.pipeline(url, f"bench_{next(_numbers)}", count)


async def pickup(url: str, samples: int, *, driver: str = "pymongo") -> tuple[float, float]:
    """Milliseconds from the call that enqueues a job to the start of its handler in an idle worker: p50 and p99."""
    async with (
        database(url, driver=driver) as engine,
        processes.maintenance(url, engine.database_name, driver=driver),
        processes.worker(url, engine.database_name, driver=driver) as worker,
    ):
        waits = []
        for i in range(samples + 3):
            sent = time.time_ns()
            await engine.jobs.enqueue(NewJob(name="tell", payload={"i": i}), caller=CALLER)
            number, started = (await worker.line()).split()
            assert int(number) == i
            if i >= 3:
                waits.append((int(started) - sent) / 1e6)
            await asyncio.sleep(PAUSE_SECONDS)
    return percentile(waits, 0.5), percentile(waits, 0.99)


async def claim_cost(url: str, depth: int, *, claims: int, limit: int) -> float:
    """Microseconds that claiming one job takes while about `depth` jobs wait, `limit` at a time, as one worker that
    has a handler for them and for others."""
    async with database(url) as engine:
        await bulk_rate(engine, depth + claims * limit)
        await engine.workers.register(WorkerInfo(id="bench", queues=["default"], names=["noop", "other"]))
        taken = 0
        await engine.claims.claim("bench", ["default"], names=["noop", "other"], limit=limit)
        began = time.perf_counter()
        for _ in range(claims):
            taken += len(await engine.claims.claim("bench", ["default"], names=["noop", "other"], limit=limit))
        passed = time.perf_counter() - began
    return passed / taken * 1e6
