"""How is each task of an application called?"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from switchtower.arguments import Arguments
from switchtower.batching import join
from switchtower.context import JobContext
from switchtower.handlers import App
from switchtower.processes import Processes
from switchtower.tasks import BatchOptions, HandlerKind, Task

__all__ = ["Call", "Calls", "run_hooks"]

logger = logging.getLogger("switchtower.worker")

Runner = Callable[[JobContext, dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """One task, ready to be called: `run(context, arguments)` returns its result.

    A handler in a thread cannot be interrupted: it is told through its context. With `batch`, runs are gathered into
    one call of the handler.
    """

    arguments: Arguments
    run: Runner
    timeout_ms: int | None
    interruptible: bool
    batch: BatchOptions | None = None


class Calls:
    """The calls of an application's tasks as they stand now, with its middleware around them.

    Threads and processes are started when first needed. There are more threads than jobs at a time, since one that
    ignores a stop keeps its thread.
    """

    def __init__(self, app: App, *, concurrency: int, processes: int) -> None:
        self._app = app
        self._threads = ThreadPoolExecutor(concurrency * 2 + 4, thread_name_prefix="switchtower-job")
        self._processes = Processes(max(1, min(concurrency, processes)))
        self.by_name = {name: self._call(task) for name, task in app.tasks.items()}

    def close(self) -> None:
        """Kills processes; lets go of threads, which end when their handler does."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._processes.close()

    def _call(self, task: Task[..., Any]) -> Call:
        run = self._bare(task)
        if self._app.middlewares or self._app.hooks.start:
            run = _isolated(self._wrapped(run))
        elif task.kind is not HandlerKind.PROCESS:
            run = _isolated(run)
        return Call(task.arguments, run, task.timeout_ms, task.kind is not HandlerKind.THREAD, task.batch)

    def _bare(self, task: Task[..., Any]) -> Runner:
        function: Any = task.function
        if task.batch is not None:
            return functools.partial(join, self._for_many(task))
        if task.kind is HandlerKind.PROCESS:
            return functools.partial(self._processes.call, task)
        takes_context = task.arguments.takes_context

        async def on_loop(context: JobContext, arguments: dict[str, Any]) -> Any:
            result = await (function(context, **arguments) if takes_context else function(**arguments))
            return await _awaited(context, result) if inspect.isawaitable(result) else result

        async def in_thread(context: JobContext, arguments: dict[str, Any]) -> Any:
            positional = (context,) if takes_context else ()
            call = functools.partial(contextvars.copy_context().run, function, *positional, **arguments)
            result = await asyncio.get_running_loop().run_in_executor(self._threads, _contained, call)
            return await _awaited(context, result) if inspect.isawaitable(result) else result

        return on_loop if task.kind is HandlerKind.ASYNC else in_thread

    def _for_many(self, task: Task[..., Any]) -> Callable[[list[JobContext]], Awaitable[Any]]:
        function: Any = task.function

        async def on_loop(contexts: list[JobContext]) -> Any:
            result = await function(contexts)
            return await result if inspect.isawaitable(result) else result

        async def in_thread(contexts: list[JobContext]) -> Any:
            call = functools.partial(contextvars.copy_context().run, function, contexts)
            result = await asyncio.get_running_loop().run_in_executor(self._threads, _contained, call)
            return await result if inspect.isawaitable(result) else result

        return on_loop if task.kind is HandlerKind.ASYNC else in_thread

    def _wrapped(self, run: Runner) -> Runner:
        middlewares = tuple(reversed(self._app.middlewares))
        hooks = tuple(self._app.hooks.start)

        async def wrapped(context: JobContext, arguments: dict[str, Any]) -> Any:
            await run_hooks(hooks, context)

            async def innermost() -> Any:
                return await run(context, arguments)

            call_next: Callable[[], Awaitable[Any]] = innermost
            for middleware in middlewares:
                call_next = functools.partial(middleware, context, call_next)
            return await call_next()

        return wrapped


def _isolated(run: Runner) -> Runner:
    """The same call in a copy of the context: runs that follow each other in one task do not see what this one sets."""
    return lambda context, arguments: _in_context(contextvars.copy_context(), run(context, arguments))


@types.coroutine
def _in_context(variables: contextvars.Context, call: Any) -> Generator[Any, Any, Any]:
    """Awaits a coroutine with each of its steps run in `variables`; as in a task of its own, without one."""
    step, value = call.send, None
    while True:
        try:
            waits_for = variables.run(step, value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield waits_for
            step = call.send
        except GeneratorExit:
            variables.run(call.close)
            raise
        except BaseException as error:
            step, value = call.throw, error


async def _awaited(context: JobContext, result: Awaitable[Any]) -> Any:
    """What a function returned that, whatever it looks like, turned out to be asynchronous: an ordinary wrapper of a
    coroutine function, say. From here on a stop interrupts it as it does any coroutine."""
    if context.cancelled:
        if inspect.iscoroutine(result):
            result.close()
        raise asyncio.CancelledError
    context.interruptible = True
    while inspect.isawaitable(result):
        result = await result
    return result


def _contained(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StopIteration as error:
        # A future refuses this one exception; the handler's failure would be lost with it.
        raise RuntimeError("The handler raised StopIteration.") from error


async def run_hooks(hooks: Iterable[Callable[..., Any]], *arguments: Any) -> None:
    """Calls each hook in order; an error of one is logged and changes nothing else."""
    for hook in hooks:
        try:
            answer = hook(*arguments)
            if inspect.isawaitable(answer):
                await answer
        except GeneratorExit:
            raise
        except asyncio.CancelledError:
            # Whoever is cancelled itself ends; a hook that raises this by itself is one that failed.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("the hook %s failed", getattr(hook, "__qualname__", hook))
        except BaseException:
            logger.exception("the hook %s failed", getattr(hook, "__qualname__", hook))
