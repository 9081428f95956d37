"""What does each transition write?

Every function returns an update pipeline for one job document. A pipeline moves the job, stamps the event that the
change stream will carry, and declares in `outbox` what must follow in other documents: one atomic write, so there is no
change without its event and no effect without its cause. Filters are in `guards`. Values from users are `$literal`s:
in a pipeline, the text "$token" would otherwise read the lease token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from switchtower.jobs import JobError
from switchtower.store.documents import error_document

__all__ = [
    "abandon",
    "add_child",
    "cancel",
    "claim",
    "complete",
    "expire",
    "fail",
    "give_back",
    "literal",
    "log",
    "park",
    "progress",
    "promote",
    "remove",
    "rescue",
    "retry",
    "stage",
    "start",
    "token_hash",
    "unblock",
    "unpark",
    "update",
]

Document = dict[str, Any]
Pipeline = list[Document]

GONE = "$$REMOVE"
KEPT_TRANSITIONS = 50
KEPT_ATTEMPTS = 50
KEPT_LOGS = 1_000


def literal(value: Any) -> Document:
    """A value from outside, safe inside a pipeline."""
    return {"$literal": value}


def token_hash(token: str) -> str:
    """What an attempt keeps of its lease token: enough to recognise the winner's replay, useless to anyone else."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()[:24]


def _if(condition: Any, then: Any, otherwise: Any) -> Document:
    return {"$cond": [condition, then, otherwise]}


def _present(field: str) -> Document:
    return {"$ne": [{"$type": field}, "missing"]}


_NOW_MS = {"$toLong": "$$NOW"}
_FLAG = {"$eq": ["$started", True]}
_ATTEMPT = _if(_FLAG, "$attempt", {"$add": ["$attempt", 1]})
"""The attempt that this run is charged as: a job that ends before its start was flushed is charged by its end."""


def _order(at_ms: Any) -> Document:
    return _if({"$eq": ["$lifo", True]}, {"$multiply": [at_ms, -1]}, at_ms)


def _stamp(
    type: Any,
    *,
    actor: Any,
    to: Any = None,
    attempt: Any = "$attempt",
    data: Mapping[str, Any] | None = None,
    keep: bool = True,
) -> Document:
    """The fields of `$set` that carry the event: new under a new key each time, so that it arrives whole."""
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
        "tags": "$tags",
        **(data or {}),
    }
    fields: Document = {
        "event_seq": following,
        "event": {"$arrayToObject": [[{"k": {"$toString": following}, "v": event}]]},
        "updated_at": "$$NOW",
    }
    if keep:
        fields["timeline"] = {"$slice": [{"$concatArrays": ["$timeline", [brief]]}, -KEPT_TRANSITIONS]}
    return fields


def _attempt_row(outcome: Any, token: str | None, *, started_at: Any, error: Any = GONE, number: Any = _ATTEMPT) -> Document:
    row = {
        "number": number,
        "generation": "$generation",
        "worker_id": "$worker_id",
        "started_at": started_at,
        "ended_at": "$$NOW",
        "outcome": outcome,
        "error": error,
    }
    if token is not None:
        row["token"] = token_hash(token)
    rows = {"$concatArrays": [{"$ifNull": ["$attempts", []]}, [row]]}
    return {"$slice": [rows, -KEPT_ATTEMPTS]}


_UNLEASED = dict.fromkeys(("token", "worker_id", "claimed_at", "started", "cancel_requested_at"), GONE)

_KEEP_HOLD = {"$gt": ["$unique_until", "$$NOW"]}
_SETTLED = {
    "unique_hold": _if(_KEEP_HOLD, "$unique_hold", GONE),
    "release_at": _if(_KEEP_HOLD, {"$min": ["$release_at", "$unique_until"]}, "$release_at"),
    "expires_at": GONE,
    "finished_at": "$$NOW",
    "pending": GONE,
    "parked": GONE,
}
"""What every final state lets go of."""

_AWAITED = {"$or": [_present("$parent_id"), {"$eq": ["$awaited", True]}]}
_OUTBOX_SETTLE = _if(_AWAITED, ["settle"], GONE)
_OUTBOX_FAILED = _if(
    {"$eq": ["$remove_on_fail", True]},
    _OUTBOX_SETTLE,
    _if(_AWAITED, ["dead_letter", "settle"], ["dead_letter"]),
)


