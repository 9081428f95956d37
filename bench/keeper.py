"""Which process keeps the house while a worker is measured? `python -m bench.keeper`: maintenance and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal

from bench.waiting import until
from switchtower.engine import Engine
from switchtower.garbage import relax
from switchtower.maintenance import Maintenance


async def main() -> None:
    """Runs maintenance on SWITCHTOWER_DATABASE until SIGTERM; prints one line when it is elected."""
    engine = await Engine.connect(database=os.environ["SWITCHTOWER_DATABASE"], role="server")
    await engine.prepare()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    keeping = Maintenance(engine)
    running = asyncio.create_task(keeping.run(stop))
    await until(lambda: keeping.elected or running.done(), every_seconds=0.01)
    print("elected", flush=True)
    await running
    await engine.close()


if __name__ == "__main__":
    relax()
    asyncio.run(main())
