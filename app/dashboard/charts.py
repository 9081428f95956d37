"""How does a stretch of time look without a script?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from markupsafe import Markup

from app.dashboard.words import duration
from switchtower.metrics import Granularity, MetricBucket

__all__ = ["Chart", "Line", "Span", "of_state", "run_times", "spread", "throughput", "waits", "whole"]

WIDTH: Final = 600
HEIGHT: Final = 160
EDGE: Final = 4
PERCENTILES: Final = (("p50", 0.5, "active"), ("p95", 0.95, "retrying"), ("p99", 0.99, "failed"))


class Span(Enum):
    """How far back charts go, how much time each of their points covers, and how that is said."""

    HOUR = ("1h", 60, Granularity.MINUTE, "the last hour")
    QUARTER = ("6h", 360, Granularity.MINUTE, "the last six hours")
    DAY = ("24h", 1_440, Granularity.MINUTE, "the last 24 hours")
    WEEK = ("7d", 168, Granularity.HOUR, "the last seven days")
    MONTH = ("30d", 720, Granularity.HOUR, "the last 30 days")

    def __init__(self, key: str, points: int, granularity: Granularity, words: str) -> None:
        self.key = key
        self.points = points
        self.granularity = granularity
        self.words = words

    @property
    def minutes(self) -> int:
        """Its length."""
        return self.points * int(self.granularity.span.total_seconds()) // 60

    def since(self, now: datetime) -> datetime:
        """When its first point begins; the last one is the minute or hour that is still under way."""
        return self.granularity.start_of(now) - (self.points - 1) * self.granularity.span


@dataclass(frozen=True, slots=True)
class Line:
    """Values in the order of their time, None where there is none; `state` gives the colour."""

    label: str
    state: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """What the frontend's chart of this kind shows too, with what is said below it."""

    kind: str
    title: str
    lines: Sequence[Line]
    said: str

    @property
    def svg(self) -> Markup:
        """Bars that stand on each other for what is counted, lines for everything else; named for those who do not see
        it."""
        drawn = _bars(self.lines) if self.kind == "throughput" else _lines(self.lines)
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
        ).format(WIDTH, HEIGHT, f"{self.title}: {self.said}", Markup("").join(drawn))


def _bars(lines: Sequence[Line]) -> Iterable[Markup]:
    columns = list(zip(*(line.values for line in lines), strict=True))
    highest = max((sum(value or 0 for value in column) for column in columns), default=0) or 1
    width = WIDTH / max(1, len(columns))
    for place, column in enumerate(columns):
        top = float(HEIGHT - EDGE)
        for line, value in zip(lines, column, strict=True):
            if value:
                tall = value * (HEIGHT - 2 * EDGE) / highest
                top -= tall
                yield Markup('<rect data-state="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                    line.state, place * width, top, width * 0.8, tall
                )


def _lines(lines: Sequence[Line]) -> Iterable[Markup]:
    highest = max((value for line in lines for value in line.values if value is not None), default=0) or 1
    scale = (HEIGHT - 2 * EDGE) / highest
    for line in lines:
        step = WIDTH / max(1, len(line.values) - 1)
        path, drawing = [], False
        for place, value in enumerate(line.values):
            if value is not None:
                # A point with nothing beside it is still to be seen: a line of no length with round ends.
                path.append(f"{'L' if drawing else 'M'}{place * step:.1f} {HEIGHT - EDGE - value * scale:.1f}")
                path += [] if drawing else ["h0"]
            drawing = value is not None
        if path:
            yield Markup('<path data-state="{}" d="{}"/>').format(line.state, "".join(path))


def spread(buckets: Iterable[MetricBucket], span: Span, now: datetime) -> list[MetricBucket]:
    """A bucket for each point of the span, the one under way last; empty ones where nothing happened."""
    known = {bucket.at: bucket for bucket in buckets}
    since, step = span.since(now), span.granularity.span
    times = [since + place * step for place in range(span.points)]
    return [known.get(at) or MetricBucket(at, span.granularity, "", None) for at in times]


def whole(buckets: Sequence[MetricBucket]) -> MetricBucket:
    """All of them as one."""
    found = MetricBucket(buckets[0].at, buckets[0].granularity, "", None)
    for bucket in buckets:
        found.add(bucket)
    return found


def throughput(buckets: Sequence[MetricBucket], span: Span) -> Chart:
    """How many jobs ended."""
    total = whole(buckets)
    most = max(bucket.completed + bucket.failed for bucket in buckets)
    said = f"{total.completed:,} completed, {total.failed:,} failed in {span.words}"
    said += f"; at most {most:,} in one {span.granularity.value}." if most else "."
    lines = [
        Line("completed", "completed", [bucket.completed for bucket in buckets]),
        Line("failed", "failed", [bucket.failed for bucket in buckets]),
    ]
    return Chart("throughput", "Throughput", lines, said)


def run_times(buckets: Sequence[MetricBucket], span: Span) -> Chart:
    """How long runs took."""
    total = whole(buckets)
    shares = ", ".join(f"{label} {duration(total.percentile_ms(share))}" for label, share, _ in PERCENTILES)
    said = f"{shares} in {span.words}." if total.runs else f"Nothing ran in {span.words}."
    lines = [
        Line(label, state, [bucket.percentile_ms(share) for bucket in buckets]) for label, share, state in PERCENTILES
    ]
    return Chart("duration", "Run time", lines, said)


def waits(buckets: Sequence[MetricBucket], span: Span) -> Chart:
    """How long jobs were due before a worker took them."""
    total = whole(buckets)
    mean = _mean_wait(total)
    said = f"No job began in {span.words}." if mean is None else f"{duration(mean)} on average in {span.words}."
    line = Line("mean", "scheduled", [_mean_wait(bucket) for bucket in buckets])
    return Chart("latency", "Waiting time", [line], said)


def _mean_wait(bucket: MetricBucket) -> float | None:
    return bucket.wait_ms / bucket.claimed if bucket.claimed else None


def of_state(name: str, state: str, values: Sequence[int]) -> Chart:
    """How many jobs there were of a kind every ten seconds, in the colour of a state."""
    minutes = max(1, len(values) // 6)
    said = f"{values[-1]:,} now, at most {max(values):,} in the last {minutes} min." if values else "Not known yet."
    return Chart(name, name.capitalize(), [Line(name, state, values)], said)
