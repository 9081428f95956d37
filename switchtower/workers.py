"""What is a worker, and what does it tell the engine about the jobs it ran?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from switchtower.jobs import ClaimedJob, JobError
from switchtower.webhooks import Delivery

__all__ = ["HEARTBEAT_SECONDS", "LEASE_SECONDS", "Outcome", "OutcomeKind", "Worker", "WorkerInfo", "WorkerState"]

LEASE_SECONDS = 30.0
"""How long a worker may be silent before its jobs are taken over."""

HEARTBEAT_SECONDS = 10.0
"""How often a worker renews its lease: a third of it, so that two renewals may fail."""


class WorkerState(StrEnum):
    """`live` claims; `draining` finishes what it has; `lost` let its lease pass; `stopped` said goodbye."""

    LIVE = "live"
    DRAINING = "draining"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker says of itself when it registers. `names` are the handlers it has; empty means any."""

    id: str
    queues: Sequence[str]
    names: Sequence[str] = ()
    concurrency: int = 1
    hostname: str = ""
    pid: int = 0
    kind: str = "python"
    lease_seconds: float = LEASE_SECONDS
    org: str | None = None


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker as the database knows it."""

    id: str
    state: WorkerState
    queues: list[str]
    names: list[str]
    concurrency: int
    hostname: str
    pid: int
    kind: str
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    lease_seconds: float
    org: str | None = None


class OutcomeKind(StrEnum):
    """How one run ended; each is the transition of the same name (`fail` becomes backoff or bury in the database)."""

    COMPLETE = "complete"
    FAIL = "fail"
    BURY = "bury"
    RETRY_AT = "retry_at"
    SNOOZE = "snooze"
    SUSPEND = "suspend"
    RELEASE = "release"
    ABORT = "abort"
    EXPIRE = "expire"


@dataclass(slots=True)
class Outcome:
    """What a worker reports of one run.

    `wait_ms` is the backoff (fail), or how long to put the job aside (retry_at, snooze). `ran_ms` is how long the
    handler ran. `started` is false for a job that was claimed and never begun (a release refunds nothing then).
    `delivery` is what came of it where the job was delivered.
    `claimed` is the job as it was claimed, from a reporter that knows of no change to it since: with it, a completion
    costs less, and is as right if there was one.
    """

    job_id: str
    token: str
    kind: OutcomeKind
    result: Any = None
    error: JobError | None = None
    wait_ms: int = 0
    ran_ms: int = 0
    started: bool = True
    logs: list[tuple[str, str]] = field(default_factory=list)
    progress: Any = ...
    delivery: Delivery | None = None
    claimed: ClaimedJob | None = None