def _discarded(flag: Any, state: str) -> Document:
    """The state fields of a job that its caller wanted gone as soon as it is final (`remove_on_…`)."""
    return {
        "state": _if(flag, "removed", state),
        "removed_at": _if(flag, "$$NOW", GONE),
        "last_state": _if(flag, state, GONE),
        "custom_id": _if(flag, GONE, "$custom_id"),
    }


def claim(token: str, worker_id: str) -> Pipeline:
    """waiting → active under a fresh lease token. Guard: `guards.claimable`."""
    return [
        {
            "$set": {
                **_stamp(
                    "claim",
                    actor=worker_id,
                    to="active",
                    data={"wait_ms": {"$subtract": ["$$NOW", "$run_at"]}},
                ),
                "state": "active",
                "token": token,
                "worker_id": worker_id,
                "claimed_at": "$$NOW",
                "claims": {"$add": ["$claims", 1]},
                "started_at": GONE,
                "retry_pending": GONE,
                "progress": GONE,
            }
        }
    ]


def start() -> Pipeline:
    """Marks a run as begun and charges its attempt. Guard: the token, not started."""
    return [
        {
            "$set": {
                **_stamp("start", actor="$worker_id", attempt={"$add": ["$attempt", 1]}),
                "started": True,
                "started_at": "$$NOW",
                "attempt": {"$add": ["$attempt", 1]},
            }
        }
    ]


def _began(ran_ms: int) -> Document:
    return _if(_FLAG, "$started_at", {"$subtract": ["$$NOW", ran_ms]})


def complete(token: str, ran_ms: int, result: Any) -> Pipeline:
    """active → completed (removed at once with `remove_on_complete`). Guard: the token."""
    flag = {"$eq": ["$remove_on_complete", True]}
    began = _began(ran_ms)
    return [
        {
            "$set": {
                **_stamp(
                    "complete",
                    actor="$worker_id",
                    to="completed",
                    attempt=_ATTEMPT,
                    data={"ms": ran_ms, "removed": _if(flag, True, GONE)},
                ),
                **_UNLEASED,
                **_SETTLED,
                **_discarded(flag, "completed"),
                "attempt": _ATTEMPT,
                "started_at": began,
                "result": result,
                "error": GONE,
                "attempts": _attempt_row("completed", token, started_at=began),
                "outbox": _OUTBOX_SETTLE,
            }
        }
    ]


def fail(token: str, ran_ms: int, error: JobError, *, wait_ms: int, fatal: bool, outcome: str = "failed") -> Pipeline:
    """active → retrying after `wait_ms` (waiting when it is zero), failed when attempts are spent or it is fatal,
    cancelled when a cancel was requested meanwhile. Guard: the token."""
    failure = error_document(error)
    return _end_of_run(
        {
            "branches": [
                {"case": _present("$cancel_requested_at"), "then": {"type": "abort", "to": "cancelled"}},
                {
                    "case": {"$or": [fatal, {"$gte": [_ATTEMPT, "$max_attempts"]}]},
                    "then": {"type": "expire" if outcome == "expired" else "bury", "to": "failed"},
                },
            ],
            "default": {"type": "backoff", "to": "retrying" if wait_ms else "waiting"},
        },
        token=token,
        ran_ms=ran_ms,
        wait_ms=wait_ms,
        error=failure,
        outcome=outcome,
    )


def abort(token: str, ran_ms: int) -> Pipeline:
    """active → cancelled: the handler stopped for a cancel. Guard: the token."""
    return _end_of_run(
        {"branches": [{"case": False, "then": {}}], "default": {"type": "abort", "to": "cancelled"}},
        token=token,
        ran_ms=ran_ms,
        wait_ms=0,
        error=None,
        outcome="cancelled",
    )


