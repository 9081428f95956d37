"""What a newcomer lives through: one command, real jobs, and nothing left behind."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = """
import asyncio
import app as theirs
from switchtower import App, JobContext

app = App()

@app.task(queue="email", max_attempts=5, timeout_seconds=30)
async def send_email(ctx: JobContext, to: str, subject: str) -> dict:
    await ctx.progress(50, "connecting")
    ctx.log(f"sent by {theirs.NAME}")
    return {"ok": True, "to": to}

@app.task()
async def broken(ctx: JobContext) -> None:
    raise ValueError("it is broken")

@app.task()
async def long(ctx: JobContext) -> None:
    ctx.log("began")
    await asyncio.sleep(60)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder, with packages of the user's own that are named like ours."""
    (tmp_path / "tasks.py").write_text(TASKS)
    for name in ("app", "schema", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"NAME = 'the user''s {name}'\n")
        (tmp_path / name / "__main__.py").write_text("raise SystemExit('this is the user''s own')\n")
    return tmp_path


class Dev:
    """A running `switchtower dev`; `lines` is what it said so far."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.left_alone: list[psutil.Process] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self.process = psutil.Popen(
            [sys.executable, "-P", "-m", "switchtower.cli", "dev", *arguments],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.until(r"Playground +(http://\S+)/graphql")[1]
        self.until("Ctrl-C stops")

    def until(self, pattern: str, *, timeout_seconds: float = 60) -> re.Match[str]:
        """Wait for a line that matches."""
        while True:
            try:
                line = self._fresh.get(timeout=timeout_seconds)
            except queue.Empty:
                pytest.fail(f"no {pattern!r} within {timeout_seconds} s of:\n" + "\n".join(self.lines))
            if line is None:
                pytest.fail(f"it ended before {pattern!r}:\n" + "\n".join(self.lines))
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found

    @property
    def said(self) -> list[str]:
        """Every line that it wrote so far."""
        while not self._fresh.empty():
            line = self._fresh.get()
            self.lines += [line] if line is not None else []
        return self.lines

    @property
    def family(self) -> list[psutil.Process]:
        """Its processes and theirs, the database included."""
        return [self.process, *self.process.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return int(self.process.wait(60))

    def _read(self) -> None:
        for line in self.process.stdout:
            self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)


@contextmanager
def dev(folder: Path, *arguments: str) -> Iterator[Dev]:
    running = Dev(folder, *arguments, "--port", "0")
    family = running.family
    try:
        yield running
    finally:
        family += running.family if running.process.is_running() else []
        if running.process.is_running():
            running.process.terminate()
        _, alive = psutil.wait_procs([process for process in family if process not in running.left_alone], timeout=45)
        for process in alive:
            process.kill()


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "NO_COLOR": "1", **more}


def switchtower(dev: Dev, *arguments: str, code: int = 0) -> str:
    """Standard output of a command, which must end with `code`."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "switchtower.cli", *arguments],
        env=environment(SWITCHTOWER_URL=dev.url),
        cwd=dev.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == code, "\n".join([ended.stdout, ended.stderr, *dev.said])
    return ended.stdout


def json_of(dev: Dev, *arguments: str, code: int = 0) -> Any:
    return orjson.loads(switchtower(dev, *arguments, "--json", code=code))


def eventually(look: Callable[[], Any]) -> Any:
    """What this command says, as soon as it says something."""
    deadline = time.monotonic() + 60
    while not (answer := look()):
        assert time.monotonic() < deadline, "it does not come"
    return answer


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_demo_runs_on_the_files_of_the_folder_and_leaves_nothing(tmp_path: Path, scale: str) -> None:
    for number in range(8):
        (tmp_path / f"file{number}.py").write_text("print()\n" * (number + 1))
    with dev(tmp_path) as running:
        names = [Path(process.name()).name for process in running.family]
        assert "mongod" in names
        assert re.search(
            r"MongoDB \d+\.\d+\.\d+ embedded \(\d+\.\d s\) · data in \.switchtower/", "\n".join(running.lines)
        )
        assert re.search(r"Worker +demo ×\d+: archive, checksum_file, ", "\n".join(running.lines))
        if scale == "full":
            # The workflow in it sleeps for a while.
            running.until(r"▸ demo  completed (\d+)/\1$")
        eventually(lambda: json_of(running, "jobs", "--name", "report", "--state", "completed"))
        assert len(json_of(running, "jobs", "--name", "count_lines", "--state", "completed")) == 8
        family = running.family
        assert running.stop(signal.SIGINT) == 0
        assert all(is_gone(process) for process in family)
    with dev(tmp_path, "--no-demo") as running:
        assert len(json_of(running, "jobs", "--name", "count_lines")) == 8


