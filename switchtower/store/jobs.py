"""Which commands create, find and move single jobs for an operator?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError

from switchtower.callers import Caller
from switchtower.states import FINAL
from switchtower.store import lanes
from switchtower.store.collections import Store
from switchtower.store.guards import NOT_REMOVED, starts_from, within

__all__ = [
    "Duplicate",
    "extend",
    "find_by_ids",
    "index_of",
    "insert_in_session",
    "insert_many",
    "is_announced",
    "let_go",
    "locate",
    "mark_awaited",
    "may_have_lapsed",
    "move",
    "move_many",
    "release_hold",
    "replace",
    "visible_to",
]

Document = dict[str, Any]

FAR = datetime(9999, 1, 1, tzinfo=UTC)


class Duplicate(Exception):
    """An insert or a move met a unique index; `index` names it."""

    def __init__(self, index: str) -> None:
        super().__init__(index)
        self.index = index


def visible_to(caller: Caller) -> Document:
    """The condition of every look-up of a job, or of what has its queue: an operator sees all, a tenant its own."""
    return within(caller.reach)


def index_of(error: Mapping[str, Any]) -> str:
    """Which unique index a duplicate-key error of the server is about."""
    pattern = error.get("keyPattern") or {}
    for index in ("unique_hold", "idempotency_key", "custom_id", "_id"):
        if index in pattern:
            return index
    message = str(error.get("errmsg", ""))
    return next(
        (index for index in ("unique_hold", "idempotency_key", "custom_id") if f"index: {index} " in message), "_id"
    )


def is_announced(store: Store, document: Document) -> bool:
    """Whether claimers know of where this job will stand; `insert_many` tells them of where dictionaries will."""
    return lanes.is_marked(store, document["queue"], document["lane"])


async def insert_many(store: Store, documents: Sequence[Mapping[str, Any]], *, session: Any = None) -> dict[int, str]:
    """Inserts new jobs, one command for all.

    Guard: the unique indexes. Effect: each document without a conflict exists.
    Returns: for each refused position, the index that refused it; `_id` there means that an earlier try of this very
        insert had landed.
    Raises: a driver error with an unknown outcome: repeat with the same documents.
    """
    await lanes.mark(store, [document for document in documents if isinstance(document, dict)])
    try:
        await store.jobs.insert_many(documents, ordered=False, session=session)
    except BulkWriteError as error:
        details = error.details
        refused = {row["index"]: index_of(row) for row in details["writeErrors"] if row["code"] == 11000}
        if len(refused) == len(details["writeErrors"]) and not details.get("writeConcernErrors"):
            return refused
        raise
    return {}


async def insert_in_session(store: Store, document: Document, session: Any) -> None:
    """Inserts one job inside a transaction of the caller's, through that session's own client.

    Raises: Duplicate; the transaction is aborted by the server then.
    """
    await lanes.mark(store, [document])
    try:
        await store.database.of_session(session, store.jobs.name).insert_one(document, session=session)
    except DuplicateKeyError as error:
        raise Duplicate(index_of(error.details or {})) from None


async def find_by_ids(store: Store, ids: Sequence[str], *, fields: Mapping[str, int] | None = None) -> list[Document]:
    """Jobs by our ids, tombstones included, in no order."""
    found: list[Document] = await store.jobs.find({"_id": {"$in": list(ids)}}, fields).to_list(None)
    return found


async def locate(store: Store, id: str, caller: Caller, *, fields: Mapping[str, int] | None = None) -> Document | None:
    """The job with this id, ours or the caller's own (the newest, where queues share it); tombstones are not found."""
    scope = visible_to(caller) | {"state": NOT_REMOVED}
    document: Document | None = await store.jobs.find_one({"_id": id, **scope}, fields)
    if document is None:
        document = await store.jobs.find_one({"custom_id": id, **scope}, fields, sort=[("_id", DESCENDING)])
    return document


async def move(
    store: Store,
    verb: str,
    id: str,
    pipeline: list[Document],
    *,
    guard: Mapping[str, Any] | None = None,
    before: bool = False,
) -> Document | None:
    """One guarded transition of one job.

    Guard: the verb's states and `guard`. Effect: the pipeline. Returns: the document after (or before) it; None when
    nothing matched, and then nothing was written.
    Raises: Duplicate when a unique key is held by another job.
    """
    try:
        document: Document | None = await store.jobs.find_one_and_update(
            {"_id": id, **starts_from(verb), **(guard or {})},
            pipeline,
            return_document=ReturnDocument.BEFORE if before else ReturnDocument.AFTER,
        )
    except DuplicateKeyError as error:
        raise Duplicate(index_of(error.details or {})) from None
    return document


