"""Where do the operations take place: which engine, which database, and what did its change stream carry?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any
from unittest.mock import patch

from pymongo.database import Database as SyncDatabase

from switchtower.engine import Engine, Retention, bulk
from switchtower.events import Event, Topic
from switchtower.store import changes
from tests.model.account.bulk import CHUNK
from tests.model.account.entries import BASE_MS
from tests.model.operations.crons import AtTheHour

COLLECTIONS = (
    *("jobs", "dead_letters", "workers", "queues", "leases", "counters", "minutes", "permits"),
    *("crons", "bulk_operations", "events"),
)
_KEEP_NO_TOMBSTONE = Retention(None, None, None, tombstone_seconds=0)


class World:
    """The engine, the loop that it lives on, a blocking view of its database, and every event that it stamped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, view: SyncDatabase[dict[str, Any]]) -> None:
        self.loop = loop
        self.engine = engine
        self.view = view
        self.steps = 0
        self.failures: list[str] = []
        """What the runs found, with the operations before it: a race need not happen again when it is replayed."""
        self.events: dict[str, list[Event]] = defaultdict(list)
        # Effects are operations here: what a dead process left undone must be seen by itself.
        engine.effects.kick = lambda: None  # type: ignore[method-assign]
        # A thousand jobs a chunk would leave no bulk operation half-way.
        self._chunks = patch.object(bulk, "CHUNK", CHUNK)
        self._chunks.start()
        # Schedulers are told the model's time.
        engine.crons._store = AtTheHour(engine._store)  # type: ignore[assignment]
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, url: str, database: str, view: SyncDatabase[dict[str, Any]]) -> World:
        loop = asyncio.new_event_loop()
        engine = loop.run_until_complete(Engine.connect(url, database=database, role="worker"))
        loop.run_until_complete(engine.prepare())
        world = cls(loop, engine, view)
        opened = asyncio.Event()
        world._reader = loop.create_task(world._read(opened))
        loop.run_until_complete(asyncio.wait_for(opened.wait(), 60))
        return world

    async def _read(self, opened: asyncio.Event) -> None:
        async for batch, _ in changes.read(self.engine._store, after=None):
            opened.set()
            for event in batch:
                if event.topic is Topic.JOB:
                    self.events[event.id].append(event)

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 60))

    def clear(self) -> None:
        for name in COLLECTIONS:
            self.view[name].delete_many({})
        self.engine.claims._queues.clear()
        self.engine.claims._lanes._turns.clear()
        self.engine._store.laned.clear()
        self.engine.crons._store.clock.ms = BASE_MS  # type: ignore[attr-defined]
        self.engine.upkeep._retention = _KEEP_NO_TOMBSTONE
        self.events.clear()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self.loop.run_until_complete(asyncio.gather(self._reader, return_exceptions=True))
        self._chunks.stop()
        self.loop.run_until_complete(self.engine.close())
        self.loop.close()
