"""What does a running handler know of its job, and how does it answer other than by returning or raising?"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from switchtower.errors import InvalidInput, LeaseLost
from switchtower.jobs import ChildFailure, ClaimedJob, Enqueued, Job, JobError
from switchtower.payloads import TEXT_LIMIT, check_value, truncated_text
from switchtower.states import FINAL

if TYPE_CHECKING:
    from switchtower.callers import Caller
    from switchtower.engine import Engine

__all__ = [
    "Cancel",
    "Channel",
    "ChildFailed",
    "Fail",
    "JobContext",
    "RetryAt",
    "Signal",
    "Snooze",
    "Stop",
    "WaitForChildren",
]

MAX_PENDING_LINES = 1_000
LINE_LIMIT = 8 * 1024
LEVELS = frozenset({"debug", "info", "warning", "error"})


class Signal(Exception):
    """Base of what a handler raises to say how its run ends. `recorded()` is called once that end is recorded."""

    recorded: Callable[[], Coroutine[Any, Any, None]] | None = None

    def __str__(self) -> str:
        return str(self.args[-1]) if self.args else type(self).__name__


class RetryAt(Signal):
    """Ends this attempt and asks for the next one at `when`: a time with a zone, or seconds (or a timedelta) from now.

    The attempt counts; when it was the last one, the job fails.
    """

    def __init__(
        self, when: datetime | timedelta | float, message: str = "The handler asked to be retried later."
    ) -> None:
        super().__init__(when, message)
        if isinstance(when, datetime) and when.tzinfo is None:
            raise InvalidInput("when", "needs a time zone.")
        self.when = when


class Snooze(Signal):
    """Puts the job aside for `seconds` (a number or a timedelta); the attempt is given back."""

    def __init__(self, seconds: timedelta | float, message: str = "The handler put the job aside.") -> None:
        super().__init__(seconds, message)
        self.seconds = seconds


class Fail(Signal):
    """Fails the job for good, whatever attempts are left; it goes to the dead letters, with `error` if given."""

    error: JobError | None = None

    def __init__(self, message: str = "The handler gave up.", *, error: JobError | None = None) -> None:
        super().__init__(message)
        self.error = error


class Cancel(Signal):
    """Ends the job as cancelled."""

    def __init__(self, message: str = "The handler cancelled the job.") -> None:
        super().__init__(message)


class ChildFailed(Fail):
    """Fails the job for good because a child that it waits for did not complete, as its `on_child_failure` says.

    `step` is the step of a workflow that waited for it.
    """

    step: str | None = None


class WaitForChildren(Signal):
    """Puts the job aside until every child that it added has ended; the attempt is given back.

    The handler is then called again, from its start. `JobContext.wait_for_children` raises it.
    """

    def __init__(self, message: str = "The handler waits for its children.") -> None:
        super().__init__(message)


class Stop(StrEnum):
    """Why a handler was told to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    LEASE_LOST = "lease_lost"
    DRAIN = "drain"


class Channel(Protocol):
    """Where a context's reports go: the worker, the parent process, or a test's recording."""

    loop: asyncio.AbstractEventLoop | None

    def touched(self, context: JobContext) -> None:
        """The context has logs or progress to be sent; called from any thread."""

    async def enqueue(self, context: JobContext, task: Any, payload: Any, options: dict[str, Any]) -> Enqueued:
        """Stores a child of the context's job. Raises LeaseLost when the job is no longer this worker's."""

    async def children(self, context: JobContext) -> list[Job]:
        """The children of the context's job, as they are now."""

    def engine_and_caller(self, context: JobContext) -> tuple[Engine, Caller]:
        """The engine, and the caller as whom the job acts. Raises: ConfigurationError where there is no database."""


