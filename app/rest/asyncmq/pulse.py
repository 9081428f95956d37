"""What does `/events` tell its readers? One snapshot of everything, taken once for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import orjson

from app.rest.asyncmq import wire
from schema.context import Context
from schema.resolvers import jobs, queues, workers
from schema.resolvers.bounds import window
from schema.resolvers.queues import Queue
from switchtower.errors import StoreUnavailable
from switchtower.jobs import Job, JobFilter
from switchtower.workers import Worker

__all__ = ["INTERVAL_SECONDS", "LOOKED_AT", "NAMES", "Beat", "at_a_glance", "beats"]

INTERVAL_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 1.0
"""A reader is never told what is older when it comes; nothing is read more often, however many there are."""
NEWEST: Final = 10
LOOKED_AT: Final = 100
BUSIEST: Final = 5
NAMES: Final = ("overview", "jobdist", "metrics", "queues", "workers", "latest_jobs", "latest_queues")


@dataclass(frozen=True, slots=True)
class Beat:
    """One snapshot: its events as they are written."""

    text: bytes


class _Pulse:
    """The last snapshot of what one tenant sees, and the one that is being taken."""

    def __init__(self) -> None:
        self._taken: asyncio.Task[Beat] | None = None
        self._at = float("-inf")

    async def latest(self, context: Context) -> Beat:
        """A snapshot that is at most a second old. Raises StoreUnavailable."""
        if self._taken is None or time.monotonic() - self._at > FRESH_SECONDS:
            self._at = time.monotonic()
            self._taken = asyncio.create_task(_take(context), name="snapshot")
            self._taken.add_done_callback(self._forget_failed)
        # Whoever leaves while it is taken does not take it from the others.
        return await asyncio.shield(self._taken)

    def _forget_failed(self, task: asyncio.Task[Beat]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._taken is task:
            self._taken = None


_PULSES: WeakKeyDictionary[Any, dict[Hashable, _Pulse]] = WeakKeyDictionary()
"""By engine, which every server has one of, and by what the caller may see."""


async def latest(context: Context) -> Beat:
    """A snapshot as the caller may see it, at most a second old. Raises Forbidden, StoreUnavailable."""
    # Asked for by everyone itself: a snapshot that others may see says nothing about this caller.
    await workers.get_many(context, [])
    pulses = _PULSES.setdefault(context.engine, {})
    return await pulses.setdefault(context.caller.reach, _Pulse()).latest(context)


async def beats(context: Context) -> AsyncGenerator[Beat, None]:
    """A snapshot now, and again every five seconds; while the database is away there is none."""
    yield await latest(context)
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        try:
            beat = await latest(context)
        except StoreUnavailable:
            continue
        yield beat


async def _take(context: Context) -> Beat:
    found, live, listed = await asyncio.gather(
        queues.list_all(context),
        workers.list_all(context),
        jobs.page(context, JobFilter(), window(context, first=LOOKED_AT), with_=frozenset()),
    )
    data = at_a_glance(found, live, listed.page.items)
    text = b"".join(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data[name])) for name in NAMES)
    return Beat(text)


def at_a_glance(found: Sequence[Queue], live: Sequence[Worker], newest: Sequence[Job]) -> dict[str, Any]:
    """The data of each event, of all queues, all workers, and the newest jobs."""
    rows = [wire.queue_row(queue.name, queue.paused, queue.counts) for queue in found]
    dist = {name: sum(row[name] for row in rows) for name in wire.COUNTED}
    seen = {job.queue: job.created_at for job in reversed(newest)}
    latest_queues = sorted(seen.items(), key=lambda each: each[1], reverse=True)[:BUSIEST]
    return {
        "overview": {"total_queues": len(rows), "total_jobs": sum(dist.values()), "total_workers": len(live)},
        "jobdist": dist,
        "metrics": wire.metrics(dist),
        "queues": rows,
        "workers": [wire.worker(each) for each in live],
        "latest_jobs": [
            {
                "id": job.custom_id or job.id,
                "queue": job.queue,
                "state": wire.state_name(job),
                "time": wire.local(job.created_at),
            }
            for job in newest[:NEWEST]
        ],
        "latest_queues": [{"name": name, "time": wire.local(at)} for name, at in latest_queues],
    }
