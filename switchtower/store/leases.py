"""Which commands keep workers alive, and elect one process for a duty?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from switchtower.callers import Reach
from switchtower.clock import from_ms
from switchtower.errors import StoreUnavailable
from switchtower.store.collections import Store
from switchtower.store.driver import DriverError, unavailable
from switchtower.store.expressions import literal
from switchtower.workers import Worker, WorkerInfo, WorkerState

__all__ = [
    "acquire",
    "finish",
    "is_held",
    "lose",
    "lost_candidates",
    "register",
    "renew",
    "renew_blocking",
    "resign",
    "stray_holders",
    "visible_to",
    "worker_from",
]

Document = dict[str, Any]

PRESENT = [WorkerState.LIVE.value, WorkerState.DRAINING.value]
GONE = [WorkerState.LOST.value, WorkerState.STOPPED.value]


def visible_to(reach: Reach) -> Document:
    """The workers that a caller sees: a tenant its own and the operator's; those that serve a queue that it sees."""
    return ({} if reach.org is None else {"org": {"$in": [reach.org, None]}}) | (
        {} if reach.queues is None else {"queues": {"$in": sorted(reach.queues)}}
    )


def renewal(lease_ms: int | str) -> list[Document]:
    """The update that extends a worker's lease by the database's clock; shared with the heartbeat thread."""
    return [{"$set": {"heartbeat_at": "$$NOW", "expires_at": {"$add": ["$$NOW", lease_ms]}}}]


def _event(type: str) -> Document:
    following = {"$add": [{"$ifNull": ["$event_seq", 0]}, 1]}
    event = {"type": type, "at": "$$NOW", "queues": "$queues", "actor": "$_id"}
    return {
        "event_seq": following,
        "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
    }


