"""How many jobs are in each state, and what happened in each minute?

Both are *folded* from the change stream by one elected process: no extra write per job. Increments and the cursor they
reach to are one transaction, so a crash repeats or skips nothing. After lost history everything is counted afresh from
a snapshot, and only events behind that snapshot are folded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from switchtower.events import Event, Topic
from switchtower.states import JobState
from switchtower.store.collections import Store

__all__ = ["Delta", "by_queue", "commit", "fold", "forget", "position", "recount", "series"]

Document = dict[str, Any]

FOLD = "#fold"
_STATES = {state.value for state in JobState}
_OUTCOMES = {
    "enqueue": "enqueued",
    "complete": "completed",
    "backoff": "retried",
    "bury": "failed",
    "expire": "failed",
    "abandon": "failed",
    "cancel": "cancelled",
    "abort": "cancelled",
}


@dataclass(slots=True)
class Delta:
    """What a batch of events adds: per (queue, org) and state, and per (minute, queue, org, name) and measure."""

    states: dict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    minutes: dict[tuple[datetime, str, str, str], dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    slowest: dict[tuple[datetime, str, str, str], tuple[int, int]] = field(default_factory=dict)


def fold(events: Iterable[Event]) -> Delta:
    """Adds up job events; every other event counts nothing."""
    delta = Delta()
    for event in events:
        if event.topic is not Topic.JOB:
            continue
        to = "removed" if event.data.get("removed") else event.to_state
        if event.from_state != to:
            states = delta.states[(event.queue, event.org)]
            if event.from_state in _STATES:
                states[str(event.from_state)] -= 1
            if to in _STATES:
                states[str(to)] += 1
        outcome = _OUTCOMES.get(event.type)
        if event.type == "rescue" and event.to_state == "failed":
            outcome = "failed"
        if outcome is None and event.type != "claim":
            continue
        key = (event.at.replace(second=0, microsecond=0), event.queue, event.org, event.name)
        row = delta.minutes[key]
        if outcome is not None:
            row[outcome] += 1
        if event.type == "claim":
            row["claimed"] += 1
            row["wait_ms"] += max(0, int(event.data.get("wait_ms", 0)))
        elif "ms" in event.data:
            ms = int(event.data["ms"])
            row["ran"] += 1
            row["run_ms"] += ms
            low, high = delta.slowest.get(key, (ms, ms))
            delta.slowest[key] = (min(low, ms), max(high, ms))
    return delta


async def position(store: Store) -> tuple[str | None, int]:
    """Up to which cursor events are folded (None before the first count), and which cluster time the count covers:
    events up to it are counted already."""
    row = await store.counters.find_one({"_id": FOLD})
    return (row["cursor"], row["clock"]) if row else (None, 0)


async def commit(store: Store, delta: Delta, *, reached: str, seen: str | None) -> bool:
    """Adds a delta and moves the cursor, in one transaction.

    Guard: the cursor still stands at `seen`, so a deposed folder writes nothing. Returns: whether it was written.
    """
    states = [
        {
            "q": {"_id": f"{queue}/{org}"},
            "u": {
                "$inc": {f"counts.{state}": n for state, n in row.items() if n},
                "$setOnInsert": {"queue": queue, "org": org},
            },
            "upsert": True,
        }
        for (queue, org), row in delta.states.items()
        if any(row.values())
    ]
    minutes = []
    for key, row in delta.minutes.items():
        minute, queue, org, name = key
        update: Document = {"$inc": dict(row)}
        if key in delta.slowest:
            low, high = delta.slowest[key]
            update |= {"$min": {"min_ms": low}, "$max": {"max_ms": high}}
        same = {"minute": minute, "queue": queue, "org": org, "name": name}
        minutes.append({"q": {**same}, "u": update, "upsert": True})
    if not states and not minutes:
        answer = await store.counters.update_one({"_id": FOLD, "cursor": seen}, {"$set": {"cursor": reached}})
        return bool(answer.matched_count)
    async with store.database.transaction() as session:
        moved = await store.counters.update_one(
            {"_id": FOLD, "cursor": seen}, {"$set": {"cursor": reached}}, session=session
        )
        if not moved.matched_count:
            return False
        for collection, updates in ((store.counters, states), (store.minutes, minutes)):
            for start in range(0, len(updates), 1_000):
                await store.database.command(
                    {"update": collection.name, "updates": updates[start : start + 1_000], "ordered": False},
                    session=session,
                )
    return True


async def recount(store: Store, *, reached: str) -> int:
    """Counts all jobs afresh in one snapshot and replaces the counters. Returns: the snapshot's cluster time.

    Events up to that time are in the count already; `reached` is a cursor at or before it.
    """
    answer = await store.database.command(
        {
            "aggregate": store.jobs.name,
            "pipeline": [
                {"$match": {"state": {"$in": sorted(_STATES)}}},
                {"$group": {"_id": {"queue": "$queue", "org": "$org", "state": "$state"}, "n": {"$sum": 1}}},
            ],
            "cursor": {"batchSize": 100_000},
            "readConcern": {"level": "snapshot"},
            "allowDiskUse": True,
        }
    )
    at = answer["cursor"]["atClusterTime"]
    rows: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in answer["cursor"]["firstBatch"]:
        rows[(row["_id"]["queue"], row["_id"]["org"])][row["_id"]["state"]] = row["n"]
    clock = (int(at.time) << 32) | int(at.inc)
    async with store.database.transaction() as session:
        await store.counters.delete_many({}, session=session)
        documents: list[Document] = [
            {"_id": f"{queue}/{org}", "queue": queue, "org": org, "counts": counts}
            for (queue, org), counts in rows.items()
        ]
        await store.counters.insert_many(
            [*documents, {"_id": FOLD, "cursor": reached, "clock": clock}], session=session
        )
    return clock


async def by_queue(store: Store, *, org: str | None, queues: Sequence[str] | None = None) -> dict[str, dict[str, int]]:
    """Per queue the jobs of each state, summed over the tenants that the caller sees."""
    match: Document = {"_id": {"$ne": FOLD}} | ({} if org is None else {"org": org})
    if queues is not None:
        match["queue"] = {"$in": list(queues)}
    found: dict[str, dict[str, int]] = {}
    async for row in store.counters.find(match):
        if row.get("forgotten") and not any(row["counts"].values()):
            continue
        counts = found.setdefault(row["queue"], {})
        for state, n in row.get("counts", {}).items():
            counts[state] = counts.get(state, 0) + n
    return found


async def forget(store: Store, queue: str, *, org: str | None) -> None:
    """Leaves an obliterated queue out of every list as soon as its last removals are folded."""
    scope = {} if org is None else {"org": org}
    await store.counters.update_many({"queue": queue, **scope}, {"$set": {"forgotten": True}})


async def series(
    store: Store, *, queues: Sequence[str], since: datetime, org: str | None, name: str | None = None
) -> list[Document]:
    """The minute rows of these queues since a time, oldest first."""
    match: Document = {"queue": {"$in": list(queues)}, "minute": {"$gte": since - timedelta(seconds=since.second)}}
    if org is not None:
        match["org"] = org
    if name is not None:
        match["name"] = name
    rows: list[Document] = await store.minutes.find(match, sort=[("minute", 1)], limit=20_000).to_list(None)
    return rows
