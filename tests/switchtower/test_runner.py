"""The process that imports user code, as its supervisor and its user see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from switchtower import App
from switchtower.callers import SYSTEM
from switchtower.states import JobState
from tests.waiting import until

TASKS = """
import asyncio, os, time
from pathlib import Path
from switchtower import App, JobContext
app = App()

@app.task
async def hello(name: str) -> str:
    return f"hello {name}"

@app.task
async def touch_and_wait(path: str, seconds: float = 60) -> str:
    Path(path).write_text(str(os.getpid()))
    await asyncio.sleep(seconds)
    return "finished"

@app.task(timeout_seconds=1, max_attempts=1)
async def blocks(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def environment(mongodb_url: str, database_name: str) -> dict[str, str]:
    return {**os.environ, "SWITCHTOWER_MONGODB_URL": mongodb_url, "SWITCHTOWER_DATABASE": database_name}


@contextmanager
def runner(
    project: Path, environment: dict[str, str], *arguments: str, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "switchtower.runner", *arguments]
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


async def state_of(app: App, id: str) -> str:
    job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job.state


async def test_it_says_when_it_is_ready_runs_jobs_and_drains(
    project: Path, environment: dict[str, str], app: App
) -> None:
    with runner(project, environment, "tasks:app", "--concurrency", "3", "--worker-id", "wkr_test") as process:
        line = ready(process)
        assert (line["event"], line["worker"], line["queues"], line["concurrency"]) == (
            "ready",
            "wkr_test",
            ["default"],
            3,
        )
        assert line["tasks"] == ["blocks", "hello", "touch_and_wait"] and line["pid"] == process.pid
        async with app:
            id = (await app.enqueue("hello", {"name": "you"})).job.id
            await until(lambda: _is(app, id, JobState.COMPLETED))
            path = project / "touched"
            last = (await app.enqueue("touch_and_wait", {"path": str(path), "seconds": 0.5})).job.id
            await until(path.exists)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert await state_of(app, last) == "completed"


async def _is(app: App, id: str, state: JobState) -> bool:
    return await state_of(app, id) == state


async def test_a_second_sigterm_stops_at_once_and_releases(
    project: Path, environment: dict[str, str], app: App
) -> None:
    with runner(project, environment, "tasks:app") as process:
        ready(process)
        async with app:
            path = project / "touched"
            id = (await app.enqueue("touch_and_wait", {"path": str(path)})).job.id
            await until(path.exists)
            process.send_signal(signal.SIGTERM)
            await until(lambda: _draining(app))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert await state_of(app, id) == "waiting"


async def _draining(app: App) -> bool:
    engine = await app.connect()
    return [worker.state for worker in await engine.workers.list(caller=SYSTEM)] == ["draining"]


async def test_supervised_it_ignores_sigint_and_drains_when_its_supervisor_is_gone(
    project: Path, environment: dict[str, str]
) -> None:
    with runner(project, environment, "tasks:app", "--supervised", stdin=subprocess.PIPE) as process:
        ready(process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


async def test_a_handler_that_blocks_the_loop_past_its_timeout_ends_the_process(
    project: Path, environment: dict[str, str], app: App
) -> None:
    with runner(project, environment, "tasks:app", stderr=subprocess.PIPE) as process:
        ready(process)
        async with app:
            id = (await app.enqueue("blocks", {"path": str(project / "x")}, timeout_ms=1_000, max_attempts=1)).job.id
            code = process.wait(60)
            assert process.stderr is not None
            said = process.stderr.read()
            assert code == 70 and "has blocked the event loop" in said and "time.sleep(600)" in said
            job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
            assert job is not None and job.error is not None
            assert (job.state, job.error.kind, job.attempt) == ("failed", "timeout", 1)


@pytest.mark.parametrize(
    ("target", "source", "says"),
    [
        ("nothing:app", None, "There is no module 'nothing'"),
        ("tasks:other", None, "It has tasks:app"),
        ("broken:app", "1 / 0", "ZeroDivisionError"),
        ("needs:app", "import not_installed_anywhere", "'not_installed_anywhere', which is not installed"),
        ("empty:app", "from switchtower import App\napp = App()", "no tasks"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    project: Path, environment: dict[str, str], target: str, source: str | None, says: str
) -> None:
    if source is not None:
        (project / f"{target.partition(':')[0]}.py").write_text(source)
    with runner(project, environment, target, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=120)
        assert (
            process.returncode == 2 and says in said and 'most recent call last):\n  File "<frozen runpy>' not in said
        )


def test_an_unreachable_database_has_its_own_exit_code(project: Path, environment: dict[str, str]) -> None:
    environment["SWITCHTOWER_MONGODB_URL"] = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"
    with runner(project, environment, "tasks:app", stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 3 and "MongoDB does not answer" in said


@pytest.mark.parametrize("point", ["after_claim", "after_effect", "after_complete"])
async def test_it_dies_where_a_test_wants_it_to(
    project: Path, environment: dict[str, str], app: App, point: str
) -> None:
    environment["SWITCHTOWER_DIE_AT"] = point
    async with app:
        path = project / "effect"
        id = (await app.enqueue("touch_and_wait", {"path": str(path), "seconds": 0.1})).job.id
        with runner(project, environment, "tasks:app") as process:
            ready(process)
            assert process.wait(60) == 137
        job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
        assert job is not None
        expected = {"after_claim": ("active", 0, False), "after_effect": ("active", 1, True)}
        assert (job.state, job.attempt, path.exists()) == expected.get(point, ("completed", 1, True))
