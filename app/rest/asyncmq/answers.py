"""What do AsyncMQ's pages say to programs?"""

from __future__ import annotations

from typing import Any

from app.dashboard.models import (
    Audit,
    Crons,
    History,
    JobDetail,
    JobList,
    Overview,
    Pager,
    QueueDetail,
    Queues,
    Workers,
)
from app.rest.asyncmq import pulse, wire

__all__ = [
    "audit",
    "dead_letters",
    "history",
    "job",
    "jobs",
    "metrics",
    "overview",
    "queue",
    "queues",
    "repeatables",
    "workers",
]


def overview(found: Overview) -> dict[str, Any]:
    """The data of the seven events."""
    return pulse.at_a_glance(found.queues, found.workers, found.newest)


def queues(found: Queues) -> dict[str, Any]:
    """A page of queues."""
    return {
        "queues": [wire.queue_row(queue.name, queue.paused, queue.counts) for queue in found.queues],
        **numbers(found.pager),
    }


def numbers(pager: Pager) -> dict[str, int]:
    """Which page of a list this is."""
    return {"page": pager.page, "size": pager.size, "total": pager.total, "total_pages": pager.pages}


def queue(found: QueueDetail) -> dict[str, Any]:
    """One queue."""
    return wire.queue_row(found.name, found.paused, found.counts)


def jobs(found: JobList) -> dict[str, Any]:
    """A page of jobs in one tab, or of repeatables, and what it was asked for by."""
    jobs = [wire.job(job) for job in found.jobs] + [wire.repeatable(cron) for cron in found.repeatables]
    return {
        "queue": found.queue,
        "state": found.state,
        "jobs": jobs,
        **numbers(found.pager),
        "sort": found.sort,
        "q": found.q,
        "task": found.task,
        "job_id": found.job_id,
        "exhaustive": found.exhaustive,
    }


def job(found: JobDetail) -> dict[str, Any]:
    """One job."""
    return wire.job(found.job)


def dead_letters(found: JobList) -> dict[str, Any]:
    """A page of jobs that failed for good."""
    return {"queue": found.queue, "jobs": [wire.job(job) for job in found.jobs], **numbers(found.pager)}


def repeatables(found: Crons) -> dict[str, Any]:
    """The repeatables of a queue."""
    return {"queue": found.queue, "repeatables": [wire.repeatable(cron) for cron in found.crons]}


def workers(found: Workers) -> dict[str, Any]:
    """A page of workers."""
    return {"workers": [wire.worker(worker) for worker in found.workers], **numbers(found.pager)}


def metrics(found: History) -> dict[str, Any]:
    """The figures now."""
    return wire.metrics(wire.tab_counts(found.totals.counts))


def history(found: History) -> dict[str, Any]:
    """Snapshots, the newest first."""
    return {"history": [wire.snapshot(taken) for taken in found.snapshots]}


def audit(found: Audit) -> dict[str, Any]:
    """Rows of the audit trail, the newest first."""
    return {"events": [wire.audit_row(row) for row in found.rows], "limit": found.limit}
