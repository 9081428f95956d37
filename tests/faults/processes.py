"""Real worker and server processes, many of them, to be killed, frozen and thawed.

Starting an interpreter costs a second of CPU, which a test with a hundred deaths cannot pay on a small machine: a
nursery imports the program once, and forks; each fork runs the program's own `main` and is a process in every respect.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from pymongo.database import Database

from switchtower.ids import WORKER, new_id

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).with_name("tasks.py")


MADE: list[Forked] = []
"""What this test made so far: when it fails, each says its last words."""


class Forked:
    """One process that a nursery made, and the file that it writes to."""

    def __init__(self, pid: int, log: Path) -> None:
        MADE.append(self)
        self.pid = pid
        self._log = log
        self.process = psutil.Process(pid)

    @property
    def alive(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @property
    def name(self) -> str:
        return f"{self._log.stem}, process {self.pid}"

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class WorkerProcess(Forked):
    """One worker process."""

    def __init__(self, pid: int, worker_id: str, log: Path) -> None:
        super().__init__(pid, log)
        self.worker_id = worker_id

    @property
    def ready(self) -> bool:
        return '"event": "ready"' in self.said


def at_work(
    view: Database[dict[str, Any]], workers: Sequence[WorkerProcess], choose: random.Random
) -> WorkerProcess | None:
    """One of the workers that run something now; a kill of any other proves nothing."""
    busy = set(view["jobs"].distinct("worker_id", {"state": "active", "started": True}))
    found = [worker for worker in workers if worker.worker_id in busy]
    return choose.choice(found) if found else None


class ServerProcess(Forked):
    """One server process."""

    @property
    def url(self) -> str | None:
        """Where it listens; None until it does."""
        found = re.search(r"^Ready: (http://\S+)", self.said, re.MULTILINE)
        return found[1] if found else None


class _Nursery:
    """A process that forks; ends all its forks when it closes."""

    program: str

    def __init__(self, folder: Path, url: str, database: str, **environment: str) -> None:
        self.folder = folder
        self.forked: list[Forked] = []
        self._environment = os.environ | {
            "SWITCHTOWER_MONGODB_URL": url,
            "SWITCHTOWER_DATABASE": database,
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self._process: subprocess.Popen[str] | None = None

    def _fork(self, arguments: list[str], log: Path, die_at: str | None = None) -> int:
        order: dict[str, Any] = {"arguments": arguments, "die_at": die_at, "log": str(log)}
        log.touch()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.faults.nursery", self.program],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.forked:
            if process.alive:
                process.kill()
        assert self._process is not None
        self._process.communicate()


class Nursery(_Nursery):
    """Starts worker processes on one database."""

    program = "worker"

    def __init__(self, folder: Path, url: str, database: str, **environment: str) -> None:
        self.ledger = folder / "ledger"
        super().__init__(folder, url, database, LEDGER=str(self.ledger), **environment)

    def start(
        self,
        *,
        concurrency: int = 5,
        lease_seconds: float = 2,
        drain_seconds: float = 10,
        grace_seconds: float = 5,
        die_at: str | None = None,
        worker_id: str | None = None,
        queues: str = "default",
    ) -> WorkerProcess:
        """Starts one worker; it says `ready` in its log when it claims."""
        worker_id = worker_id or new_id(WORKER)
        log = self.folder / f"{worker_id} {len(self.forked)}.log"
        arguments = [
            *("tasks:app", "--app-dir", str(TASKS.parent), "--worker-id", worker_id, "--queues", queues),
            *("--concurrency", str(concurrency), "--lease-seconds", str(lease_seconds)),
            *("--drain-seconds", str(drain_seconds), "--grace-seconds", str(grace_seconds)),
        ]
        worker = WorkerProcess(self._fork(arguments, log, die_at), worker_id, log)
        self.forked.append(worker)
        return worker


class Servers(_Nursery):
    """Starts servers on one database, each on a port of its own."""

    program = "server"

    def start(self) -> ServerProcess:
        """Starts one server; it has a `url` when it listens."""
        log = self.folder / f"server {len(self.forked)}.log"
        server = ServerProcess(self._fork(["--port", "0"], log), log)
        self.forked.append(server)
        return server
