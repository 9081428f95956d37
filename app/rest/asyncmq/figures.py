"""What happened in a stretch of time, for a page that draws it?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

from app.dashboard.charts import Span, spread, whole
from app.dashboard.models import Figures
from schema.context import Context
from schema.resolvers import metrics, queues, stats
from schema.resolvers.authority import authorise
from switchtower.access import Scope
from switchtower.metrics import Granularity, MetricBucket, Snapshot

__all__ = ["figures", "points"]

SUGGESTED: Final = 200
"""How many names of queues a field suggests."""
TASKS: Final = 20


async def points(context: Context, span: Span, *, queue: str = "", name: str = "") -> list[MetricBucket]:
    """A bucket for each point of the span, of a queue and a task ("": of all); none where metrics are not kept."""
    if not metrics.enabled(context):
        return []
    found = await _buckets(context, span, span.granularity, queue, name=name)
    return spread(found, span, stats.now(context))


async def _buckets(
    context: Context, span: Span, granularity: Granularity, queue: str, *, name: str = "", by_name: bool = False
) -> list[MetricBucket]:
    now = stats.now(context)
    return await metrics.buckets(
        context,
        queue or None,
        name=name or None,
        by_name=by_name,
        granularity=granularity,
        since=span.since(now),
        until=now,
    )


async def _tasks(context: Context, span: Span, queue: str) -> list[MetricBucket]:
    """What happened to the jobs of each name, in whole hours where the span is longer than one, the busiest first."""
    if not metrics.enabled(context):
        return []
    granularity = Granularity.MINUTE if span is Span.HOUR else Granularity.HOUR
    found = await _buckets(context, span, granularity, queue, by_name=True)
    apart: dict[str, list[MetricBucket]] = defaultdict(list)
    for bucket in found:
        apart[bucket.name or ""].append(bucket)
    tasks = [whole(buckets) for buckets in apart.values()]
    for name, task in zip(apart, tasks, strict=True):
        task.name = name
    return sorted(tasks, key=lambda task: (-task.completed - task.failed, task.name))


async def figures(context: Context, *, limit: int, span: Span, queue: str, name: str) -> Figures:
    """The last snapshots, the totals now, and what happened in the span."""
    # Before any of them begins, which would then never be waited for.
    authorise(context, Scope.READ)
    snapshots, totals, buckets, tasks, known = await asyncio.gather(
        _snapshots(context, limit),
        stats.totals(context),
        points(context, span, queue=queue, name=name),
        _tasks(context, span, queue),
        queues.list_all(context),
    )
    names = [each.name for each in known[:SUGGESTED]]
    return Figures(snapshots, totals, span, queue, name, names, buckets, tasks[:TASKS])


async def _snapshots(context: Context, limit: int) -> list[Snapshot]:
    return await metrics.history(context, limit) if metrics.enabled(context) else []
