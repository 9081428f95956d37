"""How many jobs are in each state, and what happened in each minute and hour?

Both are *folded* from the change stream by one elected process: no extra write per job. Increments and the cursor they
reach to are one transaction, so a crash repeats or skips nothing. After lost history everything is counted afresh from
a snapshot, and only events behind that snapshot are folded.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.errors import PyMongoError

from switchtower.callers import Reach
from switchtower.events import Event, Topic
from switchtower.ids import API_KEY
from switchtower.metrics import Granularity, MetricBucket, Snapshot, bucket_of
from switchtower.states import JobState
from switchtower.store.changes import moment_of
from switchtower.store.collections import Store
from switchtower.store.driver import outrun, time_limit

__all__ = [
    "Delta",
    "by_queue",
    "commit",
    "fold",
    "forget",
    "last_snapshot",
    "latest",
    "position",
    "recount",
    "series",
    "snapshots",
    "take_snapshot",
]

Document = dict[str, Any]

FOLD = "#fold"
READ_MS = 2_000
RECOUNT_MS = 240_000
RETRIES = 10
RETRY_SECONDS = 0.05
"""Millions of jobs take longer than a request may; the server keeps a snapshot for five minutes."""
_MINUTE = timedelta(minutes=1)
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
    """What a batch of events adds: per (queue, org) and state, per (minute, queue, org, name) and measure, and the jobs
    enqueued per (day, org, key).

    A measure `h.N` counts the runs in bucket N of the histogram of run times.
    """

    states: dict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    minutes: dict[tuple[datetime, str, str, str], dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    slowest: dict[tuple[datetime, str, str, str], tuple[int, int]] = field(default_factory=dict)
    usage: dict[tuple[datetime, str, str], int] = field(default_factory=lambda: defaultdict(int))
    latest: dict[tuple[str, str], datetime] = field(default_factory=dict)


def fold(events: Iterable[Event]) -> Delta:
    """Adds up job events; every other event counts nothing."""
    delta = Delta()
    place: tuple[str, str, str] | None = None
    minute = minute_end = datetime.max.replace(tzinfo=UTC)
    for event in events:
        if event.topic is not Topic.JOB:
            continue
        to = "removed" if event.data.get("removed") else event.to_state
        if event.from_state != to:
            states = delta.states[(event.queue, event.org)]
            delta.latest[(event.queue, event.org)] = event.at
            if event.from_state in _STATES:
                states[str(event.from_state)] -= 1
            if to in _STATES:
                states[str(to)] += 1
        outcome = _OUTCOMES.get(event.type)
        if event.type == "rescue" and event.to_state == "failed":
            outcome = "failed"
        if outcome is None and event.type != "claim":
            continue
        # Neighbours mostly share their row.
        if not (place == (event.queue, event.org, event.name) and minute <= event.at < minute_end):
            place = (event.queue, event.org, event.name)
            minute = event.at.replace(second=0, microsecond=0)
            minute_end = minute + _MINUTE
            key = (minute, *place)
            row = delta.minutes[key]
        if outcome is not None:
            row[outcome] += 1
        if outcome == "enqueued":
            key_id = event.actor if event.actor and event.actor.startswith(f"{API_KEY}_") else ""
            delta.usage[(event.at.replace(hour=0, minute=0, second=0, microsecond=0), event.org, key_id)] += 1
        if event.type == "claim":
            row["claimed"] += 1
            row["wait_ms"] += max(0, int(event.data.get("wait_ms", 0)))
        elif "ms" in event.data:
            ms = int(event.data["ms"])
            row["ran"] += 1
            row["run_ms"] += ms
            row[f"h.{bucket_of(ms)}"] += 1
            low, high = delta.slowest.get(key, (ms, ms))
            delta.slowest[key] = (min(low, ms), max(high, ms))
    return delta


async def position(store: Store) -> tuple[str | None, int]:
    """Up to which cursor events are folded (None before the first count), and which cluster time the count covers:
    events up to it are counted already."""
    row = await store.counters.find_one({"_id": FOLD})
    return (row["cursor"], row["clock"]) if row else (None, 0)


async def commit(store: Store, delta: Delta, *, reached: str, seen: str | None, series: bool = True) -> bool:
    """Adds a delta and moves the cursor, in one transaction; without `series`, states only.

    Guard: the cursor still stands at `seen`, so a deposed folder writes nothing. Returns: whether it was written.
    """
    states = [
        {
            "q": {"_id": f"{queue}/{org}"},
            "u": {
                "$inc": {f"counts.{state}": n for state, n in row.items() if n},
                "$max": {"latest": delta.latest[(queue, org)]},
                "$setOnInsert": {"queue": queue, "org": org},
            },
            "upsert": True,
        }
        for (queue, org), row in delta.states.items()
        if any(row.values())
    ]
    minutes, hours = _series(delta) if series else ([], [])
    usage = _usage(delta) if series else []
    if not states and not minutes:
        answer = await store.counters.update_one({"_id": FOLD, "cursor": seen}, {"$set": {"cursor": reached}})
        return bool(answer.matched_count)
    updates = [(store.counters, states), (store.minutes, minutes), (store.hours, hours), (store.usage, usage)]
    for _ in range(RETRIES):
        try:
            return await _commit(store, updates, reached=reached, seen=seen)
        except PyMongoError as error:
            # A queue that is obliterated at the same moment, say; nothing was written.
            if not outrun(error):
                raise
            await asyncio.sleep(RETRY_SECONDS * random.random())
    return await _commit(store, updates, reached=reached, seen=seen)


async def _commit(
    store: Store, updates: Sequence[tuple[Any, Sequence[Document]]], *, reached: str, seen: str | None
) -> bool:
    async with store.database.transaction() as session:
        moved = await store.counters.update_one(
            {"_id": FOLD, "cursor": seen}, {"$set": {"cursor": reached}}, session=session
        )
        if not moved.matched_count:
            return False
        for collection, statements in updates:
            for start in range(0, len(statements), 1_000):
                await store.database.command(
                    {"update": collection.name, "updates": statements[start : start + 1_000], "ordered": False},
                    session=session,
                )
    return True


def _usage(delta: Delta) -> list[Document]:
    return [
        {"q": {"org": org, "day": day, "key": key_id}, "u": {"$inc": {"enqueued": n}}, "upsert": True}
        for (day, org, key_id), n in delta.usage.items()
    ]


def _series(delta: Delta) -> tuple[list[Document], list[Document]]:
    """The updates of the minute rows, and of the hour rows that they belong to."""
    hours: dict[tuple[datetime, str, str, str], tuple[dict[str, int], tuple[int, int] | None]] = {}
    for (minute, queue, org, name), row in delta.minutes.items():
        key = (minute.replace(minute=0), queue, org, name)
        sums, bounds = hours.setdefault(key, (defaultdict(int), None))
        for measure, n in row.items():
            sums[measure] += n
        if (seen := delta.slowest.get((minute, queue, org, name))) is not None:
            bounds = seen if bounds is None else (min(bounds[0], seen[0]), max(bounds[1], seen[1]))
            hours[key] = (sums, bounds)
    return (
        [_row("minute", key, row, delta.slowest.get(key)) for key, row in delta.minutes.items()],
        [_row("hour", key, sums, bounds) for key, (sums, bounds) in hours.items()],
    )


def _row(
    span: str, key: tuple[datetime, str, str, str], sums: dict[str, int], bounds: tuple[int, int] | None
) -> Document:
    at, queue, org, name = key
    update: Document = {"$inc": dict(sums)}
    if bounds is not None:
        update |= {"$min": {"min_ms": bounds[0]}, "$max": {"max_ms": bounds[1]}}
    return {"q": {span: at, "queue": queue, "org": org, "name": name}, "u": update, "upsert": True}


async def recount(store: Store, *, reached: str) -> int:
    """Counts all jobs afresh in one snapshot and replaces the counters. Returns: the snapshot's cluster time.

    Events up to that time are in the count already. The snapshot is that of the cursor `reached` (of now, without one):
    left to itself the server takes the last one that a majority has, which may lie before it.
    """
    at_cursor = {"atClusterTime": moment_of(reached)} if reached else {}
    count = {
        "aggregate": store.jobs.name,
        "pipeline": [
            {
                "$group": {
                    "_id": {"queue": "$queue", "org": "$org", "state": "$state"},
                    "n": {"$sum": 1},
                    "latest": {"$max": "$updated_at"},
                }
            },
        ],
        "cursor": {"batchSize": 100_000},
        "readConcern": {"level": "snapshot", **at_cursor},
        "allowDiskUse": True,
    }
    with time_limit(RECOUNT_MS):
        answer = await store.database.command(count)
    at = answer["cursor"]["atClusterTime"]
    rows: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    times: dict[tuple[str, str], datetime] = {}
    for row in answer["cursor"]["firstBatch"]:
        if row["_id"]["state"] not in _STATES:
            continue
        key = (row["_id"]["queue"], row["_id"]["org"])
        rows[key][row["_id"]["state"]] = row["n"]
        times[key] = max(row["latest"], times.get(key, row["latest"]))
    clock = (int(at.time) << 32) | int(at.inc)
    async with store.database.transaction() as session:
        await store.counters.delete_many({}, session=session)
        documents: list[Document] = [
            {"_id": f"{queue}/{org}", "queue": queue, "org": org, "counts": counts, "latest": times[(queue, org)]}
            for (queue, org), counts in rows.items()
        ]
        await store.counters.insert_many(
            [*documents, {"_id": FOLD, "cursor": reached, "clock": clock}], session=session
        )
    return clock


async def by_queue(store: Store, *, reach: Reach, queues: Sequence[str] | None = None) -> dict[str, dict[str, int]]:
    """Per queue the jobs of each state, summed over the tenants that the caller sees."""
    match: Document = {"_id": {"$ne": FOLD}} | ({} if reach.org is None else {"org": reach.org})
    if (queues := reach.among(queues)) is not None:
        match["queue"] = {"$in": queues}
    found: dict[str, dict[str, int]] = {}
    async for row in store.counters.find(match):
        if row.get("forgotten") and not any(row["counts"].values()):
            continue
        counts = found.setdefault(row["queue"], {})
        for state, n in row.get("counts", {}).items():
            counts[state] = counts.get(state, 0) + n
    return found


async def latest(store: Store, *, reach: Reach, queues: Sequence[str]) -> dict[str, datetime]:
    """When a job of each of these queues last changed its state, as far as that is known."""
    match: Document = {"queue": {"$in": reach.among(queues)}, "latest": {"$exists": True}}
    if reach.org is not None:
        match["org"] = reach.org
    found: dict[str, datetime] = {}
    async for row in store.counters.find(match, {"queue": 1, "latest": 1}):
        found[row["queue"]] = max(row["latest"], found.get(row["queue"], row["latest"]))
    return found


async def forget(store: Store, queue: str, *, org: str | None) -> None:
    """Leaves an obliterated queue out of every list as soon as its last removals are folded."""
    scope = {} if org is None else {"org": org}
    await store.counters.update_many({"queue": queue, **scope}, {"$set": {"forgotten": True}})


async def series(
    store: Store,
    *,
    queues: Sequence[str],
    since: datetime,
    until: datetime | None = None,
    reach: Reach,
    name: str | None = None,
    granularity: Granularity = Granularity.MINUTE,
    limit: int = 50_000,
) -> list[MetricBucket]:
    """The buckets of these queues since a time, per job name, oldest first, at most `limit`."""
    span = granularity.value
    times: Document = {"$gte": granularity.start_of(since)}
    if until is not None:
        times["$lte"] = until
    match: Document = {"queue": {"$in": reach.among(queues)}, span: times}
    if reach.org is not None:
        match["org"] = reach.org
    if name is not None:
        match["name"] = name
    rows = store.minutes if granularity is Granularity.MINUTE else store.hours
    return [_bucket_from(row, granularity) async for row in rows.find(match, sort=[(span, 1)], limit=limit)]


async def totals(
    store: Store,
    *,
    since: datetime,
    until: datetime,
    reach: Reach,
    name: str | None = None,
    by_name: bool = False,
    granularity: Granularity = Granularity.MINUTE,
) -> list[MetricBucket]:
    """The buckets of all queues that the caller sees, added up by the database (with `by_name`, per job name), oldest
    first; their queue is ""."""
    span = granularity.value
    match: Document = {span: {"$gte": granularity.start_of(since), "$lte": until}}
    if reach.queues is not None:
        match["queue"] = {"$in": sorted(reach.queues)}
    if reach.org is not None:
        match["org"] = reach.org
    if name is not None:
        match["name"] = name
    key: Document = {span: f"${span}", "name": "$name" if by_name else {"$literal": name}}
    sums = {field: {"$sum": f"${field}"} for field in _SUMMED}
    bounds = {"min_ms": {"$min": "$min_ms"}, "max_ms": {"$max": "$max_ms"}}
    counted = {"$group": {"_id": key | {"k": "$h.k"}, "n": {"$sum": "$h.v"}}}
    rows = (store.minutes if granularity is Granularity.MINUTE else store.hours).name
    with time_limit(READ_MS):
        wholes, parts = await asyncio.gather(
            store.database.aggregate(rows, [{"$match": match}, {"$group": {"_id": key, **sums, **bounds}}]),
            store.database.aggregate(
                rows,
                [{"$match": match}, {"$set": {"h": {"$objectToArray": "$h"}}}, {"$unwind": "$h"}, counted],
            ),
        )
    found: dict[tuple[datetime, str | None], Document] = {}
    for row in wholes:
        found[row["_id"][span], row["_id"]["name"]] = row | row["_id"] | {"queue": "", "h": {}}
    for part in parts:
        at = part["_id"]
        # Of two reads the second may see a bucket that the first did not.
        if (at[span], at["name"]) in found:
            found[at[span], at["name"]]["h"][at["k"]] = part["n"]
    buckets = (_bucket_from(row, granularity) for row in found.values())
    return sorted(buckets, key=lambda bucket: (bucket.at, bucket.name or ""))


_SUMMED = ("enqueued", "completed", "failed", "retried", "cancelled", "ran", "run_ms", "claimed", "wait_ms")


def _bucket_from(row: Document, granularity: Granularity) -> MetricBucket:
    get = row.get
    return MetricBucket(
        row[granularity.value],
        granularity,
        row["queue"],
        row["name"],
        enqueued=get("enqueued", 0),
        completed=get("completed", 0),
        failed=get("failed", 0),
        retried=get("retried", 0),
        cancelled=get("cancelled", 0),
        runs=get("ran", 0),
        run_ms=get("run_ms", 0),
        min_ms=get("min_ms"),
        max_ms=get("max_ms"),
        claimed=get("claimed", 0),
        wait_ms=get("wait_ms", 0),
        histogram={int(bucket): count for bucket, count in get("h", {}).items()},
    )


async def last_snapshot(store: Store) -> datetime | None:
    """When the last snapshot was taken."""
    row = await store.snapshots.find_one({}, {"_id": 1}, sort=[("_id", -1)])
    return None if row is None else row["_id"]


_SNAPSHOT = ("counts", "queues", "workers", "completed", "failed", "retried", "mean_ms")


async def take_snapshot(store: Store, snapshot: Snapshot) -> None:
    """Keeps the totals of one moment; the same moment twice is kept once."""
    row = {
        field: getattr(snapshot, field)
        for field in ("counts", "queues", "workers", "completed", "failed", "retried", "mean_ms")
    }
    await store.snapshots.update_one({"_id": snapshot.at}, {"$setOnInsert": row | {"at": snapshot.at}}, upsert=True)


async def snapshots(store: Store, limit: int) -> list[Snapshot]:
    """The last snapshots, the newest first."""
    rows = store.snapshots.find({}, sort=[("_id", -1)], limit=limit)
    return [
        Snapshot(
            row["_id"],
            row["counts"],
            row["queues"],
            row["workers"],
            row["completed"],
            row["failed"],
            row["retried"],
            row["mean_ms"],
        )
        async for row in rows
    ]
