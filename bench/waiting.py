"""How does a bench wait for something that only asking can tell?"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

__all__ = ["until"]


async def until(condition: Callable[[], object | Awaitable[object]], *, every_seconds: float = 0.05) -> None:
    """Asks again and again until the answer is true; the caller bounds it in time."""
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        await asyncio.sleep(every_seconds)