async def register(store: Store, info: WorkerInfo) -> Document:
    """Creates or revives a worker with a fresh lease, never one that ends before the one that it has. A lost worker
    that comes back under its id is a new one to us: what it held was or will be rescued by token."""
    lease_ms = int(info.lease_seconds * 1000)
    fields: Document = {
        "state": WorkerState.LIVE.value,
        "queues": list(info.queues),
        "names": list(info.names),
        "concurrency": info.concurrency,
        "hostname": info.hostname,
        "pid": info.pid,
        "kind": info.kind,
        "lease_ms": lease_ms,
    }
    if info.org is not None:
        fields["org"] = info.org
    promised = {"$cond": [{"$in": [{"$ifNull": ["$state", None]}, PRESENT]}, "$expires_at", None]}
    document: Document = await store.workers.find_one_and_update(
        {"_id": info.id},
        [
            # `state` is the one from before here.
            {"$set": {"expires_at": {"$max": [{"$add": ["$$NOW", lease_ms]}, promised]}}},
            {"$set": {key: {"$literal": value} for key, value in fields.items()}},
            {
                "$set": {
                    "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
                    "heartbeat_at": "$$NOW",
                    "gone_at": "$$REMOVE",
                    **_event("register"),
                }
            },
        ],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return document


async def renew(store: Store, worker_id: str, lease_ms: int | None = None) -> Document | None:
    """Extends a lease. Guard: the worker is present (a lost one must not come back by renewing). Returns: it, or
    None."""
    document: Document | None = await store.workers.find_one_and_update(
        {"_id": worker_id, "state": {"$in": PRESENT}},
        renewal(lease_ms if lease_ms is not None else "$lease_ms"),
        return_document=ReturnDocument.AFTER,
    )
    return document


def renew_blocking(database: Any, worker_id: str, lease_ms: int) -> Document | None:
    """`renew` for the heartbeat thread, over a synchronous handle. Raises: StoreUnavailable; it may have happened."""
    match = {"_id": worker_id, "state": {"$in": PRESENT}}
    try:
        row: Document | None = database["workers"].find_one_and_update(match, renewal(lease_ms), {"state": 1})
    except DriverError as error:
        if unavailable(error):
            raise StoreUnavailable() from error
        raise
    return row


async def finish(
    store: Store, worker_id: str, state: WorkerState, *, sources: Sequence[str] = PRESENT
) -> Document | None:
    """present → draining, stopped or lost, whatever its lease says. Returns: the worker, or None when it was not
    present."""
    gone = {} if state is WorkerState.DRAINING else {"gone_at": "$$NOW"}
    document: Document | None = await store.workers.find_one_and_update(
        {"_id": worker_id, "state": {"$in": list(sources)}},
        [{"$set": {"state": state.value, **gone, **_event(state.value)}}],
        return_document=ReturnDocument.AFTER,
    )
    return document


async def lost_candidates(store: Store, limit: int = 100) -> list[Document]:
    """Present workers whose lease has passed by the database's clock."""
    passed = {"state": {"$in": PRESENT}, "$expr": {"$lt": ["$expires_at", "$$NOW"]}}
    found: list[Document] = await store.workers.find(passed, limit=limit).to_list(None)
    return found


async def stray_holders(store: Store, limit: int = 1_000) -> set[str]:
    """Workers that hold jobs and are not present: the process that was taking their jobs back died, or they thawed
    after they were lost and claimed before they knew (one index seek per present worker)."""
    present = [row["_id"] async for row in store.workers.find({"state": {"$in": PRESENT}}, {"_id": 1})]
    rows = store.jobs.find({"state": "active", "worker_id": {"$nin": present}}, {"worker_id": 1}, limit=limit).hint(
        "active"
    )
    return {row["worker_id"] async for row in rows}


async def lose(store: Store, worker_id: str) -> Document | None:
    """present → lost. Guard: its lease has passed by the database's clock at this very moment."""
    document: Document | None = await store.workers.find_one_and_update(
        {"_id": worker_id, "state": {"$in": PRESENT}, "$expr": {"$lt": ["$expires_at", "$$NOW"]}},
        [{"$set": {"state": WorkerState.LOST.value, "gone_at": "$$NOW", **_event("lost")}}],
        return_document=ReturnDocument.AFTER,
    )
    return document


def worker_from(d: Document) -> Worker:
    """A worker as it was read."""
    return Worker(
        id=d["_id"],
        state=WorkerState(d["state"]),
        queues=d["queues"],
        names=d["names"],
        concurrency=d["concurrency"],
        hostname=d["hostname"],
        pid=d["pid"],
        kind=d["kind"],
        started_at=d["started_at"],
        heartbeat_at=d["heartbeat_at"],
        expires_at=d["expires_at"],
        lease_seconds=d["lease_ms"] / 1000,
        org=d.get("org"),
    )


async def acquire(store: Store, duty: str, holder: str, term_ms: int) -> int | None:
    """Takes or renews the lease on a duty. Guard: free, passed, or held by this holder already.

    Returns: the term (it grows with every change of holder), or None when another process holds it.
    """
    mine_or_free = {"$or": [{"holder": holder}, {"$expr": {"$lt": ["$expires_at", "$$NOW"]}}]}
    same = {"$eq": ["$holder", literal(holder)]}
    pipeline = [
        {
            "$set": {
                "term": {"$cond": [same, "$term", {"$add": ["$term", 1]}]},
                "holder": literal(holder),
                "expires_at": {"$add": ["$$NOW", term_ms]},
            }
        }
    ]
    for _ in range(2):
        document = await store.leases.find_one_and_update(
            {"_id": duty, **mine_or_free}, pipeline, return_document=ReturnDocument.AFTER
        )
        if document is not None:
            return int(document["term"])
        try:
            await store.leases.insert_one({"_id": duty, "holder": "", "term": 0, "expires_at": from_ms(0)})
        except DuplicateKeyError:
            return None
    return None


async def resign(store: Store, duty: str, holder: str) -> None:
    """Gives a duty up, so that the next process need not wait for the term to pass."""
    await store.leases.update_one(
        {"_id": duty, "holder": holder}, [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}, "holder": ""}}]
    )


async def is_held(store: Store, duty: str) -> bool:
    """Whether some process holds a duty now."""
    held = {"_id": duty, "$expr": {"$gte": ["$expires_at", "$$NOW"]}}
    return await store.leases.find_one(held, {"_id": 1}) is not None
