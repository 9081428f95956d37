"""Since when does the next job of each queue wait?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from switchtower.store import lines
from switchtower.store.collections import Store
from switchtower.store.guards import claimable
from switchtower.store.indexes import DELIVERIES, HOT

__all__ = ["oldest"]

Document = dict[str, Any]

FEW = 20
"""So many queues are looked at one by one."""
LANES_READ = 20
LANED_READ = 100
_ORDER = ("lane", "rank", "order", "seq")


async def oldest(store: Store, names: Sequence[str]) -> dict[str, datetime | None]:
    """Since when the first claimable job of each of these queues (of each of its first twenty lanes) could have run;
    None where nothing waits.

    Of many queues the heads are read together, one index seek each; then the lanes of a hundred queues at most are
    looked at one by one, and of all others the first lane counts.
    """
    if len(names) <= FEW:
        return {name: await _of_lanes(store, name) for name in names}
    head = await _heads(store, HOT, "queue", 1)
    last = await _heads(store, HOT, "queue", -1)
    found: dict[str, datetime | None] = {name: head[name]["run_at"] if name in head else None for name in names}
    laned = [name for name in names if name in head and head[name]["lane"] != last.get(name, head[name])["lane"]]
    for name in laned[:LANED_READ]:
        found[name] = await _of_lanes(store, name)
    for line in (await _heads(store, DELIVERIES, "line", 1)).values():
        queue, since = line["queue"], line["run_at"]
        if queue in found:
            found[queue] = min(found[queue] or since, since)
    return found


async def _heads(store: Store, index: str, field: str, step: int) -> dict[str, Document]:
    """The first document of each value of an index's first field, by its order: `{value: {queue, lane, run_at}}`."""
    stages: list[Document] = [
        {"$sort": {field: step, **dict.fromkeys((*(_ORDER if index == HOT else _ORDER[1:]),), step)}},
        {"$group": {"_id": f"${field}", **{key: {"$first": f"${key}"} for key in ("queue", "lane", "run_at")}}},
    ]
    return {row["_id"]: row for row in await store.database.aggregate(store.jobs.name, stages, hint=index)}


async def _of_lanes(store: Store, name: str) -> datetime | None:
    order = [(field, 1) for field in _ORDER]
    row = await store.jobs.find_one(claimable(name, lane=None), {"run_at": 1, "lane": 1}, sort=order, hint=HOT)
    found = []
    while row is not None:
        found.append(row["run_at"])
        if len(found) == LANES_READ:
            break
        behind = {**claimable(name, lane=None), "lane": {"$gt": row["lane"]}}
        row = await store.jobs.find_one(behind, {"run_at": 1, "lane": 1}, sort=order, hint=HOT)
    found += await lines.oldest(store, name, LANES_READ)
    return min(found, default=None)
