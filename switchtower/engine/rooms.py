"""Is there room for one more job to wait in its group?

As with limits, a place is reserved first, then the job is inserted, then the reservation ends: adds at the same moment,
in whatever processes, never let in more than may wait. A process that dies in between leaves a place unused for some
seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from switchtower.callers import Caller
from switchtower.errors import StoreUnavailable
from switchtower.jobs import NewJob
from switchtower.limits import Limit
from switchtower.store import permits
from switchtower.store.collections import Store
from switchtower.store.driver import DriverError
from switchtower.store.queues import limit_key

__all__ = ["NoRoom", "Rooms", "is_bounded"]

PATIENCE_SECONDS = 5.0
TRY_SECONDS = 0.003


class NoRoom(Exception):
    """As many jobs of a group wait as may; says so."""


def is_bounded(new: NewJob) -> bool:
    """Whether only so many jobs of its group may wait."""
    return new.group_max is not None and new.group is not None


class Rooms:
    """The groups that take only so many waiting jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, new: NewJob, id: str, *, caller: Caller, keep: bool = False) -> AsyncIterator[None]:
        """Holds a place for a job that `is_bounded`, under this id, while it is inserted; with `keep`, until the
        reservation ends by itself, since nobody else sees the insert before.

        Raises: NoRoom when as many jobs of the group wait as may.
        """
        assert new.group_max is not None and new.group is not None
        limit = Limit(concurrency=new.group_max)
        key = limit_key(new.queue, caller.owner, f"m\x1f{new.group}")
        # Those of this process take turns; the guard of the reservation is for others.
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            await self._reserve(key, limit, new.queue, caller.owner, new.group, id)
        try:
            yield
        except StoreUnavailable:
            # The insert may still land.
            raise
        except BaseException:
            await self._settle(key, limit, id)
            raise
        if not keep:
            await self._settle(key, limit, id)

    async def _reserve(self, key: str, limit: Limit, queue: str, owner: str, group: str, id: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            level = await permits.waiting(self._store, key, limit, queue=queue, owner=owner, group=group)
            if level.room(limit) == 0:
                raise NoRoom(
                    f"Group {group[:100]!r} has {limit.concurrency:,} jobs waiting, which is all it takes; "
                    "try again later."
                )
            if await permits.reserve(self._store, level, limit, token=id, jobs=1) is not None:
                return
            await asyncio.sleep(TRY_SECONDS * random.random())
        raise NoRoom(f"Group {group[:100]!r} is being added to by too many at once; try again.")

    async def _settle(self, key: str, limit: Limit, id: str) -> None:
        # Else it holds until it ends.
        with suppress(DriverError, StoreUnavailable):
            await permits.settle(self._store, key, limit, token=id, claimed=0)
