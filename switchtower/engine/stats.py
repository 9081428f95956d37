"""How is the whole system doing?"""

from __future__ import annotations

from dataclasses import dataclass

from switchtower.callers import EVERYTHING, Caller
from switchtower.states import JobState
from switchtower.store import counters, leases
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import within

__all__ = ["Stats", "Totals"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything at a glance."""

    counts: dict[JobState, int]
    dead_letters: int
    queues: int
    workers: int


@translate_errors
class Stats:
    """Reads of the folded counters."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def totals(self, *, caller: Caller) -> Totals:
        """Jobs by state, dead letters, queues and live workers, as the caller may see them."""
        rows = await counters.by_queue(self._store, reach=caller.reach)
        counts = {state: max(0, sum(row.get(state.value, 0) for row in rows.values())) for state in JobState}
        if caller.reach == EVERYTHING:
            dead = await self._store.dead_letters.estimated_document_count()
        else:
            dead = await self._store.dead_letters.count_documents(within(caller.reach))
        match = {"state": {"$in": leases.PRESENT}} | leases.visible_to(caller.reach)
        return Totals(counts, dead, len(rows), await self._store.workers.count_documents(match))
