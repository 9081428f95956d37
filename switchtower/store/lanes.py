"""Which line of its queue does a job stand in, and which commands serve the lines in turn?

A lane holds the waiting jobs of one tenant and group, in claim order; a queue without either has one lane. Jobs of a
name that is at its limit are moved aside, into a lane of the name, so that nobody meets them again and again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.errors import DuplicateKeyError

from switchtower.store.collections import Store
from switchtower.store.guards import claimable
from switchtower.store.indexes import HOT

__all__ = [
    "BEHIND",
    "LANED",
    "SEPARATOR",
    "Lane",
    "behind_org",
    "heads",
    "is_marked",
    "lane_of",
    "mark",
    "move_aside",
    "next_lane",
]

Document = dict[str, Any]

SEPARATOR = "\x1f"
BEHIND = "\x20"
"""The character behind the separator: what is below it is the rest of a tenant or a group. No name has control
characters (`payloads.check_text`)."""
LANED = "\x1f"
"""The end of the id of the document that says that a queue has lanes."""
ORDER = [("queue", 1), ("lane", 1), ("rank", 1), ("order", 1), ("seq", 1)]
MAX_SKIPPED = 1_000


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane: whose jobs stand in it."""

    text: str
    org: str = ""
    group: str | None = None
    name: str | None = None

    @classmethod
    def parsed(cls, text: str) -> Lane:
        """The lane as a job's `lane` names it."""
        org, _, rest = text.partition(SEPARATOR)
        group, _, name = rest.partition(SEPARATOR)
        return cls(text, org, group or None, name or None)


def lane_of(org: str, group: str | None, name: str | None = None) -> str:
    """The lane of a tenant's and a group's jobs, or of those of one name among them."""
    if not org and group is None and name is None:
        return ""
    return SEPARATOR.join((org, group or "", *(() if name is None else (name,))))


def behind_org(org: str) -> str:
    """The least text behind all lanes of a tenant."""
    return f"{org}{BEHIND}"


async def mark(store: Store, documents: Sequence[Document]) -> None:
    """Tells claimers which queues have lanes, before the first job that stands in one can be met.

    Claimers read it with the queue's controls: a queue without lanes costs them nothing, and nobody looks for any.
    """
    for queue in {row["queue"] for row in documents if row["lane"]} - store.laned:
        with contextlib.suppress(DuplicateKeyError):  # Two processes mark it at once.
            await store.queues.update_one({"_id": f"{queue}/{LANED}"}, {"$set": {"laned": True}}, upsert=True)
        store.laned.add(queue)


def is_marked(store: Store, queue: str, lane: str) -> bool:
    """Whether a job may be met in this lane: `mark` was called for its queue, or need not be."""
    return not lane or queue in store.laned


async def next_lane(
    store: Store, queue: str, *, start: str, end: str | None = None, skipped: Collection[str] = ()
) -> Lane | None:
    """The first lane from `start` on (below `end`) that has claimable jobs, without the lanes in `skipped`."""
    bounds: Document = {"$gte": start} | ({} if end is None else {"$lt": end})
    if skipped:
        bounds["$nin"] = sorted(skipped)[:MAX_SKIPPED]
    match = {**claimable(queue, lane=None), "lane": bounds}
    rows = await store.jobs.find(match, {"lane": 1}, sort=ORDER, limit=1).hint(HOT).to_list(1)
    return Lane.parsed(rows[0]["lane"]) if rows else None


async def heads(
    store: Store, queue: str, lane: str, limit: int, *, names: Document | None, condition: Document | None = None
) -> list[Document]:
    """The first claimable jobs of a lane, with what their limits depend on."""
    fields = {"name": 1, "org": 1, "group": 1}
    cursor = store.jobs.find(claimable(queue, names, condition, lane=lane), fields, sort=ORDER, limit=limit).hint(HOT)
    found: list[Document] = await cursor.to_list(limit)
    return found


async def move_aside(store: Store, queue: str, lane: Lane, name: str, limit: int) -> int:
    """Moves up to `limit` waiting jobs of one name out of a lane, into the name's own. Returns: how many.

    Their order among themselves stays, and they are as claimable as before.
    """
    rows = await heads(store, queue, lane.text, limit, names={"$in": [name]})
    if not rows:
        return 0
    aside = lane_of(lane.org, lane.group, name)
    await mark(store, [{"queue": queue, "lane": aside}])
    result = await store.jobs.update_many(
        {"_id": {"$in": [row["_id"] for row in rows]}, "state": "waiting", "lane": lane.text}, {"$set": {"lane": aside}}
    )
    return int(result.modified_count)
