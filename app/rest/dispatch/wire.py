"""How do our jobs, runs, dead letters and crons look in Dispatch, and what do its parameters mean to us?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from app.rest.dialect import Given, whole_number
from schema.resolvers.bounds import DEFAULT_PAGE, MAX_LIMIT, MAX_OFFSET
from switchtower.crons import Cron, Schedule
from switchtower.dead_letters import DeadLetter, DeadLetterFilter
from switchtower.jobs import Enqueued, Job, JobError, JobFilter
from switchtower.states import JobState
from switchtower.workflows import RunState, WorkflowRun

__all__ = [
    "HEAVY",
    "RUN_FILTERS",
    "STATE_FILTERS",
    "Jobs",
    "cancel",
    "counts",
    "cron",
    "cron_id",
    "crons",
    "dead_letter",
    "dead_letter_id",
    "dead_letter_page",
    "dead_letters",
    "enqueued",
    "job",
    "job_id",
    "job_page",
    "jobs",
    "one_job",
    "page",
    "purge",
    "replay",
    "replay_all",
    "retry",
    "run",
    "run_id",
    "run_page",
    "runs",
    "state_name",
]

S = JobState
NANOSECONDS_PER_MS: Final = 1_000_000
DAY_MS: Final = 24 * 3600 * 1000
PURGED_AFTER_MS: Final = 30 * DAY_MS
HEAVY: Final = frozenset({"payload"})
"""What a list shows of the fields that are not read unless they are asked for."""

STATES: Final = {
    S.SCHEDULED: "pending",
    S.WAITING: "pending",
    S.BLOCKED: "pending",
    S.ACTIVE: "running",
    S.RETRYING: "retrying",
    S.COMPLETED: "completed",
    S.FAILED: "failed",
    S.CANCELLED: "cancelled",
}
STATE_FILTERS: Final = {
    "pending": JobFilter(states=[S.SCHEDULED, S.WAITING, S.BLOCKED], retry_pending=False),
    "running": JobFilter(states=[S.ACTIVE]),
    "completed": JobFilter(states=[S.COMPLETED]),
    "failed": JobFilter(states=[S.FAILED]),
    # A job that failed is retrying until it runs again, also while it waits for a worker.
    "retrying": JobFilter(states=[S.WAITING, S.RETRYING], retry_pending=True),
    "cancelled": JobFilter(states=[S.CANCELLED]),
}
CANCELLABLE: Final = frozenset({S.SCHEDULED, S.WAITING, S.BLOCKED, S.RETRYING})
RETRYABLE: Final = frozenset({S.FAILED})
ENDED_AS_ASKED: Final = frozenset({S.COMPLETED, S.CANCELLED})
"""The states with a `completed_at`: a failed job has none."""

RUN_FILTERS: Final = {
    "running": (RunState.RUNNING, RunState.SLEEPING, RunState.WAITING, RunState.COMPENSATING),
    "completed": (RunState.COMPLETED,),
    "failed": (RunState.FAILED, RunState.CANCELLED),
}
RUN_STATES: Final = {state: name for name, states in RUN_FILTERS.items() for state in states}
RUN_ERRORS: Final = {RunState.CANCELLED: "run cancelled"}

REPLAYED: Final = {"priority": 0, "rank": None, "timeout_ms": None}
"""What a replayed job does not take from the one that failed."""


def page(given: Given) -> dict[str, Any]:
    """`limit` and `offset`: 50 from the start where they say nothing; out of bounds they mean the nearest bound."""
    limit, offset = (whole_number(name, given.text(name) or "0") for name in ("limit", "offset"))
    return {
        "limit": min(limit, MAX_LIMIT) if limit > 0 else DEFAULT_PAGE,
        "offset": min(max(offset, 0), MAX_OFFSET),
    }


def job_page(given: Given) -> dict[str, Any]:
    """The jobs of a state and queue; of a state that Dispatch does not have there are none."""
    state, queue = given.text("state"), given.text("queue")
    filter = JobFilter() if state is None else STATE_FILTERS.get(state, JobFilter(states=[]))
    if queue is not None:
        filter = replace(filter, queues=[queue])
    return {"filter": filter, "with_": HEAVY, **page(given)}


def job_id(given: Given) -> dict[str, Any]:
    """Ours, or the caller's own."""
    return {"id": given.path["jobId"]}


def cancel(given: Given) -> dict[str, Any]:
    """Pending and retrying jobs alone."""
    return {**job_id(given), "only": CANCELLABLE}


def retry(given: Given) -> dict[str, Any]:
    """Failed jobs alone."""
    return {**job_id(given), "only": RETRYABLE}


def run_page(given: Given) -> dict[str, Any]:
    """The runs of a state; of a state that Dispatch does not have there are none."""
    state = given.text("state")
    return {"states": None if state is None else RUN_FILTERS.get(state, ()), **page(given)}


def run_id(given: Given) -> dict[str, Any]:
    """`run_…`, or `wfrun_…` as older clients spell it."""
    return {"id": given.path["runId"]}


def dead_letter_page(given: Given) -> dict[str, Any]:
    """The dead letters of a queue."""
    queue = given.text("queue")
    return {"filter": DeadLetterFilter(queues=None if queue is None else [queue]), **page(given)}


def dead_letter_id(given: Given) -> dict[str, Any]:
    """`dlq_…`."""
    return {"id": given.path["entryId"]}


