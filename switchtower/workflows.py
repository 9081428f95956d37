"""What is a durable workflow, and a run of one?

A workflow is a function whose steps are checkpointed. A run is a job: it is claimed under a lease, its checkpoints
stand in its own document and are written under its lease token, and it suspends (to sleep, to wait for an event or for
children) by giving the job back. What survives of a run after any crash is what its document says; the function is
called again from its start, and finished steps answer from their checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from switchtower.errors import InvalidInput
from switchtower.jobs import Job, JobError, PayloadMatch
from switchtower.payloads import check_text
from switchtower.states import JobState

__all__ = [
    "MAX_STEPS",
    "RUN_ATTEMPTS",
    "NewRun",
    "RunState",
    "Step",
    "StepKind",
    "StepStatus",
    "WorkflowRun",
    "handler_name",
    "run_state",
    "split_name",
]

MAX_STEPS = 5_000

RUN_ATTEMPTS = 100
"""How often a run may lose its worker (or its database) before it fails; suspending and going on is no attempt."""


class RunState(StrEnum):
    """Where a run is in its life; the first four are open."""

    RUNNING = "running"
    SLEEPING = "sleeping"
    WAITING = "waiting"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepKind(StrEnum):
    """What a checkpoint is of."""

    STEP = "step"
    SLEEP = "sleep"
    WAIT = "wait"
    CHILD = "child"
    SPAWN = "spawn"
    FAN_OUT = "fan_out"
    COMPENSATE = "compensate"


class StepStatus(StrEnum):
    """How far a step came; only `waiting` can still change."""

    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One checkpoint. `until` is when a sleep or a wait ends by itself; `events` what is waited for; `children` the ids
    of the runs and jobs that it started."""

    name: str
    kind: StepKind
    status: StepStatus
    result: Any = None
    error: JobError | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 1
    until: datetime | None = None
    events: tuple[str, ...] = ()
    match: tuple[PayloadMatch, ...] = ()
    children: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class NewRun:
    """A run to be started. Without a `version` it is the newest that a live worker has, without a `queue` one that such
    a worker serves."""

    workflow: str
    input: Any = None
    version: int | None = None
    queue: str | None = None
    priority: int = 0
    max_attempts: int = RUN_ATTEMPTS
    run_id: str | None = None
    idempotency_key: str | None = None
    delay_ms: int | None = None
    tags: Sequence[str] = ()

    def check(self) -> None:
        """Raises InvalidInput for a name that no workflow can have."""
        check_text("workflow", self.workflow, limit=200)
        if "#" in self.workflow:
            raise InvalidInput("workflow", "must not contain '#'; it separates the version.")
        if self.version is not None and not 1 <= self.version <= 10**6:
            raise InvalidInput("version", "must be between 1 and 1,000,000.")


@dataclass(slots=True, kw_only=True)
class WorkflowRun:
    """A run as it was read: its job, and what only runs have."""

    id: str
    workflow: str
    version: int
    state: RunState
    input: Any
    output: Any
    error: JobError | None
    current_step: str | None
    steps: list[Step]
    parent_run_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    job: Job


def handler_name(workflow: str, version: int) -> str:
    """The job name of a run: claimed only by workers that have this version of the workflow."""
    return f"{workflow}#{version}"


def split_name(name: str) -> tuple[str, int] | None:
    """The workflow and version of a job name; None for a plain job's."""
    workflow, mark, version = name.rpartition("#")
    return (workflow, int(version)) if mark and version.isdigit() else None


def run_state(state: JobState, *, compensating: bool, awaits: bool) -> RunState:
    """The state of a run, from the state of its job and what it waits for."""
    match state:
        case JobState.COMPLETED:
            return RunState.COMPLETED
        case JobState.FAILED:
            return RunState.FAILED
        case JobState.CANCELLED:
            return RunState.CANCELLED
        case JobState.BLOCKED:
            return RunState.WAITING
        case JobState.SCHEDULED:
            return RunState.WAITING if awaits else RunState.SLEEPING
    return RunState.COMPENSATING if compensating else RunState.RUNNING
