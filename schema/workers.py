"""What is a worker, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.fields import query, resolved, subscription
from schema.jobs import Job
from schema.node import Node, Scope
from schema.resolvers import workers as resolvers
from schema.selection import Info, heavy
from switchtower import jobs as job_records
from switchtower import workers as records
from switchtower.workers import WorkerState

__all__ = ["Worker", "WorkerQuery", "WorkerSubscription"]


def _lease_ms(root: strawberry.Parent[records.Worker]) -> int:
    return round(root.lease_seconds * 1000)


def _scope(root: strawberry.Parent[records.Worker]) -> records.Worker:
    return root


async def _current_jobs(root: strawberry.Parent[records.Worker], info: Info) -> list[job_records.Job]:
    return await loaders.loader(info.context, loaders.current_jobs).load((root.id, heavy(info)))


@strawberry.type(description="A process that runs jobs.")
class Worker(Node):
    """`switchtower.workers.Worker`."""

    state: WorkerState = strawberry.field(description="What it is doing.")
    queues: list[str] = strawberry.field(description="The queues that it takes jobs from.")
    names: list[str] = strawberry.field(description="The job names that it has handlers for; empty for any.")
    concurrency: int = strawberry.field(description="How many jobs it runs at once.")
    hostname: str = strawberry.field(description="Where it runs.")
    pid: int = strawberry.field(description="Its process id there; 0 where it did not say.")
    kind: str = strawberry.field(description="What it is written in or reached by, such as `python` or `graphql`.")
    started_at: datetime = strawberry.field(description="When it first registered.")
    heartbeat_at: datetime = strawberry.field(description="When it last renewed its lease.")
    expires_at: datetime = strawberry.field(description="When it is taken for lost unless it renews before.")
    lease_ms: int = resolved(resolver=_lease_ms, description="How long its lease lasts, in milliseconds.")
    current_jobs: list[Job] = resolved(
        resolver=_current_jobs, graphql_type=list[Job], description="The jobs that it holds now."
    )
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.Worker)


@strawberry.type
class WorkerQuery:
    """Queries about workers."""

    @query(graphql_type=list[Worker], description="The workers.")
    async def workers(
        self,
        info: Info,
        include_gone: Annotated[
            bool, strawberry.argument(description="Also those that stopped or were lost in the last days.")
        ] = False,
    ) -> list[records.Worker]:
        return await resolvers.list_all(info.context, include_gone=include_gone)

    @query(graphql_type=Worker | None, description="The worker with this id; null where there is none.")
    async def worker(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]
    ) -> records.Worker | None:
        return await resolvers.get(info.context, id)


@strawberry.type
class WorkerSubscription:
    """Streams about workers."""

    @subscription(
        graphql_type=list[Worker], description="The workers now, and again whenever one comes, changes or goes."
    )
    async def workers(self, info: Info) -> AsyncGenerator[Any, None]:
        async for found in resolvers.watch(info.context):
            yield found
