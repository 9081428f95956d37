"""Which commands control a queue, and read how full it is?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import ExecutionTimeout

from switchtower.callers import Reach
from switchtower.limits import UNLIMITED, Limit, QueueLimits, Rate
from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.store.driver import time_limit
from switchtower.store.expressions import literal
from switchtower.store.guards import within
from switchtower.store.listing import TIME_LIMIT_MS
from switchtower.store.scans import scan

__all__ = [
    "AllControls",
    "Controls",
    "all_controls",
    "announce",
    "control",
    "controls",
    "forget",
    "group_counts",
    "has_jobs",
    "holds_name",
    "known",
    "limit_document",
    "limit_from",
    "limit_key",
    "many_controls",
    "repeating",
    "set_limits",
]

Document = dict[str, Any]

MOST_SCHEDULED = 10_000
AT_REST = sorted(state.value for state in JobState if state is not JobState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Controls:
    """What an operator said about a queue. A queue that nobody ever controlled has none: everything runs."""

    name: str
    paused: bool = False
    paused_names: tuple[str, ...] = ()
    created_at: datetime | None = None
    paused_groups: tuple[str, ...] = ()
    limits: QueueLimits = field(default_factory=QueueLimits)

    def holds(self, name: str, group: str | None = None) -> bool:
        """Whether jobs of this name and group may not start."""
        return self.paused or name in self.paused_names or (group is not None and group in self.paused_groups)


@dataclass(frozen=True, slots=True)
class AllControls:
    """What the operator said about a queue, and what each tenant said about its own jobs in it."""

    operator: Controls
    tenants: Mapping[str, Controls]
    laned: bool = False
    """Whether some of its jobs stand in lanes of a tenant, a group or a name."""

    def holds(self, org: str, name: str, group: str | None = None) -> bool:
        """Whether a tenant's jobs of this name and group may not start."""
        own = self.tenants.get(org)
        return self.operator.holds(name, group) or (own is not None and own.holds(name, group))

    def holds_lane(self, org: str, group: str | None) -> bool:
        """Whether nothing of a tenant's group may start, whatever its name."""
        own = self.tenants.get(org)
        return group in self.operator.paused_groups or (own is not None and (own.paused or group in own.paused_groups))

    @property
    def any(self) -> bool:
        """Whether anybody ever controlled the queue, or it has lanes."""
        own = self.operator
        return self.in_turn or own.paused or bool(self.tenants or own.paused_names or own.paused_groups)

    @property
    def in_turn(self) -> bool:
        """Whether its jobs are claimed lane by lane and under permits: it has lanes, or anybody limited it."""
        return self.laned or bool(self.operator.limits) or any(own.limits for own in self.tenants.values())

    def limits_of(self, org: str, name: str, group: str | None) -> dict[str, Limit]:
        """The limits that a tenant's job of this name and group runs under here, by their keys."""
        found: dict[str, Limit] = {}
        for owner, controls in (("", self.operator), *((org, own) for own in [self.tenants.get(org)] if own)):
            if not controls.limits:
                continue
            parts = [("q", controls.limits.queue), (f"n\x1f{name}", controls.limits.names.get(name, UNLIMITED))]
            if group is not None:
                parts.append((f"g\x1f{org}\x1f{group}", controls.limits.of_group(group)))
            found |= {limit_key(self.operator.name, owner, part): limit for part, limit in parts if limit}
        return found

    def of(self, org: str | None) -> Controls:
        """What holds every claim on behalf of this tenant (None: of all tenants)."""
        own = self.tenants.get(org) if org else None
        if own is None:
            return self.operator
        names = tuple(dict.fromkeys((*self.operator.paused_names, *own.paused_names)))
        groups = tuple(dict.fromkeys((*self.operator.paused_groups, *own.paused_groups)))
        return Controls(self.operator.name, self.operator.paused or own.paused, names, self.operator.created_at, groups)

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
    return Controls(
        name,
        d.get("paused", False),
        tuple(d.get("paused_names", ())),
        d.get("created_at"),
        tuple(d.get("paused_groups", ())),
        _limits_from(d.get("limits")),
    )


