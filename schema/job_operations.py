"""What can be asked of jobs, done to them, and followed?"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import strawberry

from schema.errors import Conflict, InvalidTransition, NotFound, rendered, result
from schema.events import JobStreamItem
from schema.fields import mutation, query, subscription
from schema.inputs import (
    EnqueueJobInput,
    JobEventFilter,
    JobFilter,
    UpdateJobInput,
    event_filter,
    job_filter,
    new_job_or_error,
)
from schema.jobs import EnqueuedJob, ErrorCluster, Job, JobConnection
from schema.paging import AFTER, BEFORE, FIRST, LAST
from schema.resolvers import jobs as resolvers
from schema.resolvers.bounds import Listing, bounded, window
from schema.selection import Info, heavy
from switchtower import jobs as records
from switchtower.engine import JobOrder

__all__ = ["JobMutation", "JobQuery", "JobSubscription"]

ID = strawberry.argument(description="The job's id, ours or your own.")
FILTER = strawberry.argument(description="Which jobs; all where not given.")

EnqueueJobResult = result("EnqueueJobResult", Job, NotFound, InvalidTransition, Conflict)
CancelJobResult = result("CancelJobResult", Job, NotFound, InvalidTransition)
RetryJobResult = result("RetryJobResult", Job, NotFound, InvalidTransition, Conflict)
PromoteJobResult = result("PromoteJobResult", Job, NotFound, InvalidTransition)
RemoveJobResult = result("RemoveJobResult", Job, NotFound, InvalidTransition)
UpdateJobResult = result("UpdateJobResult", Job, NotFound, InvalidTransition)


@strawberry.type(description="The answers to many enqueues.")
class EnqueueJobsResult:
    """One answer for each input, in order."""

    items: list[EnqueueJobResult] = strawberry.field(description="One answer for each input, in its order.")  # type: ignore[valid-type]


@strawberry.type
class JobQuery:
    """Queries about jobs."""

    @query(graphql_type=Job | None, description="The job with this id; null where there is none.")
    async def job(self, info: Info, id: Annotated[strawberry.ID, ID]) -> records.Job | None:
        return await resolvers.get(info.context, id, with_=heavy(info))

    @query(graphql_type=JobConnection, description="The jobs that match, newest first unless ordered otherwise.")
    async def jobs(
        self,
        info: Info,
        filter: Annotated[JobFilter | None, FILTER] = None,
        order_by: Annotated[JobOrder, strawberry.argument(description="Their order.")] = JobOrder.CREATED_DESC,
        first: Annotated[int | None, FIRST] = None,
        after: Annotated[str | None, AFTER] = None,
        last: Annotated[int | None, LAST] = None,
        before: Annotated[str | None, BEFORE] = None,
    ) -> Listing[records.Job]:
        part = window(info.context, first, after, last, before)
        return await resolvers.page(info.context, job_filter(filter), part, order=order_by, with_=heavy(info))

    @query(
        graphql_type=list[ErrorCluster],
        description="The last failures of the jobs that match, grouped by fault, the most frequent first.",
    )
    async def error_clusters(
        self,
        info: Info,
        filter: Annotated[JobFilter | None, FILTER] = None,
        limit: Annotated[int, strawberry.argument(description="At most so many groups, 1 to 500.")] = 50,
    ) -> list[Any]:
        bounded("limit", limit, 1, 500)
        return await resolvers.error_clusters(info.context, job_filter(filter), limit=limit)


@strawberry.type
class JobMutation:
    """What can be done to jobs."""

    @mutation(
        graphql_type=EnqueueJobResult,
        description=(
            "Stores a job; it runs when it is due. Where one of its keys is held, the answer is the earlier "
            "job, with `deduplication`."
        ),
    )
    async def enqueue_job(
        self, info: Info, input: Annotated[EnqueueJobInput, strawberry.argument(description="The job.")]
    ) -> EnqueuedJob:
        return EnqueuedJob(await resolvers.enqueue(info.context, input.record(info.context.caller.queue)))

    @mutation(
        graphql_type=EnqueueJobsResult,
        description=(
            "Stores many jobs at once, at most 10,000; each has its own answer, and one that is refused holds "
            "up no other."
        ),
    )
    async def enqueue_jobs(
        self, info: Info, inputs: Annotated[list[EnqueueJobInput], strawberry.argument(description="The jobs.")]
    ) -> EnqueueJobsResult:
        queue = info.context.caller.queue
        answers = await resolvers.enqueue_many(info.context, [new_job_or_error(input, queue) for input in inputs])
        return EnqueueJobsResult(
            items=[
                EnqueuedJob(answer) if isinstance(answer, records.Enqueued) else rendered(answer) for answer in answers
            ]
        )

    @mutation(
        graphql_type=CancelJobResult,
        description=(
            "Cancels a job that is not running; asks the handler of a running one to stop and sets `cancelRequestedAt`."
        ),
    )
    async def cancel_job(self, info: Info, id: Annotated[strawberry.ID, ID]) -> records.Job:
        return await resolvers.cancel(info.context, id)

    @mutation(
        graphql_type=RetryJobResult,
        description=(
            "Makes a job that has ended, or that waits for a later time, run again now. An ended one begins a "
            "new generation."
        ),
    )
    async def retry_job(self, info: Info, id: Annotated[strawberry.ID, ID]) -> records.Job:
        return await resolvers.retry(info.context, id)

    @mutation(graphql_type=PromoteJobResult, description="Makes a scheduled or retrying job due now.")
    async def promote_job(self, info: Info, id: Annotated[strawberry.ID, ID]) -> records.Job:
        return await resolvers.promote(info.context, id)

    @mutation(graphql_type=RemoveJobResult, description="Deletes a job; the answer is the job as it was.")
    async def remove_job(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        force: Annotated[
            bool, strawberry.argument(description="Also when it is running; its worker loses its lease.")
        ] = False,
    ) -> records.Job:
        return await resolvers.remove(info.context, id, force=force)

    @mutation(graphql_type=UpdateJobResult, description="Changes a job that is not running.")
    async def update_job(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        input: Annotated[UpdateJobInput, strawberry.argument(description="What to change.")],
    ) -> records.Job:
        return await resolvers.update(info.context, id, input.record())


@strawberry.type
class JobSubscription:
    """Streams about jobs."""

    @subscription(
        graphql_type=JobStreamItem,
        description=(
            "What happens to the jobs that match, as it happens. Where events are missing a `StreamGap` says so."
        ),
    )
    async def job_events(
        self,
        info: Info,
        filter: Annotated[
            JobEventFilter | None, strawberry.argument(description="Which events; all where not given.")
        ] = None,
        after: Annotated[
            str | None,
            strawberry.argument(description="Begin behind this cursor, with nothing missed; now where not given."),
        ] = None,
    ) -> AsyncGenerator[Any, None]:
        async for item in resolvers.events(info.context, event_filter(filter), after=after):
            yield item

    @subscription(
        graphql_type=Job | None,
        description=(
            "The job now and after every change; ends when it has ended. Null, and the end, where there is none."
        ),
    )
    async def job(self, info: Info, id: Annotated[strawberry.ID, ID]) -> AsyncGenerator[Any, None]:
        async for found in resolvers.watch(info.context, id, with_=heavy(info)):
            yield found
