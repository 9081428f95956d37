"""Which commands control a queue, and read how full it is?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument

from switchtower.store.collections import Store
from switchtower.store.driver import time_limit
from switchtower.store.expressions import literal
from switchtower.store.guards import claimable
from switchtower.store.indexes import HOT
from switchtower.store.listing import TIME_LIMIT_MS

__all__ = [
    "AllControls",
    "Controls",
    "all_controls",
    "announce",
    "control",
    "controls",
    "forget",
    "group_counts",
    "known",
    "oldest_waiting",
]

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Controls:
    """What an operator said about a queue. A queue that nobody ever controlled has none: everything runs."""

    name: str
    paused: bool = False
    paused_names: tuple[str, ...] = ()
    created_at: datetime | None = None

    def holds(self, name: str) -> bool:
        """Whether jobs of this name may not start."""
        return self.paused or name in self.paused_names


@dataclass(frozen=True, slots=True)
class AllControls:
    """What the operator said about a queue, and what each tenant said about its own jobs in it."""

    operator: Controls
    tenants: Mapping[str, Controls]

    def holds(self, org: str, name: str) -> bool:
        """Whether a tenant's jobs of this name may not start."""
        own = self.tenants.get(org)
        return self.operator.holds(name) or (own is not None and own.holds(name))

    def of(self, org: str | None) -> Controls:
        """What holds every claim on behalf of this tenant (None: of all tenants)."""
        own = self.tenants.get(org) if org else None
        if own is None:
            return self.operator
        names = tuple(dict.fromkeys((*self.operator.paused_names, *own.paused_names)))
        return Controls(self.operator.name, self.operator.paused or own.paused, names, self.operator.created_at)

    def condition(self, org: str | None) -> Document:
        """Which jobs a claim on behalf of this tenant may take, as far as tenants decide."""
        if org is not None:
            return {"org": org}
        whole = [org for org, own in self.tenants.items() if own.paused]
        parts = [
            {"org": org, "name": {"$in": list(own.paused_names)}}
            for org, own in self.tenants.items()
            if own.paused_names and not own.paused
        ]
        return ({"org": {"$nin": whole}} if whole else {}) | ({"$nor": parts} if parts else {})


def _controls_from(name: str, d: Document | None) -> Controls:
    if d is None:
        return Controls(name)
    return Controls(name, d.get("paused", False), tuple(d.get("paused_names", ())), d.get("created_at"))


def _key(name: str, org: str) -> str:
    return f"{name}/{org}"


async def controls(store: Store, names: Sequence[str], *, org: str = "") -> dict[str, Controls]:
    """The controls of these queues, as the majority has them now."""
    rows = await store.queues.find({"_id": {"$in": [_key(name, org) for name in names]}}).to_list(None)
    found = {row["queue"]: row for row in rows}
    return {name: _controls_from(name, found.get(name)) for name in names}


async def all_controls(store: Store, name: str) -> AllControls:
    """The controls of one queue, the operator's and the tenants', as the majority has them now."""
    # Names have no "/", and "0" is the character behind it: all tenants' documents of this queue and no other's.
    rows = await store.queues.find({"_id": {"$gte": _key(name, ""), "$lt": f"{name}0"}}).to_list(None)
    found = {row["org"]: _controls_from(name, row) for row in rows}
    return AllControls(found.pop("", Controls(name)), found)


async def known(store: Store, *, org: str | None) -> list[str]:
    """Names of the queues that have controls."""
    rows = await store.queues.find({} if org is None else {"org": org}, {"queue": 1}).to_list(None)
    return [row["queue"] for row in rows]


async def control(
    store: Store,
    name: str,
    type: str,
    *,
    actor: str,
    org: str = "",
    job_name: str | None = None,
    source: str | None = None,
) -> Controls:
    """Pauses or resumes a queue, or one job name of it; stamps the event. Idempotent. Returns: the controls after it.

    `type` is `pause` or `resume`. Once this returned, nothing starts that was not already won by a claimer: claimers
    read the controls again after they won a job and before they start it.
    """
    sets: Document
    if job_name is None:
        sets = {"paused": type == "pause"}
        change: Document = {
            "before": {"paused": {"$ifNull": ["$paused", False]}},
            "after": {"paused": type == "pause"},
        }
    else:
        names = {"$ifNull": ["$paused_names", []]}
        operator = "$setUnion" if type == "pause" else "$setDifference"
        sets = {"paused_names": {operator: [names, [literal(job_name)]]}}
        change = {}
    following = {"$add": [{"$ifNull": ["$event_seq", 0]}, 1]}
    event = {
        "type": type,
        "at": "$$NOW",
        "queue": literal(name),
        "actor": literal(actor),
        "org": literal(org),
        **({"name": literal(job_name)} if job_name is not None else {}),
        **({"source": literal(source), **change} if source is not None else {}),
    }
    document = await store.queues.find_one_and_update(
        {"_id": _key(name, org)},
        [
            {
                "$set": {
                    "queue": literal(name),
                    "org": literal(org),
                    "created_at": {"$ifNull": ["$created_at", "$$NOW"]},
                    **sets,
                    "event_seq": following,
                    "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
                }
            }
        ],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return _controls_from(name, document)


async def announce(
    store: Store,
    name: str,
    type: str,
    *,
    actor: str,
    org: str = "",
    data: Document | None = None,
    source: str | None = None,
) -> None:
    """Stamps an event on a queue that changes none of its controls (`drain`, `clean`, `obliterate`)."""
    following = {"$add": [{"$ifNull": ["$event_seq", 0]}, 1]}
    event = {"type": type, "at": "$$NOW", "queue": literal(name), "actor": literal(actor), "org": literal(org)}
    event |= {key: literal(value) for key, value in (data or {}).items()}
    if source is not None:
        event["source"] = literal(source)
    await store.queues.update_one(
        {"_id": _key(name, org)},
        [
            {
                "$set": {
                    "queue": literal(name),
                    "org": literal(org),
                    "created_at": {"$ifNull": ["$created_at", "$$NOW"]},
                    "event_seq": following,
                    "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
                }
            }
        ],
        upsert=True,
    )


async def forget(store: Store, name: str, *, org: str = "") -> None:
    """Deletes a queue's controls and series (obliterate)."""
    await store.queues.delete_one({"_id": _key(name, org)})
    await store.minutes.delete_many({"queue": name, "org": org})


async def oldest_waiting(store: Store, name: str) -> datetime | None:
    """Since when the first claimable job of a queue could have run; None when nothing waits."""
    row = await store.jobs.find_one(
        claimable(name), {"run_at": 1}, sort=[("rank", 1), ("order", 1), ("seq", 1)], hint=HOT
    )
    return row["run_at"] if row else None


async def group_counts(store: Store, name: str, *, org: str | None, limit: int = 1_000) -> list[Document]:
    """Waiting and active jobs per group of a queue: `{_id: group, waiting, active}`, bounded to two seconds."""
    match: Document = {"queue": name, "group": {"$exists": True}} | ({} if org is None else {"org": org})

    def one(state: str) -> Document:
        return {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}}

    with time_limit(TIME_LIMIT_MS):
        return await store.database.aggregate(
            store.jobs.name,
            [
                {"$match": match | {"state": {"$in": ["waiting", "active"]}}},
                {"$group": {"_id": "$group", "waiting": one("waiting"), "active": one("active")}},
                {"$sort": {"_id": 1}},
                {"$limit": limit},
            ],
        )
