"""What does each transition write?

Every function returns an update pipeline for one job document. A pipeline moves the job, stamps the event that the
change stream will carry, and declares in `outbox` what must follow in other documents: one atomic write, so there is no
change without its event and no effect without its cause. Filters are in `guards`. Values from users are `$literal`s:
in a pipeline, the text "$token" would otherwise read the lease token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from switchtower.jobs import JobError
from switchtower.store.documents import error_document
from switchtower.store.expressions import (
    CHARGED,
    GONE,
    NOW_MS,
    OUTBOX_FAILED,
    OUTBOX_SETTLE,
    REMOVE_ON_FAIL,
    SETTLED,
    STARTED,
    UNLEASED,
    UNMARKED,
    attempt_row,
    discarded,
    in_order,
    literal,
    present,
    reported,
    stamp,
    when,
)

__all__ = [
    "abandon",
    "claim",
    "complete",
    "expire",
    "fail",
    "give_back",
    "log",
    "park",
    "progress",
    "rescue",
    "stage",
    "start",
    "unblock",
    "unpark",
]

Document = dict[str, Any]
Pipeline = list[Document]

KEPT_LOGS = 1_000


def claim(token: str, worker_id: str) -> Pipeline:
    """waiting → active under a fresh lease token. Guard: `guards.claimable`."""
    return [
        {
            "$set": {
                **stamp(
                    "claim",
                    actor=literal(worker_id),
                    to="active",
                    data={"wait_ms": {"$subtract": ["$$NOW", "$run_at"]}},
                    keep=False,
                ),
                "state": "active",
                "token": token,
                "worker_id": literal(worker_id),
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
                **stamp("start", actor="$worker_id", attempt={"$add": ["$attempt", 1]}, after_claim=True),
                "started": True,
                "started_at": "$$NOW",
                "attempt": {"$add": ["$attempt", 1]},
            }
        }
    ]


def _began(ran_ms: int) -> Document:
    return when(STARTED, "$started_at", {"$subtract": ["$$NOW", ran_ms]})


def complete(token: str, ran_ms: int, result: Any) -> Pipeline:
    """active → completed (removed at once with `remove_on_complete`), or cancelled without its result, where a cancel
    was requested that discards it. Guard: the token."""
    to = "$_.to"
    cancelled = {"$eq": [to, "cancelled"]}
    flag = {"$and": [{"$not": [cancelled]}, {"$eq": ["$remove_on_complete", True]}]}
    began = _began(ran_ms)
    return [
        {"$set": {"_": {"to": when(present("$cancel_discards"), "cancelled", "completed")}}},
        {
            "$set": {
                **stamp(
                    when(cancelled, "abort", "complete"),
                    actor="$worker_id",
                    to=to,
                    attempt=CHARGED,
                    data={"ms": ran_ms, "removed": when(flag, True, GONE)},
                    after_claim=UNMARKED,
                ),
                **UNLEASED,
                **SETTLED,
                "_": GONE,
                **discarded(flag, to),
                "attempt": CHARGED,
                "started_at": began,
                "result": when(cancelled, GONE, result),
                "error": when(cancelled, "$error", GONE),
                "attempts": attempt_row(to, started_at=began),
                "reported": reported(token, "completed"),
                "outbox": OUTBOX_SETTLE,
            }
        },
    ]


def fail(token: str, ran_ms: int, error: JobError, *, wait_ms: int, fatal: bool, outcome: str = "failed") -> Pipeline:
    """active → retrying after `wait_ms` (waiting when it is zero), failed when attempts are spent or it is fatal,
    cancelled when a cancel was requested meanwhile. Guard: the token."""
    failure = error_document(error)
    return _end_of_run(
        {
            "branches": [
                {"case": present("$cancel_requested_at"), "then": {"type": "abort", "to": "cancelled"}},
                {
                    "case": {"$or": [fatal, {"$gte": [CHARGED, "$max_attempts"]}]},
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
    discard = {"$and": [failed, REMOVE_ON_FAIL]}
    due = {"$add": ["$$NOW", wait_ms]}
    began = _began(ran_ms)
    later = {"$add": [NOW_MS, wait_ms]}
    shown = literal(error) if error else GONE
    return [
        {"$set": {"_": {"$switch": switch}}},
        {
            "$set": {
                **stamp(
                    "$_.type",
                    actor="$worker_id",
                    to=to,
                    attempt=CHARGED,
                    data={
                        "ms": ran_ms,
                        "removed": when(discard, True, GONE),
                        **(
                            {"error": literal({k: error[k] for k in ("kind", "type", "message", "fingerprint")})}
                            if error
                            else {}
                        ),
                    },
                    after_claim=UNMARKED,
                ),
                **UNLEASED,
                "_": GONE,
                **{field: when(final, value, f"${field}") for field, value in SETTLED.items()},
                **discarded(discard, to),
                "attempt": CHARGED,
                "started_at": began,
                "error": shown if error else "$error",
                "retry_pending": when(final, GONE, True),
                "run_at": when(final, "$run_at", due),
                "order": when(final, "$order", in_order(later)),
                "attempts": attempt_row(
                    when({"$eq": [to, "cancelled"]}, "cancelled", outcome), started_at=began, error=shown
                ),
                "reported": reported(token, outcome),
                "outbox": when(failed, OUTBOX_FAILED, when(final, OUTBOX_SETTLE, GONE)),
            }
        },
    ]


def give_back(type: str, token: str, *, wait_ms: int = 0) -> Pipeline:
    """active → waiting (release), scheduled (snooze; waiting without a wait) or blocked (suspend, while children that
    it added have not ended), the attempt given back; cancelled when that was requested. Guard: the token."""
    cancelled = present("$cancel_requested_at")
    target: Any = "scheduled" if type == "snooze" and wait_ms else "waiting"
    if type == "suspend":
        target = when({"$gt": [{"$size": {"$ifNull": ["$pending", []]}}, 0]}, "blocked", "waiting")
    outcome = {"release": "released", "snooze": "snoozed", "suspend": "suspended"}[type]
    charged = when(STARTED, {"$subtract": ["$attempt", 1]}, "$attempt")
    to = when(cancelled, "cancelled", target)
    ended = SETTLED | UNLEASED
    return [
        {
            "$set": {
                **stamp(
                    when(cancelled, "abort", type),
                    actor="$worker_id",
                    to=to,
                    attempt=charged,
                    after_claim=UNMARKED,
                ),
                **UNLEASED,
                **{field: when(cancelled, ended[field], f"${field}") for field in SETTLED},
                "state": to,
                "attempt": charged,
                "claims": {"$subtract": ["$claims", 1]},
                "started_at": GONE,
                "run_at": {"$add": ["$$NOW", wait_ms]} if type == "snooze" else "$run_at",
                "order": in_order({"$add": [NOW_MS, wait_ms]}) if type == "snooze" else "$order",
                "attempts": when(STARTED, attempt_row(outcome, started_at="$started_at"), "$attempts"),
                "reported": reported(token, outcome),
                "outbox": when(cancelled, OUTBOX_SETTLE, GONE),
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
            {"$and": [STARTED, {"$gte": ["$attempt", "$max_attempts"]}]},
            {"$gte": ["$claims", {"$add": ["$max_attempts", claim_allowance]}]},
        ]
    }
    switch = {
        "branches": [
            {"case": present("$cancel_requested_at"), "then": "cancelled"},
            {"case": spent, "then": "failed"},
        ],
        "default": "waiting",
    }
    to = "$_.to"
    failed, final = {"$eq": [to, "failed"]}, {"$ne": [to, "waiting"]}
    failure = literal(error_document(error))
    charged = {"$or": [STARTED, failed]}
    discard = {"$and": [failed, REMOVE_ON_FAIL]}
    brief = literal(
        {"kind": error.kind.value, "type": error.type, "message": error.message, "fingerprint": error.fingerprint}
    )
    return [
        {"$set": {"_": {"to": {"$switch": switch}}}},
        {
            "$set": {
                **stamp(
                    "rescue",
                    actor="system",
                    to=to,
                    data={"error": brief, "worker": "$worker_id", "removed": when(discard, True, GONE)},
                    after_claim=UNMARKED,
                ),
                **UNLEASED,
                **{field: when(final, value, f"${field}") for field, value in SETTLED.items()},
                **discarded(discard, to),
                "_": GONE,
                "error": when(charged, failure, "$error"),
                "attempts": when(
                    charged,
                    attempt_row("lost", started_at="$started_at", error=failure, number="$attempt"),
                    "$attempts",
                ),
                "outbox": when(failed, OUTBOX_FAILED, when(final, OUTBOX_SETTLE, GONE)),
            }
        },
    ]


def _fails_unclaimed(type: str, error: JobError, actor: Any) -> Pipeline:
    failure = error_document(error)
    brief = literal({k: failure[k] for k in ("kind", "type", "message", "fingerprint")})
    return [
        {
            "$set": {
                **stamp(
                    type, actor=actor, to="failed", data={"error": brief, "removed": when(REMOVE_ON_FAIL, True, GONE)}
                ),
                **SETTLED,
                **discarded(REMOVE_ON_FAIL, "failed"),
                "retry_pending": GONE,
                "error": literal(failure),
                "outbox": OUTBOX_FAILED,
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
    return [{"$set": {**stamp("stage", actor="system", to="waiting"), "state": "waiting"}}]


def unblock(ids: Sequence[str]) -> Pipeline:
    """Takes settled ids out of `pending`; a blocked job with none left becomes waiting (or scheduled, if not due)."""
    left = {"$setDifference": [{"$ifNull": ["$pending", []]}, list(ids)]}
    free = {"$and": [{"$eq": ["$state", "blocked"]}, {"$eq": [{"$size": "$_.left"}, 0]}]}
    to = when({"$gt": ["$run_at", "$$NOW"]}, "scheduled", "waiting")
    moved = stamp("unblock", actor="system", to=to)
    return [
        {"$set": {"_": {"left": left}}},
        {
            "$set": {
                **{field: when(free, value, f"${field}") for field, value in moved.items()},
                "state": when(free, to, "$state"),
                "pending": when({"$eq": [{"$size": "$_.left"}, 0]}, GONE, "$_.left"),
                "_": GONE,
            }
        },
    ]


def park(reason: str) -> Pipeline:
    """waiting, out of the claimers' way until the cause is gone."""
    return [{"$set": {**stamp("park", actor="system", data={"reason": reason}, keep=False), "parked": reason}}]


def unpark() -> Pipeline:
    """waiting, back in its place."""
    return [{"$set": {**stamp("unpark", actor="system", keep=False), "parked": GONE}}]


def progress(value: Any) -> Pipeline:
    """Sets the progress of a running job. Guard: the token."""
    shown = literal(value)
    return [
        {"$set": {**stamp("progress", actor="$worker_id", data={"progress": shown}, keep=False), "progress": shown}}
    ]


def log(lines: Sequence[tuple[str, str]]) -> Pipeline:
    """Appends log lines, of which the last 1,000 are kept. Guard: the token."""
    rows = [
        {"at": "$$NOW", "level": literal(level), "line": literal(line), "attempt": CHARGED} for level, line in lines
    ]
    kept = {"$slice": [{"$concatArrays": [{"$ifNull": ["$logs", []]}, rows]}, -KEPT_LOGS]}
    shown = [{"level": literal(level), "line": literal(line)} for level, line in lines]
    return [{"$set": {**stamp("log", actor="$worker_id", data={"lines": shown}, keep=False), "logs": kept}}]
