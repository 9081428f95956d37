"""The supervisor and its worker processes, started as the command line starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil
import pytest

from switchtower import App, Job
from switchtower.callers import SYSTEM
from switchtower.states import JobState
from tests.mongod import free_ports
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
USER_PROJECT = ROOT / "examples" / "user_project"

TASKS = """
import asyncio, os
from pathlib import Path
from switchtower import App
app = App()

@app.task
async def version() -> int:
    return 1

@app.task
async def hold(path: str) -> int:
    with open(path, "a") as out:
        out.write(f"{os.getpid()}\\n")
    while not Path(path + ".go").exists():
        await asyncio.sleep(0.02)
    return os.getpid()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def environment(mongodb_url: str, database_name: str) -> dict[str, str]:
    return {
        **os.environ,
        "SWITCHTOWER_MONGODB_URL": mongodb_url,
        "SWITCHTOWER_DATABASE": database_name,
        "SWITCHTOWER_DRAIN_SECONDS": "10",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    async with App(mongodb_url=mongodb_url, database=database_name) as app:
        yield app


class Supervised:
    """A running supervisor, what it said, and its worker processes."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said
        return line

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if "switchtower.runner" in " ".join(child.cmdline())]


@contextmanager
def supervised(folder: Path, environment: dict[str, str], log: Path, *arguments: str) -> Iterator[Supervised]:
    command = [sys.executable, "-P", "-m", "workers", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    family: list[psutil.Process] = []
    try:
        yield Supervised(process, log)
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        process.communicate()
        for member in family:
            if member.is_running():
                member.kill()
        psutil.wait_procs(family, timeout=30)


async def finished(app: App, id: str, *, seconds: float = 60) -> Job:
    engine = await app.connect()

    async def final() -> Job | None:
        job = await engine.jobs.get(id, caller=SYSTEM)
        return job if job is not None and job.state in ("completed", "failed", "cancelled") else None

    return await until(final, timeout_seconds=seconds)  # type: ignore[return-value]


async def begun(path: Path, times: int = 1) -> list[int]:
    """The process ids that began `hold` with this path."""

    def lines() -> list[int] | None:
        pids = [int(line) for line in path.read_text().split()] if path.exists() else []
        return pids if len(pids) >= times else None

    return await until(lines, timeout_seconds=60)  # type: ignore[return-value]


def let_go(path: Path) -> None:
    """Lets every `hold` with this path finish."""
    Path(f"{path}.go").touch()


def health(port: int, path: str = "/readyz") -> tuple[int, dict[str, Any]]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)
    except URLError:
        return 0, {}


@pytest.mark.slow
async def test_a_users_own_packages_named_as_ours_are_the_ones_its_workers_import(
    environment: dict[str, str], app: App, tmp_path: Path
) -> None:
    with supervised(USER_PROJECT, environment, tmp_path / "log", "tasks:queue", "--processes", "2") as workers:
        line = workers.ready()
        assert line.startswith("Ready: 2 worker processes x 10 · queues default, email · tasks modules, ")
        ids = [(await app.enqueue(name)).job.id for name in ("modules", "modules_in_a_process")]
        mail = await app.enqueue("send_email", {"to": "ada@example.org", "subject": "hi"}, queue="email")
        for id in ids:
            found = (await finished(app, id)).result
            assert found == {name: str(USER_PROJECT / name / "__init__.py") for name in ("app", "schema", "workers")}
        job = await finished(app, mail.job.id)
        assert (job.state, job.result, job.logs[0].line) == ("completed", {"bytes": 43}, "sent by Ada")
        assert len(workers.children()) == 2
        workers.process.send_signal(signal.SIGTERM)
        assert workers.process.wait(60) == 0


@pytest.mark.slow
async def test_a_killed_process_is_noticed_at_once_and_replaced(
    project: Path, environment: dict[str, str], app: App, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    arguments = ("tasks:app", "--processes", "2", "--health-port", str(port))
    with supervised(project, environment, tmp_path / "log", *arguments) as workers:
        workers.ready()
        assert health(port)[0] == 200 and health(port, "/livez") == (200, {"live": True})
        assert health(port, "/other")[0] == 404
        path = tmp_path / "held"
        id = (await app.enqueue("hold", {"path": str(path)})).job.id
        (victim,) = await begun(path)
        await until(lambda: _was_started(app, id))
        os.kill(victim, signal.SIGKILL)
        first, second = await begun(path, 2)
        assert first == victim != second
        let_go(path)
        job = await finished(app, id)
        assert (job.state, job.attempt, job.result) == ("completed", 2, second)
        lost = job.attempts[0].error
        assert lost is not None and lost.kind == "worker_lost"
        await until(lambda: len(workers.children()) == 2 and health(port)[0] == 200, timeout_seconds=60)
        assert sum(worker["restarts"] for worker in health(port)[1]["workers"]) == 1
        assert "killed by SIGKILL" in workers.said


async def _was_started(app: App, id: str) -> bool:
    job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
    return job is not None and job.started_at is not None


@pytest.mark.slow
async def test_a_crash_loop_is_visible_and_slows_down(
    project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (project / "dies.py").write_text(
        "import os\nfrom switchtower import App\napp = App()\n"
        "@app.task\ndef t(): ...\n@app.on_startup\ndef die(): os._exit(9)\n"
    )
    (port,) = free_ports(1)
    with supervised(project, environment, tmp_path / "log", "dies:app", "--health-port", str(port)) as workers:
        await until(lambda: "failure 3 in a row; another starts in 2.0 s" in workers.said, timeout_seconds=60)
        code, status = health(port)
        assert code == 503 and status["ready"] is False
        (worker,) = status["workers"]
        assert worker["last_exit"] == 9 and worker["restarts"] >= 3
        workers.process.send_signal(signal.SIGTERM)
        assert workers.process.wait(60) == 0


@pytest.mark.slow
async def test_a_sigterm_drains_and_a_second_one_makes_haste(
    project: Path, environment: dict[str, str], app: App, tmp_path: Path
) -> None:
    with supervised(project, environment, tmp_path / "log", "tasks:app") as workers:
        workers.ready()
        path = tmp_path / "held"
        id = (await app.enqueue("hold", {"path": str(path)})).job.id
        await begun(path)
        engine = await app.connect()
        workers.process.send_signal(signal.SIGTERM)

        async def draining() -> bool:
            return [worker.state for worker in await engine.workers.list(caller=SYSTEM)] == ["draining"]

        await until(draining)
        assert workers.process.poll() is None
        workers.process.send_signal(signal.SIGTERM)
        assert workers.process.wait(60) == 0
        job = await engine.jobs.get(id, caller=SYSTEM)
        assert job is not None and (job.state, job.attempt) == ("waiting", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
async def test_the_switch_of_metrics_holds_where_a_supervisor_does_the_maintenance(
    project: Path, environment: dict[str, str], app: App, tmp_path: Path, kept: bool
) -> None:
    environment["SWITCHTOWER_METRICS"] = str(kept).lower()
    with supervised(project, environment, tmp_path / "log", "tasks:app") as workers:
        workers.ready()
        job = (await app.enqueue("version", {})).job
        await finished(app, job.id)
        engine = await app.connect()

        async def counted() -> bool:
            # In the same commit as the series.
            return (await engine.jobs.counts(caller=SYSTEM))[JobState.COMPLETED] == 1

        await until(counted, timeout_seconds=60)
        series = await engine.metrics.buckets(job.queue, caller=SYSTEM)
    assert bool(series) == kept and sum(bucket.completed for bucket in series) == kept


@pytest.mark.slow
async def test_worker_processes_do_not_outlive_a_killed_supervisor(
    project: Path, environment: dict[str, str], app: App, tmp_path: Path
) -> None:
    with supervised(project, environment, tmp_path / "log", "tasks:app", "--processes", "2") as workers:
        workers.ready()
        path = tmp_path / "held"
        id = (await app.enqueue("hold", {"path": str(path)})).job.id
        await begun(path)
        children = workers.children()
        workers.process.kill()
        let_go(path)
        await until(lambda: not any(_alive(child) for child in children), timeout_seconds=60)
        assert (await finished(app, id)).state == "completed"


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
async def test_reload_restarts_the_workers_when_the_code_changes(
    project: Path, environment: dict[str, str], app: App, tmp_path: Path
) -> None:
    with supervised(project, environment, tmp_path / "log", "tasks:app", "--reload") as workers:
        workers.ready()
        assert (await finished(app, (await app.enqueue("version")).job.id)).result == 1
        (project / "tasks.py").write_text("def broken(:")
        await until(lambda: "waits for the code to change" in workers.said, timeout_seconds=60)
        (project / "tasks.py").write_text(TASKS.replace("return 1", "return 2"))
        assert (await finished(app, (await app.enqueue("version")).job.id)).result == 2
        assert "SyntaxError" in workers.said


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["missing:app"], {}, "There is no module 'missing'"),
        (["tasks:app"], {"SWITCHTOWER_CONCURRENCY": "many"}, "SWITCHTOWER_CONCURRENCY"),
        pytest.param(
            ["tasks:app"], {"SWITCHTOWER_MONGODB_URL": ""}, "Set SWITCHTOWER_MONGODB_URL", marks=pytest.mark.nightly
        ),
        pytest.param(["tasks:app", "--processes", "0"], {}, "SWITCHTOWER_WORKERS", marks=pytest.mark.nightly),
    ],
)
def test_what_cannot_work_is_said_and_ends_with_the_usage_code(
    project: Path,
    environment: dict[str, str],
    tmp_path: Path,
    arguments: list[str],
    variables: dict[str, str],
    says: str,
) -> None:
    with supervised(project, {**environment, **variables}, tmp_path / "log", *arguments) as workers:
        assert workers.process.wait(60) == 2
        assert says in workers.said and workers.process.stdout is not None and workers.process.stdout.read() == ""
