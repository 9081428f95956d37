"""Handlers that end in every odd way there is; processes import this module by name."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from switchtower import App, Cancel, Fail, JobContext, RetryAt, Snooze

app = App()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")


class Unpicklable(Exception):
    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} {code}")
        self.lock = open  # what cannot cross to another process is in good company
        self.handle = lambda: None

    def __reduce__(self) -> Any:
        raise TypeError("not to be copied")


class CodedFail(Fail):
    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} {code}")


class Uninitialized(Fail):
    def __init__(self, code: int) -> None:
        self.code = code


class LateRetry(RetryAt):
    def __init__(self) -> None:
        pass


def local_fail() -> BaseException:
    class Local(Fail):
        pass

    return Local("only here")


def circular() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def crowd() -> BaseException:
    return ExceptionGroup("a crowd", [ValueError(str(n)) for n in range(10_000)])


RAISED: dict[str, Callable[[], BaseException]] = {
    "snooze for nothing": lambda: Snooze(None),  # type: ignore[arg-type]
    "snooze for text": lambda: Snooze("soon"),  # type: ignore[arg-type]
    "retry at nothing": lambda: RetryAt(None),  # type: ignore[arg-type]
    "retry that says nothing": LateRetry,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "BaseException": lambda: BaseException("bare"),
    "a class of BaseException": lambda: type("Odd", (BaseException,), {})(),
    "unprintable": Unprintable,
    "unpicklable": lambda: Unpicklable("e", 1),
    "circular": circular,
    "crowd": crowd,
    "memory": MemoryError,
    "recursion": RecursionError,
    "lone surrogate": lambda: ValueError("\ud800"),
}
"""What fails an attempt."""

FAILS: dict[str, Callable[[], BaseException]] = {
    "coded": lambda: CodedFail("paid", 402),
    "uninitialized": lambda: Uninitialized(3),
    "local": local_fail,
    "fail of nothing": lambda: Fail(None),  # type: ignore[arg-type]
    "fail with an error of text": lambda: Fail("x", error="not an error"),  # type: ignore[arg-type]
}
"""What fails a job for good."""

ENDS: dict[str, Callable[[], BaseException]] = {
    "snooze for a timedelta": lambda: Snooze(timedelta(hours=1)),
    "retry in a timedelta": lambda: RetryAt(timedelta(hours=1)),
    "cancel": Cancel,
}
"""What ends an attempt in another way."""


def raise_it(how: str) -> None:
    raise (RAISED | FAILS | ENDS)[how]()


@app.task(max_attempts=2)
async def on_loop(how: str) -> None:
    raise_it(how)


@app.task(max_attempts=2)
async def later_on_loop(how: str) -> None:
    await asyncio.sleep(0)
    raise_it(how)


@app.task(max_attempts=2)
def in_thread(how: str) -> None:
    raise_it(how)


@app.task(cpu_bound=True, max_attempts=2)
def in_process(how: str) -> None:
    raise_it(how)


@app.task(batch_size=1, max_attempts=2)
async def in_batch(contexts: list[JobContext]) -> None:
    for context in contexts:
        raise_it(context.payload["how"])


@app.task(max_attempts=1)
async def meddles(how: str) -> str:
    """Does something to the task that it runs in."""
    task = asyncio.current_task()
    assert task is not None
    match how:
        case "cancels itself":
            task.cancel()
            await asyncio.sleep(0)
        case "cancels itself and returns":
            task.cancel()
        case "cancels itself and goes on":
            task.cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                return "went on"
        case "adds a callback":
            task.add_done_callback(lambda _: None)
    return "done"


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@app.task()
@logged
async def wrapped(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


@app.task()
def returns_a_coroutine(n: int) -> Any:
    return wrapped(n)


@app.task(cpu_bound=True)
def returns_a_coroutine_in_process(n: int) -> Any:
    return wrapped(n)


@app.task()
async def plain(n: int = 0) -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()
