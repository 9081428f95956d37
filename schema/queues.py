"""What is a queue, to a GraphQL client?"""

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.enums import described
from schema.errors import Conflict, NotFound, result
from schema.events import AT, CURSOR, StreamGap
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import JobFilter, job_filter
from schema.job_limits import JobLimit, QueueLimits, QueueLimitsInput, limit_of, limits_of
from schema.jobs import JobConnection
from schema.paging import AFTER, BEFORE, FIRST, LAST
from schema.resolvers import jobs as job_resolvers
from schema.resolvers import queues as resolvers
from schema.resolvers.bounds import Listing, window
from schema.scalars import int32
from schema.selection import Info, heavy
from switchtower import engine as records
from switchtower.errors import InvalidInput
from switchtower.events import Event, Topic
from switchtower.jobs import Job
from switchtower.states import OPEN, JobState

__all__ = ["JobCounts", "Queue", "QueueMutation", "QueueQuery", "QueueSubscription"]

NAME = strawberry.argument(description="The queue's name.")


@strawberry.type(description="How many jobs are in each state.")
class JobCounts:
    """Counts by state; see `counts_of`."""

    scheduled: int = strawberry.field(description="Waiting for their due time.")
    waiting: int = strawberry.field(description="Ready to run.")
    blocked: int = strawberry.field(description="Waiting for other jobs.")
    active: int = strawberry.field(description="Running.")
    retrying: int = strawberry.field(description="Waiting for their next attempt.")
    completed: int = strawberry.field(description="Ended well.")
    failed: int = strawberry.field(description="Ended badly.")
    cancelled: int = strawberry.field(description="Cancelled.")
    open: int = strawberry.field(description="Not ended: the first five together.")
    total: int = strawberry.field(description="All together.")
    exact: bool = strawberry.field(description="False where counting stopped at a bound for one of them.")


def counts_of(by_state: Mapping[JobState, int], *, exact: bool = True) -> JobCounts:
    """The counts as GraphQL shows them; a state that is not there counts zero."""
    return JobCounts(
        **{state.value: by_state.get(state, 0) for state in JobState},
        open=sum(by_state.get(state, 0) for state in OPEN),
        total=sum(by_state.get(state, 0) for state in JobState),
        exact=exact,
    )


def _limit(root: strawberry.Parent[records.GroupCount]) -> JobLimit:
    return limit_of(root.limit)


@strawberry.type(description="The jobs of one group in a queue.")
class Group:
    """`switchtower.engine.GroupCount`."""

    group: str = strawberry.field(name="name", description="The group's name.")
    waiting: int = strawberry.field(description="How many of its jobs are ready to run.")
    active: int = strawberry.field(description="How many of its jobs run.")
    paused: bool = strawberry.field(description="Whether nothing of it starts.")
    limit: JobLimit = resolved(
        resolver=_limit, graphql_type=JobLimit, description="What it is limited to, besides its queue."
    )


def _limits(root: strawberry.Parent[records.Queue]) -> QueueLimits:
    return limits_of(root.limits)


def _paused_groups(root: strawberry.Parent[records.Queue]) -> list[str]:
    return sorted(root.paused_groups)


def _counts(root: strawberry.Parent[records.Queue]) -> JobCounts:
    return counts_of(root.counts)


def _paused_names(root: strawberry.Parent[records.Queue]) -> list[str]:
    return sorted(root.paused_names)


async def _groups(root: strawberry.Parent[records.Queue], info: Info) -> list[records.GroupCount]:
    return await resolvers.groups(info.context, root.name)


async def _latency(root: strawberry.Parent[records.Queue], info: Info) -> int | None:
    return int32(await loaders.loader(info.context, loaders.queue_latencies).load(root.name))


async def _throughput(root: strawberry.Parent[records.Queue], info: Info) -> float | None:
    return await loaders.loader(info.context, loaders.queue_throughputs).load(root.name)


async def _jobs(
    root: strawberry.Parent[records.Queue],
    info: Info,
    filter: Annotated[
        JobFilter | None, strawberry.argument(description="Which of its jobs; `queues` cannot be given.")
    ] = None,
    first: Annotated[int | None, FIRST] = None,
    after: Annotated[str | None, AFTER] = None,
    last: Annotated[int | None, LAST] = None,
    before: Annotated[str | None, BEFORE] = None,
) -> Listing[Job]:
    if filter is not None and filter.queues is not None:
        raise InvalidInput("filter.queues", "cannot be given for the jobs of one queue.")
    chosen = filter if filter is not None else JobFilter()
    chosen.queues = [root.name]
    part = window(info.context, first, after, last, before)
    return await job_resolvers.page(info.context, job_filter(chosen), part, with_=heavy(info))


