"""What could the bare driver do? The same steps for a job as ours, without anything that makes it a queue to rely on.

Find the ids at the head of a small index, take them with one update under a token, read them back, complete them with
one update. No events, no leases, no attempts, no history, no metrics; one index.
"""

from __future__ import annotations

import time
from typing import Any

from bson import Timestamp
from bson.max_key import MaxKey
from pymongo import ASCENDING, AsyncMongoClient

__all__ = ["fill", "pipeline"]

KEYS = ("queue", "rank", "order", "seq")
INDEX = [(key, ASCENDING) for key in KEYS]
BATCH = 1_000
CLAIM = 500


async def fill(jobs: Any, count: int) -> float:
    """Inserts `count` waiting jobs in bulk; returns jobs a second."""
    await jobs.create_index(INDEX, name="hot", partialFilterExpression={"state": "waiting"})
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        rows = [
            {
                "queue": "default",
                "name": "noop",
                "rank": 0,
                "order": i,
                "seq": Timestamp(0, 0),
                "state": "waiting",
                "payload": {"i": i},
            }
            for i in range(start, min(start + BATCH, count))
        ]
        await jobs.insert_many(rows, ordered=False)
    return count / (time.perf_counter() - began)


async def pipeline(url: str, database: str, count: int, *, claim: int = CLAIM) -> tuple[float, float]:
    """Inserts `count` jobs and takes them through claim and completion, `claim` at a time.

    Returns: jobs inserted a second, jobs completed a second.
    """
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, w="majority", journal=True)
    async with client:
        jobs = client[database].jobs
        inserted = await fill(jobs, count)
        began = time.perf_counter()
        done = token = 0
        floor: tuple[Any, ...] | None = None
        while True:
            head = jobs.find(
                {"queue": "default", "state": "waiting"}, dict.fromkeys(("_id", *KEYS), 1), sort=INDEX, limit=claim
            ).hint("hot")
            if floor is not None:
                head = head.min(list(zip(KEYS, floor, strict=True)))
                top: list[Any] = [("queue", "default"), *((key, MaxKey()) for key in KEYS[1:])]
                head = head.max(top)
            rows = await head.to_list(None)
            if not rows:
                break
            floor = tuple(rows[-1][key] for key in KEYS)
            ids = [row["_id"] for row in rows]
            token += 1
            await jobs.update_many(
                {"_id": {"$in": ids}, "state": "waiting"}, {"$set": {"state": "active", "token": token}}
            )
            held = await jobs.find({"_id": {"$in": ids}, "token": token}).to_list(None)
            await jobs.update_many(
                {"_id": {"$in": [row["_id"] for row in held]}, "token": token, "state": "active"},
                {"$set": {"state": "completed"}, "$unset": {"token": 1}},
            )
            done += len(held)
        taken = time.perf_counter() - began
        await client.drop_database(database)
    assert done == count
    return inserted, count / taken
