"""What is a job, to a GraphQL client?"""

from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.fields import resolved
from schema.node import Node, Scope
from schema.paging import AFTER, FIRST, Connection
from schema.resolvers import jobs as resolvers
from schema.resolvers.bounds import Listing, window
from schema.scalars import JSON, int32
from schema.selection import Info, heavy
from schema.webhooks import Delivery
from switchtower import jobs as records
from switchtower.deduplication import DeduplicationMode
from switchtower.engine import Blockage as BlockageRecord
from switchtower.engine import BlockageKind
from switchtower.engine import ErrorCluster as ClusterRecord
from switchtower.jobs import ChildFailure, Deduplication, ErrorKind
from switchtower.retry import BackoffKind
from switchtower.states import JobState

__all__ = [
    "Attempt",
    "Backoff",
    "Blockage",
    "DeduplicationOptions",
    "EnqueuedJob",
    "ErrorCluster",
    "Job",
    "JobConnection",
    "JobError",
    "LogLine",
    "TimelineEntry",
]

LazyJob = Annotated["Job", strawberry.lazy("schema.jobs")]
JobConnection = Connection[LazyJob]
LazyWorker: Any = Annotated["Worker", strawberry.lazy("schema.workers")]  # noqa: F821
LazyFlow: Any = Annotated["Flow", strawberry.lazy("schema.flows")]  # noqa: F821
LazyCron: Any = Annotated["Cron", strawberry.lazy("schema.crons")]  # noqa: F821
LazyDeadLetter: Any = Annotated["DeadLetter", strawberry.lazy("schema.dead_letters")]  # noqa: F821


def _timeout(root: strawberry.Parent[records.Job]) -> int | None:
    return int32(root.timeout_ms)


def _ttl(root: strawberry.Parent[records.Job]) -> int | None:
    return int32(root.ttl_ms)


def _unique_for(root: strawberry.Parent[records.Job]) -> int | None:
    return int32(root.unique_for_ms)


def _base(root: strawberry.Parent[Any]) -> int | None:
    return int32(root.base_ms)


def _cap(root: strawberry.Parent[Any]) -> int | None:
    return int32(root.cap_ms)


def _waits(root: strawberry.Parent[Any]) -> list[int | None]:
    return [int32(wait) for wait in root.waits_ms]


@strawberry.type(description="The waits between the attempts of a job. Waits over 24.8 days are shown as 2147483647.")
class Backoff:
    """`switchtower.retry.Backoff`."""

    kind: BackoffKind = strawberry.field(description="Their shape.")
    base_ms: int = resolved(resolver=_base, description="The first wait, in milliseconds.")
    cap_ms: int = resolved(resolver=_cap, description="The longest wait, in milliseconds.")
    jitter: float = strawberry.field(description="The share of each wait that is drawn at random, 0 to 1.")
    waits_ms: list[int] = resolved(resolver=_waits, description="The table of waits, in milliseconds.")


def _ttl_of(root: strawberry.Parent[Any]) -> int | None:
    return int32(root.ttl_ms)


@strawberry.type(description="What enqueues with the same key do; see `DeduplicationInput`. The key is `uniqueKey`.")
class DeduplicationOptions:
    """`switchtower.deduplication.DeduplicationOptions`."""

    mode: DeduplicationMode = strawberry.field(description="How long the job stands for them.")
    ttl_ms: int | None = resolved(
        resolver=_ttl_of,
        description="The longest that it does, in milliseconds (at most 2147483647 is shown).",
    )
    replace: bool = strawberry.field(description="Whether a later one replaces the job while it is scheduled.")
    extend: bool = strawberry.field(description="Whether each later one begins that time anew.")


@strawberry.type(description="One failure.")
class JobError:
    """`switchtower.jobs.JobError`."""

    kind: ErrorKind = strawberry.field(description="Why it failed.")
    type: str = strawberry.field(description="The error's type, such as the class of the exception.")
    message: str = strawberry.field(description="The error's message.")
    stack: str | None = strawberry.field(description="The traceback, where there is one.")
    fingerprint: str = strawberry.field(description="Equal for the same fault: see `errorClusters`.")