def replay(given: Given) -> dict[str, Any]:
    """With the defaults of Dispatch where it does not keep what the job had."""
    return {**dead_letter_id(given), "changes": REPLAYED}


def replay_all(given: Given) -> dict[str, Any]:
    """Every dead letter, each as `replay` has it."""
    return {"filter": DeadLetterFilter(), "changes": REPLAYED}


def purge(given: Given) -> dict[str, Any]:
    """What failed more than 30 days ago."""
    return {"older_than_ms": PURGED_AFTER_MS}


def cron_id(given: Given) -> dict[str, Any]:
    """`cron_…`."""
    return {"id": given.path["cronId"]}


def state_name(state: JobState, *, retry_pending: bool) -> str:
    """What Dispatch calls the state of a job."""
    return "retrying" if retry_pending else STATES[state]


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs as they were read, and when the workers that hold some of them were last heard of."""

    found: Sequence[Job]
    heartbeats: Mapping[str, datetime]


def job(job: Job, heartbeat_at: datetime | None = None) -> dict[str, Any]:
    """A job; times are written in RFC 3339, `timeout` is in nanoseconds, 0 for none."""
    return {
        "id": job.custom_id or job.id,
        "name": job.name,
        "queue": job.queue,
        "state": state_name(job.state, retry_pending=job.retry_pending),
        "payload": job.payload,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "run_at": job.run_at,
        "started_at": job.started_at,
        "completed_at": job.finished_at if job.state in ENDED_AS_ASKED else None,
        "scope_app_id": job.app,
        "scope_org_id": job.org,
        # Ours runs lower numbers first, Dispatch higher ones.
        "priority": -job.priority,
        "max_retries": job.max_attempts - 1,
        "retry_count": job.failures,
        "last_error": _message(job.error),
        "worker_id": job.worker_id or "",
        "heartbeat_at": heartbeat_at,
        "timeout": (job.timeout_ms or 0) * NANOSECONDS_PER_MS,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }


def jobs(answer: Jobs) -> list[dict[str, Any]]:
    """A bare array."""
    return [job(each, answer.heartbeats.get(each.worker_id or "")) for each in answer.found]


def one_job(answer: Jobs) -> dict[str, Any]:
    """The only one."""
    return jobs(answer)[0]


def enqueued(answer: Enqueued) -> dict[str, Any]:
    """The new job."""
    return job(answer.job)


def counts(by_state: dict[JobState, int], retrying: int) -> dict[str, int]:
    """Jobs by Dispatch's states; `retrying` is how many of the waiting ones failed before."""
    found = dict.fromkeys(STATE_FILTERS, 0)
    for state, count in by_state.items():
        found[STATES[state]] += count
    moved = min(retrying, found["pending"])
    found["pending"] -= moved
    found["retrying"] += moved
    return found


def run(run: WorkflowRun) -> dict[str, Any]:
    """A workflow run."""
    return {
        "id": run.id,
        "name": run.workflow,
        "state": RUN_STATES[run.state],
        "current_step": run.current_step or "",
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "scope_app_id": run.job.app,
        "scope_org_id": run.job.org,
        "input": run.input,
        "output": run.output,
        "error": _message(run.error) or RUN_ERRORS.get(run.state, ""),
        "version": run.version,
        "parent_run_id": run.parent_run_id,
        "created_at": run.job.created_at,
        "updated_at": run.job.updated_at,
    }


def runs(found: Sequence[WorkflowRun]) -> list[dict[str, Any]]:
    """A bare array."""
    return [run(each) for each in found]


def dead_letter(entry: DeadLetter) -> dict[str, Any]:
    """A dead letter, with the id of the job that failed."""
    return {
        "id": entry.id,
        "job_id": entry.job_id,
        "job_name": entry.name,
        "queue": entry.queue,
        "error": _message(entry.error),
        "payload": entry.payload,
        "failed_at": entry.failed_at,
        "scope_app_id": entry.app,
        "scope_org_id": entry.org,
        "retry_count": entry.attempt,
        "max_retries": entry.max_attempts - 1,
        "replayed_at": entry.replayed_at,
        "created_at": entry.created_at,
    }


def dead_letters(found: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    """A bare array."""
    return [dead_letter(each) for each in found]


def cron(cron: Cron) -> dict[str, Any]:
    """A cron entry. Schedulers hold no lock on one, so that none is ever shown."""
    return {
        "id": cron.id,
        "name": cron.name,
        "schedule": _expression(cron.schedule),
        "enabled": cron.enabled,
        "last_fired_at": cron.last_fired_at,
        "next_run_at": cron.next_at,
        "scope_app_id": cron.app,
        "scope_org_id": cron.org,
        "last_run_at": cron.last_fired_at,
        "job_name": cron.job.name,
        "queue": cron.job.queue,
        "payload": cron.job.payload,
        "locked_by": "",
        "locked_until": None,
        "created_at": cron.created_at,
        "updated_at": cron.updated_at,
    }


def crons(found: Sequence[Cron]) -> list[dict[str, Any]]:
    """A bare array."""
    return [cron(each) for each in found]


def _message(error: JobError | None) -> str:
    return "" if error is None else error.message


def _expression(schedule: Schedule) -> str:
    return schedule.expression or f"@every {(schedule.every_ms or 0) / 1000:.15g}s"
