"""How do the documents of new jobs reach the database: many in one command, each with an outcome of its own?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from switchtower.errors import StoreUnavailable
from switchtower.store import jobs as commands
from switchtower.store.collections import Store
from switchtower.store.driver import unavailable

__all__ = ["BATCH", "PATIENCE_SECONDS", "Inserts", "until_known"]

Document = Mapping[str, Any]
T = TypeVar("T")

PATIENCE_SECONDS = 5.0
BATCH = 1_000
FLIGHTS = 2


class Inserts:
    """Inserts documents of jobs; those that are to be inserted in one turn of the event loop share a command."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: list[tuple[Document, asyncio.Future[str | None]]] = []
        self._flights = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waits(self) -> bool:
        """Whether a document waits for a command that the next one would share."""
        return bool(self._pending)

    async def one(self, document: Document) -> str | None:
        """Inserts one document together with others. Returns: the index that refused it, None when it exists."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()
        self._pending.append((document, future))
        if not self._scheduled and self._flights < FLIGHTS:
            self._scheduled = True
            loop.call_soon(self._take_off)
        return await future

    async def many(self, documents: Sequence[Document]) -> dict[int, str]:
        """Inserts documents in one command. Returns: the index that refused it, for each position that was refused; an
        own earlier landing is success."""
        refused = await until_known(lambda: commands.insert_many(self._store, documents))
        return {position: index for position, index in refused.items() if index != "_id"}

    def _take_off(self) -> None:
        self._scheduled = False
        while self._pending and self._flights < FLIGHTS:
            batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
            self._flights += 1
            task = asyncio.ensure_future(self._fly(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fly(self, batch: list[tuple[Document, asyncio.Future[str | None]]]) -> None:
        try:
            refused = await self.many([document for document, _ in batch])
            for position, (_, future) in enumerate(batch):
                if not future.done():
                    future.set_result(refused.get(position))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else StoreUnavailable())
            if not isinstance(error, Exception):
                raise
        finally:
            self._flights -= 1
            self._take_off()


async def until_known(write: Callable[[], Awaitable[T]]) -> T:
    """Repeats a write that is harmless to repeat until its outcome is known.

    Raises: StoreUnavailable when it is unknown after `PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await write()
        except Exception as error:
            if not unavailable(error):
                raise
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    "The database did not confirm the enqueue; it may have happened. Repeat it with the same "
                    "idempotencyKey or jobId to get exactly one job."
                ) from error
            await asyncio.sleep(0.05)
