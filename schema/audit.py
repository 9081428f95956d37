"""What is the audit trail, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.enums import described
from schema.events import AT, CURSOR, StreamGap
from schema.fields import query, resolved, subscription
from schema.inputs import given
from schema.node import Scope
from schema.paging import AFTER, FIRST, Connection
from schema.resolvers import audit as resolvers
from schema.resolvers.bounds import Listing, window
from schema.scalars import JSON
from schema.selection import Info
from switchtower import audit as records
from switchtower.audit import AuditStatus
from switchtower.events import Event, Topic

__all__ = ["AuditQuery", "AuditSubscription"]

described(
    AuditStatus,
    "How an action ended.",
    {"SUCCESS": "It was done.", "FAILED": "It was refused, and changed nothing."},
)


def _scope(root: strawberry.Parent[records.AuditRow]) -> records.AuditRow:
    return root


def _details(root: strawberry.Parent[records.AuditRow]) -> Any:
    return _plain(root.details)


def _plain(value: Any) -> Any:
    """The value as JSON knows it; times as text."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value


@strawberry.type(description="One action of an operator.")
class AuditEntry:
    """`switchtower.audit.AuditRow`."""

    id: strawberry.ID = strawberry.field(description="Its id; entries sort by it as by time.")
    at: datetime = strawberry.field(description="When, by the database's clock.")
    action: str = strawberry.field(description="What was done, such as `job.retry` or `queue.pause`.")
    source: str = strawberry.field(description="The surface that it came through, such as `graphql` or `python`.")
    status: AuditStatus = strawberry.field(description="How it ended.")
    actor: str | None = strawberry.field(description="Who did it.")
    queue: str | None = strawberry.field(description="The queue that it was done to, or whose job it was done to.")
    job_id: strawberry.ID | None = strawberry.field(description="The job that it was done to.")
    target: strawberry.ID | None = strawberry.field(description="The id of what else it was done to.")
    details: JSON | None = resolved(
        resolver=_details,
        graphql_type=JSON | None,
        description="What it changed: `before` and `after` where they are small, counts, names of fields.",
    )
    error: str | None = strawberry.field(description="Why it was refused.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.AuditRow)


AuditConnection = Connection[AuditEntry]


@strawberry.input(description="Which entries: every given condition must hold.")
class AuditFilter:
    """`switchtower.audit.AuditFilter`."""

    actions: list[str] | None = strawberry.field(default=None, description="Any of these actions.")
    statuses: list[AuditStatus] | None = strawberry.field(default=None, description="That ended in any of these ways.")
    sources: list[str] | None = strawberry.field(default=None, description="Through any of these surfaces.")
    actors: list[str] | None = strawberry.field(default=None, description="By any of these.")
    queue: str | None = strawberry.field(default=None, description="Done to this queue or to a job of it.")
    job_id: strawberry.ID | None = strawberry.field(default=None, description="Done to this job; our id.")
    text: str | None = strawberry.field(
        default=None,
        description=(
            "With this text, whatever its case, in action, actor, ids, queue or error; at most 256 characters."
        ),
    )
    after: datetime | None = strawberry.field(default=None, description="Later than this.")
    before: datetime | None = strawberry.field(default=None, description="Earlier than this.")


_FIELDS = ("actions", "statuses", "sources", "actors", "queue", "job_id", "text", "after", "before")


async def _entry(root: strawberry.Parent[Event], info: Info) -> Any:
    return await resolvers.get(info.context, root.id)


@strawberry.type(description="An action was written down.")
class AuditEvent:
    """`switchtower.events.Event` of the audit trail."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    entry: AuditEntry | None = resolved(
        resolver=_entry, graphql_type=AuditEntry | None, description="The entry; null when its retention has passed."
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.AUDIT


AuditStreamItem = Annotated[
    AuditEvent | StreamGap, strawberry.union("AuditStreamItem", description="What `audit` delivers.")
]


@strawberry.type
class AuditQuery:
    """Queries about the audit trail."""

    @query(graphql_type=AuditConnection, description="What operators did, the newest first; kept for 90 days.")
    async def audit(
        self,
        info: Info,
        filter: Annotated[
            AuditFilter | None, strawberry.argument(description="Which entries; all where not given.")
        ] = None,
        first: Annotated[int | None, FIRST] = None,
        after: Annotated[str | None, AFTER] = None,
    ) -> Listing[Any]:
        wanted = records.AuditFilter() if filter is None else records.AuditFilter(**given(filter, *_FIELDS))
        return await resolvers.page(info.context, wanted, window(info.context, first, after))


@strawberry.type
class AuditSubscription:
    """Streams of the audit trail."""

    @subscription(graphql_type=AuditStreamItem, description="What operators do, as it is written down.")
    async def audit(
        self,
        info: Info,
        after: Annotated[
            str | None, strawberry.argument(description="Begin behind this cursor, with nothing missed.")
        ] = None,
    ) -> AsyncGenerator[Any, None]:
        async for item in resolvers.events(info.context, after=after):
            yield item
