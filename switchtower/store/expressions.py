"""What do all transitions say alike?

The event stamp, the row of an attempt, what a lease and an open job hold on to, and what an outbox is filled with: as
MongoDB expressions, each written once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = [
    "CHARGED",
    "GONE",
    "NOW_MS",
    "OUTBOX_FAILED",
    "OUTBOX_SETTLE",
    "REMOVE_ON_FAIL",
    "RUN_WRITTEN",
    "SETTLED",
    "STARTED",
    "UNLEASED",
    "UNMARKED",
    "attempt_row",
    "discarded",
    "in_order",
    "literal",
    "present",
    "reported",
    "stamp",
    "token_hash",
    "when",
]

Document = dict[str, Any]

GONE = "$$REMOVE"
KEPT_TRANSITIONS = 50
KEPT_ATTEMPTS = 50


def literal(value: Any) -> Document:
    """A value from outside, safe inside a pipeline."""
    return {"$literal": value}


def token_hash(token: str) -> str:
    """What a job keeps of a lease token: enough to recognise the winner's replay, useless to anyone else."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()[:24]


def when(condition: Any, then: Any, otherwise: Any) -> Document:
    """`then` where the condition holds, else `otherwise`."""
    return {"$cond": [condition, then, otherwise]}


def present(field: str) -> Document:
    """Whether a field is there at all (null is)."""
    return {"$ne": [{"$type": field}, "missing"]}


NOW_MS = {"$toLong": "$$NOW"}
STARTED = {"$eq": ["$started", True]}
CHARGED = when(STARTED, "$attempt", {"$add": ["$attempt", 1]})
"""The attempt that this run is charged as: a job that ends before its start was flushed is charged by its end."""


UNMARKED = {"$ne": ["$started", True]}
CLAIMED = {
    "type": "claim",
    "at": "$claimed_at",
    "actor": "$worker_id",
    "attempt": "$attempt",
    "from": "waiting",
    "to": "active",
}
"""The row of the timeline that a claim leaves to the transition after it."""


UNWRITTEN = present("$ran")
_COMPLETED = {
    "type": "complete",
    "at": "$finished_at",
    "actor": "$ran.worker_id",
    "attempt": "$attempt",
    "from": "active",
    "to": "completed",
}
_RUN = [{**CLAIMED, "actor": "$ran.worker_id", "attempt": {"$subtract": ["$attempt", 1]}}, _COMPLETED]
"""The rows of the timeline that a plain completion leaves to the transition after it."""


def in_order(at_ms: Any) -> Document:
    """The `order` of a job that is due at this time; LIFO counts backwards."""
    return when({"$eq": ["$lifo", True]}, {"$multiply": [at_ms, -1]}, at_ms)


def stamp(
    type: Any,
    *,
    actor: Any,
    to: Any = None,
    attempt: Any = "$attempt",
    data: Mapping[str, Any] | None = None,
    source: str | None = None,
    keep: bool = True,
    after_claim: Any = None,
    after_run: bool = False,
) -> Document:
    """The fields of `$set` that carry the event: new under a new key each time, so that it arrives whole.

    `source` marks somebody's action: it leaves an audit row. The row of a claim in the timeline is left to the worker's
    next transition, which writes one anyway (`after_claim`: whether it is that one), and a plain completion leaves its
    own to whatever follows it (`after_run`: this may; write `RUN_WRITTEN` too).
    """
    following = {"$add": ["$event_seq", 1]}
    brief: Document = {"type": type, "at": "$$NOW", "actor": actor, "attempt": attempt}
    if to is not None:
        brief |= {"from": "$state", "to": to}
    event = brief | {
        "queue": "$queue",
        "name": "$name",
        "org": "$org",
        "app": "$app",
        "group": "$group",
        "parent": "$parent_id",
        "flow": "$flow_id",
        "tags": "$tags",
        "custom": "$custom_id",
        **({} if source is None else {"source": literal(source)}),
        **(data or {}),
    }
    fields: Document = {
        "event_seq": following,
        "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
        "updated_at": "$$NOW",
    }
    if keep:
        rows: Any = [brief]
        if after_claim is not None:
            rows = when(after_claim, [CLAIMED, brief], rows)
        elif after_run:
            rows = when(UNWRITTEN, [*_RUN, brief], rows)
        fields["timeline"] = {"$slice": [{"$concatArrays": ["$timeline", rows]}, -KEPT_TRANSITIONS]}
    return fields


def reported(token: str, outcome: str) -> Document:
    """What is kept of the report that ends a run, so that its repeat is told from anyone else's."""
    return {"token": token_hash(token), "as": outcome}


def attempt_row(
    outcome: Any,
    *,
    started_at: Any,
    error: Any = GONE,
    number: Any = CHARGED,
    worker_id: Any = "$worker_id",
    ended_at: Any = "$$NOW",
) -> Document:
    """The job's attempts with the run that ends now."""
    row = {
        "number": number,
        "generation": "$generation",
        "worker_id": worker_id,
        "started_at": started_at,
        "ended_at": ended_at,
        "outcome": outcome,
        "error": error,
    }
    rows = {"$concatArrays": [{"$ifNull": ["$attempts", []]}, [row]]}
    return {"$slice": [rows, -KEPT_ATTEMPTS]}


_STARTED_AT = {"$subtract": ["$finished_at", "$ran.ms"]}
RUN_WRITTEN = {
    "attempts": when(
        UNWRITTEN,
        attempt_row(
            "completed", started_at=_STARTED_AT, number="$attempt", worker_id="$ran.worker_id", ended_at="$finished_at"
        ),
        "$attempts",
    ),
    "started_at": when(UNWRITTEN, _STARTED_AT, "$started_at"),
    **dict.fromkeys(("ran", "claimed_at"), GONE),
}
"""Writes down what a plain completion left to be made of its fields; changes nothing after any other."""

UNLEASED = dict.fromkeys(
    ("token", "worker_id", "claimed_at", "started", "cancel_requested_at", "cancel_discards", "limited"), GONE
)

_OUTLIVES = {"$eq": [{"$ifNull": ["$dedup.mode", "throttle"]}, "throttle"]}
_KEEP_HOLD = {"$and": [_OUTLIVES, {"$gt": ["$unique_until", "$$NOW"]}]}
SETTLED = {
    "unique_hold": when(_KEEP_HOLD, "$unique_hold", GONE),
    "release_at": when(_KEEP_HOLD, {"$min": ["$release_at", "$unique_until"]}, "$release_at"),
    "expires_at": GONE,
    "finished_at": "$$NOW",
    "pending": GONE,
    "parked": GONE,
}
"""What every final state lets go of."""

_AWAITED = {"$or": [present("$parent_id"), {"$eq": ["$awaited", True]}]}
OUTBOX_SETTLE = when(_AWAITED, ["settle"], GONE)
REMOVE_ON_FAIL = {"$eq": ["$remove_on_fail", True]}
OUTBOX_FAILED = when(
    REMOVE_ON_FAIL,
    OUTBOX_SETTLE,
    when(_AWAITED, ["dead_letter", "settle"], ["dead_letter"]),
)


def discarded(flag: Any, state: str) -> Document:
    """The state fields of a job that lands on `state`, and is gone at once where `flag` (`remove_on_…`) holds."""
    return {
        "state": when(flag, "removed", state),
        "removed_at": when(flag, "$$NOW", GONE),
        "last_state": when(flag, state, GONE),
        "custom_id": when(flag, GONE, "$custom_id"),
    }
