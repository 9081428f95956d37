"""What is counted for Prometheus of the events that a server sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from app.prometheus import MAX_SERIES, Metrics
from switchtower.events import Event, Gap, Topic

ASKED = Request({"type": "http", "headers": []})
NOW = datetime.now(UTC)


class Over(Exception):
    """There are no more events."""


class Hub:
    """Tells these events and then breaks off."""

    def __init__(self, events: Iterable[Event | Gap]) -> None:
        self._events = list(events)

    @asynccontextmanager
    async def subscribe(self, match: Any, *, buffer: int) -> AsyncIterator[AsyncIterator[Event | Gap]]:
        async def told() -> AsyncIterator[Event | Gap]:
            for event in self._events:
                if isinstance(event, Gap) or match(event):
                    yield event
            raise Over

        yield told()


class Engine:
    def __init__(self, events: Iterable[Event | Gap]) -> None:
        self._hub = Hub(events)

    def hub(self) -> Hub:
        return self._hub


def ended(name: str, type: str = "complete", to: str = "completed", **data: Any) -> Event:
    return Event("", Topic.JOB, type, "job_1", NOW, "q", name, "active", to, data=data)


async def scraped(*events: Event | Gap) -> list[str]:
    metrics = Metrics()
    with suppress(Over):
        await metrics.count(Engine(events))  # type: ignore[arg-type]
    answer = await metrics.scrape(ASKED)
    return bytes(answer.body).decode().splitlines()


async def test_each_end_is_counted_once_by_its_outcome() -> None:
    lines = await scraped(
        ended("a", ms=20),
        ended("a", "backoff", "retrying", ms=20),
        ended("a", "bury", "failed", ms=20),
        ended("a", "progress", "active"),
        Gap("", NOW, "lost"),
    )
    for outcome in ("completed", "retried", "failed"):
        assert f'switchtower_jobs_total{{name="a",outcome="{outcome}",queue="q"}} 1.0' in lines
    assert 'switchtower_job_duration_seconds_count{name="a",queue="q"} 3.0' in lines
    assert "switchtower_change_stream_gaps_total 1.0" in lines


async def test_the_number_of_series_is_bounded_whatever_jobs_are_called() -> None:
    lines = await scraped(*(ended(f"job-{number}") for number in range(MAX_SERIES + 50)))
    counted = [line for line in lines if line.startswith("switchtower_jobs_total{")]
    assert len(counted) == MAX_SERIES + 1
    assert 'switchtower_jobs_total{name="other",outcome="completed",queue="other"} 50.0' in counted
