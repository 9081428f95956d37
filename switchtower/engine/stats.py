"""How is the whole system doing?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from switchtower.callers import Caller
from switchtower.states import JobState
from switchtower.store import counters, leases
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors

__all__ = ["MinuteBucket", "Stats", "Totals"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything at a glance."""

    counts: dict[JobState, int]
    dead_letters: int
    queues: int
    workers: int


@dataclass(frozen=True, slots=True)
class MinuteBucket:
    """What happened to jobs of one name in one queue within one minute; times are milliseconds."""

    minute: datetime
    queue: str
    name: str
    enqueued: int
    completed: int
    failed: int
    retried: int
    cancelled: int
    runs: int
    run_ms: int
    min_ms: int | None
    max_ms: int | None
    claimed: int
    wait_ms: int


@translate_errors
class Stats:
    """Reads of the folded counters."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def totals(self, *, caller: Caller) -> Totals:
        """Jobs by state, dead letters, queues and live workers, as the caller may see them."""
        rows = await counters.by_queue(self._store, org=caller.org)
        counts = {state: max(0, sum(row.get(state.value, 0) for row in rows.values())) for state in JobState}
        if caller.org is None:
            dead = await self._store.dead_letters.estimated_document_count()
        else:
            dead = await self._store.dead_letters.count_documents({"org": caller.org})
        match = {"state": {"$in": leases.PRESENT}} | (
            {} if caller.org is None else {"org": {"$in": [caller.org, None]}}
        )
        return Totals(counts, dead, len(rows), await self._store.workers.count_documents(match))

    async def minutes(
        self, *, caller: Caller, queue: str, name: str | None = None, since: datetime | None = None
    ) -> list[MinuteBucket]:
        """The minute buckets of a queue since a time (an hour ago by default), oldest first."""
        since = since or self._store.clock.now() - timedelta(hours=1)
        rows = await counters.series(self._store, queues=[queue], since=since, org=caller.org, name=name)
        return [
            MinuteBucket(
                row["minute"],
                row["queue"],
                row["name"],
                row.get("enqueued", 0),
                row.get("completed", 0),
                row.get("failed", 0),
                row.get("retried", 0),
                row.get("cancelled", 0),
                row.get("ran", 0),
                row.get("run_ms", 0),
                row.get("min_ms"),
                row.get("max_ms"),
                row.get("claimed", 0),
                row.get("wait_ms", 0),
            )
            for row in rows
        ]
