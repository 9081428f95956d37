"""The words of the dialects for what has another name here."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.rest.asyncmq import wire as asyncmq
from app.rest.conveyor import wire as conveyor
from switchtower.jobs import Attempt, ErrorKind, Job
from switchtower.states import JobState
from tests.app.rest.conftest import Server
from tests.app.rest.test_asyncmq import failed_job, post, told
from tests.conformance.situations import enqueue

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(**fields: Any) -> Job:
    return cast(Job, SimpleNamespace(**fields))


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        ("running", "active"),
        ("completed", "completed"),
        ("failed", "failed"),
        ("lost", "failed"),
        ("expired", "failed"),
    ],
)
def test_conveyor_knows_a_run_by_these_words(outcome: str, word: str) -> None:
    attempt = SimpleNamespace(number=1, started_at=NOW, ended_at=NOW, outcome=outcome, error=None)
    assert conveyor._attempt(job(logs=[]), cast(Attempt, attempt))["status"] == word


@pytest.mark.parametrize(
    ("age", "word"), [(0, "healthy"), (6.5, "healthy"), (7, "warning"), (10, "warning"), (10.1, "stale")]
)
def test_asyncmq_asks_how_long_ago_a_worker_was_heard_of(age: float, word: str) -> None:
    assert asyncmq.health(age, 10) == word


@pytest.mark.parametrize("kind", ErrorKind)
def test_asyncmq_says_expired_where_the_time_to_live_passed(kind: ErrorKind) -> None:
    for state in JobState:
        expired = state is JobState.FAILED and kind is ErrorKind.EXPIRED
        name = asyncmq.state_name(job(state=state, error=SimpleNamespace(kind=kind)))
        assert name == ("expired" if expired else asyncmq.STATES[state])


async def test_asyncmq_goes_on_behind_a_job_that_is_refused(server: Server) -> None:
    jobs = [await failed_job(server, "q", unique_key=key) for key in ("a", "b", "c")]
    await enqueue(server.engine, queue="q", unique_key="b")
    fields = [("action", "retry"), *(("job_id", job.id) for job in jobs)]
    assert "2 of 3 jobs" in await told(server, await post(server, "/queues/q/jobs", fields))
    assert [await job.state() for job in jobs] == ["waiting", "failed", "waiting"]