def limit_key(queue: str, owner: str, part: str) -> str:
    """The key of a limit that the operator ("") or a tenant set on a queue."""
    return f"{queue}\x1f{owner}\x1f{part}"


def limit_document(limit: Limit) -> Document:
    """A limit as it is stored, without what it does not bound."""
    rate = {} if limit.rate is None else {"rate": {"starts": limit.rate.starts, "per_ms": limit.rate.per_ms}}
    return {**({} if limit.concurrency is None else {"concurrency": limit.concurrency}), **rate}


def limit_from(d: Document) -> Limit:
    """The limit that `limit_document` wrote."""
    rate = d.get("rate")
    return Limit(d.get("concurrency"), None if rate is None else Rate(rate["starts"], rate["per_ms"]))


def _limits_document(limits: QueueLimits) -> Document:
    def named(part: Mapping[str, Limit]) -> list[Document]:
        return [{"name": name, **limit_document(limit)} for name, limit in sorted(part.items()) if limit]

    return {
        "queue": limit_document(limits.queue),
        "names": named(limits.names),
        "per_group": limit_document(limits.per_group),
        "groups": named(limits.groups),
    }


def _limits_from(d: Document | None) -> QueueLimits:
    if d is None:
        return QueueLimits()
    names, groups = ({row["name"]: limit_from(row) for row in d[part]} for part in ("names", "groups"))
    return QueueLimits(limit_from(d["queue"]), names, limit_from(d["per_group"]), groups)


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
    found = {row["org"]: _controls_from(name, row) for row in rows if "org" in row}
    return AllControls(found.pop("", Controls(name)), found, len(found) < len(rows) and any("laned" in r for r in rows))


async def many_controls(store: Store, pairs: Collection[tuple[str, str]]) -> dict[str, AllControls]:
    """The controls of several queues, as far as these (queue, tenant) pairs are concerned."""
    keys = {_key(queue, org) for queue, org in pairs} | {_key(queue, "") for queue, _ in pairs}
    rows = await store.queues.find({"_id": {"$in": sorted(keys)}}).to_list(None)
    found: dict[str, dict[str, Controls]] = {queue: {} for queue, _ in pairs}
    for row in rows:
        found[row["queue"]][row["org"]] = _controls_from(row["queue"], row)
    return {queue: AllControls(owners.pop("", Controls(queue)), owners) for queue, owners in found.items()}


async def known(store: Store, *, reach: Reach) -> list[str]:
    """Names of the queues that have controls."""
    match = {"queue": {"$exists": True}} | within(reach)
    rows = await store.queues.find(match, {"queue": 1}, hint=scan("queues.known")).to_list(None)
    return [row["queue"] for row in rows]


async def holds_name(store: Store, queue: str, job_name: str) -> bool:
    """Whether the operator, or a tenant, paused this job name in a queue."""
    match = {"_id": {"$gte": _key(queue, ""), "$lt": f"{queue}0"}, "paused_names": job_name}
    return await store.queues.find_one(match, {"_id": 1}) is not None


async def control(
    store: Store,
    name: str,
    type: str,
    *,
    actor: str,
    org: str = "",
    job_name: str | None = None,
    group: str | None = None,
    source: str | None = None,
) -> Controls:
    """Pauses or resumes a queue, or one job name or one group of it; stamps the event. Idempotent. Returns: the
    controls after it.

    `type` is `pause` or `resume`. Once this returned, nothing starts that was not already won by a claimer: claimers
    read the controls again after they won a job and before they start it.
    """
    sets: Document
    if job_name is None and group is None:
        sets = {"paused": type == "pause"}
        change: Document = {
            "before": {"paused": {"$ifNull": ["$paused", False]}},
            "after": {"paused": type == "pause"},
        }
    else:
        operator = "$setUnion" if type == "pause" else "$setDifference"
        sets = {
            field: {operator: [{"$ifNull": [f"${field}", []]}, [literal(value)]]}
            for field, value in (("paused_names", job_name), ("paused_groups", group))
            if value is not None
        }
        change = {}
    told = {key: literal(value) for key, value in (("name", job_name), ("group", group)) if value is not None}
    return await _write(store, name, sets, type, actor=actor, org=org, source=source, told=told, audited=change)


