"""How fast are jobs enqueued: one by one, by twenty callers, in bulk; from Python, and through GraphQL?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bench import processes
from bench.running import CALLER, bulk_rate, database
from switchtower.client import Client
from switchtower.jobs import NewJob

__all__ = ["Rates", "enqueue_rates"]

CALLERS = 20


@dataclass(frozen=True, slots=True)
class Rates:
    """Jobs a second. `one`, `callers` and `bulk` go from Python to the database, the others through a server."""

    one: float
    callers: float
    bulk: float
    client_one: float
    client_callers: float
    client_bulk: float


async def _rate(count: int, callers: int, add: Callable[[int], Awaitable[Any]]) -> float:
    numbers = iter(range(count))

    async def caller() -> None:
        for i in numbers:
            await add(i)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - began)


async def enqueue_rates(url: str, count: int) -> Rates:
    """Enqueues `count` jobs by twenty callers, a quarter of that one by one, four times that in bulk."""
    async with database(url) as engine:

        async def add(i: int) -> None:
            await engine.jobs.enqueue(NewJob(name="noop", payload={"i": i}), caller=CALLER)

        one = await _rate(count // 4, 1, add)
        callers = await _rate(count, CALLERS, add)
        bulk = await bulk_rate(engine, count * 4)
        async with processes.server(url, engine.database_name) as (_, address), Client(address) as client:

            async def send(i: int) -> None:
                await client.enqueue("noop", {"i": i})

            client_one = await _rate(count // 4, 1, send)
            client_callers = await _rate(count, CALLERS, send)
            began = time.perf_counter()
            await client.enqueue_many({"name": "noop", "payload": {"i": i}} for i in range(count))
            client_bulk = count / (time.perf_counter() - began)
    return Rates(one, callers, bulk, client_one, client_callers, client_bulk)
