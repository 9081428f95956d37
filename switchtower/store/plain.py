"""What do a claim and a completion write when everything about the job is known? A plain update, shared by many jobs.

The writer has seen the job, and guards the update by the `event_seq` that it saw: after any other change nothing
matches, and the pipeline of `transitions` is written instead. A plain update costs the database two thirds of the
pipeline that moves the same fields (docs/decisions/0009-plain-updates.md). It can name the database's time for a field
only, not inside a value: its event takes its time from `claimed_at` or `finished_at` (`changes.EVENTS`), and a
completion leaves its rows of the attempts and of the timeline to be made of these fields (`documents.job_from`), until
another transition writes them down (`expressions.RUN_WRITTEN`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchtower.clock import to_ms
from switchtower.jobs import ClaimedJob
from switchtower.metrics import rounded_ms
from switchtower.store.expressions import reported

__all__ = ["claim", "claim_kind", "complete", "completion_guard"]

Document = dict[str, Any]


def claim_kind(row: Mapping[str, Any], now_ms: int) -> tuple[Any, ...]:
    """What jobs must have in common to be claimed by one update; `now_ms` is the database's time as measured.

    The time that a job waited is in it, in steps of at most 5 %: it is part of the event.
    """
    get = row.get
    waited_ms = rounded_ms(max(0, now_ms - to_ms(row["run_at"])))
    return (
        *(row["event_seq"], row["attempt"], waited_ms, row["queue"], row["name"], row["org"], get("app")),
        *(get("group"), get("parent_id"), get("flow_id"), tuple(get("tags", ())), get("custom_id")),
    )


def claim(kind: tuple[Any, ...], token: str, worker_id: str) -> Document:
    """waiting → active under a fresh lease token, for jobs of one `claim_kind`. Guard: `guards.claimable`, and the
    `event_seq` of the kind."""
    seen, attempt, waited_ms, *shared = kind
    event = _event("claim", "waiting", "active", actor=worker_id, attempt=attempt, shared=shared)
    return {
        "$set": {
            "event_seq": seen + 1,
            "event": {str(seen + 1): {**event, "wait_ms": waited_ms}},
            "state": "active",
            "token": token,
            "worker_id": worker_id,
        },
        "$inc": {"claims": 1},
        "$currentDate": {"claimed_at": True, "updated_at": True},
        "$unset": {"started_at": "", "retry_pending": "", "progress": ""},
    }


def completion_guard(job: ClaimedJob) -> Document:
    """The job is as it was claimed, and nobody began to wait for it (which is no event)."""
    return {"event_seq": job.fence, "awaited": None}


def complete(job: ClaimedJob, ran_ms: int, result: Any) -> Document:
    """active → completed, for jobs that are `plain`. Guard: the token, and `completion_guard`."""
    seq = job.fence + 1
    shared = (job.queue, job.name, job.org, job.app or None, job.group, None, None, tuple(job.tags), None)
    event = _event("complete", "active", "completed", actor=job.worker_id, attempt=job.number, shared=shared)
    return {
        "$set": {
            "event_seq": seq,
            "event": {str(seq): {**event, "ms": ran_ms}},
            "state": "completed",
            "attempt": job.number,
            "ran": {"ms": ran_ms, "worker_id": job.worker_id},
            "result": result,
            "reported": reported(job.token, "completed"),
        },
        "$currentDate": {"finished_at": True, "updated_at": True},
        "$unset": {"token": "", "worker_id": "", "limited": "", "expires_at": "", "error": ""},
    }


_SHARED = ("queue", "name", "org", "app", "group", "parent", "flow", "tags", "custom")


def _event(type: str, source: str, target: str, *, actor: str, attempt: int, shared: Any) -> Document:
    """The event as `expressions.stamp` makes it, without its time."""
    event: Document = {"type": type, "actor": actor, "attempt": attempt, "from": source, "to": target}
    event |= {field: value for field, value in zip(_SHARED, shared, strict=True) if value is not None and value != ()}
    return event
