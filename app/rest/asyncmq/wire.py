"""How do our jobs, queues, crons, workers, snapshots and audit rows look in AsyncMQ?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from switchtower.audit import AuditRow
from switchtower.crons import Cron
from switchtower.jobs import ErrorKind, Job
from switchtower.metrics import Snapshot
from switchtower.retry import BackoffKind
from switchtower.states import JobState
from switchtower.workers import Worker

__all__ = [
    "ACTIONS",
    "COUNTED",
    "TABS",
    "audit_row",
    "counts",
    "dumped",
    "health",
    "job",
    "job_def",
    "local",
    "metrics",
    "queue_row",
    "repeatable",
    "snapshot",
    "state_name",
    "tab_counts",
    "tab_counts_of",
    "worker",
]

S = JobState
Document = dict[str, Any]

TABS: Final[Mapping[str, tuple[JobState, ...]]] = {
    "waiting": (S.WAITING,),
    "active": (S.ACTIVE,),
    "delayed": (S.SCHEDULED, S.RETRYING),
    "completed": (S.COMPLETED,),
    "failed": (S.FAILED,),
    "cancelled": (S.CANCELLED,),
}
"""The states of jobs that AsyncMQ lists, and the one of cancelled jobs, which it shows nowhere."""
COUNTED: Final = ("waiting", "active", "delayed", "completed", "failed")
STATES: Final = {state: name for name, states in TABS.items() for state in states} | {S.BLOCKED: "waiting-children"}
HEALTHY: Final = 0.66
PRIORITY: Final = 5
"""What AsyncMQ takes for no priority in particular, which is 0 here."""

ACTIONS: Final = {
    "cron.create": "repeatable.create",
    "cron.disable": "repeatable.pause",
    "cron.enable": "repeatable.resume",
    "cron.delete": "repeatable.remove",
}
"""What AsyncMQ calls our actions in its audit trail; all others have the same name."""


def seconds(at: datetime | None) -> float | None:
    """A time as AsyncMQ writes it: seconds since 1970."""
    return None if at is None else at.timestamp()


def local(at: datetime) -> str:
    """A time as its dashboard shows it: in the server's own zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at.timestamp()))


def state_name(job: Job) -> str:
    """What AsyncMQ calls the state of a job; one that failed because its time to live passed is expired."""
    name = STATES[job.state]
    expired = job.error is not None and job.error.kind is ErrorKind.EXPIRED
    return "expired" if name == "failed" and expired else name


def job(job: Job) -> Document:
    """A job. An object as its payload is `kwargs`, a list `args`, anything else the one thing in `args`."""
    args, kwargs = _arguments(job.payload)
    delayed = STATES[job.state] == "delayed"
    shown: Document = {
        "id": job.custom_id or job.id,
        "task": job.name,
        "args": args,
        "kwargs": kwargs,
        "retries": job.failures,
        "max_retries": job.max_attempts - 1,
        "backoff": None if job.backoff.kind is BackoffKind.NONE else job.backoff.base_ms / 1000,
        "ttl": None if job.ttl_ms is None else job.ttl_ms / 1000,
        "created_at": seconds(job.created_at),
        "last_attempt": seconds(job.started_at),
        "status": state_name(job),
        "result": job.result,
        "last_error": None if job.error is None else job.error.message,
        "error_traceback": None if job.error is None else job.error.stack,
        "delay_until": seconds(job.run_at) if delayed else None,
        "priority": _whole(job.rank + PRIORITY),
        "depends_on": job.depends_on,
        "repeat_every": None,
        "deduplication": _deduplication(job),
        "updated_at": seconds(job.updated_at),
    }
    ends = {"completed": "completed_at", "failed": "failed_at", "expired": "failed_at"}
    for field, value in (
        ("active_since", seconds(job.started_at) if shown["status"] == "active" else None),
        (ends.get(shown["status"], "finished_at"), seconds(job.finished_at)),
        ("progress", job.progress),
    ):
        if value is not None:
            shown[field] = value
    return shown


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _arguments(payload: Any) -> tuple[list[Any], Document]:
    if isinstance(payload, dict):
        return [], payload
    return ([] if payload is None else payload if isinstance(payload, list) else [payload]), {}


def _deduplication(job: Job) -> Document | None:
    options = job.deduplication
    if options is None:
        return None if job.unique_key is None else {"id": job.unique_key}
    ttl = None if options.ttl_ms is None else options.ttl_ms / 1000
    return {"id": options.key, "ttl": ttl, "extend": options.extend, "replace": options.replaces}