def _end_of_run(
    switch: Document, *, token: str, ran_ms: int, wait_ms: int, error: Document | None, outcome: str
) -> Pipeline:
    """A run that did not complete: `switch` decides the event type and the state; the rest follows from the state."""
    to = "$_.to"
    failed, final = {"$eq": [to, "failed"]}, {"$in": [to, ["failed", "cancelled"]]}
    discard = {"$and": [failed, {"$eq": ["$remove_on_fail", True]}]}
    due = {"$add": ["$$NOW", wait_ms]}
    began = _began(ran_ms)
    later = {"$add": [_NOW_MS, wait_ms]}
    shown = literal(error) if error else GONE
    return [
        {"$set": {"_": {"$switch": switch}}},
        {
            "$set": {
                **_stamp(
                    "$_.type",
                    actor="$worker_id",
                    to=to,
                    attempt=_ATTEMPT,
                    data={
                        "ms": ran_ms,
                        "removed": _if(discard, True, GONE),
                        **({"error": literal({k: error[k] for k in ("kind", "type", "message", "fingerprint")})} if error else {}),
                    },
                ),
                **_UNLEASED,
                "_": GONE,
                "state": _if(discard, "removed", to),
                "removed_at": _if(discard, "$$NOW", GONE),
                "last_state": _if(discard, "failed", GONE),
                "custom_id": _if(discard, GONE, "$custom_id"),
                "unique_hold": _if(final, _SETTLED["unique_hold"], "$unique_hold"),
                "release_at": _if(final, _SETTLED["release_at"], "$release_at"),
                "expires_at": _if(final, GONE, "$expires_at"),
                "finished_at": _if(final, "$$NOW", GONE),
                "attempt": _ATTEMPT,
                "started_at": began,
                "error": shown if error else "$error",
                "retry_pending": _if(final, GONE, True),
                "run_at": _if(final, "$run_at", due),
                "order": _if(final, "$order", _order(later)),
                "attempts": _attempt_row(
                    _if({"$eq": [to, "cancelled"]}, "cancelled", outcome), token, started_at=began, error=shown
                ),
                "outbox": _if(failed, _OUTBOX_FAILED, _if(final, _OUTBOX_SETTLE, GONE)),
            }
        },
    ]


def give_back(type: str, token: str, *, wait_ms: int = 0, refund: bool = True) -> Pipeline:
    """active → waiting (release) or scheduled (snooze), the attempt given back; cancelled when that was requested.

    With `refund` false the attempt stays charged (a retry at a time that the handler chose). Guard: the token.
    """
    cancelled = _present("$cancel_requested_at")
    target = "waiting" if type == "release" or not wait_ms else "scheduled"
    charged = _if(_FLAG, {"$subtract": ["$attempt", 1]}, "$attempt") if refund else _ATTEMPT
    to = _if(cancelled, "cancelled", target)
    ended = _SETTLED | _UNLEASED
    return [
        {
            "$set": {
                **_stamp(_if(cancelled, "abort", type), actor="$worker_id", to=to, attempt=charged),
                **_UNLEASED,
                **{field: _if(cancelled, ended[field], f"${field}") for field in _SETTLED},
                "state": to,
                "attempt": charged,
                "claims": {"$subtract": ["$claims", 1 if refund else 0]},
                "started_at": GONE,
                "run_at": {"$add": ["$$NOW", wait_ms]} if type != "release" else "$run_at",
                "order": _order({"$add": [_NOW_MS, wait_ms]}) if type != "release" else "$order",
                "attempts": _if(
                    _FLAG, _attempt_row("released" if type == "release" else "snoozed", token, started_at="$started_at"), "$attempts"
                ),
                "outbox": _if(cancelled, _OUTBOX_SETTLE, GONE),
            }
        }
    ]


