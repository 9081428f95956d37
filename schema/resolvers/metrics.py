"""What can be asked about time?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import bounded
from schema.resolvers.streams import changes_where
from switchtower.access import Scope
from switchtower.callers import EVERYTHING
from switchtower.events import Topic
from switchtower.metrics import Granularity, MetricBucket, Snapshot
from switchtower.payloads import check_text

__all__ = ["buckets", "enabled", "history", "sparklines", "watch"]

MAX_HISTORY = 2_000
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 200, 60_000


@needs(Scope.READ)
def enabled(context: Context) -> bool:
    """Whether metrics are kept."""
    return context.engine.metrics.enabled


@needs(Scope.READ)
async def buckets(
    context: Context,
    queue: str | None,
    *,
    name: str | None,
    by_name: bool,
    granularity: Granularity,
    since: datetime | None,
    until: datetime | None,
) -> list[MetricBucket]:
    """The buckets of a queue, or of all together.

    Raises InvalidInput for a range out of bounds, and where metrics are turned off.
    """
    if queue is not None:
        check_text("queue", queue, limit=256)
    return await context.engine.metrics.buckets(
        queue, caller=context.caller, name=name, by_name=by_name, granularity=granularity, since=since, until=until
    )


@needs(Scope.READ)
async def sparklines(context: Context) -> dict[str, list[int]]:
    """Per queue, the jobs that ended in each of the last 60 minutes."""
    queues = await context.engine.queues.names(caller=context.caller)
    return await context.engine.metrics.sparklines(queues, caller=context.caller)


@needs(Scope.READ)
async def history(context: Context, limit: int) -> list[Snapshot]:
    """The last snapshots of the totals, newest first; whoever sees only a part of it all gets none."""
    bounded("limit", limit, 1, MAX_HISTORY)
    return [] if context.caller.reach != EVERYTHING else await context.engine.metrics.history(limit=limit)


@needs(Scope.READ)
async def watch(context: Context, queue: str, interval_ms: int) -> AsyncGenerator[MetricBucket, None]:
    """The present minute of a queue, now and after every interval in which something happened to its jobs."""
    bounded("intervalMs", interval_ms, MIN_INTERVAL_MS, MAX_INTERVAL_MS)
    empty = MetricBucket(context.engine.clock.now(), Granularity.MINUTE, queue, None)
    async with changes_where(context, lambda event: event.topic is Topic.JOB and event.queue == queue) as noticed:
        while True:
            start = Granularity.MINUTE.start_of(context.engine.clock.now())
            found = await context.engine.metrics.buckets(queue, caller=context.caller, since=start)
            empty.at = start
            yield found[-1] if found else empty
            while not await noticed.wait(interval_ms / 1000):
                # A new minute begins with an empty bucket, although nothing happened.
                if Granularity.MINUTE.start_of(context.engine.clock.now()) != start:
                    break
            if noticed.ended:
                return
            await noticed.pause(interval_ms / 1000)
