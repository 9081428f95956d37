"""Which commands keep a limit from being exceeded, across all processes?

A job that runs under limits names them in `limited` for as long as it is active: how many run is counted, never kept,
so a worker that dies leaves nothing to repair. What counting cannot see is who is about to claim. That is reserved
first, in the limit's own document, by a write that holds only if nobody else has reserved since the count; and a claim
under a reservation carries a deadline that lies before the reservation's end, by the database's clock.

Starts within a rate's interval are kept as rows of how many until when, never as more recent than they are shown:
each is dated when its claim was settled, after it happened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from switchtower.ids import lease_token
from switchtower.limits import Limit
from switchtower.store import transitions
from switchtower.store.collections import Store
from switchtower.store.expressions import literal, when
from switchtower.store.guards import claimable
from switchtower.store.indexes import HOT
from switchtower.store.lanes import BEHIND, lane_of

__all__ = [
    "Level",
    "adopt",
    "claim",
    "grouped",
    "kinds",
    "levels",
    "open_for",
    "reserve",
    "running",
    "settle",
    "waiting",
]

Document = dict[str, Any]

RESERVED_MS = 20_000
CLAIM_WITHIN_MS = 10_000
"""A command ends within its time limit, which is shorter than what lies between the two."""
COUNT_VALID_MS = 5_000
IDLE_MS = 60_000
ROWS_PER_INTERVAL = 50
"""A rate's starts share rows within a fiftieth of its interval: by so much it may be under-used."""


@dataclass(slots=True)
class Level:
    """How full a limit is, when it was looked at (`now`, the database's time)."""

    key: str
    version: str
    now: datetime
    running: int
    reserved: int
    started: int
    free_at: datetime | None
    """When the oldest start leaves the rate's interval; None where none is in it."""

    def room(self, limit: Limit) -> int:
        """How many more jobs may be claimed under it."""
        bounds = []
        if limit.concurrency is not None:
            bounds.append(limit.concurrency - self.running - self.reserved)
        if limit.rate is not None:
            bounds.append(limit.rate.starts - self.started)
        return max(0, min(bounds)) if bounds else 1_000_000

    def waits_for_rate(self, limit: Limit) -> bool:
        """Whether it is the rate that leaves no room."""
        return limit.rate is not None and self.started >= limit.rate.starts


async def running(store: Store, match: Document) -> dict[str, int]:
    """How many active jobs name each of the limits whose keys match.

    Reads what is not on a majority yet too: it must not miss a claim.
    """
    pipeline: list[Document] = [
        {"$match": {"limited": match, "state": "active"}},
        {"$unwind": "$limited"},
        {"$match": {"limited": match}},
        {"$group": {"_id": "$limited", "jobs": {"$sum": 1}}},
    ]
    return {row["_id"]: row["jobs"] for row in await _latest(store, store.jobs.name, pipeline)}


async def _latest(
    store: Store, collection: str, pipeline: list[Document], *, hint: str | None = None
) -> list[Document]:
    """What the primary has now, on a majority or not yet."""
    options: Document = {"cursor": {"batchSize": 100_000}, "readConcern": {"level": "local"}}
    if hint is not None:
        options["hint"] = hint
    answer = await store.database.command({"aggregate": collection, "pipeline": pipeline, **options})
    rows: list[Document] = answer["cursor"]["firstBatch"]
    return rows


async def levels(
    store: Store, limits: Mapping[str, Limit], *, without: str = "", create: bool = True
) -> dict[str, Level]:
    """How full these limits are; the reservations of the claim token `without` do not count.

    `create` makes the documents of those that nobody reserved under of late, for `reserve` to write to.

    The documents are read first and the jobs counted second: what was reserved between them is refused by `reserve`,
    what was claimed between them is seen twice.
    """
    rows = await _documents(store, list(limits))
    if create and len(rows) < len(limits):
        await _create(store, [key for key in limits if key not in rows])
        rows = await _documents(store, list(limits))
    counts = await running(store, {"$in": list(limits)})
    now = store.clock.now()
    return {
        key: _level(rows.get(key) or _row(key, now), limits[key], counts.get(key, 0), without, now) for key in limits
    }