async def set_limits(
    store: Store, name: str, limits: QueueLimits, *, actor: str, org: str = "", source: str | None = None
) -> Controls:
    """Sets what a queue is limited to, and stamps the event. Returns: the controls after it.

    Once this returned, no claim is made under other limits: claimers compare after they won a job.
    """
    after = literal(_limits_document(limits))
    audited = {"before": {"limits": {"$ifNull": ["$limits", None]}}, "after": {"limits": after}}
    return await _write(store, name, {"limits": after}, "limit", actor=actor, org=org, source=source, audited=audited)


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
    told = {key: literal(value) for key, value in (data or {}).items()}
    await _write(store, name, {}, type, actor=actor, org=org, source=source, told=told)


async def _write(
    store: Store,
    name: str,
    sets: Document,
    type: str,
    *,
    actor: str,
    org: str,
    source: str | None,
    told: Document | None = None,
    audited: Document | None = None,
) -> Controls:
    """One change of a queue's controls, with its event: `told` to everybody, `audited` where it is an action."""
    following = {"$add": [{"$ifNull": ["$event_seq", 0]}, 1]}
    event = {
        "type": type,
        "at": "$$NOW",
        "queue": literal(name),
        "actor": literal(actor),
        "org": literal(org),
        **(told or {}),
        **({"source": literal(source), **(audited or {})} if source is not None else {}),
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


async def forget(store: Store, name: str, *, org: str = "") -> None:
    """Deletes a queue's controls and series (obliterate)."""
    await store.queues.delete_one({"_id": _key(name, org)})
    await store.minutes.delete_many({"queue": name, "org": org})


async def has_jobs(store: Store, name: str, *, org: str | None) -> bool:
    """Whether a queue has a job, by two look-ups in indexes."""
    scope = {"queue": name} | ({} if org is None else {"org": org})
    for state, hint in (({"$in": AT_REST}, "listing"), ("active", "active")):
        if await store.jobs.find_one({**scope, "state": state}, {"_id": 1}, hint=hint) is not None:
            return True
    return False


async def repeating(store: Store, names: Sequence[str], *, org: str | None) -> dict[str, int]:
    """How many of the newest 10,000 scheduled jobs of each queue have a repetition; in two seconds, so that those of
    many queues may be missing."""
    scope = {} if org is None else {"org": org}
    found = {}
    with suppress(ExecutionTimeout), time_limit(TIME_LIMIT_MS):
        for name in names:
            rows = await store.database.aggregate(
                store.jobs.name,
                [
                    {"$match": {"queue": name, "state": "scheduled", **scope}},
                    {"$sort": {"_id": -1}},
                    {"$limit": MOST_SCHEDULED},
                    {"$match": {"repeat": {"$exists": True}}},
                    {"$count": "n"},
                ],
                hint="listing",
            )
            found[name] = rows[0]["n"] if rows else 0
    return found


async def group_counts(store: Store, name: str, *, org: str | None, limit: int = 1_000) -> list[Document]:
    """Waiting and active jobs per group of a queue: `{_id: group, waiting, active}`, bounded to two seconds."""
    match: Document = {"queue": name, "group": {"$exists": True}} | ({} if org is None else {"org": org})
    # They stand in two indexes.
    ranges = [match | {"state": "waiting"}, match | {"state": "active", "worker_id": {"$gt": ""}}]

    def one(state: str) -> Document:
        return {"$sum": {"$cond": [{"$eq": ["$state", state]}, 1, 0]}}

    with time_limit(TIME_LIMIT_MS):
        return await store.database.aggregate(
            store.jobs.name,
            [
                {"$match": {"$or": ranges}},
                {"$group": {"_id": "$group", "waiting": one("waiting"), "active": one("active")}},
                {"$sort": {"_id": 1}},
                {"$limit": limit},
            ],
        )
