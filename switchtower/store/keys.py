"""Which commands keep API keys, hand out portions of their rate, and keep what tenants may use and used?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from switchtower.access import ApiKey, RateLimit, Scope, TenantLimits, Usage
from switchtower.callers import Caller
from switchtower.limits import Limit
from switchtower.store.collections import Store
from switchtower.store.expressions import literal, when
from switchtower.store.guards import listed
from switchtower.store.queues import limit_document, limit_from
from switchtower.store.scans import scan

__all__ = [
    "Portion",
    "by_digest",
    "find_many",
    "insert",
    "insert_tenant",
    "job_limits",
    "none_exists",
    "revoke",
    "take",
    "tenant",
    "usage",
    "used_jobs",
]

Document = dict[str, Any]
_SHOWN = {"digest": 0}


def _rate_document(rate: RateLimit | None) -> Document | None:
    return None if rate is None else {"requests": rate.requests, "per_ms": rate.per_ms}


def _rate_from(d: Document | None) -> RateLimit | None:
    return None if d is None else RateLimit(d["requests"], d["per_ms"])


def _key_from(d: Document) -> ApiKey:
    return ApiKey(
        d["_id"],
        d["name"],
        d["env"],
        frozenset(Scope(scope) for scope in d["scopes"]),
        d["created_at"],
        d["created_by"],
        org=d.get("tenant"),
        app=d.get("app", ""),
        queue=d.get("queue"),
        queues=None if (queues := d.get("queues")) is None else frozenset(queues),
        rate=_rate_from(d.get("rate")),
        expires_at=d.get("expires_at"),
        revoked_at=d.get("revoked_at"),
        dev=d.get("dev", False),
    )


def _visible(caller: Caller) -> Document:
    seen = ({} if caller.org is None else {"tenant": caller.org}) | listed(caller.reach)
    return {"$or": [seen, {"_id": caller.key_id}]} if seen else {}


async def insert(store: Store, key: ApiKey, digest: bytes) -> None:
    """Keeps a key by the digest of its text, and stamps the event."""
    event = {"type": "create", "at": key.created_at, "name": key.name, "actor": key.created_by, "org": key.org or ""}
    document: Document = {
        "_id": key.id,
        "digest": digest,
        "name": key.name,
        "env": key.env,
        "scopes": sorted(scope.value for scope in key.scopes),
        "tenant": key.org,
        "app": key.app,
        "queue": key.queue,
        "queues": None if key.queues is None else sorted(key.queues),
        "rate": _rate_document(key.rate),
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": None,
        "event_seq": 1,
        "event": {"1": event},
    }
    if key.dev:
        document["dev"] = True
    await store.keys.insert_one(document)


async def by_digest(store: Store, digest: bytes) -> tuple[ApiKey, bytes] | None:
    """The key with this digest, revoked or not, and the digest as it is kept.

    Looked up by the digest alone: whether the id in a wrong text exists makes no difference in the work done.
    """
    row = await store.keys.find_one({"digest": digest})
    return None if row is None else (_key_from(row), bytes(row["digest"]))


async def find_many(store: Store, caller: Caller, ids: Sequence[str] | None = None) -> list[ApiKey]:
    """The keys that a caller may see, oldest first; of these ids where given."""
    match = _visible(caller) | ({} if ids is None else {"_id": {"$in": list(ids)}})
    return [_key_from(row) async for row in store.keys.find(match, _SHOWN, sort=[("_id", 1)])]


async def none_exists(store: Store) -> bool:
    """Whether no key was ever created that asks everyone for one."""
    row = await store.keys.find_one({"dev": {"$exists": False}}, {"_id": 1}, hint=scan("keys.none_exists"))
    return row is None


async def revoke(store: Store, id: str, caller: Caller) -> ApiKey | None:
    """Revokes a key for good and stamps the event. Guard: it is not revoked. Returns: it, revoked by whomever."""
    following = {"$add": ["$event_seq", 1]}
    event = {
        "type": "revoke",
        "at": "$$NOW",
        "name": "$name",
        "actor": literal(caller.actor),
        "org": {"$ifNull": ["$tenant", ""]},
    }
    sets = {
        "revoked_at": "$$NOW",
        "event_seq": following,
        "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
    }
    match = {"_id": id, **_visible(caller)}
    row = await store.keys.find_one_and_update(
        {**match, "revoked_at": None}, [{"$set": sets}], _SHOWN, return_document=ReturnDocument.AFTER
    )
    row = row or await store.keys.find_one(match, _SHOWN)
    return None if row is None else _key_from(row)


@dataclass(frozen=True, slots=True)
class Portion:
    """Requests that this process may admit without asking again, within `left_ms`; with `granted` 0, how long until
    there may be room."""

    id: str
    granted: int
    left_ms: int


HOLD_SHARE = 10
"""A portion may be used for a tenth of the interval; what is not returned counts for so much longer."""


async def take(store: Store, owner: str, rate: RateLimit, size: int, *, spent: Portion | None, used: int) -> Portion:
    """Takes up to `size` requests out of a rate, of any interval of whose length none has more: every portion counts
    until its last possible use lies one interval back. `spent` is the caller's portion before, of which it `used` so
    many: from now on it counts as that many, used by now.
    """
    id = uuid4().hex
    hold_ms = max(1, rate.per_ms // HOLD_SHARE)
    returned = {"n": {"$min": ["$$p.n", used]}, "until": {"$min": ["$$p.until", {"$add": ["$$NOW", rate.per_ms]}]}}
    settled = {
        "$map": {
            "input": {"$ifNull": ["$portions", []]},
            "as": "p",
            "in": when({"$eq": ["$$p.id", spent.id if spent else ""]}, {"$mergeObjects": ["$$p", returned]}, "$$p"),
        }
    }
    counting = {"$and": [{"$gt": ["$$p.until", "$$NOW"]}, {"$gt": ["$$p.n", 0]}]}
    given: Document = {"id": id, "n": "$granted", "until": {"$add": ["$$NOW", hold_ms + rate.per_ms]}}
    some = {"$gt": ["$granted", 0]}
    pipeline: list[Document] = [
        {"$set": {"portions": {"$filter": {"input": settled, "as": "p", "cond": counting}}}},
        {
            "$set": {
                "granted": {"$max": [0, {"$min": [size, {"$subtract": [rate.requests, {"$sum": "$portions.n"}]}]}]},
                "wait_ms": {"$subtract": [{"$min": "$portions.until"}, "$$NOW"]},
            }
        },
        {"$set": {"portions": {"$concatArrays": ["$portions", when(some, [given], [])]}}},
        {"$set": {"left_ms": when(some, hold_ms, "$wait_ms"), "ends_at": {"$max": "$portions.until"}}},
        {"$unset": "wait_ms"},
    ]
    for last in (False, True):
        try:
            row = await store.rates.find_one_and_update(
                {"_id": owner},
                pipeline,
                {"granted": 1, "left_ms": 1},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            break
        except DuplicateKeyError:  # two first requests at once
            if last:
                raise
    return Portion(id, int(row["granted"]), max(1, int(row["left_ms"] or 1)))


async def insert_tenant(store: Store, limits: TenantLimits, *, actor: str) -> None:
    """Sets what a tenant may use."""
    sets = {
        "jobs_per_month": limits.jobs_per_month,
        "rate": _rate_document(limits.rate),
        "jobs": limit_document(limits.jobs),
        "max_retries": limits.max_retries,
        "changed_by": actor,
    }
    await store.tenants.update_one({"_id": limits.org}, {"$set": sets}, upsert=True)


async def tenant(store: Store, org: str) -> TenantLimits:
    """What a tenant may use."""
    row = await store.tenants.find_one({"_id": org})
    if row is None:
        return TenantLimits(org)
    jobs = limit_from(row.get("jobs", {}))
    return TenantLimits(org, row["jobs_per_month"], _rate_from(row["rate"]), jobs, row.get("max_retries"))


async def job_limits(store: Store, orgs: Collection[str]) -> dict[str, Limit]:
    """What bounds the running jobs of these tenants over all queues; only those that something does."""
    rows = await store.tenants.find({"_id": {"$in": sorted(orgs)}, "jobs": {"$exists": True}}, {"jobs": 1}).to_list(
        None
    )
    found = {row["_id"]: limit_from(row["jobs"]) for row in rows}
    return {org: limit for org, limit in found.items() if limit}


async def usage(store: Store, caller: Caller, since: date, until: date, limit: int) -> list[Usage]:
    """Jobs enqueued per day and key, both days included, the oldest first."""
    match: Document = {"day": {"$gte": _midnight(since), "$lte": _midnight(until)}}
    if caller.org is not None:
        match["org"] = caller.org
    if caller.queues is not None:
        # Usage is not kept by queue: who sees some of them sees what came with its own key.
        match["key"] = caller.key_id
    rows = store.usage.find(match, sort=[("day", 1), ("org", 1), ("key", 1)], limit=limit)
    return [Usage(row["day"].date(), row["org"], row["key"] or None, row["enqueued"]) async for row in rows]


async def used_jobs(store: Store, org: str, since: date) -> int:
    """How many jobs a tenant enqueued since a day."""
    rows = await store.usage.find({"org": org, "day": {"$gte": _midnight(since)}}, {"enqueued": 1}).to_list(None)
    return sum(row["enqueued"] for row in rows)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
