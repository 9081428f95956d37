"""How does maintenance keep running in this process, elected among all servers and supervisors?"""

from __future__ import annotations

import asyncio
import logging
import random

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.maintenance import Maintenance

__all__ = ["maintain"]

logger = logging.getLogger("switchtower.maintenance")

RETRY_SECONDS = 2.0


async def maintain(engine: Engine, stop: asyncio.Event) -> None:
    """Takes part in maintenance until `stop` is set, whatever goes wrong meanwhile."""
    while not stop.is_set():
        try:
            await Maintenance(engine).run(stop)
        except StoreUnavailable:
            logger.warning("maintenance waits for the database")
        except Exception:
            logger.exception("maintenance failed; it starts again")
        if not stop.is_set():
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