@strawberry.type(description="One line that a handler logged.")
class LogLine:
    """`switchtower.jobs.LogLine`."""

    at: datetime = strawberry.field(description="When.")
    line: str = strawberry.field(description="The text.")
    level: str = strawberry.field(description="Its level, such as `info` or `error`.")
    attempt: int = strawberry.field(description="The attempt that logged it.")


@strawberry.type(description="One run of a job.")
class Attempt:
    """`switchtower.jobs.Attempt`."""

    id: strawberry.ID = strawberry.field(description="Its id, the same that its worker saw.")
    number: int = strawberry.field(description="Counts from 1 within a generation.")
    generation: int = strawberry.field(description="Counts the retries of a job that had ended, from 1.")
    worker_id: strawberry.ID | None = strawberry.field(description="The worker that ran it.")
    started_at: datetime | None = strawberry.field(description="When it started.")
    ended_at: datetime | None = strawberry.field(description="When it ended; null while it runs.")
    outcome: str = strawberry.field(
        description="How it ended, such as `completed` or `failed`; `running` while it runs."
    )
    error: JobError | None = strawberry.field(description="Its failure, where it failed.")
    delivery: Delivery | None = strawberry.field(description="What the webhook answered, where it was delivered.")


@strawberry.type(description="One transition in a job's history.")
class TimelineEntry:
    """`switchtower.jobs.TimelineEntry`."""

    type: str = strawberry.field(description="The transition's name.")
    at: datetime = strawberry.field(description="When.")
    from_state: str | None = strawberry.field(name="from", description="The state before; null for the first.")
    to_state: str | None = strawberry.field(name="to", description="The state after.")
    actor: str | None = strawberry.field(description="Who did it.")
    attempt: int = strawberry.field(description="The attempts charged by then.")


class EnqueuedJob:
    """A job with the reason why an enqueue answered with it; reads like the job itself."""

    __slots__ = ("deduplication", "job")

    def __init__(self, enqueued: records.Enqueued) -> None:
        self.job = enqueued.job
        self.deduplication = enqueued.deduplication

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)


def _scope(root: strawberry.Parent[records.Job]) -> records.Job:
    return root


def _options(root: strawberry.Parent[Any]) -> Any:
    job = root.job if isinstance(root, EnqueuedJob) else root
    return job.deduplication


def _deduplication(root: strawberry.Parent[Any]) -> Deduplication | None:
    return root.deduplication if isinstance(root, EnqueuedJob) else None


def _pending(root: strawberry.Parent[records.Job]) -> int:
    return len(root.pending)


async def _worker(root: strawberry.Parent[records.Job], info: Info) -> Any:
    if root.worker_id is None:
        return None
    return await loaders.loader(info.context, loaders.workers).load(root.worker_id)


async def _lease_expires_at(root: strawberry.Parent[records.Job], info: Info) -> datetime | None:
    if root.state is not JobState.ACTIVE or root.worker_id is None:
        return None
    worker = await loaders.loader(info.context, loaders.workers).load(root.worker_id)
    return None if worker is None else worker.expires_at


async def _parent(root: strawberry.Parent[records.Job], info: Info) -> records.Job | None:
    if root.parent_id is None:
        return None
    return await loaders.loader(info.context, loaders.jobs).load((root.parent_id, heavy(info)))


async def _children(
    root: strawberry.Parent[records.Job],
    info: Info,
    first: Annotated[int | None, FIRST] = None,
    after: Annotated[str | None, AFTER] = None,
) -> Listing[records.Job]:
    part = window(info.context, first, after)
    if part.after is not None or part.first is None:
        return await resolvers.children(info.context, root.id, part, with_=heavy(info))
    key = (root.id, part.first, heavy(info))
    found = await loaders.loader(info.context, loaders.children_of).load(key)
    return resolvers.children_found(info.context, root.id, found)


async def _flow(root: strawberry.Parent[records.Job], info: Info) -> Any:
    if root.flow_id is None:
        return None
    return await loaders.loader(info.context, loaders.flows).load(root.flow_id)


