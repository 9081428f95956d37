"""What does this server tell Prometheus?

Gauges are read from the database at each scrape. Counters and run times are counted from the events that this server
has seen since it started: every server sees all of them, so take the maximum over servers, not the sum.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.events import Event, Gap, Topic

__all__ = ["Metrics"]

SCRAPE_SECONDS: Final = 4.0
MAX_SERIES: Final = 1_000
OTHER: Final = ("other", "other")
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The endpoint, and the task that counts events for it."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.registry = CollectorRegistry()
        self._scraping = asyncio.Lock()
        self._series: set[tuple[str, str]] = set()
        r = self.registry
        self._jobs = Counter(
            "switchtower_jobs", "Jobs that ended or are retried, by outcome.", ["queue", "name", "outcome"], registry=r
        )
        self._duration = Histogram(
            "switchtower_job_duration_seconds", "Run time of attempts.", ["queue", "name"], buckets=BUCKETS, registry=r
        )
        self._gaps = Counter("switchtower_change_stream_gaps", "Times that this server lost events.", registry=r)
        self._depth = Gauge("switchtower_queue_depth", "Jobs in a queue, by state.", ["queue", "state"], registry=r)
        self._latency = Gauge(
            "switchtower_queue_latency_seconds", "Age of the oldest waiting job.", ["queue"], registry=r
        )
        self._lag = Gauge(
            "switchtower_change_stream_lag_seconds", "Age of the newest event when it was read.", registry=r
        )
        self._subscribers = Gauge("switchtower_subscribers", "Subscriptions to events in this server.", registry=r)
        self._workers = Gauge("switchtower_workers", "Live worker processes.", registry=r)
        self._dead_letters = Gauge("switchtower_dead_letters", "Dead letters kept.", registry=r)
        self._skew = Gauge(
            "switchtower_clock_skew_seconds", "How far apart the clocks of the replica set are.", registry=r
        )
        self._up = Gauge("switchtower_database_up", "Whether the database answered this scrape.", registry=r)

    async def scrape(self, request: Request) -> Response:
        """Everything, in Prometheus' text format."""
        async with self._scraping:
            if self.engine is not None:
                try:
                    async with asyncio.timeout(SCRAPE_SECONDS):
                        await self._read(self.engine)
                    self._up.set(1)
                except (StoreUnavailable, TimeoutError):
                    self._up.set(0)
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def count(self, engine: Engine) -> None:
        """Counts events until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                async with engine.hub().subscribe(_counts, buffer=10_000) as events:
                    async for event in events:
                        if isinstance(event, Gap):
                            self._gaps.inc()
                        else:
                            self._observe(event)
            await asyncio.sleep(1)

    def _observe(self, event: Event) -> None:
        series = (event.queue, event.name)
        if series not in self._series:
            # Queue and job names are the users' own words: their number is not ours to bound, that of our series is.
            if len(self._series) >= MAX_SERIES:
                series = OTHER
            self._series.add(series)
        self._jobs.labels(*series, "retried" if event.type == "backoff" else event.to_state).inc()
        milliseconds = event.data.get("ms")
        if milliseconds is not None:
            self._duration.labels(*series).observe(milliseconds / 1000)

    async def _read(self, engine: Engine) -> None:
        queues = await engine.queues.list(caller=SYSTEM)
        latency = await engine.queues.latency_ms([queue.name for queue in queues])
        totals = await engine.stats.totals(caller=SYSTEM)
        self._depth.clear()
        self._latency.clear()
        for queue in queues:
            for state, number in queue.counts.items():
                self._depth.labels(queue.name, state.value).set(number)
            self._latency.labels(queue.name).set((latency.get(queue.name) or 0) / 1000)
        self._workers.set(totals.workers)
        self._dead_letters.set(totals.dead_letters)
        hub = engine.hub()
        self._lag.set(hub.lag_seconds)
        self._subscribers.set(hub.subscribers)
        self._skew.set(engine.clock_skew_seconds)


# A second series a counter, of the time it began, which nothing here needs.
disable_created_metrics()  # type: ignore[no-untyped-call]

ENDS: Final = frozenset({"completed", "failed", "cancelled"})


def _counts(event: Event) -> bool:
    return event.topic is Topic.JOB and (
        event.type == "backoff" or (event.to_state in ENDS and event.from_state != event.to_state)
    )
