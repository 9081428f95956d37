"""Who carries out what a transition declared in its outbox?

The process that wrote it, at once; maintenance, if that process died. Both call the same idempotent relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from switchtower.store import outbox
from switchtower.store.collections import Store
from switchtower.store.driver import DriverError

__all__ = ["Effects"]

log = logging.getLogger(__name__)

BATCH = 200
INTERVAL_SECONDS = 0.02


class Effects:
    """Relays outboxes in the background of the process that fills them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dirty = False
        self._task: asyncio.Task[None] | None = None

    def kick(self) -> None:
        """Something may have been put into an outbox: relay soon. Cheap and never waits."""
        self._dirty = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="effects")

    async def _run(self) -> None:
        while self._dirty:
            self._dirty = False
            try:
                while await self.relay() == BATCH:
                    pass
            except DriverError as error:
                log.warning("effects are left to maintenance: %s", error)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def relay(self, *, id: str | None = None) -> int:
        """Relays the effects of one job, or of up to 200 jobs that have some. Returns how many jobs."""
        return await outbox.relay(self._store, await outbox.pending(self._store, BATCH, id=id))

    async def close(self) -> None:
        """Finishes what is under way."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 5)
