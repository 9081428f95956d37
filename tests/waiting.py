"""How a test waits: for a condition, with a limit, never for a length of time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T | Awaitable[T]], *, timeout_seconds: float = 60) -> T:
    """Ask `condition` every 10 ms until its answer is true, and return that answer; AssertionError after the limit."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = condition()
        value: T = await answer if inspect.isawaitable(answer) else answer  # type: ignore[assignment]
        if value:
            return value
        assert time.monotonic() < deadline, (
            f"{inspect.getsource(condition).strip()} not true within {timeout_seconds} s"
        )
        await asyncio.sleep(0.01)