def rescue(error: JobError, *, claim_allowance: int) -> Pipeline:
    """active → waiting at the place it had, or failed when its attempts are spent; only a started run is charged.

    A job that was claimed `max_attempts + claim_allowance` times kills its hosts before it is ever marked as started:
    it is failed too. Guard: the lost worker and the token that was seen.
    """
    spent = {
        "$or": [
            {"$and": [_FLAG, {"$gte": ["$attempt", "$max_attempts"]}]},
            {"$gte": ["$claims", {"$add": ["$max_attempts", claim_allowance]}]},
        ]
    }
    switch = {
        "branches": [
            {"case": _present("$cancel_requested_at"), "then": "cancelled"},
            {"case": spent, "then": "failed"},
        ],
        "default": "waiting",
    }
    to = "$_.to"
    failed, final = {"$eq": [to, "failed"]}, {"$ne": [to, "waiting"]}
    failure = literal(error_document(error))
    charged = {"$or": [_FLAG, failed]}
    brief = literal({"kind": error.kind.value, "type": error.type, "message": error.message, "fingerprint": error.fingerprint})
    return [
        {"$set": {"_": {"to": {"$switch": switch}}}},
        {
            "$set": {
                **_stamp("rescue", actor="system", to=to, data={"error": brief, "worker": "$worker_id"}),
                **_UNLEASED,
                **{field: _if(final, value, f"${field}") for field, value in _SETTLED.items()},
                "_": GONE,
                "state": to,
                "error": _if(charged, failure, "$error"),
                "attempts": _if(
                    charged,
                    _attempt_row("lost", None, started_at="$started_at", error=failure, number="$attempt"),
                    "$attempts",
                ),
                "outbox": _if(failed, _OUTBOX_FAILED, _if(final, _OUTBOX_SETTLE, GONE)),
            }
        },
    ]


def _fails_unclaimed(type: str, error: JobError, actor: Any) -> Pipeline:
    failure = error_document(error)
    brief = literal({k: failure[k] for k in ("kind", "type", "message", "fingerprint")})
    return [
        {
            "$set": {
                **_stamp(type, actor=actor, to="failed", data={"error": brief}),
                **_SETTLED,
                "state": "failed",
                "retry_pending": GONE,
                "error": literal(failure),
                "outbox": _OUTBOX_FAILED,
            }
        }
    ]


def expire(error: JobError) -> Pipeline:
    """scheduled, waiting, blocked, retrying → failed: its TTL passed."""
    return _fails_unclaimed("expire", error, "system")


def abandon(error: JobError) -> Pipeline:
    """blocked → failed: something it waited for did not complete."""
    return _fails_unclaimed("abandon", error, "system")


def stage() -> Pipeline:
    """scheduled, retrying → waiting, in the place that its due time gives it."""
    return [{"$set": {**_stamp("stage", actor="system", to="waiting"), "state": "waiting"}}]


def unblock(ids: Sequence[str]) -> Pipeline:
    """Takes settled ids out of `pending`; a blocked job with none left becomes waiting (scheduled while not yet due)."""
    left = {"$setDifference": [{"$ifNull": ["$pending", []]}, list(ids)]}
    free = {"$and": [{"$eq": ["$state", "blocked"]}, {"$eq": [{"$size": "$_.left"}, 0]}]}
    to = _if({"$gt": ["$run_at", "$$NOW"]}, "scheduled", "waiting")
    moved = _stamp("unblock", actor="system", to=to)
    return [
        {"$set": {"_": {"left": left}}},
        {
            "$set": {
                **{field: _if(free, value, f"${field}") for field, value in moved.items()},
                "state": _if(free, to, "$state"),
                "pending": _if({"$eq": [{"$size": "$_.left"}, 0]}, GONE, "$_.left"),
                "_": GONE,
            }
        },
    ]


def add_child(child_id: str, actor: str) -> Pipeline:
    """Makes a job wait for one more child; one that is active goes on and only knows of it."""
    active = {"$eq": ["$state", "active"]}
    to = _if(active, "active", "blocked")
    return [
        {
            "$set": {
                **_stamp(_if(active, "adopt", "block"), actor=literal(actor), to=to),
                "state": to,
                "parked": GONE,
                "retry_pending": GONE,
                "pending": {"$setUnion": [{"$ifNull": ["$pending", []]}, [child_id]]},
            }
        }
    ]


def park(reason: str) -> Pipeline:
    """waiting, out of the claimers' way until the cause is gone."""
    return [{"$set": {**_stamp("park", actor="system", data={"reason": reason}, keep=False), "parked": reason}}]


def unpark() -> Pipeline:
    """waiting, back in its place."""
    return [{"$set": {**_stamp("unpark", actor="system", keep=False), "parked": GONE}}]


