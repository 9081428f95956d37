"""What is a workflow, and a run of one, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.enums import described
from schema.errors import Conflict, InvalidTransition, NotFound, result
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import given
from schema.jobs import Job, JobConnection, JobError
from schema.node import Node, Scope
from schema.paging import AFTER, BEFORE, FIRST, LAST, Connection
from schema.resolvers import jobs as job_resolvers
from schema.resolvers import workflows as resolvers
from schema.resolvers.bounds import Listing, window
from schema.scalars import JSON
from schema.selection import Info, heavy
from switchtower import jobs as job_records
from switchtower import workflows as records
from switchtower.engine import JobOrder

__all__ = ["WorkflowMutation", "WorkflowQuery", "WorkflowRun", "WorkflowSubscription"]

described(
    records.RunState,
    "Where a run is in its life; the last three are final.",
    {
        "RUNNING": "It runs, or waits for a worker.",
        "SLEEPING": "It sleeps until a time.",
        "WAITING": "It waits for an event, or for children.",
        "COMPENSATING": "It has failed, and undoes the steps that were done.",
        "COMPLETED": "Ended well.",
        "FAILED": "Ended badly, and compensated as far as it could.",
        "CANCELLED": "Ended by a cancel; nothing is compensated.",
    },
    name="WorkflowRunState",
)
described(
    records.StepKind,
    "What a checkpoint is of.",
    {
        "STEP": "A call of a function.",
        "SLEEP": "A sleep.",
        "WAIT": "A wait for an event.",
        "CHILD": "A child, or a spawned run, that is waited for.",
        "SPAWN": "A run that was started and goes on by itself.",
        "FAN_OUT": "Many children at the same time.",
        "COMPENSATE": "What undoes a step; the one called `compensate` says why.",
    },
    name="WorkflowStepKind",
)
described(
    records.StepStatus,
    "How far a step came.",
    {"WAITING": "It waits, or will be tried again.", "COMPLETED": "It ended well.", "FAILED": "It ended badly."},
    name="WorkflowStepStatus",
)


@strawberry.type(description="One checkpoint of a run. What ended never runs again.")
class WorkflowStep:
    """`switchtower.workflows.Step`."""

    name: str = strawberry.field(description="Its name, unique in the run.")
    kind: records.StepKind = strawberry.field(description="What it is.")
    status: records.StepStatus = strawberry.field(description="How far it came.")
    result: JSON | None = strawberry.field(description="What it gave.")
    error: JobError | None = strawberry.field(description="Why it failed, or its last attempt did.")
    started_at: datetime | None = strawberry.field(description="When it began.")
    ended_at: datetime | None = strawberry.field(description="When it ended; null while it waits.")
    attempts: int = strawberry.field(description="How often it was tried.")
    until: datetime | None = strawberry.field(description="When its sleep, wait or backoff ends by itself.")
    events: list[str] = strawberry.field(description="The names of the events that it waits for.")
    children: list[strawberry.ID] = strawberry.field(description="The jobs that it started.")


async def _steps(root: strawberry.Parent[records.WorkflowRun], info: Info) -> list[records.Step]:
    if root.steps:
        return root.steps
    found = await loaders.loader(info.context, loaders.runs).load(root.id)
    return [] if found is None else found.steps


async def _parent_run(root: strawberry.Parent[records.WorkflowRun], info: Info) -> records.WorkflowRun | None:
    if root.parent_run_id is None:
        return None
    return await loaders.loader(info.context, loaders.runs).load(root.parent_run_id)


async def _job(root: strawberry.Parent[records.WorkflowRun], info: Info) -> Any:
    return await loaders.loader(info.context, loaders.jobs).load((root.job.id, heavy(info)))


async def _children(
    root: strawberry.Parent[records.WorkflowRun],
    info: Info,
    first: Annotated[int | None, FIRST] = None,
    after: Annotated[str | None, AFTER] = None,
) -> Listing[job_records.Job]:
    filter = job_records.JobFilter(parent_id=root.job.id)
    part = window(info.context, first, after)
    return await job_resolvers.page(info.context, filter, part, order=JobOrder.CREATED_ASC, with_=heavy(info))


def _scope(root: strawberry.Parent[records.WorkflowRun]) -> job_records.Job:
    return root.job


def _queue(root: strawberry.Parent[records.WorkflowRun]) -> str:
    return root.job.queue


def _created(root: strawberry.Parent[records.WorkflowRun]) -> datetime:
    return root.job.created_at


def _finished(root: strawberry.Parent[records.WorkflowRun]) -> datetime | None:
    return root.job.finished_at


LazyRun: Any = Annotated["WorkflowRun", strawberry.lazy("schema.workflows")]


@strawberry.type(description="A run of a workflow: a job whose steps are checkpointed.")
class WorkflowRun(Node):
    """`switchtower.workflows.WorkflowRun`."""

    workflow: str = strawberry.field(description="The workflow's name.")
    version: int = strawberry.field(description="The version that it was started on; it stays on it.")
    state: records.RunState = strawberry.field(description="Where it is in its life.")
    input: JSON | None = strawberry.field(description="The arguments of its function.")
    output: JSON | None = strawberry.field(description="What its function returned.")
    error: JobError | None = strawberry.field(description="Why it failed, or its last attempt did.")
    current_step: str | None = strawberry.field(description="The step that was recorded last.")
    steps: list[WorkflowStep] = resolved(
        resolver=_steps, graphql_type=list[WorkflowStep], description="Its checkpoints, in the order of their writing."
    )
    queue: str = resolved(resolver=_queue, description="Its queue.")
    parent_run: Any = resolved(
        resolver=_parent_run, graphql_type=LazyRun | None, description="The run whose child it is."
    )
    children: JobConnection = resolved(
        resolver=_children, graphql_type=JobConnection, description="The jobs of its children, oldest first."
    )
    job: Job | None = resolved(
        resolver=_job, graphql_type=Job | None, description="Its job; null when it was removed meanwhile."
    )
    created_at: datetime = resolved(resolver=_created, description="When it was started by its caller.")
    started_at: datetime | None = strawberry.field(description="When its first step was recorded.")
    completed_at: datetime | None = strawberry.field(description="When it completed.")
    finished_at: datetime | None = resolved(resolver=_finished, description="When it ended, however it did.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.WorkflowRun)


WorkflowRunConnection = Connection[WorkflowRun]


@strawberry.type(description="A workflow that live workers have.")
class Workflow:
    """`schema.resolvers.workflows.Workflow`."""

    name: str = strawberry.field(description="Its name.")
    versions: list[int] = strawberry.field(description="Its versions, the newest last: runs start on that.")


@strawberry.type(description="An event that was stored, for the first run that waits for it.")
class PublishedEvent:
    """`schema.resolvers.workflows.PublishedEvent`."""

    id: strawberry.ID = strawberry.field(description="Its id.")
    name: str = strawberry.field(description="Its name.")
    published_at: datetime = strawberry.field(description="When it was first published.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, resolvers.PublishedEvent)


@strawberry.input(description="Which runs: every given condition must hold.")
class WorkflowRunFilter:
    """Conditions of `Workflows.page`."""

    workflow: str | None = strawberry.field(default=None, description="Of this workflow.")
    states: list[records.RunState] | None = strawberry.field(default=None, description="In any of these states.")


@strawberry.input(description="A run to start.")
class StartWorkflowInput:
    """`switchtower.workflows.NewRun`."""

    workflow: str = strawberry.field(description="The workflow's name.")
    version: int | None = strawberry.field(
        default=None, description="Its version; the newest that a live worker has where not given."
    )
    input: JSON | None = strawberry.field(default=None, description="The arguments of its function.")
    queue: str | None = strawberry.field(
        default=None, description="Its queue; one that its workers serve where not given."
    )
    priority: int | None = strawberry.field(default=None, description="Lower numbers run first.")
    max_attempts: int | None = strawberry.field(
        default=None, description="How often it may lose its worker; its steps have attempts of their own."
    )
    delay_ms: int | None = strawberry.field(default=None, description="Starts so much later, in milliseconds.")
    tags: list[str] | None = strawberry.field(default=None, description="At most 50 tags.")
    run_id: str | None = strawberry.field(default=None, description="An id of your own, unique in its queue.")
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key gives the same run for 24 hours, whatever happened to the first answer."
    )

    def record(self) -> records.NewRun:
        """As the engine knows it. Raises InvalidInput."""
        return records.NewRun(**given(self, *_START_FIELDS))


_START_FIELDS = (
    "workflow",
    "version",
    "input",
    "queue",
    "priority",
    "max_attempts",
    "delay_ms",
    "tags",
    "run_id",
    "idempotency_key",
)


@strawberry.input(description="An event to publish.")
class PublishEventInput:
    """The arguments of `Workflows.publish`."""

    name: str = strawberry.field(description="Its name, at most 256 characters.")
    payload: JSON | None = strawberry.field(default=None, description="What the run that consumes it is given.")
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key publishes it once, as long as the first is kept (30 days)."
    )


StartWorkflowResult = result("StartWorkflowResult", WorkflowRun, NotFound, Conflict)
PublishEventResult = result("PublishEventResult", PublishedEvent)
CancelWorkflowRunResult = result("CancelWorkflowRunResult", WorkflowRun, NotFound, InvalidTransition)
ReplayWorkflowRunResult = result("ReplayWorkflowRunResult", WorkflowRun, NotFound, InvalidTransition, Conflict)

ID = strawberry.argument(description="The run's id: `run_…`, its job's, or the one that its starter chose.")


@strawberry.type
class WorkflowQuery:
    """Queries about workflows."""

    @query(graphql_type=list[Workflow], description="The workflows that live workers have, by name.")
    async def workflows(self, info: Info) -> Any:
        return await resolvers.names(info.context)

    @query(graphql_type=WorkflowRun | None, description="The run with this id; null where there is none.")
    async def workflow_run(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.get(info.context, id)

    @query(graphql_type=WorkflowRunConnection, description="Runs, newest first.")
    async def workflow_runs(
        self,
        info: Info,
        filter: Annotated[WorkflowRunFilter | None, strawberry.argument(description="Which runs.")] = None,
        first: Annotated[int | None, FIRST] = None,
        after: Annotated[str | None, AFTER] = None,
        last: Annotated[int | None, LAST] = None,
        before: Annotated[str | None, BEFORE] = None,
    ) -> Listing[Any]:
        part = window(info.context, first, after, last, before)
        wanted = filter or WorkflowRunFilter()
        return await resolvers.page(info.context, part, workflow=wanted.workflow, states=wanted.states)


@strawberry.type
class WorkflowMutation:
    """What can be done to workflows."""

    @mutation(graphql_type=StartWorkflowResult, description="Starts a run of a workflow.")
    async def start_workflow(
        self, info: Info, input: Annotated[StartWorkflowInput, strawberry.argument(description="The run.")]
    ) -> Any:
        return await resolvers.start(info.context, input.record())

    @mutation(
        graphql_type=PublishEventResult,
        description="Publishes an event: the first run that waits for it, now or later, consumes it.",
    )
    async def publish_event(
        self, info: Info, input: Annotated[PublishEventInput, strawberry.argument(description="The event.")]
    ) -> Any:
        return await resolvers.publish(info.context, input.name, input.payload, idempotency_key=input.idempotency_key)

    @mutation(
        graphql_type=CancelWorkflowRunResult,
        description="Cancels an open run: at once while it sleeps or waits; a running one is asked to stop.",
    )
    async def cancel_workflow_run(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.cancel(info.context, id)

    @mutation(
        graphql_type=ReplayWorkflowRunResult,
        description="Runs a final run again from a step on; so do steps that were compensated.",
    )
    async def replay_workflow_run(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        from_step: Annotated[str, strawberry.argument(description="The name of the first step to run again.")],
    ) -> Any:
        return await resolvers.replay(info.context, id, from_step)


@strawberry.type
class WorkflowSubscription:
    """Streams about workflows."""

    @subscription(
        graphql_type=WorkflowRun | None,
        description="The run now and at every change, each checkpoint too, to its end. Null, and the end, where there "
        "is none.",
    )
    async def workflow_run(self, info: Info, id: Annotated[strawberry.ID, ID]) -> AsyncGenerator[Any, None]:
        async for run in resolvers.watch(info.context, id):
            yield run