async def move_many(
    store: Store, verb: str, ids: Sequence[str], pipeline: list[Document], *, guard: Mapping[str, Any] | None = None
) -> int:
    """The same transition for many jobs; each is guarded by itself. Returns how many moved.

    Only for verbs whose caller does not need to know which ones moved: the count is no answer after an error.
    """
    result = await store.jobs.update_many({"_id": {"$in": list(ids)}, **starts_from(verb), **(guard or {})}, pipeline)
    return int(result.modified_count)


async def mark_awaited(store: Store, ids: Sequence[str]) -> None:
    """Tells open jobs that somebody waits for them, so that their end is relayed. Guard: not final."""
    await store.jobs.update_many(
        {"_id": {"$in": list(ids)}, "state": {"$in": ["scheduled", "waiting", "blocked", "active", "retrying"]}},
        {"$set": {"awaited": True}},
    )


_LAPSING = [
    {"dedup.mode": "debounce", "state": {"$ne": "scheduled"}},
    {"dedup.mode": "debounce", "reported": {"$exists": True}},
    {"dedup": {"$exists": True}, "$expr": {"$lte": ["$unique_until", "$$NOW"]}, "unique_until": {"$exists": True}},
]


def may_have_lapsed(holder: Mapping[str, Any], now: datetime) -> bool:
    """Whether `release_hold` is worth a try: what it decides by the database's clock, by `now`."""
    debounced = holder["dedup"]["mode"] == "debounce"
    left = debounced and (holder["state"] != "scheduled" or "reported" in holder)
    return left or holder.get("unique_until", FAR) <= now


async def release_hold(store: Store, id: str) -> bool:
    """Takes the deduplication key from a job whose right to it has passed: a debounced one that is not scheduled any
    more, or one whose time is over by the database's clock. Returns whether it had passed."""
    result = await store.jobs.update_one({"_id": id, "$or": _LAPSING}, {"$unset": {"unique_hold": ""}})
    return bool(result.matched_count)


async def replace(store: Store, id: str, new: Document, pipeline: list[Document]) -> Document | None:
    """Makes a scheduled job what a later enqueue asked for.

    Guard: scheduled, never run, still under the key of `new`. Returns: the job after it; None when nothing matched.
    Raises: Duplicate when another job has the idempotency key of `new`.
    """
    guard = {"unique_hold": new["unique_hold"], "reported": {"$exists": False}}
    return await move(store, "replace", id, pipeline, guard=guard)


async def extend(store: Store, id: str, new: Document) -> None:
    """Begins the time of a deduplication key anew. Guard: the job holds the key, and its time has not passed."""
    until = new["unique_until"]
    await store.jobs.update_one(
        {"_id": id, "unique_hold": new["unique_hold"], "$expr": {"$gt": ["$unique_until", "$$NOW"]}},
        [
            {
                "$set": {
                    "unique_until": {"$max": ["$unique_until", until]},
                    "release_at": {"$min": ["$idempotency_until", {"$max": ["$unique_until", until]}]},
                }
            }
        ],
    )


async def let_go(store: Store) -> int:
    """Frees idempotency keys and unique holds whose time has passed. Guard: `release_at` passed. Returns how many
    jobs."""
    key_over = {"$lte": [{"$ifNull": ["$idempotency_until", FAR]}, "$$NOW"]}
    # A deduplication's time ends its hold; a unique key is held by an open job past its time.
    ends = {"$or": [{"$in": ["$state", [*sorted(FINAL), "removed"]]}, {"$ne": [{"$type": "$dedup"}, "missing"]}]}
    hold_over = {"$and": [ends, {"$lte": [{"$ifNull": ["$unique_until", FAR]}, "$$NOW"]}]}
    next_hold = {"$cond": [{"$and": [ends, {"$gt": ["$unique_until", "$$NOW"]}]}, "$unique_until", None]}
    next_key = {"$cond": [key_over, None, "$idempotency_until"]}
    result = await store.jobs.update_many(
        {"release_at": {"$exists": True}, "$expr": {"$lte": ["$release_at", "$$NOW"]}},
        [
            {
                "$set": {
                    "idempotency_key": {"$cond": [key_over, "$$REMOVE", "$idempotency_key"]},
                    "idempotency_until": {"$cond": [key_over, "$$REMOVE", "$idempotency_until"]},
                    "unique_hold": {"$cond": [hold_over, "$$REMOVE", "$unique_hold"]},
                    "release_at": {"$ifNull": [{"$min": [next_key, next_hold]}, "$$REMOVE"]},
                }
            }
        ],
    )
    return int(result.modified_count)
