"""Cancelled calls: the driver never hears of it, and the next call is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.store.collections import Store
from switchtower.store.driver import Database, connect
from tests.conformance.situations import enqueue
from tests.waiting import until

TURNS = 40
"""Turns of the event loop: more than an operation has awaits before it waits for the server."""


async def cancel_twice(operation: Any, turns: int) -> None:
    task = asyncio.ensure_future(operation)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})


async def answers(database: Database) -> bool:
    asked = asyncio.ensure_future(database["jobs"].find_one({"_id": "nobody"}))
    done, _ = await asyncio.wait({asked}, timeout=30)
    return bool(done) and asked.exception() is None


async def test_calls_cancelled_twice_at_any_moment_leave_the_connections_usable(store: Store) -> None:
    jobs = store.jobs
    for turns in range(TURNS):
        await asyncio.gather(
            *(cancel_twice(jobs.find_one({"_id": "nobody"}), turns) for _ in range(3)),
            cancel_twice(jobs.find({"_id": "nobody"}).to_list(None), turns),
            cancel_twice(jobs.update_one({"_id": "nobody"}, {"$set": {"x": 1}}), turns),
            cancel_twice(store.database.aggregate("jobs", [{"$match": {"_id": "nobody"}}]), turns),
            cancel_twice(store.database.ping(), turns),
        )
    assert await answers(store.database)


async def test_transactions_cancelled_twice_at_any_moment_leave_nothing_half_done(store: Store) -> None:
    async def insert(turns: int) -> None:
        async with store.database.transaction() as session:
            for half in "ab":
                await store.events.insert_one({"_id": f"{turns}{half}"}, session=session)

    for turns in range(0, 4 * TURNS, 3):
        await cancel_twice(insert(turns), turns)
    assert await answers(store.database)
    found = {row["_id"] async for row in store.events.find({})}
    assert {id[:-1] for id in found if id.endswith("a")} == {id[:-1] for id in found if id.endswith("b")}


async def test_write_whose_caller_was_cancelled_ends(engine: Engine, store: Store) -> None:
    enqueued = asyncio.ensure_future(enqueue(engine))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    enqueued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await enqueued
    # Whether it had begun is a matter of chance; that the next one gets through is not.
    assert await enqueue(engine)


async def test_client_that_came_to_a_standstill_is_replaced(mongodb_url: str, database_name: str) -> None:
    database = await connect(mongodb_url, database=database_name, role="server")
    watch = asyncio.ensure_future(database.watch_over(every_seconds=0.05, patience_seconds=0.5))
    try:
        # What the driver comes to when it is cancelled twice, as `Collection` keeps it from being.
        for server in database._client._topology._servers.values():
            await server.pool.lock.acquire()
        stuck = asyncio.ensure_future(database["jobs"].find_one({"_id": "nobody"}))
        await until(lambda: database.replaced, timeout_seconds=120)
        with pytest.raises(StoreUnavailable):
            await stuck
        assert await answers(database)
    finally:
        watch.cancel()
        await database.close()
