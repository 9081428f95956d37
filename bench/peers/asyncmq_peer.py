"""asyncmq on MongoDB, run by its own interpreter: reads its orders as JSON, prints one JSON line."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from contextlib import suppress

orders = json.loads(sys.argv[1])

import asyncmq  # noqa: E402
from asyncmq.backends.mongodb import MongoDBBackend  # noqa: E402
from asyncmq.queues import Queue  # noqa: E402
from asyncmq.runners import run_worker  # noqa: E402
from asyncmq.tasks import task  # noqa: E402

logging.disable(logging.CRITICAL)
QUEUE = "bench"
finished = 0
began = ended = 0.0
done = asyncio.Event()
started: asyncio.Queue[float] = asyncio.Queue()


@task(queue=QUEUE)
async def noop(i: int = 0) -> None:
    """Does nothing."""
    global finished, began, ended
    began = began or time.perf_counter()
    finished += 1
    ended = time.perf_counter()
    if finished >= orders["count"]:
        done.set()


@task(queue=QUEUE)
async def tell(sent: int) -> None:
    """Says how long it waited."""
    started.put_nowait((time.time_ns() - sent) / 1e6)


async def add_rate(backend: MongoDBBackend, count: int, callers: int) -> float:
    """Jobs added a second by so many callers at a time."""
    numbers = iter(range(count))

    async def caller() -> None:
        for i in numbers:
            await noop.enqueue(i, backend=backend)

    at = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - at)


async def main() -> None:
    """Does what the orders say."""
    backend = MongoDBBackend(orders["url"], orders["database"])
    asyncmq.monkay.settings.backend = backend
    await backend.connect()
    count = orders["count"]
    if orders["role"] == "add":
        result: dict[str, object] = {
            "one": await add_rate(backend, min(count, 300), 1),
            "callers": await add_rate(backend, count, 20),
        }
        at = time.perf_counter()
        jobs = [{"task_id": noop.task_id, "args": [i]} for i in range(count)]
        await Queue(QUEUE, backend=backend).add_bulk(jobs)
        result["bulk"] = count / (time.perf_counter() - at)
    elif orders["role"] == "run":
        await add_rate(backend, count, 20)
        worker = asyncio.create_task(run_worker(QUEUE, backend, concurrency=orders["concurrency"]))
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), orders["seconds"])
        result = {"finished": finished, "rate": finished / (ended - began)}
        worker.cancel()
    else:
        worker = asyncio.create_task(run_worker(QUEUE, backend, concurrency=orders["concurrency"]))
        await asyncio.sleep(1)
        waits = []
        for i in range(count + 3):
            await tell.enqueue(time.time_ns(), backend=backend)
            wait = await started.get()
            if i >= 3:
                waits.append(wait)
            await asyncio.sleep(orders["pause"] / 1000)
        result = {"waits": waits}
        worker.cancel()
    print(json.dumps(result), flush=True)


asyncio.run(main())
