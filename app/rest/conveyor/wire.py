"""How do our jobs, queues, groups, metrics and events look in Conveyor?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.rest.streams import Position, ServerEvent
from schema.resolvers.families import Families
from schema.resolvers.queues import Activity, GroupCount, Queue
from schema.resolvers.streams import Reached
from switchtower.dialects import Dialect, priority_of
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import Attempt, ErrorKind, Job
from switchtower.metrics import MetricBucket, merged
from switchtower.retry import BackoffKind
from switchtower.states import JobState
from switchtower.workers import Worker

__all__ = [
    "ALL",
    "STATES",
    "Jobs",
    "buckets",
    "event",
    "group",
    "id_of",
    "job",
    "jobs",
    "queue",
    "queue_detail",
    "sparklines",
    "state_name",
]

S = JobState
ALL: Final = "__all__"
"""All job names of a queue."""
STATES: Final[Mapping[str, tuple[JobState, ...]]] = {
    "waiting": (S.WAITING,),
    "waiting-children": (S.BLOCKED,),
    "delayed": (S.SCHEDULED, S.RETRYING),
    "active": (S.ACTIVE,),
    "completed": (S.COMPLETED,),
    "failed": (S.FAILED, S.CANCELLED),
}
NAMES: Final = {state: name for name, states in STATES.items() for state in states}
DELAYED: Final = frozenset(STATES["delayed"])
CANCELLED: Final = "Job cancelled"
OUTCOMES: Final = {"running": "active", "lost": "failed", "expired": "failed"}
"""Of a run, where Conveyor has another word for it."""
BACKOFFS: Final = {BackoffKind.FIXED: "fixed", BackoffKind.EXPONENTIAL: "exponential"}


def state_name(state: JobState) -> str:
    """What Conveyor calls the state of a job."""
    return NAMES[state]


def id_of(job: Job) -> str:
    """The id under which a job is shown: its caller's own, where it has one."""
    return job.custom_id or job.id


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs as they were read, their families, and the workers that hold some of them."""

    found: Sequence[Job]
    families: Families
    workers: Mapping[str, Worker]


def jobs(answer: Jobs) -> list[dict[str, Any]]:
    """All of them."""
    return [job(each, answer) for each in answer.found]


def job(job: Job, among: Jobs) -> dict[str, Any]:
    """A job with every key that Conveyor has, null where there is nothing to say."""
    at_rest = job.state is not S.ACTIVE
    cancelled = job.state is S.CANCELLED
    holder = among.workers.get(job.worker_id or "")
    parent = among.families.parents.get(job.parent_id or "")
    failed_at = job.finished_at if job.state in STATES["failed"] else None
    return {
        "id": id_of(job),
        "name": job.name,
        "queueName": job.queue,
        "data": job.payload,
        "state": NAMES[job.state],
        "attemptsMade": job.failures,
        "progress": 0 if job.progress is None else job.progress,
        "returnvalue": job.result,
        "failedReason": CANCELLED if cancelled else _reason(job),
        "opts": _opts(job),
        "deduplicationKey": None if job.deduplication is None else job.unique_key,
        "logs": [line.line for line in job.logs],
        "stacktrace": [
            _stack(each) for each in job.attempts if each.error is not None and each.generation == job.generation
        ],
        "createdAt": _time(job.created_at),
        "processedAt": _time(job.started_at),
        "completedAt": _time(job.finished_at if job.state is S.COMPLETED else None),
        "failedAt": _time(failed_at),
        "delayUntil": _time(job.run_at if job.state in DELAYED else None),
        "lockUntil": _time(None if at_rest or holder is None else holder.expires_at),
        "lockedBy": None if at_rest else job.worker_id,
        "parentId": job.parent_id if parent is None else id_of(parent),
        "parentQueueName": None if parent is None else parent.queue,
        "pendingChildrenCount": len(job.pending),
        "cancelledAt": _time(job.finished_at if cancelled else job.cancel_requested_at),
        "groupId": job.group,
        "discarded": False,
        "childrenIds": [id_of(child) for child in among.families.children.get(job.id, ())],
        "attemptLogs": [_attempt(job, attempt) for attempt in job.attempts],
    }


def _attempt(job: Job, attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "startedAt": _time(attempt.started_at),
        "endedAt": _time(attempt.ended_at),
        "status": OUTCOMES.get(attempt.outcome, attempt.outcome),
        "error": None if attempt.error is None else attempt.error.message,
        "stacktrace": None if attempt.error is None else _stack(attempt),
        "logs": [line.line for line in job.logs if line.attempt == attempt.number],
    }


def _stack(attempt: Attempt) -> str:
    error = attempt.error
    return "" if error is None else error.stack or f"{error.type}: {error.message}"


def _reason(job: Job) -> str | None:
    error = job.error
    if error is None:
        return None
    return {
        ErrorKind.TIMEOUT: f"Job timed out after {job.timeout_ms}ms" if job.timeout_ms else error.message,
        ErrorKind.EXPIRED: "expired",
        ErrorKind.WORKER_LOST: "Job stalled and exceeded max attempts",
        ErrorKind.DEPENDENCY: f"Child failed: {error.message}",
    }.get(error.kind, error.message)


def _opts(job: Job) -> dict[str, Any]:
    """The options as they were given; of a job that came another way, those that say the same. What was changed since
    is as it is now."""
    priority = priority_of(Dialect.CONVEYOR, job.rank)
    if job.dialect is Dialect.CONVEYOR:
        opts: dict[str, Any] = dict(job.opts or {})
        current = {"priority": (priority, 0), "attempts": (job.max_attempts, 1)}
        return opts | {key: now for key, (now, default) in current.items() if now != (opts.get(key) or default)}
    found: dict[str, Any] = {"attempts": job.max_attempts}
    if (kind := BACKOFFS.get(job.backoff.kind)) is not None:
        found["backoff"] = {"type": kind, "delay": job.backoff.base_ms}
    for key, value in (("priority", priority), ("timeout", job.timeout_ms), ("lifo", job.lifo)):
        if value:
            found[key] = value
    if job.group is not None:
        found["group"] = {"id": job.group}
    if job.custom_id is not None:
        found["jobId"] = job.custom_id
    return found


def queue(queue: Queue, activity: Activity) -> dict[str, Any]:
    """A queue in a list."""
    return {
        "name": queue.name,
        "counts": _counts(queue),
        "isPaused": queue.paused,
        "latestActivity": _time(activity.last_at),
        "scheduledCount": activity.repeating,
    }


def queue_detail(name: str, queue: Queue | None) -> dict[str, Any]:
    """One queue; of one that nobody knows there is nothing, and nothing is paused."""
    paused = [] if queue is None else [*([ALL] if queue.paused else []), *queue.paused_names]
    return {"name": name, "counts": _counts(queue), "pausedNames": paused}


def _counts(queue: Queue | None) -> dict[str, int]:
    known = {} if queue is None else queue.counts
    return {name: sum(known.get(state, 0) for state in states) for name, states in STATES.items()}


def group(group: GroupCount) -> dict[str, Any]:
    """A group of a queue."""
    return {"groupId": group.group, "activeCount": group.active, "waitingCount": group.waiting}


def buckets(found: Sequence[MetricBucket]) -> list[dict[str, Any]]:
    """The buckets of each job name and, before them, of all together, by time; those in which nothing ended are left
    out."""
    whole = [_bucket(bucket, ALL) for bucket in merged(found)]
    parts = [_bucket(bucket, bucket.name or "") for bucket in found]
    ended = [each for each in whole + parts if each["completedCount"] or each["failedCount"]]
    return sorted(ended, key=lambda each: (each["periodStart"], each["jobName"] != ALL, each["jobName"]))


def _bucket(bucket: MetricBucket, name: str) -> dict[str, Any]:
    return {
        "queueName": bucket.queue,
        "jobName": name,
        "periodStart": _time(bucket.at),
        "granularity": bucket.granularity.value,
        "completedCount": bucket.completed,
        "failedCount": bucket.failed,
        "totalProcessMs": bucket.run_ms,
        "minProcessMs": bucket.min_ms,
        "maxProcessMs": bucket.max_ms,
    }


def sparklines(lines: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """How many jobs ended in each minute of the last hour in which some did; queues without one are left out."""
    return {name: ended for name, line in lines.items() if (ended := [count for count in line if count])}


STATE_EVENTS: Final[Mapping[str, str]] = {
    S.WAITING: "job:waiting",
    S.BLOCKED: "job:waiting-children",
    S.SCHEDULED: "job:delayed",
    S.RETRYING: "job:delayed",
    S.ACTIVE: "job:active",
    S.COMPLETED: "job:completed",
    S.FAILED: "job:failed",
    S.CANCELLED: "job:cancelled",
}
"""What is told of a job that came into a state."""
JOB_EVENTS: Final = {
    "progress": "job:progress",
    "request_cancel": "job:cancelled",
    "remove": "job:removed",
}
QUEUE_EVENTS: Final = {"pause": "queue:paused", "resume": "queue:resumed", "drain": "queue:drained"}


def event(item: Event | Gap | Reached, *, joined: bool) -> ServerEvent | Position | None:
    """What a stream tells of something that happened; None of what Conveyor has no event for. `joined` is false for the
    first item, which says that the stream has begun."""
    if isinstance(item, Reached):
        return Position(item.cursor) if joined else ServerEvent("connected", {}, item.cursor)
    if isinstance(item, Gap):
        data = {"type": "resync", "data": {"reason": item.reason}, "timestamp": _time(item.at)}
        return ServerEvent("resync", data, item.cursor)
    type = _queue_event(item) if item.topic is Topic.QUEUE else _job_event(item)
    if type is None:
        return None
    told: dict[str, Any] = {"type": type, "queueName": item.queue}
    if item.topic is Topic.JOB:
        told["jobId"] = item.custom_id or item.id
    if (data := _event_data(item, type)) is not None:
        told["data"] = data
    return ServerEvent(type, told | {"timestamp": _time(item.at)}, item.cursor)


def _queue_event(event: Event) -> str | None:
    # A pause of a group is nothing that Conveyor knows.
    return None if event.group is not None else QUEUE_EVENTS.get(event.type)


def _job_event(event: Event) -> str | None:
    if event.type in JOB_EVENTS:
        return JOB_EVENTS[event.type]
    if event.to_state is None or event.from_state == event.to_state:
        return None
    stalled = event.type == "rescue" and event.to_state == S.WAITING
    return "job:stalled" if stalled else STATE_EVENTS.get(event.to_state)


def _event_data(event: Event, type: str) -> Any:
    if event.topic is Topic.QUEUE:
        return {"jobName": event.name or ALL} if type != "queue:drained" else None
    if type == "job:failed":
        return {"reason": event.data.get("error", {}).get("message", "")}
    return event.data.get("progress")


def _time(at: datetime | None) -> str | None:
    """In ISO 8601 with milliseconds, UTC."""
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