async def waiting(store: Store, key: str, limit: Limit, *, queue: str, owner: str, group: str) -> Level:
    """How full a group is of which only so many jobs may wait: `running` are those that wait, and that nobody holds a
    place for any more; a reservation's token is the id of its job.

    Counted in the index of claims: jobs of a paused name, which stand outside of it, do not count.
    """
    rows = await _documents(store, [key])
    if key not in rows:
        await _create(store, [key])
        rows = await _documents(store, [key])
    row = rows.get(key) or _row(key, store.clock.now())
    lane = lane_of(owner, group)
    match = claimable(queue, lane=None) | {
        # With its lanes of names that are at their limit.
        "lane": {"$gte": lane, "$lt": f"{lane}{BEHIND}"},
        "_id": {"$nin": [entry["token"] for entry in row["reserved"]]},
    }
    pipeline: list[Document] = [{"$match": match}, {"$limit": limit.concurrency}, {"$count": "jobs"}]
    found = await _latest(store, store.jobs.name, pipeline, hint=HOT)
    return _level(row, limit, found[0]["jobs"] if found else 0, "", store.clock.now())


def _row(key: str, idle_at: datetime) -> Document:
    return {"_id": key, "version": "", "reserved": [], "starts": [], "idle_at": idle_at}


async def _documents(store: Store, keys: Sequence[str]) -> dict[str, Document]:
    rows = await _latest(store, store.permits.name, [{"$match": {"_id": {"$in": keys}}}, {"$set": {"now": "$$NOW"}}])
    return {row["_id"]: row for row in rows}


async def _create(store: Store, keys: Sequence[str]) -> None:
    until = store.clock.now() + timedelta(milliseconds=IDLE_MS)
    try:
        await store.permits.insert_many([_row(key, until) for key in keys], ordered=False)
    except BulkWriteError as error:
        if any(row["code"] != 11000 for row in error.details["writeErrors"]):
            raise


def _level(row: Document, limit: Limit, count: int, without: str, now: datetime) -> Level:
    now = row.get("now", now)
    held = [entry for entry in row["reserved"] if entry["token"] != without]
    reserved = sum(entry["jobs"] for entry in held if entry["until"] > now)
    started, ends = 0, []
    if limit.rate is not None:
        interval = timedelta(milliseconds=limit.rate.per_ms)
        # A reservation that was never settled may have been claimed until the moment that it ended.
        dated = [(entry["at"], entry["jobs"]) for entry in row["starts"]] + [(e["until"], e["jobs"]) for e in held]
        inside = [(at + interval, jobs) for at, jobs in dated if at > now - interval]
        started, ends = sum(jobs for _, jobs in inside), [at for at, _ in inside]
    return Level(row["_id"], row["version"], now, count, reserved, started, min(ends, default=None))


def _kept(limit: Limit) -> Document:
    """The reservations that still say something: those that hold, and those that a rate must take for starts."""
    kept_ms = limit.rate.per_ms if limit.rate is not None else 0
    return {
        "$filter": {
            "input": "$reserved",
            "as": "entry",
            "cond": {"$gt": ["$$entry.until", {"$subtract": ["$$NOW", kept_ms]}]},
        }
    }


def _without(token: str, rows: Any) -> Document:
    return {"$filter": {"input": rows, "as": "entry", "cond": {"$ne": ["$$entry.token", token]}}}


async def reserve(store: Store, level: Level, limit: Limit, *, token: str, jobs: int) -> datetime | None:
    """Reserves room for `jobs` claims under a claim token (in the place of what it had reserved).

    Guard: nobody reserved since the level was read, and it was read within five seconds, by the database's clock.
    Returns: until when the claim must have happened; None when the guard refused, and nothing changed.
    """
    fresh = {"$lt": ["$$NOW", level.now + timedelta(milliseconds=COUNT_VALID_MS)]}
    entry = {"token": token, "jobs": jobs, "until": {"$add": ["$$NOW", RESERVED_MS]}}
    row = await store.permits.find_one_and_update(
        {"_id": level.key, "version": level.version, "$expr": fresh},
        [
            {
                "$set": {
                    # Never the token: who reserves again under it changes what others have counted.
                    "version": lease_token(),
                    "reserved": {"$concatArrays": [_without(token, _kept(limit)), [entry]]},
                    "claim_until": {"$add": ["$$NOW", CLAIM_WITHIN_MS]},
                    "idle_at": {"$add": ["$$NOW", RESERVED_MS + _idle_ms(limit)]},
                }
            }
        ],
        {"claim_until": 1},
        return_document=ReturnDocument.AFTER,
    )
    return None if row is None else row["claim_until"]


