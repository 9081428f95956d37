"""What must follow a transition in other documents, and how does it happen exactly once?

A transition declares its effects in the job's own `outbox`, in its own write. Whoever relays them may die at any point:
each effect is idempotent (a unique index, or removing an id from a set), and the outbox is cleared last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.errors import BulkWriteError

from switchtower.ids import DEAD_LETTER, new_id
from switchtower.jobs import ErrorKind, JobError, fingerprint
from switchtower.store import operations, repeats, transitions
from switchtower.store.collections import Store
from switchtower.store.guards import starts_from

__all__ = ["pending", "relay", "repair_blocked"]

Document = dict[str, Any]

_COPIED = [
    "name",
    "queue",
    "org",
    "app",
    "payload",
    "error",
    "attempt",
    "max_attempts",
    "backoff",
    "timeout_ms",
    "ttl_ms",
    "group",
    "tags",
    "priority",
    "lifo",
    "unique_key",
    "unique_for_ms",
    "dedup",
    "remove_on_complete",
    "remove_on_fail",
    "custom_id",
    "traceparent",
    "generation",
    "dialect",
    "rank",
    "opts",
    "executor",
    "webhook_key",
]


async def pending(store: Store, limit: int, *, id: str | None = None) -> list[Document]:
    """Jobs with effects still to relay (or the one with this id, if it has some)."""
    fields = {"logs": 0, "attempts": 0, "timeline": 0, "event": 0, "result": 0}
    match: Document = {"outbox": {"$exists": True}} | ({} if id is None else {"_id": id})
    cursor = store.jobs.find(match, fields, limit=limit).hint("outbox" if id is None else "_id_")
    found: list[Document] = await cursor.to_list(limit)
    return found


async def relay(store: Store, jobs: Sequence[Document]) -> int:
    """Carries out the effects of these jobs and clears their outboxes. Returns how many jobs were relayed."""
    if not jobs:
        return 0
    await _bury(store, [job for job in jobs if "dead_letter" in job["outbox"]])
    await settle(store, [job for job in jobs if "settle" in job["outbox"]])
    await repeats.follow(store, [job for job in jobs if "repeat" in job])
    for generation in {job["generation"] for job in jobs}:
        ids = [job["_id"] for job in jobs if job["generation"] == generation]
        await store.jobs.update_many(
            {"_id": {"$in": ids}, "generation": generation, "outbox": {"$exists": True}}, {"$unset": {"outbox": ""}}
        )
    return len(jobs)


async def _bury(store: Store, jobs: Sequence[Document]) -> None:
    if not jobs:
        return
    try:
        await store.dead_letters.insert_many([_dead_letter(job) for job in jobs], ordered=False)
    except BulkWriteError as error:
        if any(row["code"] != 11000 for row in error.details["writeErrors"]):
            raise


def _dead_letter(job: Document) -> Document:
    failed_at = job.get("finished_at", job["updated_at"])
    entry = {field: job[field] for field in _COPIED if field in job}
    event = {"type": "bury", "at": failed_at, "queue": job["queue"], "name": job["name"], "org": job["org"]}
    event |= {"app": job.get("app", ""), "actor": "system", "job": job["_id"]}
    return {
        "_id": new_id(DEAD_LETTER),
        "job_id": job["_id"],
        **entry,
        "failed_at": failed_at,
        "created_at": job["created_at"],
        "event_seq": 1,
        "event": {"1": event},
    }


async def settle(store: Store, jobs: Sequence[Document]) -> None:
    """Tells whoever waited for these ended jobs: completed ones free them, any other end fails them.

    Jobs that completed in one flush are taken out of a parent in one write: the fan-in of a thousand children is not a
    thousand writes of a thousand ids.
    """
    done = [
        job["_id"]
        for job in jobs
        if (job["state"] if job["state"] != "removed" else job.get("last_state")) == "completed"
    ]
    if done:
        await store.jobs.update_many({"pending": {"$in": done}}, transitions.unblock(done))
    for job in jobs:
        if job["_id"] not in done:
            await _settle_failure(store, job)


async def _settle_failure(store: Store, job: Document) -> None:
    """What did not complete: whoever waited fails with it, or goes on as its own policy says."""
    waiting = {"pending": job["_id"]}
    tolerant = waiting | {"on_child_failure": {"$in": ["ignore", "remove"]}}
    if "cancelling" in job and job["state"] == "cancelled":
        await store.jobs.update_many(
            {**waiting, "cancelling": {"$exists": True}, **starts_from("abandon")}, operations.cancel(job["cancelling"])
        )
    if await store.jobs.find_one({**waiting, "on_child_failure": "remove"}, {"_id": 1}) is not None:
        # Before they are told, and with its outbox as it is: whoever dies in between leaves both to be repeated.
        gone = {"_id": job["_id"], "state": {"$in": ["failed", "cancelled"]}}
        fields = operations.remove("system")[0]["$set"] | {"outbox": "$outbox"}
        await store.jobs.update_one(gone, [{"$set": fields}])
    await store.jobs.update_many(tolerant, transitions.unblock([job["_id"]]))
    await store.jobs.update_many({**waiting, **starts_from("abandon")}, transitions.abandon(_dependency_error(job)))
    await store.jobs.update_many(waiting, {"$pull": {"pending": job["_id"]}})


def _dependency_error(job: Document) -> JobError:
    state = job.get("last_state", "removed") if job["state"] == "removed" else job["state"]
    what = (
        "was removed" if state not in ("failed", "cancelled") else ("failed" if state == "failed" else "was cancelled")
    )
    detail = f": {job['error']['message'][:500]}" if job.get("error") else ""
    message = f"Job {job['_id']} ({job['name']}), which this job waits for, {what}{detail}"
    return JobError(
        ErrorKind.DEPENDENCY, "DependencyFailed", message, None, fingerprint("DependencyFailed", job["name"])
    )


async def repair_blocked(store: Store, *, after: str, limit: int) -> str:
    """Frees or fails blocked jobs whose dependencies ended without telling (their enqueuer died half-way).

    Looks at `limit` blocked jobs that rested for ten seconds, from id `after` on. Returns: where to go on, "" at the
    end.
    """
    rested = {"$expr": {"$lt": ["$updated_at", {"$subtract": ["$$NOW", 10_000]}]}}
    blocked: list[Document] = await store.jobs.find(
        {"pending": {"$exists": True}, "state": "blocked", "_id": {"$gt": after}, **rested},
        {"pending": 1, "updated_at": 1},
        sort=[("_id", 1)],
        limit=limit,
    ).to_list(limit)
    awaited = sorted({id for job in blocked for id in job["pending"]})
    if awaited:
        fields = {"state": 1, "last_state": 1, "name": 1, "error": 1}
        found: list[Document] = await store.jobs.find({"_id": {"$in": awaited}}, fields).to_list(None)
        ended = [job for job in found if job["state"] in ("completed", "failed", "cancelled", "removed")]
        await settle(store, ended)
        missing = sorted(set(awaited) - {job["_id"] for job in found})
        if missing:
            minute = {"$expr": {"$lt": ["$updated_at", {"$subtract": ["$$NOW", 60_000]}]}}
            await store.jobs.update_many(
                {"pending": {"$in": missing}, "state": "blocked", **minute}, transitions.unblock(missing)
            )
        open_ = [job["_id"] for job in found if job not in ended]
        if open_:
            await store.jobs.update_many(
                {"_id": {"$in": open_}, "awaited": {"$exists": False}}, {"$set": {"awaited": True}}
            )
    return blocked[-1]["_id"] if len(blocked) == limit else ""
