"""Which commands checkpoint a run's steps, and hand events to the runs that wait for them?

A checkpoint is one write on the run's own document, fenced by its lease. An event is a document of its own; the run
that consumes it is written into it, so that it is consumed once, and by whom is known after any crash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from switchtower.ids import new_id, run_id
from switchtower.jobs import PayloadMatch
from switchtower.states import JobState
from switchtower.store import operations
from switchtower.store.collections import Store
from switchtower.store.documents import error_document, error_from, job_from
from switchtower.store.expressions import GONE, literal, present, stamp, when
from switchtower.store.guards import by_token
from switchtower.store.listing import payload_path
from switchtower.workflows import Step, StepKind, StepStatus, WorkflowRun, run_state, split_name

__all__ = [
    "checkpoint",
    "consume",
    "ended",
    "is_held",
    "publish",
    "replay",
    "run_from",
    "steps_of",
    "wake",
]

Document = dict[str, Any]

STEPS_BYTES = 8 * 1024 * 1024
EVENT_DAYS = 30


def step_document(step: Step) -> Document:
    """A step as it stands in its run."""
    row: Document = {"name": step.name, "kind": step.kind.value, "status": step.status.value, "attempts": step.attempts}
    for field in ("result", "started_at", "ended_at", "until"):
        if (value := getattr(step, field)) is not None:
            row[field] = value
    if step.error is not None:
        row["error"] = error_document(step.error)
    if step.events:
        row["events"] = list(step.events)
    if step.match:
        row["match"] = [[match.path, match.value] for match in step.match]
    if step.children:
        row["children"] = list(step.children)
    return row


def step_from(row: Mapping[str, Any]) -> Step:
    """A step as it was read."""
    return Step(
        name=row["name"],
        kind=StepKind(row["kind"]),
        status=StepStatus(row["status"]),
        result=row.get("result"),
        error=error_from(row.get("error")),
        started_at=row.get("started_at"),
        ended_at=row.get("ended_at"),
        attempts=row["attempts"],
        until=row.get("until"),
        events=tuple(row.get("events", ())),
        match=tuple(PayloadMatch(path, value) for path, value in row.get("match", ())),
        children=tuple(row.get("children", ())),
    )


def run_from(d: Mapping[str, Any]) -> WorkflowRun:
    """A run as it was read."""
    job = job_from(d)
    run = d["run"]
    steps = [step_from(row) for row in d.get("steps", ())]
    state = run_state(job.state, compensating=run.get("compensating", False), awaits="awaiting" in d)
    return WorkflowRun(
        id=run_id(job.id),
        workflow=run["workflow"],
        version=run["version"],
        state=state,
        input=job.payload,
        output=job.result,
        error=job.error,
        current_step=run.get("current_step"),
        steps=steps,
        parent_run_id=None if job.parent_id is None else run_id(job.parent_id),
        started_at=run.get("started_at") or job.started_at,
        completed_at=job.finished_at if job.state is JobState.COMPLETED else None,
        job=job,
    )


async def steps_of(store: Store, job_id: str, token: str) -> Document | None:
    """The run that this token holds, with its steps; a plain job of a workflow's name (of a cron, of a dead letter's
    replay) becomes a run. None: the lease is lost."""
    match = {"_id": job_id, **by_token("checkpoint", token)}
    document: Document | None = await store.jobs.find_one(match)
    if document is None or "run" in document or (parts := split_name(document["name"])) is None:
        return document
    fields = {"run": {"workflow": parts[0], "version": parts[1]}, "on_child_failure": "ignore"}
    document = await store.jobs.find_one_and_update(match, {"$set": fields}, return_document=ReturnDocument.AFTER)
    return document


async def is_held(store: Store, job_id: str, token: str) -> bool:
    """Whether this token still holds the run."""
    return await store.jobs.find_one({"_id": job_id, **by_token("checkpoint", token)}, {"_id": 1}) is not None


_EVENTS_AWAITED = {
    "$reduce": {
        "input": {
            "$filter": {
                "input": "$steps",
                "as": "step",
                "cond": {"$and": [{"$eq": ["$$step.status", "waiting"]}, {"$eq": ["$$step.kind", "wait"]}]},
            }
        },
        "initialValue": [],
        "in": {"$setUnion": ["$$value", {"$ifNull": ["$$this.events", []]}]},
    }
}


async def checkpoint(
    store: Store,
    job_id: str,
    token: str,
    step: Step,
    *,
    size: int,
    compensating: bool,
    adopt: Sequence[str] = (),
) -> bool:
    """Writes a step's row (in place of one of its name that waited) and names it as the current step; the run waits
    for the jobs in `adopt` as for children, from before they exist.

    Guard: the lease token; all rows together stay below 8 MiB. Returns: whether it was written.
    """
    row = literal(step_document(step))
    others = {
        "$filter": {
            "input": {"$ifNull": ["$steps", []]},
            "as": "step",
            "cond": {"$ne": ["$$step.name", literal(step.name)]},
        }
    }
    awaiting: Any = [] if compensating else _EVENTS_AWAITED
    children: Document = {}
    if adopt:
        children = {
            "pending": {"$setUnion": [{"$ifNull": ["$pending", []]}, list(adopt)]},
            "flow_id": {"$ifNull": ["$flow_id", "$_id"]},
            "flow_root": when(present("$flow_id"), "$flow_root", True),
        }
    result = await store.jobs.update_one(
        {
            "_id": job_id,
            **by_token("checkpoint", token),
            "$expr": {"$lt": [{"$add": [{"$ifNull": ["$steps_bytes", 0]}, size]}, STEPS_BYTES]},
        },
        [
            {
                "$set": {
                    **stamp(
                        "checkpoint",
                        actor="$worker_id",
                        data={"step": literal(step.name), "status": step.status.value, "kind": step.kind.value},
                        keep=False,
                    ),
                    **children,
                    "steps": {"$concatArrays": [others, [row]]},
                    "run.current_step": literal(step.name),
                    "run.compensating": compensating,
                    "run.started_at": {"$ifNull": ["$run.started_at", "$$NOW"]},
                    "awaiting": GONE,
                }
            },
            {
                "$set": {
                    "steps_bytes": {"$bsonSize": {"steps": "$steps"}},
                    "awaiting": awaiting,
                }
            },
            {"$set": {"awaiting": when({"$eq": ["$awaiting", []]}, GONE, "$awaiting")}},
        ],
    )
    return bool(result.matched_count)


async def ended(store: Store, ids: Sequence[str]) -> list[Document]:
    """Those of these jobs that are final or gone."""
    final = ["completed", "failed", "cancelled", "removed"]
    fields = {"state": 1, "last_state": 1, "name": 1, "error": 1}
    rows: list[Document] = await store.jobs.find({"_id": {"$in": list(ids)}, "state": {"$in": final}}, fields).to_list(
        None
    )
    return rows


async def replay(
    store: Store, job_id: str, actor: str, *, keep: Sequence[str], source: str | None = None
) -> Document | None:
    """final → waiting as a new generation that keeps the steps of these names that were not compensated. Guard: outbox
    relayed."""
    [again] = operations.retry(actor, source=source, action={"name": "workflow.replay"})
    kept = {
        "$filter": {
            "input": {"$ifNull": ["$steps", []]},
            "as": "step",
            "cond": {"$in": ["$$step.name", literal(list(keep))]},
        }
    }
    document: Document | None = await store.jobs.find_one_and_update(
        {"_id": job_id, "state": {"$in": ["completed", "failed", "cancelled"]}, "outbox": {"$exists": False}},
        [again, {"$set": {"steps": kept}}, {"$set": {"steps_bytes": {"$bsonSize": {"steps": "$steps"}}}}],
        return_document=ReturnDocument.AFTER,
    )
    return document


async def publish(
    store: Store, name: str, payload: Any, *, org: str, actor: str, now: datetime, key: str | None = None
) -> Document:
    """Stores an event until a run consumes it, for 30 days at most. With a key, a repeat answers with the first."""
    document: Document = {
        "_id": new_id("evt"),
        "name": name,
        "org": org,
        "payload": payload,
        "actor": actor,
        "published_at": now,
        "consumed_by": None,
        "gone_at": now + timedelta(days=EVENT_DAYS),
    }
    if key is not None:
        document["key"] = key
    try:
        await store.events.insert_one(document)
    except DuplicateKeyError:
        found: Document | None = await store.events.find_one({"org": org, "key": key})
        return found or document
    return document


def _matching(names: Sequence[str], match: Sequence[PayloadMatch], org: str) -> Document:
    filter: Document = {"org": org, "name": {"$in": list(names)}, "consumed_by": None}
    for condition in match:
        filter[payload_path(condition.path)] = {"$eq": condition.value}
    return filter


async def consume(
    store: Store, job_id: str, step: str, names: Sequence[str], match: Sequence[PayloadMatch], *, org: str
) -> Document | None:
    """Gives the oldest matching event to this step of this run, or the one that it was given already."""
    mark = f"{job_id}/{step}"
    had: Document | None = await store.events.find_one({"consumed_by": mark})
    if had is not None:
        return had
    document: Document | None = await store.events.find_one_and_update(
        _matching(names, match, org),
        [{"$set": {"consumed_by": literal(mark), "consumed_at": "$$NOW"}}],
        sort=[("_id", 1)],
        return_document=ReturnDocument.AFTER,
    )
    return document


async def wake(store: Store, *, job_id: str | None = None, limit: int = 200) -> int:
    """Promotes runs that wait for an event that is there. Returns: how many.

    A run writes what it waits for before it looks for events the last time; a publisher writes the event before it
    looks for runs: one of the two sees the other.
    """
    match: Document = {"awaiting": {"$exists": True}, "state": "scheduled"}
    if job_id is not None:
        match["_id"] = job_id
    else:
        names = await store.events.distinct("name", {"consumed_by": None})
        if not names:
            return 0
        match["awaiting"] = {"$in": names[:1_000]}
    woken = 0
    rows = await store.jobs.find(match, {"steps": 1, "org": 1}, sort=[("_id", 1)], limit=limit).to_list(limit)
    for row in rows:
        waiting = [
            step_from(step) for step in row.get("steps", ()) if step["status"] == "waiting" and step["kind"] == "wait"
        ]
        for step in waiting:
            if await store.events.find_one(_matching(step.events, step.match, row["org"]), {"_id": 1}) is not None:
                result = await store.jobs.update_one(
                    {"_id": row["_id"], "state": "scheduled", "awaiting": {"$exists": True}},
                    operations.promote("event"),
                )
                woken += result.modified_count
                break
    return woken
