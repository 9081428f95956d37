"""How is one worker process started, watched and stopped?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from switchtower.ids import WORKER, new_id
from workers.settings import WorkerSettings

__all__ = ["Child", "child_environment"]

OUR_FOLDER = Path(__file__).resolve().parent.parent


def child_environment(settings: WorkerSettings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a worker process: ours, the database's address, and not our folder on its import path.

    A user's project may have packages named `app`, `schema` or `workers`; ours must not be found in their place.
    """
    environment = dict(environ)
    entries = [e for e in environment.pop("PYTHONPATH", "").split(os.pathsep) if e]
    kept = [entry for entry in entries if Path(entry).resolve() != OUR_FOLDER]
    if kept:
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    environment["SWITCHTOWER_MONGODB_URL"] = settings.mongodb_url or ""
    environment["SWITCHTOWER_DATABASE"] = settings.database
    environment["SWITCHTOWER_DRIVER"] = settings.driver
    return environment


class Child:
    """One worker process. `ready` is what it said when it began to claim; `exited` its exit code."""

    def __init__(
        self, process: asyncio.subprocess.Process, worker_id: str, ready: asyncio.Task[dict[str, object]]
    ) -> None:
        self.process = process
        self.worker_id = worker_id
        self.ready = ready
        self.exited_for_reload = False
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        ready.add_done_callback(self._became_ready)
        self.exited = asyncio.create_task(process.wait())

    @classmethod
    async def start(cls, target: str, folder: Path, settings: WorkerSettings) -> Child:
        """Starts a process that imports `target` from `folder`, registers under a fresh worker id, and works."""
        worker_id = new_id(WORKER)
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(target, folder, settings, worker_id, write_end),
                env=child_environment(settings),
                # Nobody writes to it: its end tells the child that this process is gone.
                stdin=asyncio.subprocess.PIPE,
                # Our standard output carries the ready line alone.
                stdout=sys.stderr.fileno(),
                pass_fds=(write_end,),
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return cls(process, worker_id, asyncio.create_task(_read_line(read_end)))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it registered and claims."""
        return not self.exited.done() and self.ready_at is not None

    def terminate(self) -> None:
        """Asks it to drain; the second time, to stop at once."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as it is."""
        self._signal(signal.SIGKILL)

    def _became_ready(self, ready: asyncio.Task[dict[str, object]]) -> None:
        if not ready.cancelled() and ready.exception() is None and ready.result():
            self.ready_at = time.monotonic()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


def _command(target: str, folder: Path, settings: WorkerSettings, worker_id: str, ready_fd: int) -> Sequence[str]:
    return (
        *(sys.executable, "-P", "-m", "switchtower.runner", target),
        *("--app-dir", str(folder)),
        *("--worker-id", worker_id),
        *("--queues", ",".join(settings.queues)),
        *("--concurrency", str(settings.concurrency)),
        *("--lease-seconds", str(settings.lease_seconds)),
        *("--drain-seconds", str(settings.drain_seconds)),
        *("--grace-seconds", str(settings.grace_seconds)),
        *("--ready-fd", str(ready_fd)),
        "--supervised",
    )


async def _read_line(descriptor: int) -> dict[str, object]:
    """The ready line, or nothing when the process ended without one."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        line = await reader.readline()
    finally:
        transport.close()
    return dict(json.loads(line)) if line else {}