class _Nothing(Awaitable[None]):
    """Awaiting it returns at once, and not awaiting it is no error: one method serves coroutines and threads."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


_NOTHING = _Nothing()


class JobContext:
    """One run of one job, as its handler sees it.

    Every method but the coroutines may be called from any thread, and from a CPU-bound handler's process.
    """

    __slots__ = (
        "_channel",
        "_deadline",
        "_dirty",
        "_ends_at",
        "_event",
        "_logs",
        "_missing",
        "_progress",
        "_stop",
        "_waiters",
        "ended",
        "interruptible",
        "job",
        "spoke",
    )

    def __init__(
        self, job: ClaimedJob, channel: Channel, *, deadline: datetime | None = None, ends_at: float | None = None
    ) -> None:
        self.job = job
        self._channel = channel
        self._deadline = deadline
        self._ends_at = ends_at
        self._stop: Stop | None = None
        self._event: threading.Event | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] | None = None
        self._logs: deque[tuple[str, str]] | None = None
        self._missing = 0
        self._progress: Any = ...
        self._dirty = False
        self.ended = False
        self.interruptible = False
        """Whether a handler that began elsewhere goes on as a coroutine, which a stop can interrupt."""
        self.spoke = False

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.job.name

    @property
    def payload(self) -> Any:
        """What was enqueued, as it was stored: the object of the handler's arguments."""
        return self.job.payload

    @property
    def queue(self) -> str:
        """The queue that the job came from."""
        return self.job.queue

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.job.number

    @property
    def attempt_id(self) -> str:
        """The id of this attempt in the job's history."""
        return self.job.attempt_id

    @property
    def max_attempts(self) -> int:
        """How often the job may start, crashes included."""
        return self.job.max_attempts

    @property
    def generation(self) -> int:
        """How often an operator has had the finished job run again."""
        return self.job.generation

    @property
    def fence(self) -> int:
        """A number that grows with every claim of this job: let outside systems refuse a smaller one than they saw."""
        return self.job.fence

    @property
    def lease_token(self) -> str:
        """The token of this run's lease, for reporting through GraphQL from elsewhere. Do not log it."""
        return self.job.token

    @property
    def idempotency_key(self) -> str:
        """Equal for all attempts at the same piece of work: pass it to outside systems that take one."""
        return f"{self.job.id}:{self.job.generation}"

    @property
    def deadline(self) -> datetime | None:
        """When the run is stopped (the earlier of its timeout and the job's expiry), by the database's clock."""
        return self._deadline

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds until the deadline, never below zero; None without one."""
        return None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: cancel requested, out of time, lease lost, or the worker is ending.

        A coroutine also gets CancelledError at its next await; a thread has to look here.
        """
        return self._stop is not None

    @property
    def stop_reason(self) -> Stop | None:
        """Why the handler should stop, where it should."""
        return self._stop

    @property
    def cancel_event(self) -> threading.Event:
        """Set when the handler should stop: for threads, which may wait on it."""
        if self._event is None:
            self._event = threading.Event()
            if self._stop is not None:
                self._event.set()
        return self._event

    async def wait_cancelled(self) -> Stop:
        """Waits until the handler should stop; returns why. For a coroutine that watches beside its own work."""
        while self._stop is None:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append((loop, waiter))
            await waiter
        return self._stop

    def raise_if_cancelled(self) -> None:
        """Raises Cancel when the handler should stop: the run is then recorded as stopped for that reason."""
        if self._stop is not None:
            raise Cancel(f"Stopped: {self._stop}.")

    def progress(self, value: Any, message: str | None = None) -> Awaitable[None]:
        """Shows how far the job is: a percentage (0 to 100), or any JSON value; the latest wins, at most ten a second.

        With a message, readers see `{"percent": value, "message": message}` (`value` instead of `percent` where it is
        not a number). May be awaited or not; it never waits for the database.

        Raises:
            InvalidInput: the value is not JSON, or too large.
            LeaseLost: the job is no longer this worker's; stop.
        """
        self._require_lease()
        if message is not None:
            if not isinstance(message, str):
                raise InvalidInput("message", f"must be text, not {type(message).__name__}.")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            value = {"percent" if number else "value": value, "message": truncated_text(message, limit=LINE_LIMIT)}
        check_value("progress", value, limit=TEXT_LIMIT)
        self._progress = value
        self._touch()
        return _NOTHING

    def log(self, line: str, *, level: str = "info") -> None:
        """Adds a line to the job's log; `level` is debug, info, warning or error.

        Raises:
            InvalidInput: unknown level.
            LeaseLost: the job is no longer this worker's; stop.
        """
        if level not in LEVELS:
            raise InvalidInput("level", f"must be one of {', '.join(sorted(LEVELS))}.")
        self._require_lease()
        if self._logs is None:
            self._logs = deque()
        if len(self._logs) >= MAX_PENDING_LINES:
            # The newest lines say how it ended.
            self._logs.popleft()
            self._missing += 1
        self._logs.append((level, truncated_text(str(line), limit=LINE_LIMIT)))
        self._touch()

    async def enqueue(self, task: Any, payload: Any = None, /, **options: Any) -> Enqueued:
        """Stores a child of this job; options as for `App.enqueue`, the trace is the parent's.

        Raises:
            LeaseLost: the job is no longer this worker's; nothing was stored.
        """
        self._require_lease()
        return await self._channel.enqueue(self, task, payload, {**options, "parent_id": self.job.id})

    async def children(self) -> list[Job]:
        """The jobs that this one waits for or has added, oldest first, with their results and errors."""
        self._require_lease()
        return await self._channel.children(self)

    async def wait_for_children(self) -> list[Job]:
        """The children, once all of them have ended; until then the job is put aside.

        Enqueue them under an `idempotency_key` (or your own `job_id`): the handler is called again from its start when
        they have ended, and must not add them twice.

        Raises:
            WaitForChildren: some are open; let it pass.
            ChildFailed: one failed or was cancelled, and this job's `on_child_failure` is to fail too; let it pass.
        """
        children = await self.children()
        broken = next((child for child in children if child.state in ("failed", "cancelled")), None)
        if broken is not None and self.job.on_child_failure is ChildFailure.FAIL:
            raise ChildFailed(f"Child {broken.id} ({broken.name}) is {broken.state}.")
        if any(child.state not in FINAL for child in children):
            raise WaitForChildren
        return children

    def engine_and_caller(self) -> tuple[Engine, Caller]:
        """The engine, and the caller as whom this job acts: for what drives a workflow.

        Raises:
            ConfigurationError: it runs without a database (`switchtower.testing.run`).
        """
        self._require_lease()
        return self._channel.engine_and_caller(self)

    def enqueue_blocking(self, task: Any, payload: Any = None, /, **options: Any) -> Enqueued:
        """`enqueue` for a handler that runs in a thread: waits for the answer.

        Raises:
            RuntimeError: called on the event loop, or in a CPU-bound handler's process, which has no way to enqueue.
        """
        loop = self._channel.loop
        if loop is None:
            raise RuntimeError(
                "A CPU-bound handler cannot enqueue: return what is needed, and enqueue in `on_complete`."
            )
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            raise RuntimeError("enqueue_blocking would block the event loop: await ctx.enqueue(...) instead.")
        return asyncio.run_coroutine_threadsafe(self.enqueue(task, payload, **options), loop).result()

    def stop(self, reason: Stop) -> None:
        """Tells the handler to stop; the first reason stays, except that a lost lease outweighs every other."""
        if self._stop is None or reason is Stop.LEASE_LOST:
            self._stop = reason
        if self._event is not None:
            self._event.set()
        for loop, waiter in self._waiters or ():
            loop.call_soon_threadsafe(_release, waiter)
        self._waiters = None

    def drain_reports(self) -> tuple[list[tuple[str, str]], Any]:
        """Takes the log lines and the progress (`...` for none) that were not sent yet."""
        self._dirty = False
        progress, self._progress = self._progress, ...
        lines = []
        if self._missing:
            missing, self._missing = self._missing, 0
            lines.append(("warning", f"{missing:,} lines are missing: they came faster than they could be stored."))
        while self._logs:
            lines.append(self._logs.popleft())
        self.spoke = self.spoke or bool(lines) or progress is not ...
        return lines, progress

    def put_back(self, lines: list[tuple[str, str]], progress: Any) -> None:
        """Returns drained reports that could not be sent; newer progress wins."""
        if lines:
            if self._logs is None:
                self._logs = deque()
            self._logs.extendleft(reversed(lines))
        if self._progress is ...:
            self._progress = progress
        self._touch()

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._channel.touched(self)

    def _require_lease(self) -> None:
        if self._stop is Stop.LEASE_LOST:
            raise LeaseLost(self.job.id)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
