"""Which functions are jobs, and how does a program enqueue them?"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from switchtower.callers import Caller
from switchtower.context import JobContext
from switchtower.driving import driver
from switchtower.errors import ConfigurationError, SwitchtowerError
from switchtower.jobs import Enqueued, JobError, NewJob
from switchtower.options import EnqueueOptions, job_fields
from switchtower.retry import DEFAULT_BACKOFF, Backoff
from switchtower.tasks import BatchOptions, Task, Workflow, kind_of
from switchtower.workflows import RUN_ATTEMPTS, NewRun, handler_name

if TYPE_CHECKING:
    from switchtower.crons import NewCron
    from switchtower.engine import Engine
    from switchtower.flows import Flow, FlowNode
    from switchtower.scheduling import CronOptions
    from switchtower.tracing import Tracing

__all__ = ["App", "EnqueueOptions", "Hooks", "Middleware"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

CallNext = Callable[[], Awaitable[Any]]
Middleware = Callable[[JobContext, CallNext], Awaitable[Any]]


class Hooks:
    """What an application wants to be called for; each list holds functions or coroutine functions, in order."""

    def __init__(self) -> None:
        self.startup: list[Callable[[], Any]] = []
        self.shutdown: list[Callable[[], Any]] = []
        self.start: list[Callable[[JobContext], Any]] = []
        self.complete: list[Callable[[JobContext, Any], Any]] = []
        self.failure: list[Callable[[JobContext, JobError], Any]] = []
        self.cancel: list[Callable[[JobContext], Any]] = []


class App:
    """The tasks of one application and its way to the database.

    The database is `mongodb_url`, else SWITCHTOWER_MONGODB_URL, and is connected to at first use; `async with app:`
    connects at once and closes at the end. `caller` is on whose behalf its jobs are enqueued. With `tracing`, enqueues
    and runs are spans.
    """

    def __init__(
        self,
        *,
        mongodb_url: str | None = None,
        database: str | None = None,
        driver: str | None = None,
        caller: Caller | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.mongodb_url = mongodb_url
        self.database = database
        self.driver = driver
        self.caller = caller or Caller("python")
        self.tracing = tracing
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.crons: dict[str, NewCron] = {}
        self.middlewares: list[Middleware] = [] if tracing is None else [tracing.run]
        self.hooks = Hooks()
        self._connection: tuple[asyncio.AbstractEventLoop, asyncio.Task[Engine]] | None = None

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        max_attempts: int = 4,
        timeout_seconds: float | None = None,
        ttl_seconds: float | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = 0,
        tags: Sequence[str] = (),
        cpu_bound: bool = False,
        batch_size: int | None = None,
        batch_wait_seconds: float = 0.1,
        remove_on_complete: bool = False,
        remove_on_fail: bool = False,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        cpu_bound: bool = False,
        batch_size: int | None = None,
        batch_wait_seconds: float = 0.1,
        **options: Any,
    ) -> Any:
        """Makes a function the handler of the jobs called `name` (the function's own name by default).

        A coroutine function runs on the event loop, a plain one in a thread, and a `cpu_bound` one in a process, which
        is killed when its time is up. With `batch_size` it is given up to so many jobs at once, as a list of their
        contexts, `batch_wait_seconds` after the first of them at the latest. The other options are defaults for the
        jobs that this app enqueues; the timeout also holds for jobs that came without one.

        Raises:
            ConfigurationError: the name is taken, or the function cannot be a handler.
            InvalidInput: an option is out of bounds.
        """

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            chosen = str(name or getattr(function, "__name__", ""))
            defaults = {k: v for k, v in job_fields(options).items() if v is not None}
            NewJob(name=chosen, **defaults).check()
            if chosen in self.tasks:
                other = self.tasks[chosen].function
                raise ConfigurationError(
                    f"Two tasks are named {chosen!r}: one in {other.__module__}, one in {function.__module__}. "
                    "Give one of them another name: @app.task(name=…)."
                )
            kind = kind_of(function, chosen, cpu_bound)
            batch = None if batch_size is None else BatchOptions(batch_size, batch_wait_seconds)
            task: Task[..., Any] = Task(self, function, name=chosen, kind=kind, defaults=defaults, batch=batch)
            self.tasks[chosen] = task
            return task

        return register if function is None else register(function)

    def cron(
        self,
        expression: str | None = None,
        *,
        tz: str = "UTC",
        every_seconds: float | None = None,
        **options: Unpack[CronOptions],
    ) -> Callable[[Any], Task[..., Any]]:
        """Runs a task (or a function, which becomes one) by a cron expression in a time zone, or every so often.

        Workers put the cron into the database when they start; an operator's disabling of it stays.

        Raises:
            ConfigurationError: two crons have one name. InvalidInput: an option is wrong.
        """

        def register(function: Any) -> Task[..., Any]:
            from switchtower.scheduling import declared

            task: Task[..., Any] = function if isinstance(function, Task) else self.task(function)
            new = declared(task, expression, tz=tz, every_seconds=every_seconds, options=options)
            if new.name in self.crons:
                raise ConfigurationError(f"Two crons are named {new.name!r}; give one of them another: name=….")
            self.crons[new.name] = new
            return task

        return register

    @overload
    def workflow(self, function: Callable[Concatenate[Any, P], R], /) -> Workflow[P, R]: ...

    @overload
    def workflow(
        self,
        /,
        *,
        name: str | None = None,
        version: int = 1,
        queue: str = "default",
        max_attempts: int = RUN_ATTEMPTS,
        timeout_seconds: float | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = 0,
        tags: Sequence[str] = (),
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Workflow[P, R]]: ...

    def workflow(self, function: Any = None, /, *, name: str | None = None, version: int = 1, **options: Any) -> Any:
        """Makes a coroutine function over a `WorkflowContext` a durable workflow; see `switchtower.durable`.

        Keep the versions that still have open runs registered beside a new one: a run stays on the version that it was
        started on. `max_attempts` counts lost workers, not steps; `timeout_seconds` bounds one stretch between two
        waits.

        Raises:
            ConfigurationError: the version of this name is taken, or the function cannot be a workflow.
            InvalidInput: an option is out of bounds.
        """

        def register(function: Callable[..., Any]) -> Workflow[..., Any]:
            chosen = str(name or getattr(function, "__name__", ""))
            if not inspect.iscoroutinefunction(function) or not inspect.signature(function).parameters:
                raise ConfigurationError(
                    f"Workflow {chosen!r} must be a coroutine function whose first parameter is its WorkflowContext."
                )
            defaults = {k: v for k, v in job_fields({"max_attempts": RUN_ATTEMPTS, **options}).items() if v is not None}
            NewRun(workflow=chosen, version=version).check()
            full = handler_name(chosen, version)
            NewJob(name=full, **defaults).check()
            if full in self.tasks:
                raise ConfigurationError(f"Two workflows are named {chosen!r} in version {version}; raise the version.")
            made = self.tasks[full] = Workflow(
                self, driver(function), workflow=chosen, version=version, defaults=defaults
            )
            return made

        return register if function is None else register(function)

    def middleware(self, function: Middleware) -> Middleware:
        """Puts `function(ctx, call_next)` around every run of every task, the first registered outermost."""
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"A middleware must be a coroutine function; {function!r} is not.")
        self.middlewares.append(function)
        return function

    def on_startup(self, function: F) -> F:
        """Calls `function()` in each worker process before it claims its first job; an error there ends the process."""
        self.hooks.startup.append(function)
        return function

    def on_shutdown(self, function: F) -> F:
        """Calls `function()` in each worker process after its last job."""
        self.hooks.shutdown.append(function)
        return function

    def on_start(self, function: F) -> F:
        """Calls `function(ctx)` before each run."""
        self.hooks.start.append(function)
        return function

    def on_complete(self, function: F) -> F:
        """Calls `function(ctx, result)` after a completion was recorded; a crash in between skips the call."""
        self.hooks.complete.append(function)
        return function

    def on_failure(self, function: F) -> F:
        """Calls `function(ctx, error)` after a failed attempt was recorded; a crash in between skips the call."""
        self.hooks.failure.append(function)
        return function

    def on_cancel(self, function: F) -> F:
        """Calls `function(ctx)` after it was recorded that a running job stopped for a cancel."""
        self.hooks.cancel.append(function)
        return function

    def new_job(self, task: Task[..., Any] | str, payload: Any, options: Mapping[str, Any]) -> NewJob:
        """The job for a task, or for a name that another program may handle; arguments are checked where it is known.

        Raises:
            InvalidInput: an unknown option, or an argument that does not fit the handler.
        """
        known = self.tasks.get(task) if isinstance(task, str) else task
        if known is None:
            return NewJob(name=str(task), payload=payload, **job_fields(options))
        known.arguments.check(payload)
        return NewJob(name=known.name, payload=payload, **{**known.defaults, **job_fields(options)})

    async def enqueue(
        self,
        task: Task[..., Any] | str,
        payload: Any = None,
        /,
        *,
        session: Any = None,
        **options: Unpack[EnqueueOptions],
    ) -> Enqueued:
        """Stores a job; calls made at the same time travel to the database together.

        With `session`, a driver session in a transaction, the job exists exactly when that transaction commits.

        Raises:
            InvalidInput, NotFound, InvalidTransition: nothing was stored; see `Engine.jobs.enqueue`.
            StoreUnavailable: the outcome is unknown; an `idempotency_key` makes repeating it safe.
        """
        new = self.new_job(task, payload, options)
        engine = await self.connect()
        with self._tracing(new.name, queue=new.queue) as caller:
            return await engine.jobs.enqueue(new, caller=caller, session=session)

    async def enqueue_many(self, jobs: Sequence[NewJob]) -> list[Enqueued | SwitchtowerError]:
        """Stores many jobs at once (`task.options(…).job(…)` makes one); each gets its own answer, in order."""
        engine = await self.connect()
        with self._tracing("many", jobs=len(jobs)) as caller:
            return await engine.jobs.enqueue_many(jobs, caller=caller)

    async def enqueue_flow(self, root: FlowNode, *, idempotency_key: str | None = None) -> Flow:
        """Stores all jobs of a flow (`switchtower.node` makes its parts) or none.

        Raises:
            InvalidInput, Conflict: nothing was stored; see `Engine.flows.enqueue`.
            StoreUnavailable: the outcome is unknown; an `idempotency_key` makes repeating it safe.
        """
        engine = await self.connect()
        with self._tracing(f"flow {root.job.name}", queue=root.job.queue) as caller:
            return await engine.flows.enqueue(root, caller=caller, idempotency_key=idempotency_key)

    def _tracing(self, what: str, **about: Any) -> AbstractContextManager[Caller]:
        return nullcontext(self.caller) if self.tracing is None else self.tracing.enqueuing(self.caller, what, **about)

    async def connect(self, *, role: str = "client") -> Engine:
        """The engine on this app's database, connected and with its indexes there; the same one for every caller.

        Raises:
            ConfigurationError: no database is configured, or it is not one that Switchtower can use.
            StoreUnavailable: it does not answer.
        """
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection[0] is not loop or _has_failed(self._connection[1]):
            self._connection = (loop, loop.create_task(self._open(role)))
        return await asyncio.shield(self._connection[1])

    async def close(self) -> None:
        """Closes the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None and connection[0] is asyncio.get_running_loop():
            with suppress(SwitchtowerError):
                await (await connection[1]).close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def address(self) -> tuple[str, str, str]:
        """The URL, the database's name and the driver that this app uses.

        Raises:
            ConfigurationError: no database is configured.
        """
        url = self.mongodb_url or os.environ.get("SWITCHTOWER_MONGODB_URL")
        if not url:
            raise ConfigurationError(
                "No database is configured. Set SWITCHTOWER_MONGODB_URL, or pass App(mongodb_url=…); "
                "`switchtower dev` brings its own and tells its workers."
            )
        database = self.database or os.environ.get("SWITCHTOWER_DATABASE") or "switchtower"
        return url, database, self.driver or os.environ.get("SWITCHTOWER_DRIVER") or "pymongo"

    async def _open(self, role: str) -> Engine:
        from switchtower.engine import Engine

        url, database, driver = self.address()
        engine = await Engine.connect(url, database=database, driver=driver, role=role)
        await engine.prepare()
        return engine


def _has_failed(task: asyncio.Task[Engine]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
