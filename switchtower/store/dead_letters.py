"""Which commands read and prune the dead letters?"""

from __future__ import annotations

import re
from typing import Any

from pymongo import ReturnDocument

from switchtower.callers import Reach
from switchtower.dead_letters import DeadLetter, DeadLetterFilter
from switchtower.errors import InvalidInput
from switchtower.store.collections import Store
from switchtower.store.documents import error_from
from switchtower.store.expressions import literal
from switchtower.store.scans import scan

__all__ = ["dead_letter_from", "filter_document", "hinted", "mark_replayed"]

Document = dict[str, Any]
_INDEXED = ("org", "queue", "job_id", "failed_at")


def dead_letter_from(d: Document) -> DeadLetter:
    """An entry as it was read."""
    return DeadLetter(
        id=d["_id"],
        job_id=d["job_id"],
        generation=d["generation"],
        name=d["name"],
        queue=d["queue"],
        payload=d.get("payload"),
        error=error_from(d.get("error")),
        attempt=d["attempt"],
        max_attempts=d["max_attempts"],
        priority=d.get("priority", 0),
        failed_at=d["failed_at"],
        created_at=d["created_at"],
        replayed_at=d.get("replayed_at"),
        replay_job_ids=d.get("replay_job_ids", []),
        org=d["org"],
        app=d.get("app", ""),
        group=d.get("group"),
        tags=d.get("tags", []),
    )


def filter_document(filter: DeadLetterFilter, *, reach: Reach) -> Document:
    """The filter as MongoDB takes it; values are compared, never interpreted."""
    match: Document = {} if reach.org is None else {"org": reach.org}
    for field, values in (("_id", filter.ids), ("queue", reach.among(filter.queues)), ("name", filter.names)):
        if values is not None:
            match[field] = {"$in": list(values)}
    if filter.job_id is not None:
        match["job_id"] = filter.job_id
    if filter.replayed is not None:
        match["replayed_at"] = {"$exists": filter.replayed}
    bounds = {"$gt": filter.failed_after, "$lt": filter.failed_before}
    if any(bounds.values()):
        match["failed_at"] = {key: at for key, at in bounds.items() if at is not None}
    if filter.fingerprint is not None:
        match["error.fingerprint"] = filter.fingerprint
    if filter.text is not None:
        if "\0" in filter.text:
            raise InvalidInput("text", "must not contain NUL.")
        pattern = {"$regex": re.escape(filter.text[:256]), "$options": "i"}
        match["$or"] = [{"_id": filter.text}, {"job_id": filter.text}, {"name": pattern}, {"error.message": pattern}]
    return match


def hinted(match: Document) -> Document:
    """How a filter is to be counted: by an index that serves it, where there is one."""
    return {} if not match or match.keys() & {"_id", *_INDEXED} else {"hint": scan("dead_letters.count")}


async def mark_replayed(
    store: Store, id: str, job_id: str, actor: str, *, source: str | None = None
) -> Document | None:
    """Notes on an entry which job replays it; a second note of the same job changes nothing."""
    following = {"$add": ["$event_seq", 1]}
    event: Document = {
        "type": "replay",
        "at": "$$NOW",
        "queue": "$queue",
        "name": "$name",
        "org": "$org",
        "app": "$app",
    }
    event |= {"actor": literal(actor), "job": job_id}
    if source is not None:
        event["source"] = literal(source)
    document: Document | None = await store.dead_letters.find_one_and_update(
        {"_id": id, "replay_job_ids": {"$ne": job_id}},
        [
            {
                "$set": {
                    "replayed_at": "$$NOW",
                    "replay_job_ids": {
                        "$slice": [{"$concatArrays": [{"$ifNull": ["$replay_job_ids", []]}, [job_id]]}, -100]
                    },
                    "event_seq": following,
                    "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
                }
            }
        ],
        return_document=ReturnDocument.AFTER,
    )
    return document
