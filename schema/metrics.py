"""What is a metric, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.enums import described
from schema.fields import query, resolved, subscription
from schema.queues import JobCounts, counts_of
from schema.resolvers import metrics as resolvers
from schema.scalars import int32
from schema.selection import Info
from switchtower import metrics as records
from switchtower.states import JobState

__all__ = ["MetricBucket", "MetricQuery", "MetricSubscription"]

described(
    records.Granularity,
    "How much time one bucket covers.",
    {"MINUTE": "A minute; kept for 24 hours.", "HOUR": "An hour; kept for 30 days."},
)


def _run_ms(root: strawberry.Parent[records.MetricBucket]) -> int | None:
    return int32(root.run_ms)


def _wait_ms(root: strawberry.Parent[records.MetricBucket]) -> int | None:
    return int32(root.wait_ms)


def _mean(root: strawberry.Parent[records.MetricBucket]) -> float | None:
    return root.run_ms / root.runs if root.runs else None


def _mean_wait(root: strawberry.Parent[records.MetricBucket]) -> float | None:
    return root.wait_ms / root.claimed if root.claimed else None


def _p50(root: strawberry.Parent[records.MetricBucket]) -> float | None:
    return root.percentile_ms(0.50)


def _p95(root: strawberry.Parent[records.MetricBucket]) -> float | None:
    return root.percentile_ms(0.95)


def _p99(root: strawberry.Parent[records.MetricBucket]) -> float | None:
    return root.percentile_ms(0.99)


@strawberry.type(description="What happened to the jobs of a queue, or of all, within one bucket of time.")
class MetricBucket:
    """`switchtower.metrics.MetricBucket`."""

    at: datetime = strawberry.field(description="When the bucket begins.")
    granularity: records.Granularity = strawberry.field(description="How much time it covers.")
    queue: str = strawberry.field(description="The queue; empty for all together.")
    name: str | None = strawberry.field(name="jobName", description="The jobs' name; null for all together.")
    enqueued: int = strawberry.field(description="How many were enqueued.")
    completed: int = strawberry.field(description="How many completed.")
    failed: int = strawberry.field(description="How many failed for good.")
    retried: int = strawberry.field(description="How many attempts failed and are tried again.")
    cancelled: int = strawberry.field(description="How many were cancelled.")
    claimed: int = strawberry.field(description="How many were claimed.")
    runs: int = strawberry.field(description="How many runs ended.")
    run_ms: int = resolved(resolver=_run_ms, description="How long those runs took in all, in milliseconds.")
    min_ms: int | None = strawberry.field(description="The shortest of those runs.")
    max_ms: int | None = strawberry.field(description="The longest of those runs.")
    mean_ms: float | None = resolved(resolver=_mean, description="How long a run took on average.")
    p50_ms: float | None = resolved(resolver=_p50, name="p50Ms", description="Half of the runs took no longer, ±5 %.")
    p95_ms: float | None = resolved(resolver=_p95, name="p95Ms", description="95 % of them took no longer, ±5 %.")
    p99_ms: float | None = resolved(resolver=_p99, name="p99Ms", description="99 % of them took no longer, ±5 %.")
    wait_ms: int = resolved(resolver=_wait_ms, description="How long claimed jobs had been due for, in all.")
    mean_wait_ms: float | None = resolved(resolver=_mean_wait, description="How long one had been due on average.")


@strawberry.type(description="How many jobs of a queue ended in each of the last 60 minutes.")
class Sparkline:
    """One line of `engine.metrics.sparklines`."""

    queue: str = strawberry.field(description="The queue.")
    points: list[int] = strawberry.field(description="Completed and failed jobs a minute, the present minute last.")


def _counts(root: strawberry.Parent[records.Snapshot]) -> JobCounts:
    return counts_of({JobState(state): n for state, n in root.counts.items()})


@strawberry.type(description="The totals at one moment.")
class MetricsSnapshot:
    """`switchtower.metrics.Snapshot`."""

    at: datetime = strawberry.field(description="The moment.")
    counts: JobCounts = resolved(resolver=_counts, graphql_type=JobCounts, description="Jobs by state.")
    queues: int = strawberry.field(description="How many queues.")
    workers: int = strawberry.field(description="How many workers.")
    completed: int = strawberry.field(description="How many jobs had completed in the minute that it falls into.")
    failed: int = strawberry.field(description="How many had failed in that minute.")
    retried: int = strawberry.field(description="How many attempts had failed in that minute and are tried again.")
    mean_ms: float | None = strawberry.field(description="How long runs took on average in that minute.")


QUEUE = strawberry.argument(description="The queue's name.")


@strawberry.type
class MetricQuery:
    """Queries about metrics."""

    @query(
        graphql_type=list[MetricBucket],
        description="The buckets of a queue, or of all together, oldest first, the last hour by default; times without"
        " jobs are left out.",
    )
    async def metrics(
        self,
        info: Info,
        queue: Annotated[
            str | None, strawberry.argument(description="The queue's name; all together without one.")
        ] = None,
        name: Annotated[str | None, strawberry.argument(description="Only jobs of this name.")] = None,
        by_name: Annotated[bool, strawberry.argument(description="One bucket for each name.")] = False,
        granularity: Annotated[
            records.Granularity, strawberry.argument(description="How much time one bucket covers.")
        ] = records.Granularity.MINUTE,
        from_: Annotated[
            datetime | None, strawberry.argument(name="from", description="From this time on; an hour ago by default.")
        ] = None,
        to: Annotated[datetime | None, strawberry.argument(description="Up to this time; now by default.")] = None,
    ) -> list[Any]:
        return list(
            await resolvers.buckets(
                info.context, queue, name=name, by_name=by_name, granularity=granularity, since=from_, until=to
            )
        )

    @query(graphql_type=list[Sparkline], description="A line for each queue: the jobs that ended, minute by minute.")
    async def sparklines(self, info: Info) -> list[Sparkline]:
        lines = await resolvers.sparklines(info.context)
        return [Sparkline(queue=queue, points=points) for queue, points in lines.items()]

    @query(
        graphql_type=list[MetricsSnapshot],
        description="The totals every ten seconds, the newest first, for a week. A tenant sees none.",
    )
    async def metrics_history(
        self, info: Info, limit: Annotated[int, strawberry.argument(description="At most so many, 1 to 2,000.")] = 120
    ) -> list[Any]:
        return list(await resolvers.history(info.context, limit))

    @query(graphql_type=bool, description="Whether metrics are kept.")
    async def metrics_enabled(self, info: Info) -> bool:
        return resolvers.enabled(info.context)


@strawberry.type
class MetricSubscription:
    """Streams about metrics."""

    @subscription(
        graphql_type=MetricBucket,
        description="The present minute of a queue, now and after every interval in which something happened.",
    )
    async def metrics(
        self,
        info: Info,
        queue: Annotated[str, QUEUE],
        interval_ms: Annotated[
            int, strawberry.argument(description="The least time between two answers, 200 to 60,000.")
        ] = 1000,
    ) -> AsyncGenerator[Any, None]:
        async for bucket in resolvers.watch(info.context, queue, interval_ms):
            yield bucket
