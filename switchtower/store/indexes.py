"""Which indexes exist, and which command is each of them for?

A write pays for every index that its document enters or leaves, so most are partial: a job that nobody will claim is in
no hot index, and an active one is in the smallest only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel

from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.webhooks import COURIER

__all__ = ["DELIVERIES", "HOT", "create_indexes", "missing_indexes", "payload_index"]

HOT = "claims"
DELIVERIES = "deliveries"
EXISTS = {"$exists": True}

JOBS = [
    # claims: the head of a queue in claim order; `name` lets a claimer skip foreign handlers inside the index
    IndexModel(
        [(key, ASCENDING) for key in ("queue", "lane", "rank", "order", "seq", "name")],
        name=HOT,
        partialFilterExpression={"state": "waiting", "parked": None, "executor": None},
    ),
    # the courier's claims: the head of a line of deliveries; they are not in the workers' way above
    IndexModel(
        [(key, ASCENDING) for key in ("line", "rank", "order", "seq")],
        name=DELIVERIES,
        partialFilterExpression={"state": "waiting", "parked": None, "executor": COURIER},
    ),
    # unpark and whyNotRunning: what is parked, by cause
    IndexModel(
        [("parked", 1), ("queue", 1), ("name", 1)],
        name="parked",
        partialFilterExpression={"parked": {"$type": "string"}},
    ),
    # stage: what is due
    IndexModel([("run_at", 1)], name="due", partialFilterExpression={"state": {"$in": ["scheduled", "retrying"]}}),
    # limits: what runs under each of them
    IndexModel([("limited", 1), ("state", 1)], name="limited", partialFilterExpression={"limited": EXISTS}),
    # rescue, cancel_requests, read-back of a claim token, lists of active jobs
    IndexModel([("worker_id", 1), ("token", 1)], name="active", partialFilterExpression={"state": "active"}),
    # lists, counts, clean, retention: `_id` sorts by creation
    IndexModel(
        [("queue", 1), ("state", 1), ("_id", 1)],
        name="listing",
        partialFilterExpression={"state": {"$in": sorted(s.value for s in JobState if s is not JobState.ACTIVE)}},
    ),
    # lists by name
    IndexModel([("name", 1), ("_id", 1)], name="name"),
    # enqueue: one open job per unique key, one job per idempotency key and per custom id
    IndexModel(
        [("org", 1), ("unique_hold", 1)],
        name="unique_hold",
        unique=True,
        partialFilterExpression={"unique_hold": EXISTS},
    ),
    IndexModel(
        [("org", 1), ("idempotency_key", 1)],
        name="idempotency_key",
        unique=True,
        partialFilterExpression={"idempotency_key": EXISTS},
    ),
    IndexModel(
        [("custom_id", 1), ("org", 1), ("queue", 1)],
        name="custom_id",
        unique=True,
        partialFilterExpression={"custom_id": EXISTS},
    ),
    # maintenance: idempotency keys and unique holds to let go, TTLs to enforce, outboxes to relay, tombstones to delete
    IndexModel([("release_at", 1)], name="release_at", partialFilterExpression={"release_at": EXISTS}),
    IndexModel([("expires_at", 1)], name="expires_at", partialFilterExpression={"expires_at": EXISTS}),
    IndexModel([("outbox", 1)], name="outbox", partialFilterExpression={"outbox": EXISTS}),
    IndexModel([("removed_at", 1)], name="removed_at", partialFilterExpression={"removed_at": EXISTS}),
    # flows: children of a parent, and who waits for a job
    IndexModel([("parent_id", 1), ("_id", 1)], name="parent_id", partialFilterExpression={"parent_id": EXISTS}),
    IndexModel([("pending", 1)], name="pending", partialFilterExpression={"pending": EXISTS}),
    # flows: the jobs of one, and the roots as a list
    IndexModel([("flow_id", 1), ("_id", 1)], name="flow_id", partialFilterExpression={"flow_id": EXISTS}),
    IndexModel([("flow_root", 1), ("_id", 1)], name="flow_root", partialFilterExpression={"flow_root": EXISTS}),
    # workflows: runs as a list, and those that wait for an event
    IndexModel([("run.workflow", 1), ("_id", 1)], name="run", partialFilterExpression={"run": EXISTS}),
    IndexModel([("awaiting", 1)], name="awaiting", partialFilterExpression={"awaiting": EXISTS}),
    # lists of what failed and runs again, as Dispatch means it
    IndexModel(
        [("retry_pending", 1), ("_id", 1)], name="retry_pending", partialFilterExpression={"retry_pending": True}
    ),
    # lists by tag, and error clusters with their retry
    IndexModel([("tags", 1), ("_id", 1)], name="tags", partialFilterExpression={"tags": EXISTS}),
    IndexModel([("error.fingerprint", 1), ("_id", 1)], name="fingerprint", partialFilterExpression={"error": EXISTS}),
]

DEAD_LETTERS = [
    # relay: one entry per job and generation, however often it is relayed
    IndexModel([("job_id", 1), ("generation", 1)], name="job", unique=True),
    # lists and purge
    IndexModel([("failed_at", DESCENDING), ("_id", DESCENDING)], name="failed_at"),
    IndexModel([("queue", 1), ("failed_at", DESCENDING), ("_id", DESCENDING)], name="queue"),
    # lists and counts of a tenant
    IndexModel([("org", 1), ("failed_at", DESCENDING), ("_id", DESCENDING)], name="org"),
]

COUNTERS = [
    # what a tenant sees, and what is in some queues; neither field ever changes
    IndexModel([("org", 1), ("queue", 1)], name="org"),
    IndexModel([("queue", 1)], name="queue"),
]

WORKERS = [
    # rescue: whose lease has passed
    IndexModel([("state", 1), ("expires_at", 1)], name="state"),
    # gone workers are forgotten after a day
    IndexModel([("gone_at", 1)], name="gone_at", expireAfterSeconds=24 * 3600),
]

MINUTES = [
    # throughput and metrics of a queue or a name over time
    IndexModel([("queue", 1), ("name", 1), ("minute", 1)], name="series"),
    IndexModel([("minute", 1)], name="retention", expireAfterSeconds=24 * 3600),
]

CRONS = [
    # create: one cron per name and tenant
    IndexModel([("org", 1), ("name", 1)], name="name", unique=True),
    # tick: whose slot has come, and who has slots that nobody finished
    IndexModel([("next_at", 1)], name="next_at", partialFilterExpression={"next_at": {"$type": "date"}}),
    IndexModel([("due.slot", 1)], name="due", partialFilterExpression={"due.slot": EXISTS}),
]

HOURS = [
    # metrics over days
    IndexModel([("queue", 1), ("name", 1), ("hour", 1)], name="series"),
    IndexModel([("hour", 1)], name="retention", expireAfterSeconds=30 * 24 * 3600),
]

SNAPSHOTS = [
    # the history of totals is kept for a week
    IndexModel([("at", 1)], name="retention", expireAfterSeconds=7 * 24 * 3600),
]

EVENTS = [
    # consume, wake: what nobody has consumed yet, by name
    IndexModel([("org", 1), ("name", 1), ("_id", 1)], name="open", partialFilterExpression={"consumed_by": None}),
    # consume: what this step of this run was given
    IndexModel([("consumed_by", 1)], name="consumed_by", partialFilterExpression={"consumed_by": {"$type": "string"}}),
    # publish: one event per idempotency key
    IndexModel([("org", 1), ("key", 1)], name="key", unique=True, partialFilterExpression={"key": EXISTS}),
    # events are forgotten after 30 days
    IndexModel([("gone_at", 1)], name="gone_at", expireAfterSeconds=0),
]

AUDIT = [
    # lists by each filter, the newest first: ids sort by time
    *(IndexModel([(key, 1), ("_id", -1)], name=key) for key in ("org", "queue", "job_id", "actor", "action")),
    # rows are forgotten when their retention has passed
    IndexModel([("gone_at", 1)], name="gone_at", expireAfterSeconds=0),
]

KEYS = [
    # verify: by what is kept of a key's text
    IndexModel([("digest", 1)], name="digest", unique=True),
]

SESSIONS = [
    # a session that has ended opens nothing, and is forgotten
    IndexModel([("ends_at", 1)], name="ends_at", expireAfterSeconds=0),
]

WEBHOOKS = [
    # set, resolve: one webhook per key and per project
    IndexModel([("owner", 1)], name="owner", unique=True),
]

RATES = [
    # an interval that nobody began anew is of no more use
    IndexModel([("ends_at", 1)], name="ends_at", expireAfterSeconds=24 * 3600),
]

USAGE = [
    # fold, and what a tenant used
    IndexModel([("org", 1), ("day", 1), ("key", 1)], name="series", unique=True),
    # 400 days of it are kept
    IndexModel([("day", 1)], name="retention", expireAfterSeconds=400 * 24 * 3600),
]

PERMITS = [
    # a limit that nobody reserved under for a while says nothing any more
    IndexModel([("idle_at", 1)], name="idle_at", expireAfterSeconds=0),
]

BULK = [
    # resume after a crash; forget after a week
    IndexModel([("done", 1), ("_id", 1)], name="open"),
    IndexModel([("finished_at", 1)], name="retention", expireAfterSeconds=7 * 24 * 3600),
]


def payload_index(path: str) -> str:
    """The name of the index on a payload path."""
    return f"payload:{path}"


def _payload(path: str) -> IndexModel:
    # search: jobs by a declared path of their payload, newest first; jobs without the path are not in it
    field = f"payload.{path}"
    return IndexModel([(field, 1), ("_id", -1)], name=payload_index(path), partialFilterExpression={field: EXISTS})


def _plan(store: Store, search_paths: Sequence[str]) -> list[tuple[Any, list[IndexModel]]]:
    return [
        (store.jobs, JOBS + [_payload(path) for path in search_paths]),
        (store.dead_letters, DEAD_LETTERS),
        (store.workers, WORKERS),
        (store.counters, COUNTERS),
        (store.minutes, MINUTES),
        (store.hours, HOURS),
        (store.snapshots, SNAPSHOTS),
        (store.bulk_operations, BULK),
        (store.crons, CRONS),
        (store.events, EVENTS),
        (store.keys, KEYS),
        (store.sessions, SESSIONS),
        (store.webhooks, WEBHOOKS),
        (store.rates, RATES),
        (store.usage, USAGE),
        (store.permits, PERMITS),
        (store.audit, AUDIT),
    ]


async def create_indexes(store: Store, search_paths: Sequence[str] = ()) -> None:
    """Creates what is missing; harmless when several processes do it at once or all is there.

    `search_paths` are payload paths to index. The index of a path that is not named any more stays until it is dropped.
    """
    with pymongo.timeout(600):
        for collection, models in _plan(store, search_paths):
            await collection.create_indexes(models)


async def missing_indexes(store: Store, search_paths: Sequence[str] = ()) -> list[str]:
    """Names (`collection.index`) of the indexes that are planned and not there."""
    missing = []
    for collection, models in _plan(store, search_paths):
        there = await collection.index_information()
        missing += [
            f"{collection.name}.{model.document['name']}" for model in models if model.document["name"] not in there
        ]
    return missing
