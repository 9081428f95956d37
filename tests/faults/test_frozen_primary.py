"""F6 and G10: the primary is frozen. Calls are refused in time; repeated under its key, each makes one job."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER
from tests.mongod import ReplicaSet
from tests.nightly.counting import count
from tests.waiting import until

FREEZES = 10
CALLERS = 200
FROZEN_SECONDS = 20.0
# The server's own limit, and what a busy machine adds.
ANSWER_SECONDS = 5.0 + 20.0
RESUME_SECONDS = 90.0
DATABASE = "frozen"


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
async def test_calls_that_timed_out_make_one_job_each(replica_set: ReplicaSet) -> None:
    engine = await Engine.connect(replica_set.url, database=DATABASE, role="server")
    await engine.prepare()
    client: MongoClient[dict[str, Any]] = MongoClient(replica_set.url)
    longest = resumed = 0.0
    ids: dict[str, str] = {}
    refused: set[str] = set()

    async def enqueue(key: str) -> bool:
        nonlocal longest
        began = time.monotonic()
        try:
            ids[key] = (await engine.jobs.enqueue(NewJob(name="work", idempotency_key=key), caller=CALLER)).job.id
        except StoreUnavailable:
            refused.add(key)
            return False
        finally:
            longest = max(longest, time.monotonic() - began)
        return True

    with client:
        for freeze in range(FREEZES):
            stop = asyncio.Event()

            async def call(caller: int, freeze: int = freeze, stop: asyncio.Event = stop) -> None:
                number = 0
                while not stop.is_set():
                    await enqueue(f"{freeze} {caller} {number}")
                    number += 1

            victim = await asyncio.to_thread(replica_set.primary)
            calling = [asyncio.create_task(call(caller)) for caller in range(CALLERS)]
            before = len(ids)
            await until(lambda before=before: len(ids) > before + CALLERS)
            victim.freeze()
            began = time.monotonic()
            await until(lambda victim=victim: asyncio.to_thread(lambda: replica_set.primary() is not victim))
            # Another is elected; writes wait until the frozen one's followers have found another source.
            before = len(ids)
            await until(lambda before=before: len(ids) > before + CALLERS, timeout_seconds=RESUME_SECONDS)
            resumed = max(resumed, time.monotonic() - began)
            await asyncio.sleep(max(0.0, FROZEN_SECONDS - (time.monotonic() - began)))
            victim.thaw()
            await asyncio.to_thread(replica_set.wait_healthy)
            stop.set()
            await asyncio.gather(*calling)
        # Whoever was refused asks again until it knows.
        for key in sorted(refused):
            while not await enqueue(key):
                continue
        jobs = client[DATABASE]["jobs"]
        keys = [row["idempotency_key"] for row in jobs.find({}, {"idempotency_key": 1})]
        assert len(keys) == len(set(keys)), "a key made two jobs"
        assert set(keys) == set(ids), "a key was acknowledged without a job, or made one that nobody knows of"
        assert {row["_id"] for row in jobs.find({}, {"_id": 1})} == set(ids.values())
    await engine.close()
    assert refused, "no call was refused: nothing is proved"
    assert longest < ANSWER_SECONDS, f"a caller waited {longest:.1f} s"
    count("F6", "freezes", FREEZES)
    count("G10", "calls that timed out", len(refused))
    print(f"{len(ids)} keys, {len(refused)} refused; longest answer {longest:.1f} s, resumed within {resumed:.1f} s")
