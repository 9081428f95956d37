"""How do webhooks keep being delivered by this process, elected among all servers and supervisors?"""

from __future__ import annotations

import asyncio
import logging
import random

from switchtower.courier import Courier, CourierOptions
from switchtower.engine import Engine

__all__ = ["deliver"]

logger = logging.getLogger("switchtower.courier")

RETRY_SECONDS = 2.0


async def deliver(engine: Engine, options: CourierOptions, stop: asyncio.Event) -> None:
    """Takes part in delivering until `stop` is set, whatever goes wrong meanwhile."""
    while not stop.is_set():
        try:
            await Courier(engine, options).run(stop)
        except Exception:
            logger.exception("the courier failed; it starts again")
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
