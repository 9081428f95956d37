"""How do our jobs look in Dispatched, and what do its requests mean to us?"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from app.rest.dialect import Given
from switchtower.dialects import Dialect
from switchtower.errors import InvalidInput
from switchtower.jobs import Enqueued, Job, NewJob
from switchtower.payloads import check_value
from switchtower.states import JobState

__all__ = ["STATUSES", "cancel", "dispatch", "dispatched", "job", "job_id", "reschedule"]

S = JobState
WEBHOOK: Final = "webhook"
"""The name and the queue of every job of Dispatched."""
PAYLOAD_BYTES: Final = 10_240
HORIZON_MS: Final = 366 * 24 * 3600 * 1000
"""How far ahead a job may be scheduled: a year."""

STATUSES: Final = {
    S.SCHEDULED: "QUEUED",
    S.WAITING: "QUEUED",
    S.BLOCKED: "QUEUED",
    S.RETRYING: "QUEUED",
    S.ACTIVE: "STARTED",
    S.COMPLETED: "COMPLETED",
    S.FAILED: "FAILED",
    S.CANCELLED: "CANCELLED",
}
CLAIMED: Final = "DISPATCHED"
"""What an active job is until its start is on record."""
CANCELLABLE: Final = frozenset({S.SCHEDULED, S.WAITING, S.BLOCKED, S.RETRYING})

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)


def dispatch(given: Given) -> dict[str, Any]:
    """The job to deliver. `scheduleFor`, as the document has it, goes before `scheduledFor`, as its clients send it."""
    payload = given.body.get("payload")
    if not isinstance(payload, dict):
        raise InvalidInput("payload", "is required, and must be a JSON object.")
    check_value("payload", payload, limit=PAYLOAD_BYTES)
    retries = given.body.get("maxRetries")
    if retries is not None and (not isinstance(retries, int) or isinstance(retries, bool) or retries < 0):
        raise InvalidInput("maxRetries", "must be a whole number, 0 or more.")
    field = "scheduleFor" if given.body.get("scheduleFor") is not None else "scheduledFor"
    new = NewJob(
        name=WEBHOOK,
        queue=WEBHOOK,
        payload=payload,
        webhook=True,
        dialect=Dialect.DISPATCHED,
        run_at=_time(field, given.body.get(field)),
    )
    return {"new": new, "max_retries": retries, "horizon_ms": HORIZON_MS, "field": field}


def reschedule(given: Given) -> dict[str, Any]:
    """A new time, or none for now; the field must be there."""
    field = "scheduledFor" if "scheduledFor" in given.body else "scheduleFor"
    if field not in given.body:
        raise InvalidInput("scheduledFor", "is required: a time, or null to run the job now.")
    run_at = _time(field, given.body[field])
    return {**job_id(given), "run_at": run_at, "horizon_ms": HORIZON_MS, "field": field}


def job_id(given: Given) -> dict[str, Any]:
    """Ours, or the caller's own."""
    return {"id": given.path["jobId"]}


def cancel(given: Given) -> dict[str, Any]:
    """What is QUEUED alone."""
    return {**job_id(given), "only": CANCELLABLE}


def job(job: Job) -> dict[str, Any]:
    """A job: its status, and the time that it was scheduled for where it was."""
    claimed = job.started_at is None and STATUSES[job.state] == STATUSES[S.ACTIVE]
    shown = {"jobId": job.custom_id or job.id, "status": CLAIMED if claimed else STATUSES[job.state]}
    if job.scheduled_for is not None:
        at = job.scheduled_for.astimezone(UTC).isoformat(timespec="milliseconds")
        shown["scheduledFor"] = at.replace("+00:00", "Z")
    return shown


def dispatched(answer: Enqueued) -> dict[str, Any]:
    """The new job."""
    return job(answer.job)


def _time(field: str, value: Any) -> datetime | None:
    """A time of ISO 8601 with a zone. Raises InvalidInput."""
    if value is None:
        return None
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InvalidInput(field, "must be a time of ISO 8601 in UTC, such as 2026-03-01T06:30:00Z.")