async def _cron(root: strawberry.Parent[records.Job], info: Info) -> Any:
    if root.cron_id is None:
        return None
    return await loaders.loader(info.context, loaders.crons).load(root.cron_id)


async def _dead_letter(root: strawberry.Parent[records.Job], info: Info) -> Any:
    if root.state is not JobState.FAILED:
        return None
    return await loaders.loader(info.context, loaders.dead_letters_of).load(root.id)


async def _why_not_running(root: strawberry.Parent[records.Job], info: Info) -> list[BlockageRecord]:
    return await loaders.loader(info.context, loaders.blockages_of).load(loaders.ById(root))


@strawberry.type(description="One cause that keeps a job from running.")
class Blockage:
    """`switchtower.engine.Blockage`."""

    kind: BlockageKind = strawberry.field(description="What keeps it.")
    message: str = strawberry.field(description="The cause in words.")
    until: datetime | None = strawberry.field(description="When the cause ends by itself, where that is known.")
    mutation: str | None = strawberry.field(description="The mutation that would end it, where there is one.")


@strawberry.type(description="A job: work for a handler, from its enqueue to its end.")
class Job(Node):
    """`switchtower.jobs.Job`; a field without a resolver is read from the record as it is."""

    custom_id: str | None = strawberry.field(description="The id that its enqueuer gave it.")
    name: str = strawberry.field(description="The name of its handler.")
    queue: str = strawberry.field(description="Its queue.")
    state: JobState = strawberry.field(description="Where it is in its life.")
    priority: int = strawberry.field(description="Lower numbers run first.")
    payload: JSON | None = strawberry.field(description="What its handler is given.")
    result: JSON | None = strawberry.field(description="What its handler returned.")
    error: JobError | None = strawberry.field(description="The last failure.")
    attempt: int = strawberry.field(description="How many attempts have been charged in this generation.")
    max_attempts: int = strawberry.field(description="How many attempts it may have.")
    generation: int = strawberry.field(description="How often it was made to run from the beginning, from 1.")
    attempts: list[Attempt] = strawberry.field(description="Its runs, oldest first.")
    progress: JSON | None = strawberry.field(description="What its handler last reported.")
    logs: list[LogLine] = strawberry.field(description="What its handler logged; the last lines where there are many.")
    timeline: list[TimelineEntry] = strawberry.field(description="Its last transitions, oldest first.")
    tags: list[str] = strawberry.field(description="Its tags.")
    group: str | None = strawberry.field(description="Its group.")
    unique_key: str | None = strawberry.field(description="While it holds this key, an equal enqueue answers with it.")
    unique_for_ms: int | None = resolved(
        resolver=_unique_for,
        description=(
            "How long it holds its key from enqueue even when it has ended, in milliseconds (at most "
            "2147483647 is shown)."
        ),
    )
    lifo: bool = strawberry.field(description="Whether it goes before the jobs of its priority.")
    backoff: Backoff = strawberry.field(description="How long it waits between attempts.")
    traceparent: str | None = strawberry.field(
        description=(
            "The trace that it belongs to, as W3C Trace Context writes it: that of the `traceparent` header of the "
            "request that enqueued it."
        )
    )
    run_at: datetime = strawberry.field(description="When it is due.")
    scheduled_for: datetime | None = strawberry.field(
        description="The later time that it was asked to run at; null where that was at once."
    )
    webhook: bool = strawberry.field(description="Whether it is delivered to a webhook instead of run by a worker.")
    webhook_key: strawberry.ID | None = strawberry.field(
        description="The key whose webhook it goes to; where that has none, or this is null, to its project's."
    )
    created_at: datetime = strawberry.field(description="When it was enqueued.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    started_at: datetime | None = strawberry.field(description="When its last attempt started.")
    finished_at: datetime | None = strawberry.field(description="When it reached a final state.")
    expires_at: datetime | None = strawberry.field(description="When it fails if it is not finished by then.")
    timeout_ms: int | None = resolved(
        resolver=_timeout, description="How long one attempt may run, in milliseconds (at most 2147483647 is shown)."
    )
    ttl_ms: int | None = resolved(
        resolver=_ttl,
        description="How long after enqueue it must be finished, in milliseconds (at most 2147483647 is shown).",
    )
    worker_id: strawberry.ID | None = strawberry.field(description="The worker that holds it, or held it last.")
    worker: Any = resolved(resolver=_worker, graphql_type=LazyWorker | None, description="That worker.")
    lease_expires_at: datetime | None = resolved(
        resolver=_lease_expires_at, description="When its worker must have renewed its lease; null unless it is active."
    )
    cancel_requested_at: datetime | None = strawberry.field(description="When its running handler was asked to stop.")
    parent_id: strawberry.ID | None = strawberry.field(description="The job that waits for it.")
    parent: "Job | None" = resolved(resolver=_parent, graphql_type=LazyJob | None, description="That job.")
    children: "JobConnection" = resolved(
        resolver=_children,
        graphql_type=JobConnection,
        description="The jobs that have it as their parent, oldest first.",
    )
    pending_children: int = resolved(
        resolver=_pending, description="How many children and dependencies it still waits for."
    )
    depends_on: list[strawberry.ID] = strawberry.field(description="The jobs that must complete before it runs.")
    remove_on_complete: bool = strawberry.field(description="Whether it is removed when it completes.")
    remove_on_fail: bool = strawberry.field(description="Whether it is removed when it fails.")
    flow: Any = resolved(resolver=_flow, graphql_type=LazyFlow | None, description="The flow that it belongs to.")
    flow_id: strawberry.ID | None = strawberry.field(description="The id of its flow's root.")
    on_child_failure: ChildFailure = strawberry.field(
        description="What becomes of it when a job that it waits for does not complete."
    )
    cron: Any = resolved(
        resolver=_cron, graphql_type=LazyCron | None, description="The cron that made it; null when it was deleted."
    )
    cron_id: strawberry.ID | None = strawberry.field(description="The id of the cron that made it.")
    dead_letter: Any = resolved(
        resolver=_dead_letter, graphql_type=LazyDeadLetter | None, description="Its dead letter, when it has failed."
    )
    why_not_running: list[Blockage] = resolved(
        resolver=_why_not_running,
        graphql_type=list[Blockage],
        description="Every cause that keeps it from running now; empty when it is about to run.",
    )
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")
    deduplication_options: "DeduplicationOptions | None" = resolved(
        resolver=_options,
        graphql_type=DeduplicationOptions | None,
        description="What later enqueues with its deduplication key do; null without one.",
    )
    deduplication: Deduplication | None = resolved(
        resolver=_deduplication,
        description="In the answer to an enqueue: why this is a job that was already there; null for a new one.",
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, (records.Job, EnqueuedJob))


async def _sample(root: strawberry.Parent[ClusterRecord], info: Info) -> records.Job | None:
    return await loaders.loader(info.context, loaders.jobs).load((root.sample_job_id, heavy(info)))


@strawberry.type(description="How many jobs failed in one hour.")
class HourCount:
    """`switchtower.engine.jobs.HourCount`."""

    at: datetime = strawberry.field(description="When the hour began.")
    count: int = strawberry.field(description="How many.")


@strawberry.type(description="Jobs that failed by the same fault; among the newest 10,000 that match.")
class ErrorCluster:
    """`switchtower.engine.ErrorCluster`."""

    fingerprint: str = strawberry.field(description="What they share; `JobFilter.errorFingerprint` finds them.")
    error: JobError = strawberry.field(description="The newest of their failures.")
    count: int = strawberry.field(description="How many jobs.")
    queues: list[str] = strawberry.field(description="In which queues.")
    names: list[str] = strawberry.field(description="With which names.")
    first_seen: datetime = strawberry.field(description="When the first of them failed.")
    last_seen: datetime = strawberry.field(description="When the last of them failed.")
    trend: list[HourCount] = strawberry.field(
        description="How many failed in each of the last 24 hours that had one, oldest first."
    )
    sample_job_id: strawberry.ID = strawberry.field(description="The newest of them.")
    sample_job: Job | None = resolved(
        resolver=_sample, graphql_type=Job | None, description="That job; null when it was removed meanwhile."
    )
