"""How is something done to all jobs that match a filter, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.errors import result
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import JobFilter, job_filter
from schema.resolvers import bulk as resolvers
from schema.selection import Info
from switchtower import engine as records

__all__ = ["BulkMutation", "BulkOperation", "BulkQuery", "BulkSubscription"]


def _dry_run(root: strawberry.Parent[records.BulkOperation]) -> bool:
    return root.id is None


@strawberry.type(description="Something that is done to all jobs that match a filter, in chunks of 1,000.")
class BulkOperation:
    """`switchtower.engine.BulkOperation`."""

    id: strawberry.ID | None = strawberry.field(description="Its id; null for a dry run, of which nothing is kept.")
    verb: str = strawberry.field(description="What is done: `cancel`, `retry`, `promote` or `remove`.")
    matched: int = strawberry.field(
        description="How many matching jobs it has met so far; of a dry run, how many match."
    )
    expected: int | None = strawberry.field(
        description="How many matched when it began; null until they are counted, and where they are too many."
    )
    exact: bool = strawberry.field(description="False for a dry run that stopped counting at a bound.")
    changed: int = strawberry.field(description="How many were changed so far.")
    failed: int = strawberry.field(
        description="How many could not be, such as those that another job's unique key holds up."
    )
    done: bool = strawberry.field(description="Whether it has come to its end.")
    dry_run: bool = resolved(resolver=_dry_run, description="Whether it only counted.")
    sample_ids: list[strawberry.ID] = strawberry.field(description="Some of the jobs that match.")
    created_at: datetime = strawberry.field(description="When it began.")
    finished_at: datetime | None = strawberry.field(description="When it came to its end.")
    actor: str = strawberry.field(description="Who asked for it.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.BulkOperation)


CancelJobsResult = result("CancelJobsResult", BulkOperation)
RetryJobsResult = result("RetryJobsResult", BulkOperation)
PromoteJobsResult = result("PromoteJobsResult", BulkOperation)
RemoveJobsResult = result("RemoveJobsResult", BulkOperation)

FILTER = strawberry.argument(
    description="Which jobs, as they are now; an empty filter means all that the mutation can change."
)
DRY_RUN = strawberry.argument(description="Changes nothing: says how many match, with a sample.")


@strawberry.type
class BulkQuery:
    """Queries about operations on many jobs."""

    @query(graphql_type=BulkOperation | None, description="The operation with this id; null where there is none.")
    async def bulk_operation(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The operation's id.")]
    ) -> Any:
        return await resolvers.get(info.context, id)


@strawberry.type
class BulkMutation:
    """What can be done to many jobs at once."""

    @mutation(graphql_type=CancelJobsResult, description="`cancelJob` for every job that matches.")
    async def cancel_jobs(
        self, info: Info, filter: Annotated[JobFilter, FILTER], dry_run: Annotated[bool, DRY_RUN] = False
    ) -> Any:
        return await resolvers.start(info.context, "cancel", job_filter(filter), dry_run=dry_run)

    @mutation(graphql_type=RetryJobsResult, description="`retryJob` for every job that matches.")
    async def retry_jobs(
        self, info: Info, filter: Annotated[JobFilter, FILTER], dry_run: Annotated[bool, DRY_RUN] = False
    ) -> Any:
        return await resolvers.start(info.context, "retry", job_filter(filter), dry_run=dry_run)

    @mutation(graphql_type=PromoteJobsResult, description="`promoteJob` for every job that matches.")
    async def promote_jobs(
        self, info: Info, filter: Annotated[JobFilter, FILTER], dry_run: Annotated[bool, DRY_RUN] = False
    ) -> Any:
        return await resolvers.start(info.context, "promote", job_filter(filter), dry_run=dry_run)

    @mutation(graphql_type=RemoveJobsResult, description="`removeJob` for every job that matches and is not running.")
    async def remove_jobs(
        self, info: Info, filter: Annotated[JobFilter, FILTER], dry_run: Annotated[bool, DRY_RUN] = False
    ) -> Any:
        return await resolvers.start(info.context, "remove", job_filter(filter), dry_run=dry_run)


@strawberry.type
class BulkSubscription:
    """Streams about operations on many jobs."""

    @subscription(
        graphql_type=BulkOperation | None,
        description="The operation now and as it goes on, to its end. Null, and the end, where there is none.",
    )
    async def bulk_operation(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The operation's id.")]
    ) -> AsyncGenerator[Any, None]:
        async for operation in resolvers.watch(info.context, id):
            yield operation
