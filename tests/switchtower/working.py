"""What the tests of a running worker share: an application on the test's own database, and looks at its jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from switchtower import App, Backoff, BackoffKind, Job
from switchtower.callers import SYSTEM
from switchtower.states import JobState
from tests.switchtower import heavy_tasks
from tests.waiting import until

NOW_BACKOFF = Backoff(BackoffKind.NONE)


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    app = App(mongodb_url=mongodb_url, database=database_name)
    yield app
    await app.close()


@pytest.fixture
async def heavy(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    heavy_tasks.app.mongodb_url, heavy_tasks.app.database = mongodb_url, database_name
    yield heavy_tasks.app
    await heavy_tasks.app.close()


async def read(app: App, id: str) -> Job:
    job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job


async def reaches(app: App, id: str, *states: JobState, seconds: float = 10) -> Job:
    async def arrived() -> Job | None:
        job = await read(app, id)
        return job if job.state in states else None

    return await until(arrived, timeout_seconds=seconds)  # type: ignore[return-value]


async def has_started(app: App, id: str) -> bool:
    return (await read(app, id)).started_at is not None


async def progress_of(app: App, id: str) -> Any:
    return (await read(app, id)).progress


def lines_of(job: Job) -> list[str]:
    return [line.line for line in job.logs]
