"""F17: jobs that take their process with them run a bounded number of times, and the others go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.engine.workers import CLAIM_ALLOWANCE
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, verify
from tests.faults.processes import Nursery
from tests.nightly.counting import count
from tests.waiting import until

MAX_ATTEMPTS = 3
WORKERS = 4
EACH = {"ci": 1, "full": 10}
OTHERS = {"ci": 60, "full": 3_000}
CRASHES = ("exit", "segmentation fault", "kill")


async def enqueue(engine: Engine, payload: dict[str, Any], **options: Any) -> str:
    new = NewJob(**({"name": "poison", "payload": payload, "max_attempts": MAX_ATTEMPTS} | options))
    return (await engine.jobs.enqueue(new, caller=CALLER)).job.id


async def keep_alive(engine: Engine, nursery: Nursery) -> None:
    """Replaces every worker that dies, as its supervisor does."""
    workers = [nursery.start() for _ in range(WORKERS)]
    while True:
        for n, worker in enumerate(workers):
            if not worker.alive:
                await engine.workers.bury_dead(worker.worker_id)
                workers[n] = nursery.start()
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_poison_ends_in_the_dead_letters_and_the_others_go_on(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    at_once = [await enqueue(engine, {"way": way}) for way in CRASHES for _ in range(EACH[scale])]
    later = [await enqueue(engine, {"way": way, "after_seconds": 0.3}) for way in CRASHES for _ in range(EACH[scale])]
    others = [await enqueue(engine, {"seconds": 0.05}, name="work", max_attempts=100) for _ in range(OTHERS[scale])]
    async with maintained(engine):
        keeping = asyncio.create_task(keep_alive(engine, nursery))
        left = {"state": {"$in": ["waiting", "active", "retrying"]}}
        await until(lambda: view["jobs"].count_documents(left) == 0 or keeping.done(), timeout_seconds=240)
        keeping.cancel()
        await asyncio.wait([keeping])
        assert keeping.cancelled(), keeping.exception()
        await until(lambda: view["jobs"].count_documents({"outbox": {"$exists": True}}) == 0)
        await counters_equal_a_count(engine, view)
    ledger = Ledger(nursery.ledger).read()
    states = verify(view, [*at_once, *later, *others], ledger=ledger)
    assert states == {"failed": len(at_once) + len(later), "completed": len(others)}
    begins = ledger.of("begin")
    assert sum(len(begins.get(id, ())) for id in [*at_once, *later]) > len(at_once) + len(later)
    for id in [*at_once, *later]:
        job = view["jobs"].find_one({"_id": id})
        assert job is not None
        # It may also be claimed in vain, because another job takes the process first, until it was claimed too often.
        assert job["attempt"] == MAX_ATTEMPTS or job["claims"] == MAX_ATTEMPTS + CLAIM_ALLOWANCE, job
        assert {row["outcome"] for row in job["attempts"]} == {"lost"}
        # One run may end within the milliseconds before its start is marked; every later one is marked before.
        assert len(begins.get(id, ())) <= MAX_ATTEMPTS + 1
        (letter,) = view["dead_letters"].find({"job_id": id})
        assert letter["error"]["kind"] == "worker_lost"
    count("F17", "poison jobs", len(at_once) + len(later))


@pytest.mark.slow
async def test_handler_that_blocks_its_process_is_ended_at_its_timeout(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery
) -> None:
    id = await enqueue(engine, {"way": "blocked loop"}, max_attempts=2, timeout_ms=1_000)
    # Its lease outlasts the test: nothing but its own report can tell of the timeout.
    worker = nursery.start(lease_seconds=600, grace_seconds=1)
    async with maintained(engine):
        await until(lambda: not worker.alive)
        row = view["jobs"].find_one({"_id": id})
        assert row is not None and [entry["outcome"] for entry in row["attempts"]] == ["failed"]
        assert row["error"]["kind"] == "timeout", "it was taken for a crash"
        assert row["state"] in ("retrying", "waiting")
        assert "has blocked the event loop" in worker.said
    count("F17", "poison jobs", 1)
