"""Which commands create, count and restart the jobs of a flow?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import BulkWriteError, DuplicateKeyError

from switchtower.errors import InvalidInput
from switchtower.flows import Planned
from switchtower.jobs import NewJob
from switchtower.states import FINAL, REMOVED, JobState
from switchtower.store import lanes, operations, outbox
from switchtower.store.collections import Store
from switchtower.store.guards import RESTARTED
from switchtower.store.jobs import Duplicate, index_of

__all__ = ["counts", "insert", "mark_cancelling", "placed", "refuse_own_links", "retry", "unrelayed"]

Document = dict[str, Any]

CHUNK = 1_000
_ENDED = (*sorted(FINAL), REMOVED)


def refuse_own_links(job: NewJob) -> None:
    """A node's place, and whether it is a repeat, are the flow's affair. Raises: InvalidInput."""
    if job.parent_id is not None or job.depends_on:
        raise InvalidInput(
            "flow.job", "must not have parentId or dependsOn of its own; use children and dependsOn keys."
        )
    if job.idempotency_key is not None:
        raise InvalidInput("flow.job.idempotencyKey", "is not a single job's here; give one, the flow's.")


def placed(document: Document, planned: Sequence[Planned], position: int, ids: Sequence[str]) -> Document:
    """The document of a new job, with its place in the flow."""
    entry = planned[position]
    document["flow_id"] = document["event"]["1"]["flow"] = ids[0]
    if entry.parent is None:
        document["flow_root"] = True
    else:
        document["parent_id"] = document["event"]["1"]["parent"] = ids[entry.parent]
    if entry.awaited:
        document["awaited"] = True
    depends_on = [ids[other] for other in entry.waits_for if planned[other].parent != position]
    if depends_on:
        document["depends_on"] = depends_on
    return document


async def insert(store: Store, documents: Sequence[Document]) -> None:
    """Inserts all jobs of a flow in one transaction of new documents only. Raises: Duplicate; nothing exists then."""
    await lanes.mark(store, documents)
    try:
        async with store.database.transaction() as session:
            for start in range(0, len(documents), CHUNK):
                await store.jobs.insert_many(documents[start : start + CHUNK], session=session)
    except BulkWriteError as error:
        first = error.details["writeErrors"][0]
        if first["code"] != 11000:
            raise
        raise Duplicate(index_of(first)) from None
    except DuplicateKeyError as error:
        raise Duplicate(index_of(error.details or {})) from None


async def counts(store: Store, roots: Sequence[str]) -> dict[str, dict[JobState, int]]:
    """Per flow, how many of its jobs are in each state."""
    rows = await store.database.aggregate(
        store.jobs.name,
        [
            {"$match": {"flow_id": {"$in": list(roots)}, "state": {"$in": [state.value for state in JobState]}}},
            {"$group": {"_id": {"flow": "$flow_id", "state": "$state"}, "n": {"$sum": 1}}},
        ],
    )
    found: dict[str, dict[JobState, int]] = {}
    for row in rows:
        states = found.setdefault(row["_id"]["flow"], dict.fromkeys(JobState, 0))
        states[JobState(row["_id"]["state"])] = row["n"]
    return found


async def mark_cancelling(store: Store, flow_id: str, actor: str) -> None:
    """Tells every open job of a flow that its flow is being cancelled: whoever of them waits for another that is
    cancelled is cancelled with it, neither failed by it nor set free. Guard: not final. No event: nothing has ended."""
    open_ = [state.value for state in JobState if state not in FINAL]
    await store.jobs.update_many({"flow_id": flow_id, "state": {"$in": open_}}, {"$set": {"cancelling": actor}})


async def unrelayed(store: Store, flow_id: str) -> list[str]:
    """The jobs of a flow that have ended and whose end is not told yet, at most a thousand."""
    ended = {"flow_id": flow_id, "outbox": {"$exists": True}}
    return [row["_id"] async for row in store.jobs.find(ended, {"_id": 1}, limit=CHUNK)]


async def retry(
    store: Store, flow_id: str, actor: str, *, source: str | None = None, action: Mapping[str, Any] | None = None
) -> int:
    """failed, cancelled → blocked while something below is not completed, else waiting; parents before children, so
    that none can miss its child's end. Returns: how many jobs. Raises: Duplicate when a unique key is held elsewhere;
    nothing has moved then, unless the key was taken meanwhile."""
    fields = {"state": 1, "parent_id": 1, "depends_on": 1, "org": 1, "unique_key": 1, "unique_hold": 1, "dedup": 1}
    match = {"flow_id": flow_id, "state": {"$in": [state.value for state in JobState]}}
    rows: list[Document] = await store.jobs.find(match, fields, sort=[("_id", 1)]).to_list(None)
    states = {row["_id"]: row["state"] for row in rows}
    below: dict[str, list[str]] = {row["_id"]: [id for id in row.get("depends_on", ()) if id in states] for row in rows}
    for row in rows:
        if row.get("parent_id") in below:
            below[row["parent_id"]].append(row["_id"])
    again = [row for row in rows if row["state"] in ("failed", "cancelled")]
    await _refuse_held_keys(store, again)
    moved = 0
    awaited: set[str] = set()
    refused: Duplicate | None = None
    for id in sorted((row["_id"] for row in again), key=lambda id: not below[id]):
        pending = sorted({other for other in below[id] if states[other] != "completed"})
        try:
            result = await store.jobs.update_one(
                {"_id": id, "state": {"$in": ["failed", "cancelled"]}, "outbox": {"$exists": False}, **RESTARTED},
                operations.retry(actor, pending=pending, source=source, action=action),
            )
        except DuplicateKeyError as error:
            refused = Duplicate(index_of(error.details or {}))
            break
        moved += result.modified_count
        awaited.update(pending)
    # What was open when it was read may have ended since, and has told nobody who waits for it only now.
    ended = {"_id": {"$in": sorted(awaited)}, "state": {"$in": list(_ENDED)}, "outbox": {"$exists": False}}
    told = await store.jobs.find(ended, {"state": 1, "last_state": 1, "name": 1, "error": 1}).to_list(None)
    await outbox.settle(store, told)
    if refused is not None:
        raise refused
    return moved


async def _refuse_held_keys(store: Store, rows: Sequence[Document]) -> None:
    """Raises: Duplicate where one of these jobs would want a unique key that an open job has, or another of them."""
    wanting = [row for row in rows if "unique_key" in row and not row.keys() & {"unique_hold", "dedup"}]
    keys = [row["unique_key"] for row in wanting]
    held = {"org": wanting[0]["org"], "unique_hold": {"$in": keys}} if wanting else None
    if len(set(keys)) < len(keys) or (held and await store.jobs.find_one(held, {"_id": 1}) is not None):
        raise Duplicate("unique_hold")
