"""How does a worker in any language take jobs and report on them, over GraphQL?"""

from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.errors import LeaseLost, NotFound, result
from schema.fields import mutation, resolved
from schema.jobs import Job
from schema.resolvers import claims as resolvers
from schema.scalars import JSON
from schema.selection import Info, heavy
from switchtower import jobs as records

__all__ = ["ClaimMutation", "ClaimedJobs", "ExtendedLeases", "LeasedJob"]


@strawberry.input(description="What a worker says of itself and asks for.")
class ClaimJobsInput:
    """`schema.resolvers.claims.ClaimRequest`."""

    queues: list[str] = strawberry.field(description="The queues to take jobs from, 1 to 100.")
    names: list[str] | None = strawberry.field(
        default=None, description="The job names that it has handlers for, at most 100; any where not given."
    )
    limit: int = strawberry.field(default=1, description="At most so many jobs, 1 to 500.")
    worker_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="Its id: the one that it was given, or any text of its own; a new one is made where not given.",
    )
    lease_ms: int | None = strawberry.field(
        default=None,
        description=(
            "How long it may be silent before its jobs go to others, 1,000 to 86,400,000 ms; 30,000 where not given."
        ),
    )
    hostname: str | None = strawberry.field(default=None, description="Where it runs, for people to read.")


def _token(root: strawberry.Parent[resolvers.Leased]) -> str:
    return root.claim.token


def _attempt_id(root: strawberry.Parent[resolvers.Leased]) -> Any:
    return root.claim.attempt_id


def _attempt(root: strawberry.Parent[resolvers.Leased]) -> int:
    return root.claim.number


def _fence(root: strawberry.Parent[resolvers.Leased]) -> int:
    return root.claim.fence


def _cancel_requested(root: strawberry.Parent[resolvers.Leased]) -> bool:
    return root.job.cancel_requested_at is not None


@strawberry.type(description="A job that you hold.")
class LeasedJob:
    """`schema.resolvers.claims.Leased`."""

    job: Job = strawberry.field(description="What to run.")
    lease_token: str = resolved(resolver=_token, description="Every report on the job must carry it.")
    attempt_id: strawberry.ID = resolved(
        resolver=_attempt_id,
        description="The id of this attempt: the same in the job's history, and a key for effects elsewhere.",
    )
    attempt: int = resolved(resolver=_attempt, description="The number of this attempt.")
    fence: int = resolved(
        resolver=_fence,
        description="Grows with every claim of the job: let other systems refuse a smaller one than they have seen.",
    )
    cancel_requested: bool = resolved(
        resolver=_cancel_requested, description="Whether somebody has asked for it to stop already."
    )


