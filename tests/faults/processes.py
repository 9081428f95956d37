"""Real worker processes, many of them, to be killed, frozen and thawed.

Starting an interpreter costs a second of CPU, which a test with a hundred deaths cannot pay on a small machine: a
nursery imports `switchtower.runner` once, and forks; each fork runs the runner's own `main` and is a process in every
respect.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from switchtower.ids import WORKER, new_id

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).with_name("tasks.py")


class WorkerProcess:
    """One worker process."""

    def __init__(self, pid: int, worker_id: str, log: Path) -> None:
        self.pid = pid
        self.worker_id = worker_id
        self._log = log
        self.process = psutil.Process(pid)

    @property
    def alive(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def ready(self) -> bool:
        return '"event": "ready"' in self.said

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


class Nursery:
    """Starts worker processes on one database; ends them all when it closes."""

    def __init__(self, folder: Path, url: str, database: str) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.workers: list[WorkerProcess] = []
        self._environment = os.environ | {
            "SWITCHTOWER_MONGODB_URL": url,
            "SWITCHTOWER_DATABASE": database,
            "LEDGER": str(self.ledger),
            "PYTHONPATH": str(ROOT),
        }
        self._process: subprocess.Popen[str] | None = None

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
        log = self.folder / f"{worker_id} {len(self.workers)}.log"
        order = {
            "arguments": [
                *("tasks:app", "--app-dir", str(TASKS.parent), "--worker-id", worker_id, "--queues", queues),
                *("--concurrency", str(concurrency), "--lease-seconds", str(lease_seconds)),
                *("--drain-seconds", str(drain_seconds), "--grace-seconds", str(grace_seconds)),
            ],
            "die_at": die_at,
            "log": str(log),
        }
        log.touch()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        worker = WorkerProcess(int(self._process.stdout.readline()), worker_id, log)
        self.workers.append(worker)
        return worker

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.faults.nursery"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.kill()
        assert self._process is not None
        self._process.communicate()
