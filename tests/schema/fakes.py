"""Records made by hand, and an engine that answers with them: what GraphQL does with answers needs no database."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from schema.context import Context
from switchtower.callers import Caller
from switchtower.jobs import Job
from switchtower.pages import Count, Page
from switchtower.retry import DEFAULT_BACKOFF
from switchtower.states import JobState

NOW = datetime(2026, 1, 31, 12, 0, 0, 5_000, tzinfo=UTC)


def job(**given: Any) -> Job:
    """A job in which everything that was not given is empty."""
    empty: dict[str, Any] = {field.name: None for field in fields(Job)}
    empty |= {name: [] for name in ("attempts", "logs", "tags", "pending", "depends_on", "timeline")}
    empty |= {name: 0 for name in ("priority", "attempt", "claims", "event_seq")}
    empty |= {name: False for name in ("lifo", "retry_pending", "remove_on_complete", "remove_on_fail")}
    empty |= {"id": "job_1", "name": "send", "queue": "default", "state": JobState.WAITING, "org": "", "app": ""}
    empty |= {"run_at": NOW, "created_at": NOW, "updated_at": NOW, "backoff": DEFAULT_BACKOFF}
    return Job(**empty | {"max_attempts": 4, "generation": 1} | given)


class FakeJobs:
    """Answers every read with the same jobs, and every change by raising `error`."""

    def __init__(self, jobs: list[Job], error: Exception | None = None) -> None:
        self._jobs = jobs
        self._error = error

    async def page(self, *args: object, **options: object) -> Page[Job]:
        return Page(self._jobs, [f"c{i}" for i in range(len(self._jobs))], False, False)

    async def count(self, *args: object, **options: object) -> Count:
        return Count(len(self._jobs), True)

    async def get(self, *args: object, **options: object) -> Job | None:
        if self._error is not None:
            raise self._error
        return self._jobs[0] if self._jobs else None

    async def cancel(self, *args: object, **options: object) -> Job:
        assert self._error is not None
        raise self._error

    retry = cancel


class FakeAudit:
    """Takes every refusal and keeps none."""

    async def refused(self, *args: object, **options: object) -> None:
        pass


def context(jobs: list[Job] | None = None, error: Exception | None = None) -> Context:
    """A context over a fake engine."""
    engine: Any = SimpleNamespace(jobs=FakeJobs(jobs or [], error), audit=FakeAudit())
    return Context(engine=engine, caller=Caller("tester"))
