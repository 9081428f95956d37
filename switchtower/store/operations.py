"""What does each transition write that an operator or a producer asks for?

The other half of `transitions`, by the same rules: one pipeline, one atomic write, its event and its effects in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from switchtower.store.expressions import (
    GONE,
    NOW_MS,
    OUTBOX_SETTLE,
    RUN_WRITTEN,
    SETTLED,
    UNLEASED,
    in_order,
    literal,
    present,
    stamp,
    when,
)

__all__ = ["AWAITING", "add_child", "cancel", "promote", "remove", "replace", "reschedule", "retry", "update"]

Document = dict[str, Any]
Pipeline = list[Document]


_UNDONE = {
    "$map": {
        "input": {"$filter": {"input": "$steps", "as": "step", "cond": {"$eq": ["$$step.kind", "compensate"]}}},
        "as": "step",
        "in": {"$replaceOne": {"input": "$$step.name", "find": "compensate:", "replacement": ""}},
    }
}
_FATAL = {
    "$map": {
        "input": {"$filter": {"input": "$steps", "as": "step", "cond": {"$eq": ["$$step.name", "compensate"]}}},
        "as": "step",
        "in": {"$ifNull": ["$$step.result", None]},
    }
}
"""The step whose failure the run did not outlive."""
_STEPS_KEPT = when(
    {"$isArray": "$steps"},
    {
        "$map": {
            "input": {
                "$filter": {
                    "input": "$steps",
                    "as": "step",
                    "cond": {
                        "$and": [
                            {"$ne": ["$$step.kind", "compensate"]},
                            {"$not": [{"$in": ["$$step.name", _FATAL]}]},
                        ]
                    },
                }
            },
            "as": "step",
            "in": when(
                {"$in": ["$$step.name", _UNDONE]},
                {"$mergeObjects": ["$$step", {"status": "waiting", "attempts": 0}]},
                "$$step",
            ),
        }
    },
    GONE,
)
_AWAITED = {
    "$reduce": {
        "input": {
            "$filter": {
                "input": {"$ifNull": ["$steps", []]},
                "as": "step",
                "cond": {"$and": [{"$eq": ["$$step.status", "waiting"]}, {"$eq": ["$$step.kind", "wait"]}]},
            }
        },
        "initialValue": [],
        "in": {"$setUnion": ["$$value", {"$ifNull": ["$$this.events", []]}]},
    }
}
AWAITING = when({"$or": [{"$eq": ["$run.compensating", True]}, {"$eq": [_AWAITED, []]}]}, GONE, _AWAITED)
"""The names of the events that the steps of a run wait for; absent where there are none, and while it compensates."""
_RUN_AFRESH = {"$mergeObjects": ["$run", {"compensating": False, "current_step": None}]}


def add_child(child_id: str, actor: str) -> Pipeline:
    """Makes a job wait for one more child; one that is active goes on and only knows of it."""
    active = {"$eq": ["$state", "active"]}
    to = when(active, "active", "blocked")
    return [
        {
            "$set": {
                **stamp(when(active, "adopt", "block"), actor=literal(actor), to=to),
                "state": to,
                "parked": GONE,
                "retry_pending": GONE,
                "pending": {"$setUnion": [{"$ifNull": ["$pending", []]}, [child_id]]},
                "flow_id": {"$ifNull": ["$flow_id", "$_id"]},
                "flow_root": when(present("$flow_id"), "$flow_root", True),
            }
        }
    ]


def cancel(actor: str, *, source: str | None = None, discard: bool = False) -> Pipeline:
    """Any open job: an active one gets a cancel request (a second request changes nothing), every other is cancelled at
    once. With `discard` a handler that completes nevertheless has its result discarded, and its job is cancelled."""
    active = {"$eq": ["$state", "active"]}
    asked = {"$and": [active, present("$cancel_requested_at")]}
    to = when(active, "active", "cancelled")
    moved = stamp(when(active, "request_cancel", "cancel"), actor=literal(actor), to=to, source=source)
    return [
        {
            "$set": {
                **{field: when(asked, f"${field}", value) for field, value in moved.items()},
                **{field: when(active, f"${field}", value) for field, value in SETTLED.items()},
                "state": to,
                "cancel_requested_at": when(active, {"$ifNull": ["$cancel_requested_at", "$$NOW"]}, GONE),
                **({"cancel_discards": when(active, True, GONE)} if discard else {}),
                "retry_pending": when(active, "$retry_pending", GONE),
                "outbox": when(active, "$outbox", OUTBOX_SETTLE),
            }
        }
    ]


_HELD_AGAIN = {
    "$switch": {
        "branches": [
            {"case": {"$eq": ["$dedup.mode", "simple"]}, "then": "$dedup.hold"},
            {"case": present("$dedup"), "then": "$unique_hold"},
        ],
        "default": "$unique_key",
    }
}
"""What a job holds that starts over: a time that began with its enqueue does not begin again."""


def retry(
    actor: str,
    *,
    pending: Sequence[str] = (),
    source: str | None = None,
    action: Mapping[str, Any] | None = None,
    keep_attempts: bool = False,
) -> Pipeline:
    """Final, retrying or scheduled → waiting now. A final job begins a new generation with all its attempts; with
    `keep_attempts` those that it has used stay used, and it runs once more at least.

    With `pending` (a flow's retry) it is blocked until those have completed again. A workflow run keeps its steps,
    but for the one that failed it; those that were compensated run again.
    `action` says what the retry is part of, for the audit trail.
    """
    to = "blocked" if pending else "waiting"
    part_of = {} if action is None else {"action": literal(action)}
    final = {"$in": ["$state", ["completed", "failed", "cancelled"]]}
    again = {"$add": ["$$NOW", "$ttl_ms"]}
    fresh = dict.fromkeys(("result", "error", "finished_at", "started_at", "progress"), GONE)
    return [
        {
            "$set": {
                **stamp("retry", actor=literal(actor), to=to, source=source, data=part_of, after_run=True),
                **RUN_WRITTEN,
                **{field: when(final, value, f"${field}") for field, value in fresh.items()},
                "state": to,
                "pending": list(pending) if pending else "$pending",
                "steps": when(final, _STEPS_KEPT, "$steps"),
                "run": when({"$and": [final, present("$run")]}, _RUN_AFRESH, "$run"),
                "cancelling": GONE,
                "attempt": "$attempt" if keep_attempts else when(final, 0, "$attempt"),
                "claims": when(final, 0, "$claims"),
                "generation": {"$add": ["$generation", when(final, 1, 0)]},
                "unique_hold": when(final, _HELD_AGAIN, "$unique_hold"),
                "expires_at": when(present("$ttl_ms"), again, GONE),
                "run_at": "$$NOW",
                "order": in_order(NOW_MS),
            }
        },
        {"$set": {"awaiting": AWAITING}},
    ]


_REPLACED = (
    *("name", "payload", "priority", "rank", "order", "lane", "run_at", "max_attempts", "state", "dedup"),
    *("backoff", "timeout_ms", "ttl_ms", "expires_at", "group", "lifo", "tags", "traceparent", "app"),
    *("remove_on_complete", "remove_on_fail", "on_child_failure", "unique_key", "dialect", "opts", "repeat"),
    *("executor", "webhook_key", "line", "scheduled_for"),
)
KEPT_KEYS = 100


def replace(new: Mapping[str, Any], actor: str) -> Pipeline:
    """scheduled → scheduled, or waiting where the new one has no delay: the job becomes what the later enqueue asked
    for; its id, and when it was first enqueued, stay. `new` is the document that would have been inserted.

    `replaced_by` tells a repeat of the same enqueue that it has happened. The caller's idempotency key joins those that
    stand for the job already, of which the last 100 are kept. The time of `ttl_ms` begins anew with `extend` alone.
    """
    keys: Any = "$idempotency_key"
    if "idempotency_key" in new:
        given = when({"$isArray": keys}, keys, when(present(keys), [keys], []))
        keys = {"$slice": [{"$setUnion": [given, [literal(new["idempotency_key"])]]}, -KEPT_KEYS]}
    extends = new["dedup"].get("extend", False)
    until = literal(new["unique_until"]) if extends and "unique_until" in new else "$unique_until"
    key_until = literal(new["idempotency_until"]) if "idempotency_until" in new else "$idempotency_until"
    data = {"name": literal(new["name"]), **{field: _or_gone(new, field) for field in ("app", "group", "tags")}}
    return [
        {
            "$set": {
                **stamp("replace", actor=literal(actor), to=new["state"], data=data),
                **{field: _or_gone(new, field) for field in _REPLACED},
                "replaced_by": new["_id"],
                "awaited": True if "repeat" in new else "$awaited",
                "idempotency_key": keys,
                "idempotency_until": key_until,
                "unique_until": until,
                "release_at": {"$ifNull": [{"$min": [key_until, until]}, GONE]},
            }
        }
    ]


def _or_gone(document: Mapping[str, Any], field: str) -> Any:
    return literal(document[field]) if field in document else GONE


def promote(actor: str, *, source: str | None = None) -> Pipeline:
    """scheduled, retrying → waiting now."""
    return [
        {
            "$set": {
                **stamp("promote", actor=literal(actor), to="waiting", source=source),
                "state": "waiting",
                "run_at": "$$NOW",
                "order": in_order(NOW_MS),
            }
        }
    ]


def reschedule(actor: str, run_at: datetime | None, *, source: str | None = None) -> Pipeline:
    """scheduled, waiting, retrying → due at this time, or now where it has passed or is None."""
    at: Any = "$$NOW" if run_at is None else literal(run_at)
    later = {"$gt": [at, "$$NOW"]}
    to = when(later, when({"$eq": ["$state", "retrying"]}, "retrying", "scheduled"), "waiting")
    due = when(later, at, "$$NOW")
    data = {"before": {"run_at": "$run_at"}, "after": {"run_at": due}}
    return [
        {
            "$set": {
                **stamp("reschedule", actor=literal(actor), to=to, source=source, data=data),
                "state": to,
                "run_at": due,
                "order": in_order({"$toLong": due}),
                "scheduled_for": when(later, at, GONE),
                "parked": GONE,
            }
        }
    ]


def update(actor: str, fields: Mapping[str, Any], *, source: str | None = None) -> Pipeline:
    """Changes what an operator may change; a scheduled or retrying job with a new `run_at` keeps its state.

    The event has the values before and after, of a payload the name alone.
    """
    sets: Document = {field: literal(value) for field, value in fields.items()}
    if "priority" in fields:
        sets.setdefault("rank", fields["priority"])
    if "run_at" in fields:
        sets["order"] = in_order({"$toLong": literal(fields["run_at"])})
        sets["scheduled_for"] = sets["run_at"]
    small = [field for field in sorted(fields) if field != "payload"]
    data: Document = {"fields": sorted(fields)}
    if small:
        data["before"] = {field: f"${field}" for field in small}
        data["after"] = {field: literal(fields[field]) for field in small}
    moved = stamp("update", actor=literal(actor), source=source, data=data, after_run=True)
    return [{"$set": {**moved, **RUN_WRITTEN, **sets}}]


def remove(actor: str, *, source: str | None = None, action: Mapping[str, Any] | None = None) -> Pipeline:
    """Any state → a tombstone: invisible to every reader, deleted once its effects are relayed. `action` is as in
    `retry`."""
    part_of = {} if action is None else {"action": literal(action)}
    completed = {"$eq": ["$state", "completed"]}
    dropped = ("payload", "opts", "result", "logs", "attempts", "custom_id", "pending", "parked", "expires_at")
    return [
        {
            "$set": {
                **stamp("remove", actor=literal(actor), to="removed", source=source, data=part_of, after_run=True),
                **RUN_WRITTEN,
                **UNLEASED,
                **dict.fromkeys(dropped, GONE),
                "unique_hold": SETTLED["unique_hold"],
                "release_at": SETTLED["release_at"],
                "state": "removed",
                "last_state": "$state",
                "removed_at": "$$NOW",
                "outbox": when(completed, GONE, OUTBOX_SETTLE),
            }
        }
    ]