@pytest.mark.nightly
def test_a_users_tasks_run_beside_packages_named_like_ours(project: Path) -> None:
    with dev(project, "tasks:app") as running:
        out = switchtower(running, "enqueue", "send_email", "to=a@b.c", "subject=hi", "--watch")
        assert "sent by the user" in out
        assert out.splitlines()[-1] == '{"ok":true,"to":"a@b.c"}'
        out = switchtower(running, "enqueue", "broken", "--max-attempts", "1", "--watch", code=1)
        assert re.search(r"failed( in .* s)?: ValueError: it is broken$", out.splitlines()[-1])

        family = running.family
        assert running.stop() == 0
        assert all(is_gone(process) for process in family)
    with dev(project, "tasks:app") as running:
        states = {job["name"]: job["state"] for job in json_of(running, "jobs")}
        assert states == {"send_email": "COMPLETED", "broken": "FAILED"}


@pytest.mark.nightly
def test_nothing_but_the_database_outlives_a_killed_dev(project: Path) -> None:
    with dev(project, "tasks:app") as running:
        family = running.family
        (mongod,) = (process for process in family if process.name() == "mongod")
        running.left_alone = [mongod]
        running.stop(signal.SIGKILL)
        others = [process for process in family if process != mongod]
        _, alive = psutil.wait_procs(others, timeout=40)
        assert not [process for process in alive if not is_gone(process)]
        assert not is_gone(mongod)
    with dev(project, "tasks:app") as running:
        assert "embedded (attached)" in running.lines[0]
        assert "completed" in switchtower(running, "enqueue", "send_email", "to=a", "subject=b", "--watch")
        assert running.stop() == 0
    assert is_gone(mongod)


@pytest.mark.nightly
def test_a_second_dev_and_a_broken_module_are_told_what_is_wrong(project: Path) -> None:
    def refused(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "switchtower.cli", "dev", *arguments]
        ended = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=90)
        assert ended.returncode == 1, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stderr

    with dev(project, "tasks:app") as running:
        port = running.url.rpartition(":")[2]
        assert f"Port {port} is in use by another `switchtower dev` for this folder" in refused("--port", port)
        with dev(project, "tasks:app") as second:
            assert second.url != running.url
            assert second.stop() == 0
        assert switchtower(running, "queues") == ""
        assert running.stop() == 0
    assert "no_such_module" in refused("no_such_module:app", "--port", "0")
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(project) in " ".join(p.info["cmdline"] or [])]


