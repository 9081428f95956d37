"""What does a claim cost past jobs that their limit holds back?"""

from __future__ import annotations

import time

from bench.running import CALLER, database
from switchtower.jobs import NewJob
from switchtower.limits import Limit, QueueLimits
from switchtower.workers import WorkerInfo

__all__ = ["limited_cost"]

HELD, FREE = "held", "free"


async def limited_cost(url: str, behind: int, *, claims: int) -> float:
    """Microseconds of one claim that finds a job enqueued after `behind` jobs whose name may not run at the moment,
    from when these stand aside, where claims put them ten thousand at a time."""
    async with database(url) as engine:
        await engine.workers.register(WorkerInfo(id="bench", queues=["default"], names=[HELD, FREE]))
        limits = QueueLimits(names={HELD: Limit(concurrency=0)})
        await engine.queues.set_limits("default", limits, caller=CALLER)
        for start in range(0, behind, 10_000):
            count = min(10_000, behind - start)
            await engine.jobs.enqueue_many([NewJob(name=HELD)] * count, caller=CALLER)
        names = [HELD, FREE]
        aside = 1 + behind // 10_000
        await engine.jobs.enqueue_many([NewJob(name=FREE)] * (claims + aside), caller=CALLER)
        for _ in range(aside):
            assert await engine.claims.claim("bench", ["default"], names=names, limit=1)
        began = time.perf_counter()
        for _ in range(claims):
            (job,) = await engine.claims.claim("bench", ["default"], names=names, limit=1)
            assert job.name == FREE
        return (time.perf_counter() - began) / claims * 1e6
