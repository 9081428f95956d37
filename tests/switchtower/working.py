"""What the tests of a running worker share: looks at jobs."""

from __future__ import annotations

from typing import Any

from switchtower import App, Job
from switchtower.callers import SYSTEM
from switchtower.states import JobState
from tests.waiting import until


async def read(app: App, id: str) -> Job:
    job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job


async def reaches(app: App, id: str, *states: JobState, seconds: float = 60) -> Job:
    async def arrived() -> Job | None:
        job = await read(app, id)
        return job if job.state in states else None

    return await until(arrived, timeout_seconds=seconds)  # type: ignore[return-value]


async def has_started(app: App, id: str) -> bool:
    return (await read(app, id)).started_at is not None


async def has_logged(app: App, id: str, *lines: str) -> bool:
    return lines_of(await read(app, id)) == list(lines)


async def progress_of(app: App, id: str) -> Any:
    return (await read(app, id)).progress


def lines_of(job: Job) -> list[str]:
    return [line.line for line in job.logs]
