"""Which commands keep crons, and turn a slot into exactly one job?

A tick is one guarded write on the cron's document: it moves `next_at` on and notes the slots in `due`. The jobs follow
from `due`, each under the slot as its custom id, and `due` is cleared last. Whoever dies in between leaves a document
that the next tick, of any process, carries on from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from switchtower.callers import Caller
from switchtower.crons import CatchUp, Cron, Fire, Overlap, Schedule
from switchtower.jobs import NewJob
from switchtower.retry import Backoff, BackoffKind
from switchtower.store.collections import Store
from switchtower.store.expressions import literal, when
from switchtower.store.guards import within
from switchtower.store.jobs import Duplicate

__all__ = [
    "by_name",
    "change",
    "cron_from",
    "decide",
    "delete",
    "due",
    "find",
    "insert",
    "job_template",
    "page",
    "schedule_document",
    "settle",
    "take_slots",
    "visible_to",
]

Document = dict[str, Any]

KEPT_FIRES = 50
_JOB_FIELDS = [
    "name",
    "payload",
    "queue",
    "priority",
    "max_attempts",
    "timeout_ms",
    "ttl_ms",
    "group",
    "unique_key",
    "unique_for_ms",
    "tags",
    "lifo",
    "remove_on_complete",
    "remove_on_fail",
    "webhook",
    "webhook_key",
]


def job_template(job: NewJob) -> Document:
    """What of a job a cron keeps."""
    template = {field: getattr(job, field) for field in _JOB_FIELDS}
    template["tags"] = list(job.tags)
    template["backoff"] = {
        **asdict(job.backoff),
        "kind": job.backoff.kind.value,
        "waits_ms": list(job.backoff.waits_ms),
    }
    return template


def _job_from(d: Mapping[str, Any]) -> NewJob:
    b = d["backoff"]
    backoff = Backoff(BackoffKind(b["kind"]), b["base_ms"], b["cap_ms"], b["jitter"], tuple(b["waits_ms"]))
    return NewJob(**{field: d[field] for field in _JOB_FIELDS if field in d}, backoff=backoff)


def cron_from(d: Mapping[str, Any]) -> Cron:
    """A cron as it was read."""
    schedule = d["schedule"]
    return Cron(
        id=d["_id"],
        name=d["name"],
        org=d["org"],
        app=d.get("app", ""),
        schedule=Schedule(schedule["expression"], schedule["every_ms"], schedule["timezone"], schedule["anchor"]),
        job=_job_from(d["job"]),
        enabled=d["enabled"],
        starts_at=d.get("starts_at"),
        ends_at=d.get("ends_at"),
        limit=d.get("limit"),
        overlap=Overlap(d["overlap"]),
        catch_up=CatchUp(d["catch_up"]),
        jitter_ms=d["jitter_ms"],
        next_at=d.get("next_at"),
        last_fired_at=d.get("last_fired_at"),
        fired=d["fired"],
        fires=[
            Fire(row["slot"], row["at"], row["outcome"], row.get("job_id"), row.get("reason")) for row in d["fires"]
        ],
        created_at=d["created_at"],
        updated_at=d["updated_at"],
    )


def schedule_document(schedule: Schedule) -> Document:
    """A schedule as it stands in a cron."""
    every = None if schedule.expression is not None else schedule.every_ms
    return {
        "expression": schedule.expression,
        "every_ms": every,
        "timezone": schedule.timezone,
        "anchor": schedule.anchor,
    }


_PERIOD = {"$ifNull": ["$schedule.expression", "$schedule.every_ms"]}
"""An expression as it is, or milliseconds."""


def _event(type: str, actor: str, source: str | None = None, **data: Any) -> Document:
    following = {"$add": ["$event_seq", 1]}
    event: Document = {
        "type": type,
        "at": "$$NOW",
        "name": "$name",
        "queue": "$job.queue",
        "org": "$org",
        "app": "$app",
    }
    event |= {"actor": literal(actor), **data}
    if source is not None:
        # Somebody's action: its audit row says what the cron does, and when.
        event |= {"source": literal(source), "task": "$job.name", "schedule": _PERIOD}
    return {
        "event_seq": following,
        "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
        "updated_at": "$$NOW",
    }


async def insert(store: Store, document: Document, *, actor: str, source: str | None = None) -> None:
    """Creates a cron. Guard: its name is free in its tenant. Raises: Duplicate."""
    now = document["created_at"]
    event = {"type": "create", "at": now, "name": document["name"], "queue": document["job"]["queue"], "actor": actor}
    event |= {"org": document["org"], "app": document.get("app", "")}
    if source is not None:
        schedule = document["schedule"]
        event |= {"source": source, "task": document["job"]["name"]}
        event["schedule"] = schedule["every_ms"] if schedule["expression"] is None else schedule["expression"]
    try:
        await store.crons.insert_one(
            {**document, "fired": 0, "fires": [], "due": [], "updated_at": now, "event_seq": 1, "event": {"1": event}}
        )
    except DuplicateKeyError:
        raise Duplicate("name") from None


def visible_to(caller: Caller) -> Document:
    """The condition of every look-up of a cron: it is in the queue of its job."""
    return within(caller.reach, queue="job.queue")


async def find(store: Store, id: str, caller: Caller) -> Document | None:
    """The cron with this id."""
    document: Document | None = await store.crons.find_one({"_id": id, **visible_to(caller)})
    return document


async def by_name(store: Store, name: str, org: str) -> Document | None:
    """The cron with this name."""
    document: Document | None = await store.crons.find_one({"org": org, "name": name})
    return document


async def page(
    store: Store, caller: Caller, *, after: str | None, limit: int, skip: int = 0, queue: str | None = None
) -> list[Document]:
    """Crons (whose jobs go to one queue) in the order of their creation, behind an id, or without the first so many."""
    wanted: list[Document] = [{"_id": {"$gt": after or ""}}, {} if queue is None else {"job.queue": queue}]
    match = {"$and": [visible_to(caller), *wanted]}
    rows: list[Document] = await store.crons.find(match, sort=[("_id", 1)], skip=skip, limit=limit).to_list(limit)
    return rows


async def change(
    store: Store, id: str, caller: Caller, type: str, fields: Mapping[str, Any], *, seen: int | None = None
) -> Document | None:
    """Changes a cron and stamps the event. Guard: with `seen`, nobody changed it since that event. Raises:
    Duplicate."""
    sets = {field: literal(value) for field, value in fields.items()}
    match = {"_id": id, **visible_to(caller)} | ({} if seen is None else {"event_seq": seen})
    try:
        document: Document | None = await store.crons.find_one_and_update(
            match,
            [{"$set": {**_event(type, caller.actor, caller.surface, **_change(fields)), **sets}}],
            return_document=ReturnDocument.AFTER,
        )
    except DuplicateKeyError:
        raise Duplicate("name") from None
    return document


def _change(fields: Mapping[str, Any]) -> Document:
    """Before and after, for the audit trail; of the job, which can be large, its name and queue."""
    small = [field for field in fields if field not in ("job", "next_at")]
    before: Document = {field: f"${field}" for field in small}
    after: Document = {field: literal(fields[field]) for field in small}
    if "job" in fields:
        before["job"] = {"name": "$job.name", "queue": "$job.queue"}
        after["job"] = {"name": literal(fields["job"]["name"]), "queue": literal(fields["job"]["queue"])}
    return {"before": before, "after": after}


async def delete(store: Store, id: str, caller: Caller) -> Document | None:
    """Deletes a cron; its jobs stay. The event is stamped first, since a delete carries none."""
    document = await change(store, id, caller, "delete", {"enabled": False, "next_at": None})
    if document is not None:
        await store.crons.delete_one({"_id": id})
    return document


async def due(store: Store, limit: int) -> list[Document]:
    """Enabled crons whose slot has come by the database's clock, and those with slots that nobody finished."""
    come = {"enabled": True, "next_at": {"$type": "date"}, "$expr": {"$lte": ["$next_at", "$$NOW"]}}
    rows: list[Document] = await store.crons.find(
        {"$or": [come, {"due.slot": {"$exists": True}}]}, sort=[("next_at", 1)], limit=limit
    ).to_list(limit)
    return rows


