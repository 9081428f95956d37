"""What does each page show?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.dashboard.charts import Span
from switchtower.audit import AuditRow
from switchtower.crons import Cron
from switchtower.jobs import Job
from switchtower.metrics import MetricBucket, Snapshot
from switchtower.states import JobState
from switchtower.workers import Worker

if TYPE_CHECKING:
    from switchtower.engine import Blockage, ErrorCluster, GroupCount, Queue, Totals

__all__ = [
    "Audit",
    "Crons",
    "Events",
    "Figures",
    "Happening",
    "History",
    "JobDetail",
    "JobList",
    "Overview",
    "Pager",
    "QueueDetail",
    "Queues",
    "Workers",
]


@dataclass(frozen=True, slots=True)
class Pager:
    """Which page of a list by numbers this is, of how many items in all; `exact` is false where not all were counted.

    `after` and `before` are the cursors that lead to the neighbours without counting off what lies before them.
    """

    page: int
    size: int
    total: int
    exact: bool = True
    after: str | None = None
    before: str | None = None

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return max(1, -(-self.total // self.size))

    @property
    def offset(self) -> int:
        """How many items lie before this page."""
        return (self.page - 1) * self.size


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything at a glance; `clusters` is None where the faults could not be grouped in time, and `buckets` are the
    minutes of the last hour, none where metrics are not kept."""

    totals: Totals
    queues: Sequence[Queue]
    workers: Sequence[Worker]
    newest: Sequence[Job]
    clusters: Sequence[ErrorCluster] | None
    buckets: Sequence[MetricBucket]


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues whose name has a text, one page of them."""

    queues: Sequence[Queue]
    pager: Pager
    text: str


@dataclass(frozen=True, slots=True)
class QueueDetail:
    """One queue; of a name that nobody used yet all is zero. `groups` is None where there are too many jobs to count
    them by group in time."""

    name: str
    paused: bool
    counts: Mapping[JobState, int]
    queue: Queue | None
    groups: Sequence[GroupCount] | None
    buckets: Sequence[MetricBucket]


@dataclass(frozen=True, slots=True)
class JobList:
    """One page of the jobs of a queue in one tab; `counts` are of all tabs.

    Where a text was looked for, `scanned` is how many jobs were compared, and `exhaustive` whether those are all.
    """

    queue: str
    state: str
    jobs: Sequence[Job]
    repeatables: Sequence[Cron]
    pager: Pager
    counts: Mapping[str, int]
    q: str = ""
    task: str = ""
    job_id: str = ""
    sort: str = "newest"
    scanned: int | None = None
    exhaustive: bool = True

    @property
    def narrowed(self) -> bool:
        """Whether a text restricts the list."""
        return bool(self.q or self.task or self.job_id)


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with all that is kept of it; `more_children` where not all children are among `children`."""

    job: Job
    blockages: Sequence[Blockage]
    parent: Job | None
    children: Sequence[Job]
    more_children: bool


@dataclass(frozen=True, slots=True)
class Crons:
    """The repeatables of a queue."""

    queue: str
    crons: Sequence[Cron]
    total: int


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that live, one page of them, and which jobs they have now."""

    workers: Sequence[Worker]
    pager: Pager
    ages: Mapping[str, float] = field(default_factory=dict)
    """Seconds since each was last heard of."""
    jobs: Mapping[str, Sequence[Job]] = field(default_factory=dict)
    """What each has in its hands; those that have nothing are left out."""


@dataclass(frozen=True, slots=True)
class History:
    """Snapshots of the totals, newest first."""

    snapshots: Sequence[Snapshot]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Figures(History):
    """The same, and what happened in a stretch of time to the jobs of a queue and of a task ("": of all): its points
    one after the other, and its tasks, the busiest first, each as one bucket."""

    span: Span
    queue: str
    name: str
    queues: Sequence[str]
    buckets: Sequence[MetricBucket]
    tasks: Sequence[MetricBucket]


@dataclass(frozen=True, slots=True)
class Audit:
    """Rows of the audit trail, newest first, and what they were asked for by."""

    rows: Sequence[AuditRow]
    action: str
    status: str
    queue: str
    q: str
    limit: int


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a job, under AsyncMQ's name for it."""

    at: datetime
    event: str
    queue: str
    job_id: str
    task_id: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Events:
    """What happened lately, the newest first, and what it was asked for by."""

    rows: Sequence[Happening]
    event: str
    queue: str
    q: str
    limit: int
