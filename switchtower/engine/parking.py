"""Which jobs at the head of a queue may nobody run now?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from switchtower.store import claims as commands
from switchtower.store import transitions
from switchtower.store.collections import Store
from switchtower.store.queues import AllControls

__all__ = ["park_foreign"]

PROBE = 200


async def park_foreign(
    store: Store,
    queue: str,
    names: Sequence[str] | None,
    *,
    lane: str,
    controls: AllControls,
    read_controls: Callable[[], Awaitable[AllControls]],
) -> None:
    """Parks jobs at the head of a lane that nobody may run now, so that nothing behind them waits and nobody meets them
    twice.

    A cause may end while a job is parked for it: so, after parking, the causes are read again and what is free by
    then is unparked. Whoever ends a cause changes it first and unparks second; one of the two always sees the
    other.
    """
    mine = set(names or ())
    paused = controls.operator.paused_names
    while True:
        # Whatever their names: looking for foreign ones alone would walk the whole queue to find none.
        head = await commands.head(store, queue, PROBE, names=None, lane=lane)
        met = {row["_id"]: row["name"] for row in head.rows}
        foreign = [(id, name) for id, name in met.items() if name in paused or (names is not None and name not in mine)]
        if not foreign:
            return
        served = await _served(store, queue)
        parked: dict[str, list[str]] = defaultdict(list)
        for id, name in foreign:
            if name in paused:
                parked["paused"].append(id)
            elif served is not None and name not in served:
                parked["no_handler"].append(id)
        for reason, ids in parked.items():
            await store.jobs.update_many(
                {"_id": {"$in": ids}, "state": "waiting", "parked": None}, transitions.park(reason)
            )
        if not parked:
            return
        paused = (await read_controls()).operator.paused_names
        served = await _served(store, queue)
        for reason, ids in parked.items():
            if reason == "paused":
                free = [id for id in ids if met[id] not in paused]
            else:
                free = [id for id in ids if served is None or met[id] in served]
            if free:
                await store.jobs.update_many(
                    {"_id": {"$in": free}, "state": "waiting", "parked": reason}, transitions.unpark()
                )
        if sum(len(ids) for ids in parked.values()) < len(met) or len(met) < PROBE:
            return


async def _served(store: Store, queue: str) -> set[str] | None:
    """The handlers that live workers of a queue have; None when one of them takes any name."""
    rows = await store.workers.find({"state": {"$in": ["live", "draining"]}, "queues": queue}, {"names": 1}).to_list(
        None
    )
    if any(not row["names"] for row in rows):
        return None
    return {name for row in rows for name in row["names"]}