def dumped(shown: Document) -> str:
    """A job as the text that a search compares with: JSON with sorted keys as Python writes it, without regard to
    case. Whoever searches types a character, not its escape."""
    return json.dumps(shown, sort_keys=True, ensure_ascii=False, default=str).casefold()


def counts(by_state: Mapping[JobState, int]) -> dict[str, int]:
    """Jobs by the states that AsyncMQ counts."""
    return {name: sum(by_state[state] for state in TABS[name]) for name in COUNTED}


def tab_counts(by_state: Mapping[JobState, int]) -> dict[str, int]:
    """Jobs by the tabs of their list, the cancelled ones too."""
    return {name: sum(by_state[state] for state in states) for name, states in TABS.items()}


def tab_counts_of(by_name: Mapping[str, int]) -> dict[str, int]:
    """The same, where states stand by their names, and those that there are none in may be left out."""
    return tab_counts({state: by_name.get(state.value, 0) for state in JobState})


def health(age_seconds: float, lease_seconds: float) -> str:
    """How a worker does that was heard of so long ago: it says so three times in the time of its lease."""
    share = age_seconds / max(lease_seconds, 0.001)
    return "healthy" if share <= HEALTHY else "warning" if share <= 1 else "stale"


def queue_row(name: str, paused: bool, by_state: Mapping[JobState, int]) -> Document:
    """A row of the list of queues."""
    counted = counts(by_state)
    order = ("waiting", "active", "delayed", "failed", "completed")
    return {"name": name, "paused": paused, **{state: counted[state] for state in order}}


def metrics(counted: Mapping[str, int]) -> Document:
    """The figures that AsyncMQ calls metrics: totals since the beginning."""
    return {
        "throughput": counted["completed"],
        "avg_duration": None,
        "retries": counted["failed"],
        "failures": counted["failed"],
    }


def worker(found: Worker) -> Document:
    """A worker; its queues in one text, since AsyncMQ's have one."""
    return {
        "id": found.id,
        "queue": ", ".join(found.queues),
        "concurrency": found.concurrency,
        "heartbeat": seconds(found.heartbeat_at),
    }


def snapshot(taken: Snapshot) -> Document:
    """A row of the metrics history."""
    counted = tab_counts_of(taken.counts)
    at = taken.at
    return {
        "timestamp": seconds(at),
        "time": at.isoformat(timespec="microseconds"),
        **metrics(counted),
        **{name: counted[name] for name in ("waiting", "active", "delayed", "completed", "failed")},
        "total_queues": taken.queues,
        "total_workers": taken.workers,
    }


def audit_row(row: AuditRow) -> Document:
    """An event of the audit trail. Of a repeatable, `job_id` is its task, and `details` hold its definition."""
    details, job_id = dict(row.details), row.job_id
    if row.action in ACTIONS:
        job_id = details.get("task", job_id)
        if "task" in details:
            details["job_def"] = {"id": row.target, "task_id": details["task"]} | _period(details.get("schedule"))
    elif row.target is not None:
        details = {"target": row.target} | details
    return {
        "timestamp": seconds(row.at),
        "action": ACTIONS.get(row.action, row.action),
        "source": row.source,
        "status": row.status.value,
        "queue": row.queue,
        "job_id": job_id,
        "actor": row.actor,
        "details": details,
        "error": row.error,
    }


def _period(schedule: Any) -> Document:
    """A period as an audit row has it: milliseconds, or an expression."""
    return {"cron": schedule} if isinstance(schedule, str) else {"every": _whole((schedule or 0) / 1000)}


def job_def(cron: Cron) -> Document:
    """The definition of a repeatable."""
    args, kwargs = _arguments(cron.job.payload)
    every = cron.schedule.every_ms
    period: Document = {"cron": cron.schedule.expression} if every is None else {"every": _whole(every / 1000)}
    return {
        "id": cron.id,
        "task_id": cron.job.name,
        **period,
        "args": args,
        "kwargs": kwargs,
        "retries": cron.job.max_attempts - 1,
        "ttl": None if cron.job.ttl_ms is None else cron.job.ttl_ms / 1000,
        "priority": cron.job.priority + PRIORITY,
        "backoff": None if cron.job.backoff.kind is BackoffKind.NONE else cron.job.backoff.base_ms / 1000,
    }


def repeatable(cron: Cron) -> Document:
    """A repeatable: its definition, when it runs next (None while it is paused), and whether it is paused."""
    return {
        "id": cron.id,
        "job_def": job_def(cron),
        "next_run": seconds(cron.next_at),
        "paused": not cron.enabled,
    }
