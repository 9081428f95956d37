"""The process that `test_schedulers` talks to: one fork an order, each of which schedules without being elected."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable

TICK_SECONDS = 0.03


def serve(url: str, database: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(schedule(url, database))
            finally:
                os._exit(1)
        print(pid, flush=True)


async def schedule(url: str, database: str) -> None:
    engine = await Engine.connect(url, database=database, role="worker")
    while True:
        try:
            await engine.crons.tick()
        except StoreUnavailable:
            print("the database is away", file=sys.stderr)
        await asyncio.sleep(TICK_SECONDS)


if __name__ == "__main__":
    serve(*sys.argv[1:])
