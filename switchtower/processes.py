"""How does a CPU-bound handler run in a process of its own, and report from there?

A pool of spawned processes, each killed when its job must stop. Every process has its own connection for logs and
progress: a lock shared between them would stay locked for ever when its holder is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import reduce
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import orjson
import pebble

from switchtower.context import JobContext, Signal
from switchtower.errors import InvalidInput, LeaseLost
from switchtower.execution import RESULT_LIMIT, HandlerError, InvalidSignal, describe_error, portable_signal
from switchtower.jobs import ClaimedJob, Enqueued, Job
from switchtower.results import storable
from switchtower.tasks import Task

if TYPE_CHECKING:
    from switchtower.callers import Caller
    from switchtower.engine import Engine

__all__ = ["Processes"]


class Processes:
    """The processes of one worker; none is started before the first CPU-bound job. At most `size` run at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = asyncio.Semaphore(size)
        self._pool: pebble.ProcessPool | None = None
        self._listener: Listener | None = None
        self._contexts: dict[tuple[str, str], JobContext] = {}

    async def call(self, task: Task[..., Any], context: JobContext, arguments: dict[str, Any]) -> Any:
        """Runs the handler in a free process; cancelling this call kills that process.

        Raises:
            Signal: the handler raised it.
            HandlerError: the handler raised something else.
            pebble.ProcessExpired: the process died.
        """
        async with self._free:
            pool = self._pool or self._start()
            key = (context.id, context.lease_token)
            self._contexts[key] = context
            try:
                future = pool.schedule(
                    _run,
                    args=(task.__module__, task.__qualname__, task.arguments.takes_context, context.job, arguments),
                )
                kind, value = await asyncio.wrap_future(future)
            finally:
                self._contexts.pop(key, None)
        if kind == "result":
            return value
        raise value if kind == "signal" else HandlerError(value)

    def close(self) -> None:
        """Kills what still runs."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
        if self._listener is not None:
            self._listener.close()

    def _start(self) -> pebble.ProcessPool:
        self._listener = Listener(authkey=bytes(multiprocessing.current_process().authkey))
        threading.Thread(target=self._accept, args=(self._listener,), name="switchtower-processes", daemon=True).start()
        self._pool = pebble.ProcessPool(
            max_workers=self.size,
            initializer=_prepare,
            initargs=(self._listener.address, list(sys.path)),
            context=multiprocessing.get_context("spawn"),
        )
        return self._pool

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            except multiprocessing.AuthenticationError:
                continue
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: Connection) -> None:
        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                key, kind, value = connection.recv()
                context = self._contexts.get(key)
                if kind == "end":
                    connection.send(None)
                elif context is not None:
                    with contextlib.suppress(LeaseLost, InvalidInput):
                        if kind == "log":
                            context.log(value[1], level=value[0])
                        else:
                            context.progress(value)


class _ToParent:
    """The channel of a context in a handler's process."""

    def __init__(self, connection: Connection) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.connection = connection
        self.used = False

    def touched(self, context: JobContext) -> None:
        lines, progress = context.drain_reports()
        for line in lines:
            self.connection.send(((context.id, context.lease_token), "log", line))
        if progress is not ...:
            self.connection.send(((context.id, context.lease_token), "progress", progress))
        self.used = True

    async def enqueue(self, context: JobContext, task: Any, payload: Any, options: dict[str, Any]) -> Enqueued:
        raise RuntimeError("A CPU-bound handler cannot enqueue: return what is needed, and enqueue in `on_complete`.")

    async def children(self, context: JobContext) -> list[Job]:
        raise RuntimeError("A CPU-bound handler cannot read its children: let the job that waits for them be async.")

    def engine_and_caller(self, context: JobContext) -> tuple[Engine, Caller]:
        raise RuntimeError("A CPU-bound handler has no connection to the database.")

    def finish(self, context: JobContext) -> None:
        """Waits until the parent has read everything: the result travels another way and must not overtake the logs."""
        if self.used:
            self.connection.send(((context.id, context.lease_token), "end", None))
            self.connection.recv()


_parent: Connection | None = None


def _prepare(address: Any, path: list[str]) -> None:
    global _parent
    # Ctrl-C in a terminal reaches the whole process group; only the worker decides who stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:] = path
    _parent = Client(address, authkey=bytes(multiprocessing.current_process().authkey))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(module: str, name: str, takes_context: bool, job: ClaimedJob, arguments: dict[str, Any]) -> tuple[str, Any]:
    assert _parent is not None
    channel = _ToParent(_parent)
    context = JobContext(job, channel)
    try:
        found: Any = reduce(getattr, name.split("."), importlib.import_module(module))
        function: Callable[..., Any] = found.function if isinstance(found, Task) else found
        result = function(*((context,) if takes_context else ()), **arguments)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        # Through JSON: a class of the user's may be one that only this process knows.
        kept, notes = storable(result, limit=RESULT_LIMIT)
        for note in notes:
            context.log(note, level="warning")
        answer: tuple[str, Any] = ("result", orjson.loads(orjson.dumps(kept)))
    except BaseException as error:
        answer = _answer(error)
    channel.finish(context)
    return answer


async def _awaited(result: Any) -> Any:
    while inspect.isawaitable(result):
        result = await result
    return result


def _answer(error: BaseException) -> tuple[str, Any]:
    """What the handler raised, as data that any process can read."""
    if isinstance(error, Signal):
        try:
            return "signal", portable_signal(error)
        except InvalidSignal as fault:
            error = fault
    return "error", describe_error(error)
