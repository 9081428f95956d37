"""How much memory do a worker process and a server hold, at rest and after many jobs?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psutil

from bench import processes
from bench.running import bulk_rate, database, finished

__all__ = ["Memory", "memory"]

REST_SECONDS = 3.0
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB: at rest, after a fifth of the jobs, and after all."""

    worker: tuple[float, float, float]
    server: tuple[float, float, float]


async def memory(url: str, jobs: int) -> Memory:
    """Runs `jobs` jobs through one worker process beside a server, which follows every event of them."""
    async with (
        database(url) as engine,
        processes.server(url, engine.database_name) as (server, _),
        processes.worker(url, engine.database_name) as worker,
    ):
        watched = [psutil.Process(process.pid) for process in (worker, server)]

        async def sizes() -> list[float]:
            await asyncio.sleep(REST_SECONDS)
            return [process.memory_info().rss / MEBIBYTE for process in watched]

        stages = [await sizes()]
        done = 0
        for part in (jobs // 5, jobs - jobs // 5):
            await bulk_rate(engine, part)
            done += part
            await finished(engine, done)
            stages.append(await sizes())
    worker_sizes, server_sizes = zip(*stages, strict=True)
    return Memory(worker_sizes, server_sizes)
