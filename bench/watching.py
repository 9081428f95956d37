"""How fast does the hub read the change stream, beside the bare driver, and what does one more subscriber cost?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from bench.running import bulk_rate, database
from bench.waiting import until
from switchtower.engine import Engine
from switchtower.events import Event, EventHub, Gap, Topic
from switchtower.store import changes
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo

__all__ = ["Stream", "bare_rate", "fan_out_rate", "hub_rate", "recorded"]

CLAIM = 500
READ_SECONDS = 60.0


class Stream:
    """A stretch of a change stream: where it begins, and how many events it holds."""

    def __init__(self, url: str, name: str, cursor: str, events: int) -> None:
        self.url = url
        self.database = name
        self.cursor = cursor
        self.events = events


@asynccontextmanager
async def recorded(url: str, jobs: int) -> AsyncIterator[Stream]:
    """A database in which `jobs` jobs were enqueued, claimed and completed: three events a job."""
    async with database(url) as engine:
        stream = changes.read(engine._store, after=None)
        _, cursor = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await bulk_rate(engine, jobs)
        await engine.workers.register(WorkerInfo(id="bench", queues=["default"], names=["noop"]))
        done = 0
        while done < jobs:
            claimed = await engine.claims.claim("bench", ["default"], names=["noop"], limit=CLAIM)
            await engine.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in claimed])
            done += len(claimed)
        yield Stream(url, engine.database_name, cursor, 3 * jobs)


async def hub_rate(stream: Stream, driver: str) -> float:
    """Events a second that one subscriber gets from a hub which reads the stretch from its beginning."""
    engine = await Engine.connect(stream.url, database=stream.database, driver=driver)
    joined = asyncio.Event()

    async def source(after: str | None) -> AsyncIterator[tuple[list[Event], str]]:
        if after is None:
            # The hub is open from here on, and reads once its subscriber is there.
            yield [], stream.cursor
            await joined.wait()
        async for batch in changes.read(engine._store, after=after or stream.cursor):
            yield batch

    hub = EventHub(source)
    seen = 0
    try:
        subscription = hub.subscribe(lambda event: event.topic is Topic.JOB, buffer=stream.events + 1)
        async with asyncio.timeout(READ_SECONDS):
            async with subscription as items:
                joined.set()
                began = time.perf_counter()
                async for item in items:
                    if isinstance(item, Gap):
                        raise RuntimeError(f"The hub's only subscriber fell behind: {item.reason}")
                    seen += 1
                    if seen == stream.events:
                        break
            passed = time.perf_counter() - began
    finally:
        await hub.close()
        await engine.close()
    return seen / passed


async def bare_rate(stream: Stream, driver: str) -> float:
    """Events a second that the driver's own watcher yields of the same stretch through the same pipeline."""
    client: Any
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        client = AsyncIOMotorClient(stream.url, tz_aware=True)
    else:
        from pymongo import AsyncMongoClient

        client = AsyncMongoClient(stream.url, tz_aware=True)
    token = {"_data": stream.cursor.partition(".")[2]}
    seen = 0
    opened = client[stream.database].watch(changes.EVENTS, resume_after=token, batch_size=1_000)
    began = time.perf_counter()
    async with await opened if driver == "pymongo" else opened as watcher, asyncio.timeout(READ_SECONDS):
        async for change in watcher:
            if change["coll"] == "jobs":
                seen += 1
                if seen == stream.events:
                    break
    passed = time.perf_counter() - began
    closing = client.close()
    if closing is not None:
        await closing
    return seen / passed


async def fan_out_rate(subscribers: int, events: int) -> float:
    """Events delivered a second to so many subscribers of one hub, which all want every event; no database."""
    at = datetime.now(UTC)
    cursors = iter(range(10**9))
    opened = asyncio.Event()

    def batch(size: int) -> list[Event]:
        numbers = (f"{next(cursors):012}" for _ in range(size))
        return [Event(number, Topic.JOB, "complete", "job", at, "default", "noop") for number in numbers]

    async def source(after: str | None) -> AsyncIterator[tuple[list[Event], str]]:
        yield [], f"{next(cursors):012}"
        await opened.wait()
        for _ in range(events // 100):
            made = batch(100)
            yield made, made[-1].cursor
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    hub = EventHub(source)
    entered = 0

    async def reader() -> None:
        nonlocal entered
        seen = 0
        async with hub.subscribe(buffer=events + 1) as items:
            entered += 1
            async for item in items:
                if isinstance(item, Gap):
                    raise RuntimeError("A subscriber fell behind.")
                seen += 1
                if seen == events:
                    return

    readers = [asyncio.create_task(reader()) for _ in range(subscribers)]
    await until(lambda: entered == subscribers, every_seconds=0)
    began = time.perf_counter()
    opened.set()
    await asyncio.gather(*readers)
    passed = time.perf_counter() - began
    await hub.close()
    return events * subscribers / passed
