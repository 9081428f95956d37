"""How long did things take, in numbers that can be added up?

Run times are kept in a histogram whose buckets grow by ten per cent: any two can be merged by adding, and a percentile
read from it is at most five per cent off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from switchtower.errors import InvalidInput

__all__ = [
    "Granularity",
    "MetricBucket",
    "Snapshot",
    "bucket_of",
    "check_range",
    "merged",
    "percentile",
    "rounded_ms",
    "value_of",
]

GROWTH = 1.1
MAX_POINTS = 10_000
MINUTES_KEPT = timedelta(hours=24)
HOURS_KEPT = timedelta(days=30)


class Granularity(StrEnum):
    """How much time one bucket covers; minutes are kept for 24 hours, hours for 30 days."""

    MINUTE = "minute"
    HOUR = "hour"

    @property
    def span(self) -> timedelta:
        """The length of one bucket."""
        return timedelta(minutes=1) if self is Granularity.MINUTE else timedelta(hours=1)

    def start_of(self, moment: datetime) -> datetime:
        """The beginning of the bucket that a moment falls into."""
        start = moment.replace(second=0, microsecond=0)
        return start if self is Granularity.MINUTE else start.replace(minute=0)


def bucket_of(ms: float) -> int:
    """The histogram bucket of a duration in milliseconds; below one it is bucket 0."""
    return 0 if ms < 1 else 1 + int(math.log(ms) / math.log(GROWTH))


def rounded_ms(ms: int) -> int:
    """The duration in steps that let equal things share a write: at most 5 % less, exact below 20 ms."""
    if ms < 20:
        return ms
    step: int = max(1, 10 ** (len(str(ms)) - 2) // 2)
    return ms // step * step


def value_of(bucket: int) -> float:
    """The duration that stands for a bucket: its geometric middle, at most five per cent off anything in it."""
    return 0.0 if bucket <= 0 else GROWTH ** (bucket - 0.5)


def percentile(histogram: Mapping[int, int], share: float) -> float | None:
    """The duration that this share (0 to 1) of the runs did not exceed; None without runs."""
    total = sum(histogram.values())
    if not total:
        return None
    wanted = max(1, math.ceil(total * share))
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= wanted:
            return value_of(bucket)
    return None


def check_range(granularity: Granularity, since: datetime, until: datetime) -> None:
    """Raises InvalidInput for a range that is backwards or has more than 10,000 buckets."""
    if until < since:
        raise InvalidInput("to", "lies before from.")
    if (until - since) / granularity.span > MAX_POINTS:
        raise InvalidInput("from", f"asks for more than {MAX_POINTS:,} buckets; ask for a shorter range, or for hours.")


@dataclass(slots=True)
class MetricBucket:
    """What happened to jobs of one name (or, with `name` None, of all) in one queue within one bucket of time.

    `wait_ms` is the time that claimed jobs had been due for, in all; `run_ms` the time that ended runs took, in all.
    """

    at: datetime
    granularity: Granularity
    queue: str
    name: str | None
    enqueued: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    runs: int = 0
    run_ms: int = 0
    min_ms: int | None = None
    max_ms: int | None = None
    claimed: int = 0
    wait_ms: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    def add(self, other: MetricBucket) -> None:
        """Adds another bucket of the same time to this one."""
        for name in ("enqueued", "completed", "failed", "retried", "cancelled", "runs", "run_ms", "claimed", "wait_ms"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.min_ms = _least(self.min_ms, other.min_ms)
        self.max_ms = _most(self.max_ms, other.max_ms)
        for bucket, count in other.histogram.items():
            self.histogram[bucket] = self.histogram.get(bucket, 0) + count

    def percentile_ms(self, share: float) -> float | None:
        """The run time that this share of the runs did not exceed, within five per cent; None without runs."""
        value = percentile(self.histogram, share)
        if value is None or self.min_ms is None or self.max_ms is None:
            return value
        return min(max(value, self.min_ms), self.max_ms)


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _most(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def merged(buckets: Iterable[MetricBucket]) -> list[MetricBucket]:
    """Buckets of many names as one per time, oldest first."""
    whole: dict[datetime, MetricBucket] = {}
    for bucket in buckets:
        if bucket.at not in whole:
            whole[bucket.at] = MetricBucket(bucket.at, bucket.granularity, bucket.queue, None)
        whole[bucket.at].add(bucket)
    return [whole[at] for at in sorted(whole)]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The totals at one moment: jobs by state, queues, workers, and what ended in the minute that it falls into."""

    at: datetime
    counts: dict[str, int]
    queues: int
    workers: int
    completed: int
    failed: int
    retried: int
    mean_ms: float | None
