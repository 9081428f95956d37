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
from switchtower.store.expressions import literal, present, stamp, when
from switchtower.store.guards import by_token
from switchtower.store.listing import payload_path
from switchtower.store.operations import AWAITING
from switchtower.workflows import Step, StepKind, StepStatus, WorkflowRun, run_state, split_name

__all__ = [
    "checkpoint",
    "consume",
    "ended",
    "give_back",
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
NAMES = 1_000
RUNS = 200
"""How many runs are looked at in one query."""


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
                }
            },
            {
                "$set": {
                    "steps_bytes": {"$bsonSize": {"steps": "$steps"}},
                    "awaiting": AWAITING,
                }
            },
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
    store: Store, run: WorkflowRun, actor: str, *, keep: Sequence[str], source: str | None = None
) -> Document | None:
    """final → waiting as a new generation that keeps the steps of these names that were not compensated. Guard: outbox
    relayed.

    Effect: what the other steps had been given and recorded was theirs: they wait for another event. An event that was
    given and not recorded, since the worker died in between, is still to come to its step.
    """
    job_id = run.job.id
    recorded = [
        f"{job_id}/{step.name}"
        for step in run.steps
        if (step.kind, step.status) == (StepKind.WAIT, StepStatus.COMPLETED) and step.name not in keep
    ]
    if recorded:
        given = {"consumed_by": {"$in": recorded, "$type": "string"}, "consumed_at": {"$lte": run.job.finished_at}}
        await store.events.update_many(given, {"$set": {"spent": True}})
    again = operations.retry(actor, source=source, action={"name": "workflow.replay"})
    kept = {
        "$filter": {
            "input": {"$ifNull": ["$steps", []]},
            "as": "step",
            "cond": {"$in": ["$$step.name", literal(list(keep))]},
        }
    }
    document: Document | None = await store.jobs.find_one_and_update(
        {"_id": job_id, "state": {"$in": ["completed", "failed", "cancelled"]}, "outbox": {"$exists": False}},
        [
            *again,
            {"$set": {"steps": kept}},
            {"$set": {"steps_bytes": {"$bsonSize": {"steps": "$steps"}}, "awaiting": AWAITING}},
        ],
        return_document=ReturnDocument.AFTER,
    )
    return document


async def publish(
    store: Store,
    name: str,
    payload: Any,
    *,
    org: str,
    actor: str,
    now: datetime,
    key: str | None = None,
    queues: Sequence[str] | None = None,
) -> Document:
    """Stores an event until a run in these queues (None: in any) consumes it, for 30 days at most. With a key, a repeat
    answers with the first."""
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
    if queues is not None:
        document["queues"] = list(queues)
    try:
        await store.events.insert_one(document)
    except DuplicateKeyError:
        found: Document | None = await store.events.find_one({"org": org, "key": key})
        return found or document
    return document


def _matching(names: Sequence[str], match: Sequence[PayloadMatch], org: str, queue: str) -> Document:
    filter: Document = {"org": org, "name": {"$in": list(names)}, "consumed_by": None, "queues": {"$in": [None, queue]}}
    for condition in match:
        filter[payload_path(condition.path)] = {"$eq": condition.value}
    return filter


async def consume(
    store: Store,
    job_id: str,
    token: str,
    step: str,
    names: Sequence[str],
    match: Sequence[PayloadMatch],
    *,
    org: str,
    queue: str,
) -> tuple[Document, bool] | None:
    """Gives the oldest matching event to this step of this run, or the one that it was given already; returns it, and
    whether it was nobody's before.

    `token` is the lease under which it is asked for: whoever finds that it was lost when it took an event that was
    nobody's calls `give_back`, which does nothing where another has asked for the event under its own since.
    """
    given = {"consumed_by": f"{job_id}/{step}", "lease": token}
    had: Document | None = await store.events.find_one_and_update(
        # As the partial index has them.
        {"consumed_by": {"$eq": given["consumed_by"], "$type": "string"}, "spent": None},
        {"$set": given},
        return_document=ReturnDocument.AFTER,
    )
    if had is not None:
        return had, False
    document: Document | None = await store.events.find_one_and_update(
        _matching(names, match, org, queue),
        [{"$set": {**{field: literal(value) for field, value in given.items()}, "consumed_at": "$$NOW"}}],
        sort=[("_id", 1)],
        return_document=ReturnDocument.AFTER,
    )
    return None if document is None else (document, True)


async def give_back(store: Store, event: Document) -> None:
    """Makes an event nobody's again, and tells who waits for it; does nothing where it was asked for again since."""
    match = {"_id": event["_id"], "consumed_by": event["consumed_by"], "lease": event["lease"]}
    free = {"$set": {"consumed_by": None}, "$unset": {"consumed_at": "", "lease": ""}}
    if (await store.events.update_one(match, free)).modified_count:
        await wake(store, event=event)


async def wake(store: Store, *, job_id: str | None = None, event: Document | None = None) -> int:
    """Promotes runs that wait for an event that is there: all of them, one, or those that want this event. Returns: how
    many.

    A run writes what it waits for before it looks for events the last time; a publisher writes the event before it
    looks for runs: one of the two sees the other.
    """
    match: Document = {"awaiting": {"$exists": True}, "state": "scheduled"}
    if job_id is not None:
        return await _wake_among(store, {**match, "_id": job_id})
    if event is not None:
        return await _wake_among(
            store, {**match, "awaiting": event["name"], "org": event["org"]}, {"_id": event["_id"]}
        )
    names = await store.events.distinct("name", {"org": {"$gte": ""}, "consumed_by": None})
    return sum(
        [
            await _wake_among(store, {**match, "awaiting": {"$in": names[start : start + NAMES]}})
            for start in range(0, len(names), NAMES)
        ]
    )


async def _wake_among(store: Store, match: Document, which: Document | None = None) -> int:
    """`wake` for the runs that match, however many wait for what is not there."""
    woken, after = 0, ""
    while True:
        page = {"$and": [match, {"_id": {"$gt": after}}]}
        rows = await store.jobs.find(page, {"steps": 1, "org": 1, "queue": 1}, sort=[("_id", 1)], limit=RUNS).to_list(
            RUNS
        )
        wanted = {row["_id"]: [{**clause, **(which or {})} for clause in _wanted(row)] for row in rows}
        clauses = [clause for one in wanted.values() for clause in one]
        if clauses and await store.events.find_one({"$or": clauses}, {"_id": 1}) is not None:
            for id, one in wanted.items():
                if one and await store.events.find_one({"$or": one}, {"_id": 1}) is not None:
                    result = await store.jobs.update_one(
                        {"_id": id, "state": "scheduled", "awaiting": {"$exists": True}}, operations.promote("event")
                    )
                    woken += result.modified_count
        if len(rows) < RUNS:
            return woken
        after = rows[-1]["_id"]


def _wanted(run: Document) -> list[Document]:
    """The events that a run waits for: a filter for each step that does."""
    steps = [step_from(row) for row in run.get("steps", ()) if (row["status"], row["kind"]) == ("waiting", "wait")]
    return [_matching(step.events, step.match, run["org"], run["queue"]) for step in steps]