async def take_slots(
    store: Store, cron: Document, slots: Sequence[datetime], *, next_at: datetime | None
) -> Document | None:
    """Moves a cron behind its due slots and notes them. Guard: it still stands at the slot that was seen, is enabled,
    and nothing is unfinished. Returns: the cron after, or None when another scheduler was first."""
    document: Document | None = await store.crons.find_one_and_update(
        {"_id": cron["_id"], "next_at": cron["next_at"], "enabled": True, "due": [], "event_seq": cron["event_seq"]},
        {
            "$set": {"next_at": next_at, "due": [{"slot": slot} for slot in slots]},
            "$inc": {"fired": len(slots)},
        },
        return_document=ReturnDocument.AFTER,
    )
    return document


async def decide(store: Store, cron_id: str, slot: datetime, reason: str | None) -> str:
    """Notes once and for all whether a slot is skipped, since schedulers that look at different moments see different
    things. Returns: the reason that stands; "" where the slot makes its job."""
    await store.crons.update_one(
        {"_id": cron_id, "due": {"$elemMatch": {"slot": slot, "skip": {"$exists": False}}}},
        {"$set": {"due.$.skip": reason or ""}},
    )
    row = await store.crons.find_one({"_id": cron_id}, {"due": 1})
    entries = [entry for entry in (row or {}).get("due", ()) if entry["slot"] == slot]
    return entries[0]["skip"] if entries else "Another scheduler has dealt with it."


async def settle(
    store: Store, cron_id: str, slot: datetime, fire: Fire, *, actor: str, behind: datetime | None
) -> bool:
    """Takes one slot out of `due` and into the history, with its event. Guard: it is still there.

    Where nothing is left in `due` and a cron that had come to its limit is below it again, since slots were skipped, it
    goes on with the slot `behind` this one, in the same write: nobody would look at it again.
    """
    row = {
        "slot": fire.slot,
        "at": "$$NOW",
        "outcome": fire.outcome,
        "job_id": fire.job_id,
        "reason": literal(fire.reason),
    }
    rows = {"$slice": [{"$concatArrays": ["$fires", [row]]}, -KEPT_FIRES]}
    left = {"$filter": {"input": "$due", "as": "d", "cond": {"$ne": ["$$d.slot", slot]}}}
    fired = fire.outcome == "fired"
    count: Any = "$fired" if fired else {"$subtract": ["$fired", 1]}
    below_its_limit = {"$and": [{"$isNumber": "$limit"}, {"$lt": [count, "$limit"]}]}
    stands = {"$and": ["$enabled", {"$eq": ["$next_at", None]}, {"$eq": [{"$size": "$due"}, 1]}, below_its_limit]}
    stamped = _event("fire" if fired else "skip", actor, slot=slot, job=fire.job_id)
    result = await store.crons.update_one(
        {"_id": cron_id, "due.slot": slot},
        [
            {
                "$set": {
                    **stamped,
                    "due": left,
                    "fires": rows,
                    "last_fired_at": slot if fired else "$last_fired_at",
                    "last_job_id": fire.job_id if fired else "$last_job_id",
                    "fired": count,
                    "next_at": when(stands, behind, "$next_at"),
                }
            }
        ],
    )
    return bool(result.modified_count)