def cancel(actor: str) -> Pipeline:
    """Any open job: an active one gets a cancel request, every other is cancelled at once."""
    active = {"$eq": ["$state", "active"]}
    to = _if(active, "active", "cancelled")
    return [
        {
            "$set": {
                **_stamp(_if(active, "request_cancel", "cancel"), actor=literal(actor), to=to),
                **{field: _if(active, f"${field}", value) for field, value in _SETTLED.items()},
                "state": to,
                "cancel_requested_at": _if(active, {"$ifNull": ["$cancel_requested_at", "$$NOW"]}, GONE),
                "retry_pending": _if(active, "$retry_pending", GONE),
                "outbox": _if(active, "$outbox", _OUTBOX_SETTLE),
            }
        }
    ]


def retry(actor: str) -> Pipeline:
    """Final, retrying or scheduled → waiting now. A final job begins a new generation with all its attempts."""
    final = {"$in": ["$state", ["completed", "failed", "cancelled"]]}
    again = {"$add": ["$$NOW", "$ttl_ms"]}
    fresh = dict.fromkeys(("result", "error", "finished_at", "started_at", "progress"), GONE)
    return [
        {
            "$set": {
                **_stamp("retry", actor=literal(actor), to="waiting"),
                **{field: _if(final, value, f"${field}") for field, value in fresh.items()},
                "state": "waiting",
                "attempt": _if(final, 0, "$attempt"),
                "claims": _if(final, 0, "$claims"),
                "generation": {"$add": ["$generation", _if(final, 1, 0)]},
                "unique_hold": _if(final, "$unique_key", "$unique_hold"),
                "expires_at": _if(_present("$ttl_ms"), again, GONE),
                "run_at": "$$NOW",
                "order": _order(_NOW_MS),
            }
        }
    ]


def promote(actor: str) -> Pipeline:
    """scheduled, retrying → waiting now."""
    return [
        {
            "$set": {
                **_stamp("promote", actor=literal(actor), to="waiting"),
                "state": "waiting",
                "run_at": "$$NOW",
                "order": _order(_NOW_MS),
            }
        }
    ]


def update(actor: str, fields: Mapping[str, Any]) -> Pipeline:
    """Changes what an operator may change; a scheduled or retrying job with a new `run_at` keeps its state."""
    sets: Document = {field: literal(value) for field, value in fields.items()}
    if "priority" in fields:
        sets["rank"] = fields["priority"]
    if "run_at" in fields:
        sets["order"] = _order({"$toLong": literal(fields["run_at"])})
    return [{"$set": {**_stamp("update", actor=literal(actor), data={"fields": sorted(fields)}), **sets}}]


def remove(actor: str) -> Pipeline:
    """Any state → a tombstone: invisible to every reader, deleted once its effects are relayed."""
    completed = {"$eq": ["$state", "completed"]}
    dropped = ("payload", "result", "logs", "attempts", "custom_id", "pending", "parked", "expires_at")
    return [
        {
            "$set": {
                **_stamp("remove", actor=literal(actor), to="removed"),
                **_UNLEASED,
                **dict.fromkeys(dropped, GONE),
                "unique_hold": _SETTLED["unique_hold"],
                "release_at": _SETTLED["release_at"],
                "state": "removed",
                "last_state": "$state",
                "removed_at": "$$NOW",
                "outbox": _if(completed, GONE, _OUTBOX_SETTLE),
            }
        }
    ]


def progress(value: Any) -> Pipeline:
    """Sets the progress of a running job. Guard: the token."""
    shown = literal(value)
    return [{"$set": {**_stamp("progress", actor="$worker_id", data={"progress": shown}, keep=False), "progress": shown}}]


def log(lines: Sequence[tuple[str, str]]) -> Pipeline:
    """Appends log lines, of which the last 1,000 are kept. Guard: the token."""
    rows = [{"at": "$$NOW", "level": literal(level), "line": literal(line), "attempt": _ATTEMPT} for level, line in lines]
    kept = {"$slice": [{"$concatArrays": [{"$ifNull": ["$logs", []]}, rows]}, -KEPT_LOGS]}
    shown = [{"level": literal(level), "line": literal(line)} for level, line in lines]
    return [{"$set": {**_stamp("log", actor="$worker_id", data={"lines": shown}, keep=False), "logs": kept}}]
