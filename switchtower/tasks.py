"""What is a task: a function, how it is run, and the jobs that are made for it?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from switchtower.arguments import Arguments
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import ChildFailure, Enqueued, NewJob
from switchtower.options import EnqueueOptions
from switchtower.payloads import check_text
from switchtower.workflows import handler_name

if TYPE_CHECKING:
    from switchtower.handlers import App

__all__ = ["BatchOptions", "BoundTask", "HandlerKind", "Task", "Workflow", "kind_of"]

P = ParamSpec("P")
R = TypeVar("R")

MAX_BATCH = 1_000
MAX_BATCH_WAIT_SECONDS = 60.0


class HandlerKind(StrEnum):
    """Where a handler runs: on the event loop, in a thread, or in a process of its own."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """A handler is given up to `size` jobs at once, `wait_seconds` after the first of them at the latest.

    Raises: InvalidInput when either is out of bounds.
    """

    size: int
    wait_seconds: float = 0.1

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= MAX_BATCH:
            raise InvalidInput("batch_size", f"must be a whole number between 1 and {MAX_BATCH:,}.")
        number = isinstance(self.wait_seconds, (int, float)) and not isinstance(self.wait_seconds, bool)
        if not number or not 0 <= self.wait_seconds <= MAX_BATCH_WAIT_SECONDS:
            raise InvalidInput("batch_wait_seconds", f"must be between 0 and {MAX_BATCH_WAIT_SECONDS} seconds.")


class Task(Generic[P, R]):
    """A function that is a job's handler. Calling it runs the function, here and now, as if it were not a task.

    `defaults` are the options of the jobs that are enqueued through this task or its app; `batch` says that its handler
    takes many jobs at once.
    """

    def __init__(
        self,
        app: App,
        function: Callable[P, R],
        *,
        name: str,
        kind: HandlerKind,
        defaults: dict[str, Any],
        batch: BatchOptions | None = None,
    ) -> None:
        if batch is not None and kind is HandlerKind.PROCESS:
            raise ConfigurationError(f"Task {name!r} is cpu_bound; a batch is handled by a coroutine or in a thread.")
        self.app = app
        self.function = function
        self.name = name
        self.kind = kind
        self.defaults = defaults
        self.batch = batch
        self.timeout_ms: int | None = defaults.get("timeout_ms")
        self.arguments = Arguments(function, name, batch=batch is not None)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__module__ = function.__module__
        self.__qualname__ = getattr(function, "__qualname__", name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name!r} ({self.kind})>"

    async def enqueue(self, **payload: Any) -> Enqueued:
        """Stores a job for this task; the keywords are the handler's arguments.

        Returns:
            The job, once a majority of the database has it on disk.

        Raises:
            InvalidInput: naming the argument that does not fit the handler.
            StoreUnavailable: the outcome is unknown; `options(idempotency_key=…)` makes repeating it safe.
        """
        return await self.options().enqueue(**payload)

    def job(self, **payload: Any) -> NewJob:
        """The job that `enqueue` would store, for `App.enqueue_many` and for a flow."""
        return self.options().job(**payload)

    def options(self, **options: Unpack[EnqueueOptions]) -> BoundTask:
        """This task with options for its next jobs: `await task.options(delay_seconds=5).enqueue(…)`."""
        return BoundTask(self, dict(options))


class Workflow(Task[P, R]):
    """A durable workflow of one version, its job called `name#version`. `start` (or `enqueue`) starts a run."""

    def __init__(self, app: App, function: Callable[P, R], *, workflow: str, version: int, defaults: dict[str, Any]):
        defaults |= {"workflow": (workflow, version), "on_child_failure": ChildFailure.IGNORE}
        name = handler_name(workflow, version)
        super().__init__(app, function, name=name, kind=HandlerKind.ASYNC, defaults=defaults)
        self.workflow = workflow
        self.version = version

    start = Task.enqueue


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task and the options for its next jobs."""

    task: Task[Any, Any]
    chosen: dict[str, Any]

    async def enqueue(self, **payload: Any) -> Enqueued:
        """As `Task.enqueue`, with these options."""
        arguments = self.task.arguments.dump(payload)
        return await self.task.app.enqueue(self.task, arguments, **self.chosen)

    def job(self, **payload: Any) -> NewJob:
        """As `Task.job`, with these options."""
        return self.task.app.new_job(self.task, self.task.arguments.dump(payload), self.chosen)


def kind_of(function: Callable[..., Any], name: str, cpu_bound: bool) -> HandlerKind:
    """Where this function can run. Raises: ConfigurationError where it can be no handler."""
    if not callable(function):
        raise ConfigurationError(f"A task must be a function; {function!r} is not.")
    check_text("name", name, limit=256)
    coroutine = inspect.iscoroutinefunction(function)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"Task {name!r} is a generator; a handler returns once. Remove its `yield`.")
    if not cpu_bound:
        return HandlerKind.ASYNC if coroutine else HandlerKind.THREAD
    if coroutine:
        raise ConfigurationError(
            f"Task {name!r} is a coroutine function; a cpu_bound task must be a plain one (`def`)."
        )
    if "<" in getattr(function, "__qualname__", "<"):
        raise ConfigurationError(
            f"Task {name!r} is defined inside a function; its process could not import it. Move it to the module's top."
        )
    return HandlerKind.PROCESS