@pytest.mark.nightly
def test_every_verb_against_a_real_server(project: Path) -> None:
    with dev(project, "tasks:app") as running:
        assert json_of(running, "queues") == []
        done = switchtower(running, "enqueue", "send_email", "to=a", "subject=b", "--watch", "--json")
        assert [orjson.loads(line)["state"] for line in done.splitlines()][-1] == "COMPLETED"
        out = switchtower(running, "enqueue", "broken", "--max-attempts", "1", "--watch", "--json", code=1)
        failed = orjson.loads(out.splitlines()[-1])
        assert failed["error"]["message"] == "it is broken"

        (cluster,) = eventually(lambda: json_of(running, "stats", "--errors"))
        assert (cluster["count"], cluster["names"]) == (1, ["broken"])
        (letter,) = eventually(lambda: json_of(running, "dlq", "list", "--error", cluster["fingerprint"]))
        assert letter["jobId"] == failed["id"]
        assert json_of(running, "dlq", "show", letter["id"])["error"]["stack"]
        assert json_of(running, "dlq", "replay", "--all")["replayed"] == 1
        assert json_of(running, "dlq", "remove", letter["id"]) == {"removed": 1}
        assert json_of(running, "dlq", "purge", "--older-than", "7d") == {"removed": 0}

        assert json_of(running, "pause", "default")["paused"] is True
        waiting = switchtower(running, "enqueue", "long").strip()
        assert "paused" in switchtower(running, "why", waiting)
        assert json_of(running, "why", waiting)["whyNotRunning"][0]["kind"] == "QUEUE_PAUSED"
        assert json_of(running, "resume", "default")["paused"] is False
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "switchtower.cli", "tail", waiting],
            env=environment(SWITCHTOWER_URL=running.url),
            stdout=subprocess.PIPE,
            text=True,
        ) as tail:
            assert tail.stdout is not None
            assert tail.stdout.readline().endswith(" began\n")
            assert json_of(running, "cancel", waiting)[0]["id"] == waiting
            assert tail.wait(60) == 1
        later = switchtower(running, "enqueue", "send_email", "to=a", "subject=b", "--delay", "1h").strip()
        assert json_of(running, "promote", "--state", "scheduled", "--dry-run")["sampleIds"] == [later]
        assert json_of(running, "promote", "--state", "scheduled")["changed"] == 1
        dry = json_of(running, "retry", "--name", "broken", "--state", "failed", "--dry-run")
        assert (dry["changed"], dry["done"]) == (0, True)
        assert json_of(running, "retry", failed["id"])[0]["id"] == failed["id"]
        assert json_of(running, "job", failed["id"])["timeline"]
        assert switchtower(running, "job", failed["id"]).startswith("id ")
        for id, state in ((later, "COMPLETED"), (failed["id"], "FAILED")):
            eventually(lambda id=id, state=state: json_of(running, "job", id)["state"] == state)
        assert json_of(running, "drain", "default")["removed"] == 0

        eventually(lambda: json_of(running, "stats")["jobs"] == 5)
        assert {queue["name"] for queue in json_of(running, "queues")} == {"default"}
        snapshot = orjson.loads(switchtower(running, "top", "--count", "1", "--json"))
        assert snapshot["queues"][0]["name"] == "default"
        assert "type Job implements Node" in json_of(running, "schema")["sdl"]
        assert {check["level"] for check in json_of(running, "doctor", "--url", running.url)} <= {"ok", "warn"}
        settings = {row["name"]: row for row in json_of(running, "config")}
        assert settings["port"]["origin"] == "default"
        assert settings["concurrency"]["used_by"] == "workers"

        switchtower(running, "job", "nothing", code=1)
        switchtower(running, "retry", "nothing", code=1)
        switchtower(running, "queues", "nothing", code=1)
        assert running.stop() == 0


def test_serve_and_worker_apart(project: Path, mongodb_url: str, database_name: str) -> None:
    database = {"SWITCHTOWER_MONGODB_URL": mongodb_url, "SWITCHTOWER_DATABASE": database_name}
    processes = []
    try:
        for arguments in (["serve", "--port", "0"], ["worker", "tasks:app", "--workers", "2"]):
            process = psutil.Popen(
                [sys.executable, "-P", "-m", "switchtower.cli", *arguments],
                cwd=project,
                env=environment(**database),
                stdout=subprocess.PIPE,
                stderr=(project / "stderr").open("a"),
                text=True,
            )
            processes.append(process)
        serving, working = (process.stdout.readline() for process in processes)
        url = re.search(r"http://\S+?:\d+", serving)
        said = (project / "stderr").read_text()
        assert url, said
        assert "2 worker processes" in working, said
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "switchtower.cli", "enqueue", "send_email", "to=a", "subject=b", "-w"],
            env=environment(SWITCHTOWER_URL=url[0]),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        for process in reversed(processes):
            process.terminate()
            assert process.wait(60) == 0
    finally:
        for process in processes:
            if process.is_running():
                for child in [*process.children(recursive=True), process]:
                    child.kill()
