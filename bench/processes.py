"""Which processes does the benchmark start, and how does it end them? By their ids, whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson

__all__ = ["Process", "maintenance", "process", "server", "worker"]

ROOT = Path(__file__).parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 20.0


class Process:
    """One started process whose standard output is read by lines."""

    def __init__(self, command: Sequence[str], running: asyncio.subprocess.Process) -> None:
        self._command = command
        self._running = running

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    async def line(self, *, seconds: float = START_SECONDS) -> str:
        """The next line that it prints. Raises RuntimeError when it ends or stays silent instead."""
        assert self._running.stdout is not None
        try:
            data = await asyncio.wait_for(self._running.stdout.readline(), seconds)
        except TimeoutError:
            raise RuntimeError(f"{' '.join(self._command[:6])} … printed nothing for {seconds:g} s.") from None
        if not data:
            raise RuntimeError(f"{' '.join(self._command[:6])} … ended with {await self._running.wait()}.")
        return data.decode()

    async def stop(self) -> None:
        """Asks it to end, and kills it when it does not."""
        if self._running.returncode is None:
            with suppress(ProcessLookupError):
                self._running.terminate()
            try:
                await asyncio.wait_for(self._running.wait(), STOP_SECONDS)
            except TimeoutError:
                self._running.kill()
                await self._running.wait()


@asynccontextmanager
async def process(
    *command: str, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> AsyncIterator[Process]:
    """Starts a process, and ends it when the block is left. Its errors go to ours."""
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    started = Process(command, running)
    try:
        yield started
    finally:
        await started.stop()


def _environment(url: str, database: str, driver: str) -> dict[str, str]:
    return {
        "SWITCHTOWER_MONGODB_URL": url,
        "SWITCHTOWER_DATABASE": database,
        "SWITCHTOWER_DRIVER": driver,
        "SWITCHTOWER_LOG_LEVEL": "warning",
    }


@asynccontextmanager
async def worker(
    url: str, database: str, *, concurrency: int = 10, driver: str = "pymongo", **more: str
) -> AsyncIterator[Process]:
    """A worker process with the handlers of `bench.tasks`, once it claims; as the supervisor starts it."""
    command = (
        *(sys.executable, "-P", "-m", "switchtower.runner", "tasks:app"),
        *("--app-dir", str(ROOT / "bench"), "--concurrency", str(concurrency)),
        # It ends when this process does.
        "--supervised",
    )
    async with process(*command, environment=_environment(url, database, driver) | more) as started:
        ready = orjson.loads(await started.line())
        assert ready["event"] == "ready"
        yield started


@asynccontextmanager
async def maintenance(url: str, database: str, *, driver: str = "pymongo") -> AsyncIterator[Process]:
    """A process that keeps the house and folds the counters, once it is elected."""
    environment = _environment(url, database, driver)
    async with process(sys.executable, "-m", "bench.keeper", environment=environment) as started:
        await started.line()
        yield started


@asynccontextmanager
async def server(url: str, database: str, *, driver: str = "pymongo") -> AsyncIterator[tuple[Process, str]]:
    """A server on a free loopback port, once it listens, with its address."""
    command = (sys.executable, "-m", "app", "--host", "127.0.0.1", "--port", "0")
    async with process(*command, environment=_environment(url, database, driver)) as started:
        line = await started.line()
        address = next(word for word in line.split() if word.startswith("http://"))
        yield started, address