@strawberry.type(description="The jobs that a claim won.")
class ClaimedJobs:
    """`schema.resolvers.claims.Claimed`."""

    worker_id: strawberry.ID = strawberry.field(description="The worker's id: send it with the next claim.")
    lease_expires_at: datetime = strawberry.field(description="Extend the lease before this time, or lose the jobs.")
    jobs: list[LeasedJob] = strawberry.field(description="The jobs; empty where none waits.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, resolvers.Claimed)


@strawberry.input(description="Whose lease to extend.")
class ExtendLeasesInput:
    """The arguments of `schema.resolvers.claims.extend`."""

    worker_id: strawberry.ID = strawberry.field(description="The worker.")
    lease_ms: int | None = strawberry.field(
        default=None,
        description="For how long from now, 1,000 to 86,400,000 ms; the length it was claimed with where not given.",
    )


@strawberry.type(description="A lease that was extended.")
class ExtendedLeases:
    """`schema.resolvers.claims.Extended`."""

    worker_id: strawberry.ID = strawberry.field(description="The worker.")
    lease_expires_at: datetime = strawberry.field(description="Extend the lease again before this time.")
    cancel_requested: list[strawberry.ID] = strawberry.field(
        description=(
            "The jobs of the worker that somebody asked to stop: stop them, then report them with `failJob`; "
            "they end as cancelled."
        )
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, resolvers.Extended)


@strawberry.input(description="Why a run failed.")
class JobErrorInput:
    """`schema.resolvers.claims.Failure`."""

    type: str = strawberry.field(default="Error", description="The error's type, such as the class of an exception.")
    message: str = strawberry.field(description="The error's message.")
    stack: str | None = strawberry.field(default=None, description="The traceback.")
    retryable: bool = strawberry.field(
        default=True, description="False when no other attempt can help: the job fails now."
    )
    retry_after_ms: int | None = strawberry.field(
        default=None,
        description="Wait this long before the next attempt instead of the job's backoff, in milliseconds.",
    )

    def record(self) -> resolvers.Failure:
        """As the resolvers know it."""
        return resolvers.Failure(
            type=self.type,
            message=self.message,
            stack=self.stack,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
        )


ClaimJobsResult = result("ClaimJobsResult", ClaimedJobs, NotFound)
ExtendLeasesResult = result("ExtendLeasesResult", ExtendedLeases, NotFound)
CompleteJobResult = result("CompleteJobResult", Job, LeaseLost)
FailJobResult = result("FailJobResult", Job, LeaseLost)
ReportProgressResult = result("ReportProgressResult", Job, LeaseLost)
AppendLogResult = result("AppendLogResult", Job, LeaseLost)
ReleaseJobResult = result("ReleaseJobResult", Job, LeaseLost)

ID = strawberry.argument(description="The job; our id.")
LEASE_TOKEN = strawberry.argument(description="The token of the lease that you hold on it.")


@strawberry.type
class ClaimMutation:
    """What a worker does."""

    @mutation(
        graphql_type=ClaimJobsResult,
        description=(
            "Takes waiting jobs under lease and counts them as started. Registers the worker, and extends its "
            "lease on all that it holds."
        ),
    )
    async def claim_jobs(
        self, info: Info, input: Annotated[ClaimJobsInput, strawberry.argument(description="Who asks, and for what.")]
    ) -> resolvers.Claimed:
        request = resolvers.ClaimRequest(
            worker_id=input.worker_id,
            queues=input.queues,
            names=input.names,
            limit=input.limit,
            lease_ms=input.lease_ms,
            hostname=input.hostname,
        )
        return await resolvers.claim(info.context, request, with_=heavy(info))

    @mutation(
        graphql_type=ExtendLeasesResult,
        description=(
            "Extends a worker's lease on all jobs that it holds. `NotFound` means that it was silent for too "
            "long: stop everything."
        ),
    )
    async def extend_leases(
        self, info: Info, input: Annotated[ExtendLeasesInput, strawberry.argument(description="Whose lease.")]
    ) -> resolvers.Extended:
        return await resolvers.extend(info.context, input.worker_id, lease_ms=input.lease_ms)

    @mutation(graphql_type=CompleteJobResult, description="Ends a run well. Repeating it is harmless.")
    async def complete_job(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        lease_token: Annotated[str, LEASE_TOKEN],
        result: Annotated[JSON | None, strawberry.argument(description="What the handler returned.")] = None,
    ) -> records.Job:
        return await resolvers.complete(info.context, id, lease_token, result)

    @mutation(
        graphql_type=FailJobResult,
        description=(
            "Ends a run badly: the job waits for its next attempt, or fails when none is left. Repeating it is "
            "harmless."
        ),
    )
    async def fail_job(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        lease_token: Annotated[str, LEASE_TOKEN],
        error: Annotated[JobErrorInput, strawberry.argument(description="Why.")],
    ) -> records.Job:
        return await resolvers.fail(info.context, id, lease_token, error.record())

    @mutation(graphql_type=ReportProgressResult, description="Sets the progress of a running job, for everyone to see.")
    async def report_progress(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        lease_token: Annotated[str, LEASE_TOKEN],
        progress: Annotated[
            JSON | None, strawberry.argument(description="Any value up to 64 KiB, such as a percentage.")
        ] = None,
    ) -> records.Job:
        return await resolvers.report_progress(info.context, id, lease_token, progress, with_=heavy(info))

    @mutation(graphql_type=AppendLogResult, description="Adds a line to the log of a running job.")
    async def append_log(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        lease_token: Annotated[str, LEASE_TOKEN],
        line: Annotated[str, strawberry.argument(description="The line; what is over 65,536 characters is cut.")],
        level: Annotated[str, strawberry.argument(description="Its level, such as `info` or `error`.")] = "info",
    ) -> records.Job:
        return await resolvers.append_log(info.context, id, lease_token, line, level=level, with_=heavy(info))

    @mutation(
        graphql_type=ReleaseJobResult, description="Gives a running job back to its queue; the attempt is not charged."
    )
    async def release_job(
        self, info: Info, id: Annotated[strawberry.ID, ID], lease_token: Annotated[str, LEASE_TOKEN]
    ) -> records.Job:
        return await resolvers.release(info.context, id, lease_token)
