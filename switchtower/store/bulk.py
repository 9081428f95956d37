"""Which commands take a bulk operation through its chunks?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import BulkWriteError, WriteError

from switchtower.store import jobs as job_commands
from switchtower.store.collections import Store
from switchtower.store.guards import starts_from

__all__ = ["advance", "move_chunk", "restored", "stored"]

Document = dict[str, Any]


async def move_chunk(
    store: Store, verb: str, ids: Sequence[str], pipeline: list[Document], *, guard: Mapping[str, Any]
) -> int:
    """One guarded write for a chunk; where a unique key refuses one job, each job by itself. Returns: how many were
    refused so."""
    try:
        await store.jobs.update_many({"_id": {"$in": list(ids)}, **starts_from(verb), **guard}, pipeline)
    except (BulkWriteError, WriteError) as error:
        if getattr(error, "code", None) != 11000:
            raise
        refused = 0
        for id in ids:
            try:
                await job_commands.move(store, verb, id, pipeline, guard=guard)
            except job_commands.Duplicate:
                refused += 1
        return refused
    return 0


async def advance(
    store: Store, id: str, *, seen: str, reached: str, matched: int, changed: int, failed: int, done: bool
) -> None:
    """Notes that a chunk is done. Guard: the operation still stands where the chunk began."""
    following = {"$add": ["$event_seq", 1]}
    counts = {"matched": matched, "changed": changed, "failed": failed}
    event: Document = {
        "type": "end" if done else "progress",
        "at": "$$NOW",
        "actor": "$actor",
        "org": {"$ifNull": ["$org", ""]},
        "flow": "$flow",
    }
    if done:
        event |= {"source": "$source", "verb": "$verb"}
        event |= {name: {"$add": [f"${name}", n]} for name, n in counts.items()}
    await store.bulk_operations.update_one(
        {"_id": id, "after": seen, "done": False},
        [
            {
                "$set": {
                    "after": reached,
                    **{name: {"$add": [f"${name}", n]} for name, n in counts.items()},
                    "done": done,
                    "finished_at": "$$NOW" if done else "$$REMOVE",
                    "event_seq": following,
                    "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
                }
            }
        ],
    )


def stored(match: Any) -> Any:
    """A filter with its `$` and `.` keys spelled so that it can be stored."""
    if isinstance(match, dict):
        return {"pairs": [[key, stored(value)] for key, value in match.items()]}
    if isinstance(match, list):
        return {"items": [stored(value) for value in match]}
    return {"value": match}


def restored(stored: Document) -> Any:
    """The filter that `stored` spelled."""
    if "pairs" in stored:
        return {key: restored(value) for key, value in stored["pairs"]}
    if "items" in stored:
        return [restored(value) for value in stored["items"]]
    return stored["value"]
