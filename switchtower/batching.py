"""How do many jobs become one call of a handler?

First they are gathered: claimed, under their own leases, not begun. Then each runs in a slot of its own, with its own
context, middleware, timeout and outcome, and where its handler would be called it joins the batch: the handler is
called once for all that have joined. What ends one job early, a cancel or its time to live, leaves the others be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any

from switchtower.context import JobContext
from switchtower.jobs import ClaimedJob
from switchtower.tasks import BatchOptions

__all__ = ["Batch", "Gatherings", "join", "joined"]

Handle = Callable[[list[JobContext]], Awaitable[Any]]
Member = tuple[JobContext, "asyncio.Future[Any]"]

PATIENCE_SECONDS = 1.0
"""How long those who have joined wait for the others, whom a middleware may keep: it may wait for one of them."""

_CURRENT: ContextVar[Batch | None] = ContextVar("switchtower_batch", default=None)


class Gathering:
    """Jobs of one task that wait for more of them; `jobs` is emptied when they are taken back."""

    def __init__(self, options: BatchOptions, first: ClaimedJob) -> None:
        self._options = options
        self._over = asyncio.Event()
        self.jobs: list[ClaimedJob] = []
        self.add(first)

    @property
    def missing(self) -> int:
        """How many more there is room for; 0 once it is over."""
        return 0 if self._over.is_set() else self._options.size - len(self.jobs)

    def add(self, job: ClaimedJob) -> None:
        """Takes one job in."""
        self.jobs.append(job)
        if len(self.jobs) >= self._options.size:
            self._over.set()

    def take_back(self, ids: Iterable[str] | None = None) -> list[ClaimedJob]:
        """Takes these jobs out again; all of them where not given, and then it is over."""
        wanted = None if ids is None else set(ids)
        taken = [job for job in self.jobs if wanted is None or job.id in wanted]
        self.jobs = [job for job in self.jobs if job not in taken]
        if wanted is None:
            self._over.set()
        return taken

    async def complete(self) -> list[ClaimedJob]:
        """The jobs, once it is full, or its time has passed, or it was ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.wait_seconds):
                await self._over.wait()
        self._over.set()
        return self.jobs


class Gatherings:
    """The batches that a worker gathers: at most one of each task."""

    def __init__(self) -> None:
        self._of: dict[str, Gathering] = {}

    @property
    def missing(self) -> int:
        """How many jobs there is room for."""
        return sum(gathering.missing for gathering in self._of.values())

    @property
    def count(self) -> int:
        """How many jobs wait for the others of their batch."""
        return sum(len(gathering.jobs) for gathering in self._of.values())

    @property
    def names(self) -> list[str]:
        """The tasks whose batches have room."""
        return [name for name, gathering in self._of.items() if gathering.missing]

    def take_back(self, ids: Iterable[str] | None = None) -> list[ClaimedJob]:
        """Takes these jobs (all where not given) out again, none of them begun."""
        wanted = None if ids is None else set(ids)
        return [job for gathering in self._of.values() for job in gathering.take_back(wanted)]

    def fill(self, ready: deque[ClaimedJob]) -> int:
        """Moves jobs that fit from `ready`; returns how many."""
        moved = 0
        for name, gathering in self._of.items():
            for job in [job for job in ready if job.name == name][: gathering.missing]:
                ready.remove(job)
                gathering.add(job)
                moved += 1
        return moved

    async def gather(self, options: BatchOptions, job: ClaimedJob, opened: Callable[[], None]) -> list[ClaimedJob]:
        """The batch around this job, `opened()` called when it begins; empty where another caller gathers it already,
        and has the job now."""
        gathering = self._of.get(job.name)
        if gathering is not None and gathering.missing:
            gathering.add(job)
            return []
        self._of[job.name] = gathering = Gathering(options, job)
        try:
            opened()
            return await gathering.complete()
        finally:
            if self._of.get(job.name) is gathering:
                del self._of[job.name]


class Batch:
    """The runs of the jobs with these `ids`, on their way to one call of their handler."""

    def __init__(self, ids: Iterable[str] = (), *, interruptible: bool = True) -> None:
        self._awaited = set(ids)
        self._interruptible = interruptible
        self._joined: list[Member] = []
        self._calls: dict[asyncio.Task[None], list[Member]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._handle: Handle | None = None
        self.size = max(1, len(self._awaited))

    @property
    def calls(self) -> set[asyncio.Task[None]]:
        """The calls of the handler that have not ended: mostly one."""
        return set(self._calls)

    async def join(self, handle: Handle, context: JobContext) -> Any:
        """This job's own result of the call. Raises what the handler raised, or returned, for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._handle = handle
        self._joined.append((context, future))
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE_SECONDS, self._call)
        self.leave(context.id)
        try:
            return await future
        finally:
            self.told()

    def leave(self, id: str) -> None:
        """The others need not wait for this job any longer: it has joined, or will not."""
        self._awaited.discard(id)
        if not self._awaited:
            self._call()

    def told(self) -> None:
        """Some of its jobs were told to stop, or have gone: the handler is, when that is true of all."""
        for call, members in self._calls.items():
            if self._interruptible and all(c.stop_reason is not None or future.done() for c, future in members):
                call.cancel()

    def _call(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        members, self._joined = self._joined, []
        if members and self._handle is not None:
            call = asyncio.get_running_loop().create_task(_called(self._handle, members))
            self._calls[call] = members
            call.add_done_callback(self._calls.pop)


async def join(handle: Handle, context: JobContext, arguments: dict[str, Any]) -> Any:
    """Runs one job of a task that takes batches: with the batch that it was gathered into, or alone."""
    batch = _CURRENT.get() or Batch()
    return await batch.join(handle, context)


def joined(batch: Batch) -> None:
    """What runs in this task from here on belongs to the batch."""
    _CURRENT.set(batch)


async def _called(handle: Handle, members: list[Member]) -> None:
    own = asyncio.current_task()
    try:
        results = _of_each(await handle([context for context, _ in members]), len(members))
    except BaseException as error:
        if isinstance(error, GeneratorExit) and asyncio.current_task() is not own:
            # The coroutine is thrown away; a handler that raises this by itself has failed.
            raise
        results = [error] * len(members)
    for (_, future), result in zip(members, results, strict=True):
        if future.done():
            continue
        if isinstance(result, BaseException):
            # A future refuses StopIteration, and this one would end the waiting of another.
            refused = isinstance(result, (StopIteration, GeneratorExit))
            future.set_exception(RuntimeError(f"The handler raised {type(result).__name__}.") if refused else result)
        else:
            future.set_result(result)


def _of_each(results: Any, count: int) -> list[Any]:
    if results is None:
        return [None] * count
    if not isinstance(results, (list, tuple)) or len(results) != count:
        got = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
        raise TypeError(f"The handler of a batch returns None, or a list with one result per job: {got} for {count}.")
    return list(results)