def _idle_ms(limit: Limit) -> int:
    return IDLE_MS + (limit.rate.per_ms if limit.rate is not None else 0)


def _rows(rows: str, condition: Document) -> Document:
    return {"$filter": {"input": rows, "as": "row", "cond": condition}}


def _let(variables: Document, value: Document) -> Document:
    return {"$let": {"vars": variables, "in": value}}


async def settle(store: Store, key: str, limit: Limit, *, token: str, claimed: int) -> None:
    """Ends a reservation: its jobs are active now, and count; as starts they are dated now.

    Not waited for until it is on a majority: where it is lost, the reservation goes on to hold until it ends.
    """
    sets: Document = {"reserved": _without(token, _kept(limit))}
    if limit.rate is not None:
        row_ms = max(1, limit.rate.per_ms // ROWS_PER_INTERVAL)
        inside = _rows("$starts", {"$gt": ["$$row.at", {"$subtract": ["$$NOW", limit.rate.per_ms]}]})
        others = _rows("$$rows", {"$ne": ["$$row.since", "$$last.since"]})
        joined = {"since": "$$last.since", "at": "$$NOW", "jobs": {"$add": ["$$last.jobs", claimed]}}
        added = {"since": "$$NOW", "at": "$$NOW", "jobs": claimed}
        joins = {"$gt": ["$$last.since", {"$subtract": ["$$NOW", row_ms]}]}
        rows = _let(
            {"rows": inside},
            _let(
                {"last": {"$last": "$$rows"}},
                when(joins, {"$concatArrays": [others, [joined]]}, {"$concatArrays": ["$$rows", [added]]}),
            ),
        )
        held = {"$in": [token, "$reserved.token"]}
        # Only what is still reserved: a repeat of this call must not count twice.
        sets["starts"] = when(held, rows, inside) if claimed else inside
    quick = store.permits.with_options(write_concern=WriteConcern(1))
    await quick.update_one({"_id": key}, [{"$set": sets}])


async def claim(
    store: Store,
    admitted: Mapping[tuple[str, ...], Sequence[str]],
    *,
    token: str,
    worker_id: str,
    before: datetime | None,
) -> int:
    """waiting → active under limits, for those of the jobs that are still claimable. Returns: how many.

    `admitted` has the ids of jobs by the limits that they run under, which the jobs then name. Guard: the database's
    clock has not reached `before`.
    """
    in_time = {} if before is None else {"$expr": {"$lt": ["$$NOW", before]}}
    won = 0
    for keys, ids in admitted.items():
        named = [{"$set": {"limited": literal(list(keys))}}] if keys else []
        result = await store.jobs.update_many(
            {"_id": {"$in": list(ids)}, "state": "waiting", "parked": None, **in_time},
            [*transitions.claim(token, worker_id), *named],
        )
        won += int(result.modified_count)
    return won


async def kinds(store: Store, match: Document) -> list[tuple[str, str, str | None]]:
    """The (tenant, name, group) that active jobs have."""
    rows = await store.database.aggregate(
        store.jobs.name,
        [{"$match": match}, {"$group": {"_id": {"org": "$org", "name": "$name", "group": "$group"}}}],
        hint="active",
    )
    return [(row["_id"]["org"], row["_id"]["name"], row["_id"].get("group")) for row in rows]


async def adopt(store: Store, match: Document, keys: Sequence[str]) -> int:
    """Puts what runs already under limits that begin now. Returns: how many jobs."""
    added = {"$addToSet": {"limited": {"$each": list(keys)}}}
    result = await store.jobs.update_many({**match, "state": "active"}, added, hint="active")
    return int(result.modified_count)


def open_for(rows: Mapping[str, Level], limits: Mapping[str, Limit]) -> dict[str, int]:
    """How many more jobs each of these limits lets in."""
    return {key: rows[key].room(limit) for key, limit in limits.items()}


def grouped(jobs: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    """Ids by the limits that they run under."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for id, keys in jobs.items():
        found[keys].append(id)
    return found
