"""F1 for batches: workers that are killed while they gather or run a batch lose and double nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, drained, verify
from tests.faults.processes import Nursery
from tests.nightly.counting import count
from tests.waiting import until

LEASE_SECONDS = 2.0
JOBS = {"ci": 120, "full": 20_000}
KILLS = {"ci": 2, "full": 200}


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_killed_workers_lose_and_double_no_job_of_a_batch(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    choose = random.Random(2)

    async def more(count: int) -> list[str]:
        news = [NewJob(name="work_together", payload={"seconds": 0.3}, max_attempts=50) for _ in range(count)]
        return [a.job.id for a in await engine.jobs.enqueue_many(news, caller=CALLER)]  # type: ignore[union-attr]

    ids = await more(JOBS[scale])
    workers = [nursery.start(lease_seconds=LEASE_SECONDS, concurrency=2) for _ in range(3)]
    async with maintained(engine):
        await until(lambda: all(worker.ready for worker in workers), timeout_seconds=60)
        for kill in range(KILLS[scale]):
            victim = workers.pop(choose.randrange(len(workers)))
            workers.append(nursery.start(lease_seconds=LEASE_SECONDS, concurrency=2))
            await until(
                # One that could not renew its lease in time, on a machine as busy as this, is dead already.
                lambda victim=victim: (
                    not victim.alive
                    or view["jobs"].find_one({"worker_id": victim.worker_id, "started": True}) is not None
                ),
                timeout_seconds=60,
            )
            victim.kill()
            if kill % 2:
                await until(lambda victim=victim: not victim.alive, timeout_seconds=30)
                await engine.workers.bury_dead(victim.worker_id)
            if view["jobs"].count_documents({"state": "waiting"}) < 200:
                ids += await more(200)
            await until(lambda: workers[-1].ready, timeout_seconds=60)
        await drained(engine, timeout_seconds=120)
        await asyncio.sleep(0)
        ledger = Ledger(nursery.ledger).read()
        states = verify(view, ids, ledger=ledger)
        await counters_equal_a_count(engine, view)
    assert states == {"completed": len(ids)}
    lost = view["jobs"].count_documents({"attempts.outcome": "lost"})
    count("F1", "workers killed in a batch", KILLS[scale])
    assert lost > KILLS[scale], "a batch that is killed takes many jobs with it"
    sizes = {row["result"] for row in view["jobs"].find({"_id": {"$in": ids}}, {"result": 1})}
    assert max(sizes) == 20, sizes
