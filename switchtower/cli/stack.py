"""How do a database, a server and workers start together, and stop in order?"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from switchtower.cli.output import note, print_json_line, print_text
from switchtower.cli.places import child_environment
from switchtower.errors import ConfigurationError

if TYPE_CHECKING:
    from switchtower.embedded import EmbeddedMongo

__all__ = ["Child", "Interrupted", "Stack", "supervise"]

HURRIED_SECONDS = 5.0
# The supervisor itself kills what outstays its drain by 20 s.
MARGIN_SECONDS = 25.0


class Interrupted(Exception):
    """A signal asked the whole stack to stop before it was up."""


class Child:
    """One process of ours. `ready` is its first line on standard output; `exited` its exit code."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: Callable[[str, str], None]) -> None:
        self.name = name
        self.process = process
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_line = on_line
        assert process.stdout is not None and process.stderr is not None
        pumps = [self._pump(process.stdout, first_is_ready=True), self._pump(process.stderr, first_is_ready=False)]
        self._pumps = [asyncio.create_task(pump) for pump in pumps]
        self.exited = asyncio.create_task(self._exit())

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str, str], None],
    ) -> Self:
        """Start `python -m module`. It gets no signal of the terminal, and ends when this process does."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # The user's folder must not be on its path: it may hold packages named like ours.
            "-P",
            "-m",
            "switchtower.cli.tether",
            module,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
            process_group=0,
        )
        return cls(name, process, on_line)

    async def stop(self, seconds: float, hurry: asyncio.Event) -> None:
        """End it: SIGTERM, SIGTERM again as soon as `hurry` is set, SIGKILL after `seconds`."""
        self._signal(signal.SIGTERM)
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({self.exited, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if hurry.is_set() and not self.exited.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=HURRIED_SECONDS)
        if not self.exited.done():
            self._signal(signal.SIGKILL)
        await self.exited

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def _exit(self) -> int:
        code = await self.process.wait()
        # What it said last explains why it ended; a grandchild that lives on may hold the pipe open.
        await asyncio.wait(self._pumps, timeout=1)
        for pump in self._pumps:
            pump.cancel()
        return code

    async def _pump(self, stream: asyncio.StreamReader, *, first_is_ready: bool) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if first_is_ready and not self.ready.done():
                self.ready.set_result(text)
            else:
                self._on_line(self.name, text)


class Stack:
    """The processes of one command, and the embedded database of `data_dir` under them unless `mongodb_url` is given.

    Without either, the processes find their own.

    Inside `async with`, SIGINT, SIGTERM and SIGHUP set `stopping`; a second one makes haste. On leaving, what was
    started last is stopped first, the database at the very end.
    """

    def __init__(
        self,
        *,
        mongodb_url: str | None,
        data_dir: Path | None,
        on_line: Callable[[str, str], None],
        drain_seconds: float | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self.mongodb: EmbeddedMongo | None = None
        self.children: list[Child] = []
        self._given_url = mongodb_url or None
        self._data_dir = data_dir
        self._on_line = on_line
        self._hurry = asyncio.Event()
        self._drain_seconds = drain_seconds or float(os.environ.get("SWITCHTOWER_DRAIN_SECONDS") or 30)

    @property
    def mongodb_url(self) -> str | None:
        """Where the database is."""
        return self.mongodb.url if self.mongodb is not None else self._given_url

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)
        if self._given_url is None and self._data_dir is not None:
            from switchtower import embedded

            self.mongodb = await asyncio.to_thread(embedded.start, self._data_dir)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self.children):
            await child.stop(self._drain_seconds + MARGIN_SECONDS, self._hurry)
        if self.mongodb is not None:
            await asyncio.to_thread(self.mongodb.stop)

    async def start(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start one more process; see `ready`."""
        child = await Child.start(name, module, arguments, environment, self._on_line)
        self.children.append(child)
        return child

    async def ready(self) -> list[str]:
        """Wait until every process said its line, and return these lines.

        Raises Interrupted when a signal came first, and ConfigurationError when a process ended instead.
        """
        for child in self.children:
            await self._first(child.ready, *(c.exited for c in self.children))
            self._require_running()
        return [child.ready.result() for child in self.children]

    async def run(self) -> None:
        """Wait for a signal. Raises ConfigurationError when a process ends by itself."""
        with suppress(Interrupted):
            await self._first(*(child.exited for child in self.children))
            self._require_running()

    async def _first(self, *outcomes: asyncio.Future[str] | asyncio.Task[int]) -> None:
        stopped = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({*outcomes, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self.stopping.is_set():
            raise Interrupted

    def _require_running(self) -> None:
        for child in self.children:
            if child.exited.done():
                code = child.exited.result()
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise ConfigurationError(f"The {child.name} {how}; what it said is above.")

    def _interrupt(self) -> None:
        if self.stopping.is_set():
            self._hurry.set()
        self.stopping.set()


async def supervise(
    name: str,
    module: str,
    arguments: list[str],
    root: Path,
    *,
    mongodb_url: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Runs one process until a signal, on a `Stack`; writes its line when it is ready."""
    async with Stack(mongodb_url=mongodb_url, data_dir=data_dir, on_line=lambda _, line: note(line)) as stack:
        child = await stack.start(name, module, arguments, child_environment(root, mongodb_url=stack.mongodb_url))
        try:
            (line,) = await stack.ready()
        except Interrupted:
            return
        if as_json:
            print_json_line({"ready": True, "pid": child.process.pid, "message": line})
        else:
            print_text(line)
        await stack.run()
