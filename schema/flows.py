"""What is a flow, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.bulk import BulkOperation
from schema.errors import Conflict, InvalidTransition, NotFound, result
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import EnqueueJobInput
from schema.jobs import Job, JobConnection
from schema.node import Scope
from schema.paging import AFTER, BEFORE, FIRST, LAST, Connection
from schema.queues import JobCounts, counts_of
from schema.resolvers import flows as resolvers
from schema.resolvers import jobs as job_resolvers
from schema.resolvers.bounds import Listing, window
from schema.selection import Info, heavy
from switchtower import flows as records
from switchtower import jobs as job_records
from switchtower.engine import JobOrder
from switchtower.states import JobState

__all__ = ["Flow", "FlowMutation", "FlowQuery", "FlowSubscription"]


def _counts(root: strawberry.Parent[records.Flow]) -> JobCounts:
    return counts_of(root.counts)


def _root(root: strawberry.Parent[records.Flow]) -> job_records.Job:
    return root.root


def _state(root: strawberry.Parent[records.Flow]) -> JobState:
    return root.root.state


def _scope(root: strawberry.Parent[records.Flow]) -> job_records.Job:
    return root.root


async def _jobs(
    root: strawberry.Parent[records.Flow],
    info: Info,
    states: Annotated[list[JobState] | None, strawberry.argument(description="Only in these states.")] = None,
    first: Annotated[int | None, FIRST] = None,
    after: Annotated[str | None, AFTER] = None,
) -> Listing[job_records.Job]:
    filter = job_records.JobFilter(flow_id=root.id, states=states)
    part = window(info.context, first, after)
    return await job_resolvers.page(info.context, filter, part, order=JobOrder.CREATED_ASC, with_=heavy(info))


@strawberry.type(
    description="Jobs that wait for each other, known by the id of the root: the one that nothing in it waits for."
)
class Flow:
    """`switchtower.flows.Flow`."""

    id: strawberry.ID = strawberry.field(description="The id of its root.")
    root: Job = resolved(
        resolver=_root, graphql_type=Job, description="Its root, without heavy fields; its `children` are the tree."
    )
    state: JobState = resolved(resolver=_state, description="The state of its root.")
    counts: JobCounts = resolved(resolver=_counts, description="Its jobs by state, counted now.")
    total: int = strawberry.field(description="How many jobs it has.")
    finished: int = strawberry.field(description="How many of them are final.")
    progress: float = strawberry.field(description="The share of its jobs that are final, 0 to 1.")
    jobs: JobConnection = resolved(
        resolver=_jobs, graphql_type=JobConnection, description="All its jobs, oldest first."
    )
    created_at: datetime = strawberry.field(description="When its root was created.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.Flow)


FlowConnection = Connection[Flow]


@strawberry.input(description="One job of a flow: it waits for its children, and for the nodes that it depends on.")
class FlowNodeInput:
    """`switchtower.flows.FlowNode`."""

    job: EnqueueJobInput = strawberry.field(
        description="The job, without links of its own: its place here says what it waits for."
    )
    key: str | None = strawberry.field(default=None, description="A name in this flow, for `dependsOn` of others.")
    children: list["FlowNodeInput"] | None = strawberry.field(default=None, description="The jobs that it waits for.")
    depends_on: list[str] | None = strawberry.field(
        default=None, description="Keys of other nodes that must complete before it runs."
    )

    def record(self, queue: str | None = None) -> records.FlowNode:
        """As the engine knows it, in `queue` where its jobs name none. Raises InvalidInput."""
        return records.FlowNode(
            job=self.job.record(queue),
            key=self.key,
            children=[child.record(queue) for child in self.children or ()],
            depends_on=self.depends_on or (),
        )


@strawberry.input(description="A flow to enqueue.")
class EnqueueFlowInput:
    """The root, and a key for repeats."""

    root: FlowNodeInput = strawberry.field(description="Its root, with everything below it.")
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="The same key gives the same flow for 24 hours, whatever happened to the first answer.",
    )


EnqueueFlowResult = result("EnqueueFlowResult", Flow, NotFound, Conflict)
CancelFlowResult = result("CancelFlowResult", BulkOperation, NotFound, InvalidTransition)
RetryFlowResult = result("RetryFlowResult", Flow, NotFound, InvalidTransition, Conflict)

ID = strawberry.argument(description="The id of its root, or of any of its jobs.")


@strawberry.type
class FlowQuery:
    """Queries about flows."""

    @query(graphql_type=Flow | None, description="The flow with this root or job; null where there is none.")
    async def flow(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.get(info.context, id)

    @query(graphql_type=FlowConnection, description="Flows, newest first.")
    async def flows(
        self,
        info: Info,
        state: Annotated[JobState | None, strawberry.argument(description="With their root in this state.")] = None,
        first: Annotated[int | None, FIRST] = None,
        after: Annotated[str | None, AFTER] = None,
        last: Annotated[int | None, LAST] = None,
        before: Annotated[str | None, BEFORE] = None,
    ) -> Listing[Any]:
        part = window(info.context, first, after, last, before)
        return await resolvers.page(info.context, None if state is None else [state], part)


@strawberry.type
class FlowMutation:
    """What can be done to flows."""

    @mutation(
        graphql_type=EnqueueFlowResult,
        description="Creates all jobs of a flow or none; nothing of it can run before all of it is there.",
    )
    async def enqueue_flow(
        self, info: Info, input: Annotated[EnqueueFlowInput, strawberry.argument(description="The flow.")]
    ) -> Any:
        root = input.root.record(info.context.caller.queue)
        return await resolvers.enqueue(info.context, root, idempotency_key=input.idempotency_key)

    @mutation(
        graphql_type=CancelFlowResult, description="Cancels every open job of a flow; active ones are asked to stop."
    )
    async def cancel_flow(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.cancel(info.context, id)

    @mutation(
        graphql_type=RetryFlowResult,
        description="Runs what failed or was cancelled again, from the bottom up; what completed stays.",
    )
    async def retry_flow(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.retry(info.context, id)


@strawberry.type
class FlowSubscription:
    """Streams about flows."""

    @subscription(
        graphql_type=Flow | None,
        description="The flow now and as its jobs change, to its end. Null, and the end, where there is none.",
    )
    async def flow(self, info: Info, id: Annotated[strawberry.ID, ID]) -> AsyncGenerator[Any, None]:
        async for flow in resolvers.watch(info.context, id):
            yield flow
