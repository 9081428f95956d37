"""How does what happens look to a subscriber?"""

from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.enums import JobEventType
from schema.fields import resolved
from schema.jobs import LogLine
from schema.node import Scope
from schema.scalars import JSON, int32
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import LogLine as LogRecord
from switchtower.states import JobState

__all__ = ["JobLogged", "JobProgress", "JobStreamItem", "JobTransition", "StreamGap"]

CURSOR = "Pass it as `after` to go on behind this event."
AT = "When it happened, by the database's clock."
JOB_ID = "The job; our id."
JOB_NAME = "The job's name."
QUEUE = "The job's queue."
ATTEMPT = "The attempts charged by then."

_STATES = frozenset(JobState)
PROGRESS, LOG = "progress", "log"


@strawberry.type(description="Events are missing between the last one and this: read again what you show.")
class StreamGap:
    """`switchtower.events.Gap`."""

    cursor: str = strawberry.field(description="Pass it as `after` to go on behind the gap.")
    at: datetime = strawberry.field(description="When the gap was noticed.")
    reason: str = strawberry.field(description="Why events are missing.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Gap)


def _scope(root: strawberry.Parent[Event]) -> Event:
    return root


def _to(root: strawberry.Parent[Event]) -> JobState | None:
    return JobState(root.to_state) if root.to_state in _STATES else None


def _from(root: strawberry.Parent[Event]) -> JobState | None:
    return JobState(root.from_state) if root.from_state in _STATES else None


def _worker_id(root: strawberry.Parent[Event]) -> Any:
    return root.data.get("worker")


def _ran(root: strawberry.Parent[Event]) -> int | None:
    return int32(root.data.get("ms"))


def _waited(root: strawberry.Parent[Event]) -> int | None:
    return int32(root.data.get("wait_ms"))


def _error(root: strawberry.Parent[Event]) -> str | None:
    error = root.data.get("error")
    return f"{error['type']}: {error['message']}" if isinstance(error, dict) else error


def _fingerprint(root: strawberry.Parent[Event]) -> str | None:
    error = root.data.get("error")
    return error.get("fingerprint") if isinstance(error, dict) else None


@strawberry.type(description="A job changed.")
class JobTransition:
    """`switchtower.events.Event` of a job, unless it is progress or a log."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    type: JobEventType = strawberry.field(description="What happened to it.")
    id: strawberry.ID = strawberry.field(name="jobId", description=JOB_ID)
    name: str = strawberry.field(name="jobName", description=JOB_NAME)
    queue: str = strawberry.field(description=QUEUE)
    from_state: JobState | None = strawberry.field(
        resolver=_from, name="from", description="Its state before; null for a new job, and where it did not change."
    )
    to_state: JobState | None = strawberry.field(
        resolver=_to, name="to", description="Its state after; null when it was removed, and where it did not change."
    )
    attempt: int = strawberry.field(description=ATTEMPT)
    actor: str | None = strawberry.field(description="Who did it.")
    group: str | None = strawberry.field(description="The job's group.")
    tags: list[str] = strawberry.field(description="The job's tags.")
    parent_id: strawberry.ID | None = strawberry.field(description="The job's parent.")
    worker_id: strawberry.ID | None = strawberry.field(resolver=_worker_id, description="The worker that took it.")
    run_ms: int | None = strawberry.field(resolver=_ran, description="How long the attempt ran, in milliseconds.")
    wait_ms: int | None = strawberry.field(
        resolver=_waited, description="How long it had waited when it was taken, in milliseconds."
    )
    error: str | None = strawberry.field(resolver=_error, description="The failure's type and message.")
    error_fingerprint: str | None = strawberry.field(resolver=_fingerprint, description="Equal for the same fault.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose the job is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.JOB and obj.type not in (PROGRESS, LOG)


def _progress(root: strawberry.Parent[Event]) -> Any:
    return root.data.get("progress")


@strawberry.type(description="A handler reported its progress.")
class JobProgress:
    """`switchtower.events.Event` of the type `progress`."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    id: strawberry.ID = strawberry.field(name="jobId", description=JOB_ID)
    name: str = strawberry.field(name="jobName", description=JOB_NAME)
    queue: str = strawberry.field(description=QUEUE)
    attempt: int = strawberry.field(description=ATTEMPT)
    progress: JSON | None = strawberry.field(
        resolver=_progress, graphql_type=JSON | None, description="What it reported."
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.JOB and obj.type == PROGRESS


def _lines(root: strawberry.Parent[Event]) -> list[LogRecord]:
    return [
        LogRecord(line.get("at", root.at), line["line"], line.get("level", "info"), line.get("attempt", root.attempt))
        for line in root.data.get("lines", ())
    ]


@strawberry.type(description="A handler logged.")
class JobLogged:
    """`switchtower.events.Event` of the type `log`."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    id: strawberry.ID = strawberry.field(name="jobId", description=JOB_ID)
    name: str = strawberry.field(name="jobName", description=JOB_NAME)
    queue: str = strawberry.field(description=QUEUE)
    attempt: int = strawberry.field(description=ATTEMPT)
    lines: list[LogLine] = resolved(resolver=_lines, graphql_type=list[LogLine], description="The lines, in order.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.JOB and obj.type == LOG


JobStreamItem = Annotated[
    JobTransition | JobProgress | JobLogged | StreamGap,
    strawberry.union("JobStreamItem", description="What `jobEvents` delivers."),
]
