"""The courier in a supervisor's process: it delivers, drains at a SIGTERM, and what it held when killed goes back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.jobs import Job, NewJob
from switchtower.retry import Backoff, BackoffKind
from switchtower.states import JobState
from switchtower.webhooks import SetWebhook, Target
from tests.switchtower.endpoint import Received, endpoint, is_silent, says
from tests.waiting import until
from tests.workers.test_supervisor import environment, project, supervised  # noqa: F401


@pytest.fixture
async def engine(mongodb_url: str, database_name: str) -> AsyncIterator[Engine]:
    engine = await Engine.connect(mongodb_url, database=database_name)
    await engine.prepare()
    yield engine
    await engine.close()


async def deliver(engine: Engine, url: str) -> str:
    await engine.webhooks.set(SetWebhook(Target(), url), caller=SYSTEM)
    new = NewJob(name="notify", webhook=True, backoff=Backoff(BackoffKind.NONE))
    return (await engine.jobs.enqueue(new, caller=SYSTEM)).job.id


async def in_state(engine: Engine, id: str, *states: JobState) -> Job | None:
    job = await engine.jobs.get(id, caller=SYSTEM)
    return job if job is not None and job.state in states else None


LOOPBACK = {"SWITCHTOWER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}


@pytest.mark.slow
async def test_a_supervisor_delivers_and_lets_a_delivery_end_at_a_stop(
    engine: Engine,
    project: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await says(200)(request, writer)

    async with endpoint(answer) as here:
        patient = {**environment, **LOOPBACK, "SWITCHTOWER_DRAIN_SECONDS": "60"}
        with supervised(project, patient, tmp_path / "log", "tasks:app") as running:
            await asyncio.to_thread(running.ready)
            id = await deliver(engine, here.url)
            await until(lambda: here.requests)
            running.process.send_signal(signal.SIGTERM)
            await until(lambda: "ended: drained" in running.said)
            gate.set()
            assert await asyncio.to_thread(running.process.wait, 60) == 0
        job = await in_state(engine, id, JobState.COMPLETED)
        assert job is not None and job.attempt == 1 and len(here.requests) == 1


@pytest.mark.nightly
async def test_what_a_killed_supervisor_was_sending_is_delivered_by_the_next(
    engine: Engine,
    project: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    quick = {**environment, **LOOPBACK, "SWITCHTOWER_LEASE_SECONDS": "2"}
    async with endpoint(is_silent) as silent, endpoint(says(200)) as here:
        with supervised(project, quick, tmp_path / "first", "tasks:app") as first:
            await asyncio.to_thread(first.ready)
            id = await deliver(engine, silent.url)
            await until(lambda: silent.requests)
            first.process.kill()
            await asyncio.to_thread(first.process.wait)
        await engine.webhooks.set(SetWebhook(Target(), here.url), caller=SYSTEM)
        with supervised(project, {**environment, **LOOPBACK}, tmp_path / "second", "tasks:app") as second:
            await asyncio.to_thread(second.ready)
            job = await until(lambda: in_state(engine, id, JobState.COMPLETED))
    assert job is not None
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "completed"]
    assert [request.json["attemptNumber"] for request in (*silent.requests, *here.requests)] == [1, 2]
    ids = {request.headers["webhook-id"] for request in (*silent.requests, *here.requests)}
    assert ids == {id}, "the id stays"