@strawberry.type(description="A queue.")
class Queue:
    """`switchtower.engine.Queue`."""

    name: str = strawberry.field(description="Its name.")
    paused: bool = strawberry.field(description="Whether nothing of it starts.")
    paused_names: list[str] = resolved(resolver=_paused_names, description="The job names of it that do not start.")
    paused_groups: list[str] = resolved(resolver=_paused_groups, description="The groups of it that do not start.")
    created_at: datetime | None = strawberry.field(
        description="When it was first controlled; null where nobody ever did."
    )
    counts: JobCounts = resolved(
        resolver=_counts, graphql_type=JobCounts, description="How many jobs are in each state."
    )
    groups: list[Group] = resolved(
        resolver=_groups,
        graphql_type=list[Group],
        description="Its groups that have jobs waiting or running, or are paused.",
    )
    limits: QueueLimits = resolved(
        resolver=_limits,
        graphql_type=QueueLimits,
        description="How many of its jobs may run at once and start in an interval; your tenant's, where you have one.",
    )
    latency_ms: int | None = resolved(
        resolver=_latency,
        description=(
            "How long its oldest waiting job has waited, in milliseconds (at most 2147483647 is shown); null "
            "where none waits."
        ),
    )
    throughput_per_minute: float | None = resolved(
        resolver=_throughput, description="How many of its jobs ended per minute of late; null where that is not known."
    )
    jobs: JobConnection = resolved(resolver=_jobs, graphql_type=JobConnection, description="Its jobs, newest first.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.Queue)


@strawberry.type(description="What a removal of many jobs of a queue did.")
class RemovedJobs:
    """The answer of drain, clean and obliterate."""

    queue: str = strawberry.field(description="The queue.")
    removed: int = strawberry.field(description="How many jobs it removed.")


class QueueEventType(StrEnum):
    """The types of events of queues."""

    PAUSE = "pause"
    RESUME = "resume"
    LIMIT = "limit"
    DRAIN = "drain"
    CLEAN = "clean"
    OBLITERATE = "obliterate"


described(
    QueueEventType,
    "What was done to a queue.",
    {
        "PAUSE": "It, or one job name or one group of it, was paused.",
        "RESUME": "It, or one job name or one group of it, was resumed.",
        "LIMIT": "Its limits were set.",
        "DRAIN": "Its jobs that had not begun were removed.",
        "CLEAN": "Old jobs of one state were removed.",
        "OBLITERATE": "It was removed with all of its jobs.",
    },
)


def _job_name(root: strawberry.Parent[Event]) -> str | None:
    return root.name or None


@strawberry.type(description="Something was done to a queue.")
class QueueEvent:
    """`switchtower.events.Event` of a queue."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    type: QueueEventType = strawberry.field(description="What was done.")
    queue: str = strawberry.field(description="The queue.")
    name: str | None = resolved(
        name="jobName",
        resolver=_job_name,
        description="The job name that a pause or resume was about; null for others.",
    )
    group: str | None = strawberry.field(description="The group that a pause or resume was about; null for others.")
    actor: str | None = strawberry.field(description="Who did it.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.QUEUE


QueueStreamItem = Annotated[
    QueueEvent | StreamGap, strawberry.union("QueueStreamItem", description="What `queueEvents` delivers.")
]

PauseQueueResult = result("PauseQueueResult", Queue, NotFound)
ResumeQueueResult = result("ResumeQueueResult", Queue, NotFound)
SetQueueLimitsResult = result("SetQueueLimitsResult", Queue, NotFound)
DrainQueueResult = result("DrainQueueResult", RemovedJobs, NotFound)
CleanQueueResult = result("CleanQueueResult", RemovedJobs, NotFound)
ObliterateQueueResult = result("ObliterateQueueResult", RemovedJobs, NotFound, Conflict)

JOB_NAME = strawberry.argument(description="Only jobs with this name; the whole queue where not given.")
GROUP = strawberry.argument(description="Only jobs of this group; the whole queue where not given.")


@strawberry.type
class QueueQuery:
    """Queries about queues."""

    @query(graphql_type=Queue | None, description="The queue with this name; null where there is none.")
    async def queue(self, info: Info, name: Annotated[str, NAME]) -> records.Queue | None:
        return await resolvers.get(info.context, name)

    @query(graphql_type=list[Queue], description="All queues, by name.")
    async def queues(self, info: Info) -> list[records.Queue]:
        return await resolvers.list_all(info.context)

    @query(graphql_type=JobCounts, description="How many of the jobs that match are in each state.")
    async def job_counts(
        self,
        info: Info,
        filter: Annotated[JobFilter | None, strawberry.argument(description="Which jobs; all where not given.")] = None,
    ) -> JobCounts:
        found = await job_resolvers.counts(info.context, job_filter(filter))
        return counts_of(found.by_state, exact=found.exact)


@strawberry.type
class QueueMutation:
    """What can be done to queues."""

    @mutation(
        graphql_type=PauseQueueResult,
        description=(
            "From now on nothing of the queue starts, or nothing of one name or one group in it; what runs goes on."
        ),
    )
    async def pause_queue(
        self,
        info: Info,
        name: Annotated[str, NAME],
        job_name: Annotated[str | None, JOB_NAME] = None,
        group: Annotated[str | None, GROUP] = None,
    ) -> records.Queue:
        return await resolvers.pause(info.context, name, job_name=job_name, group=group)

    @mutation(
        graphql_type=ResumeQueueResult, description="Ends a pause of the queue, or of one name or one group in it."
    )
    async def resume_queue(
        self,
        info: Info,
        name: Annotated[str, NAME],
        job_name: Annotated[str | None, JOB_NAME] = None,
        group: Annotated[str | None, GROUP] = None,
    ) -> records.Queue:
        return await resolvers.resume(info.context, name, job_name=job_name, group=group)

    @mutation(
        graphql_type=SetQueueLimitsResult,
        description=(
            "From now on no more jobs of the queue run at once, or start in an interval, than this says, whoever runs "
            "them. What runs goes on, and counts. A tenant limits its own jobs; the operator's limits hold besides."
        ),
    )
    async def set_queue_limits(
        self,
        info: Info,
        name: Annotated[str, NAME],
        input: Annotated[QueueLimitsInput, strawberry.argument(description="All of its limits.")],
    ) -> records.Queue:
        return await resolvers.set_limits(info.context, name, input.record())

    @mutation(
        graphql_type=DrainQueueResult,
        description="Removes the jobs of the queue that are waiting, scheduled, retrying or blocked.",
    )
    async def drain_queue(self, info: Info, name: Annotated[str, NAME]) -> RemovedJobs:
        return RemovedJobs(queue=name, removed=await resolvers.drain(info.context, name))

    @mutation(graphql_type=CleanQueueResult, description="Removes old jobs of one state, oldest first.")
    async def clean_queue(
        self,
        info: Info,
        name: Annotated[str, NAME],
        state: Annotated[JobState, strawberry.argument(description="The state; not `ACTIVE`.")],
        grace_ms: Annotated[
            int, strawberry.argument(description="Only jobs that have not changed for so long, in milliseconds.")
        ] = 0,
        limit: Annotated[int, strawberry.argument(description="At most so many, 1 to 100,000.")] = 10_000,
    ) -> RemovedJobs:
        return RemovedJobs(
            queue=name, removed=await resolvers.clean(info.context, name, state, grace_ms=grace_ms, limit=limit)
        )

    @mutation(graphql_type=ObliterateQueueResult, description="Removes the queue with all of its jobs.")
    async def obliterate_queue(
        self,
        info: Info,
        name: Annotated[str, NAME],
        force: Annotated[
            bool, strawberry.argument(description="Also when it has active jobs; their workers lose their leases.")
        ] = False,
    ) -> RemovedJobs:
        return RemovedJobs(queue=name, removed=await resolvers.obliterate(info.context, name, force=force))


@strawberry.type
class QueueSubscription:
    """Streams about queues."""

    @subscription(graphql_type=QueueStreamItem, description="What operators do to queues, as it happens.")
    async def queue_events(
        self,
        info: Info,
        name: Annotated[str | None, strawberry.argument(description="Only this queue; any where not given.")] = None,
        after: Annotated[
            str | None, strawberry.argument(description="Begin behind this cursor, with nothing missed.")
        ] = None,
    ) -> AsyncGenerator[Any, None]:
        async for item in resolvers.events(info.context, name, after=after):
            yield item

    @subscription(
        graphql_type=list[Queue],
        description="Queues with their counts now, and again after each interval in which they changed.",
    )
    async def queue_counts(
        self,
        info: Info,
        names: Annotated[
            list[str] | None, strawberry.argument(description="Only these queues; all where not given.")
        ] = None,
        interval_ms: Annotated[
            int, strawberry.argument(description="How often to look, in milliseconds, 200 or more.")
        ] = 1_000,
    ) -> AsyncGenerator[Any, None]:
        async for found in resolvers.watch_counts(info.context, names, interval_ms=interval_ms):
            yield found
