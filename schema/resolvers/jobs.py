"""What can be asked of jobs, and done to them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import Listing, Window, check_filter, check_horizon, check_ids, check_offset, check_values
from schema.resolvers.streams import changes, follow
from switchtower.access import Scope
from switchtower.engine import Blockage, ErrorCluster, JobOrder
from switchtower.errors import InvalidInput, StoreUnavailable, SwitchtowerError
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import Enqueued, Job, JobFilter, JobUpdate, NewJob
from switchtower.pages import Count, Page
from switchtower.states import FINAL, JobState

__all__ = [
    "MAX_ENQUEUES",
    "Counts",
    "EventFilter",
    "JobOrder",
    "cancel",
    "children",
    "children_found",
    "count",
    "counts",
    "enqueue",
    "enqueue_many",
    "error_clusters",
    "events",
    "get",
    "offset_page",
    "page",
    "promote",
    "remove",
    "reschedule",
    "retry",
    "update",
    "watch",
    "why_not_running",
]

MAX_ENQUEUES = 10_000
EVERYTHING = JobFilter()


@needs(Scope.READ)
async def get(context: Context, id: str, *, with_: frozenset[str] | None = None) -> Job | None:
    """The job with this id, ours or the caller's own; `with_` names the heavy fields to read (None: all)."""
    return await context.engine.jobs.get(id, caller=context.caller, with_=with_)


@needs(Scope.READ)
async def page(
    context: Context,
    filter: JobFilter,
    part: Window,
    *,
    order: JobOrder = JobOrder.CREATED_DESC,
    with_: frozenset[str] | None = None,
) -> Listing[Job]:
    """One page of the jobs that match, newest first unless `order` says otherwise.

    Raises:
        InvalidInput: a filter out of bounds, or a cursor of another list.
    """
    check_filter(filter)
    found = await context.engine.jobs.page(filter, caller=context.caller, order=order, with_=with_, **part.arguments)
    return Listing(found, lambda: context.engine.jobs.count(filter, caller=context.caller))


@needs(Scope.READ)
async def offset_page(
    context: Context,
    filter: JobFilter,
    *,
    offset: int,
    limit: int,
    order: JobOrder = JobOrder.CREATED_ASC,
    with_: frozenset[str] | None = None,
) -> list[Job]:
    """The jobs that match, the oldest first unless `order` says otherwise, from the one with this number on. Raises
    InvalidInput."""
    check_filter(filter)
    check_offset(offset, limit)
    return await context.engine.jobs.offset_page(
        filter, caller=context.caller, order=order, offset=offset, limit=limit, with_=with_
    )


@needs(Scope.READ)
async def count(context: Context, filter: JobFilter, *, cap: int = 10_000) -> Count:
    """How many jobs match, counted up to `cap` where it takes more than the counters. Raises InvalidInput."""
    check_filter(filter)
    return await context.engine.jobs.count(filter, caller=context.caller, cap=cap)


@needs(Scope.READ)
async def children(
    context: Context, parent_id: str, part: Window, *, with_: frozenset[str] | None = None
) -> Listing[Job]:
    """One page of the jobs that have this parent, oldest first."""
    return await page(context, JobFilter(parent_id=parent_id), part, order=JobOrder.CREATED_ASC, with_=with_)


@needs(Scope.READ)
def children_found(context: Context, parent_id: str, found: Page[Job]) -> Listing[Job]:
    """The first page of `children` where it was already read together with other parents'."""
    return Listing(found, lambda: context.engine.jobs.count(JobFilter(parent_id=parent_id), caller=context.caller))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state; `exact` is false where counting stopped at a bound."""

    by_state: dict[JobState, int]
    exact: bool = True


@needs(Scope.READ)
async def counts(context: Context, filter: JobFilter) -> Counts:
    """How many of the jobs that match are in each state: from the counters where only queues restrict."""
    check_filter(filter)
    if replace(filter, queues=None) == EVERYTHING:
        return Counts(await context.engine.jobs.counts(caller=context.caller, queues=filter.queues))
    found = await context.engine.jobs.counts_where(filter, caller=context.caller)
    by_state = {state: count.value for state, count in found.items()}
    return Counts(by_state, all(count.exact for count in found.values()))


@needs(Scope.OPERATE)
async def enqueue(context: Context, new: NewJob) -> Enqueued:
    """Stores one job, unless one of its keys says that it is there already.

    Raises:
        InvalidInput, NotFound (a parent or dependency), InvalidTransition (the parent is final).
    """
    await context.engine.keys.check_quota(1, caller=context.caller)
    return await context.engine.jobs.enqueue(new, caller=context.caller)


@needs(Scope.OPERATE)
async def enqueue_many(
    context: Context, news: Sequence[NewJob | SwitchtowerError]
) -> list[Enqueued | SwitchtowerError]:
    """Stores many jobs; one answer for each, in order. An item that is already an error stays that error.

    Raises:
        StoreUnavailable: none of the answers is known.
    """
    if len(news) > MAX_ENQUEUES:
        return [InvalidInput("inputs", f"at most {MAX_ENQUEUES:,} jobs at once; none was enqueued.")] * len(news)
    good = [new for new in news if isinstance(new, NewJob)]
    try:
        await context.engine.keys.check_quota(len(good), caller=context.caller)
        stored = await context.engine.jobs.enqueue_many(good, caller=context.caller) if good else []
    except StoreUnavailable:
        raise
    except SwitchtowerError as error:
        stored = [error] * len(good)
    answers = iter(stored)
    return [next(answers) if isinstance(new, NewJob) else new for new in news]


@audited("job.cancel", job_id="id")
@needs(Scope.OPERATE)
async def cancel(context: Context, id: str, *, only: Collection[JobState] | None = None) -> Job:
    """Cancels an open job now; asks the handler of an active one to stop. With `only`, one of these states.

    Raises:
        NotFound, InvalidTransition.
    """
    return await context.engine.jobs.cancel(id, caller=context.caller, only=only)


@audited("job.retry", job_id="id")
@needs(Scope.OPERATE)
async def retry(context: Context, id: str, *, only: Collection[JobState] | None = None) -> Job:
    """Makes a job that ended, or that waits for a later time, run again now. With `only`, one of these states.

    Raises:
        NotFound, InvalidTransition, Conflict (another job holds its unique key).
    """
    return await context.engine.jobs.retry(id, caller=context.caller, only=only)


@audited("job.promote", job_id="id")
@needs(Scope.OPERATE)
async def promote(context: Context, id: str) -> Job:
    """Makes a scheduled or retrying job due now. Raises NotFound, InvalidTransition."""
    return await context.engine.jobs.promote(id, caller=context.caller)


@audited("job.reschedule", job_id="id")
@needs(Scope.OPERATE)
async def reschedule(
    context: Context, id: str, run_at: datetime | None, *, horizon_ms: int, field: str = "runAt"
) -> Job:
    """Makes a job that has not begun due at a time, at most `horizon_ms` ahead, or now (None). `field` is what an error
    calls the time.

    Raises:
        InvalidInput, NotFound, InvalidTransition.
    """
    check_horizon(context, field, run_at, horizon_ms)
    return await context.engine.jobs.reschedule(id, run_at, caller=context.caller)


@audited("job.remove", job_id="id")
@needs(Scope.OPERATE)
async def remove(context: Context, id: str, *, force: bool = False) -> Job:
    """Deletes a job, an active one only with `force`; answers with it as it was. Raises NotFound, InvalidTransition."""
    return await context.engine.jobs.remove(id, caller=context.caller, force=force)


@audited("job.update", job_id="id")
@needs(Scope.OPERATE)
async def update(context: Context, id: str, change: JobUpdate) -> Job:
    """Changes a job that is not active. Raises InvalidInput, NotFound, InvalidTransition."""
    if change.is_empty:
        raise InvalidInput("input", "names nothing to change.")
    return await context.engine.jobs.update(id, change, caller=context.caller)


@needs(Scope.READ)
async def error_clusters(context: Context, filter: JobFilter, *, limit: int = 50) -> list[ErrorCluster]:
    """The errors of the jobs that match, grouped by fault, the most frequent first."""
    check_filter(filter)
    return await context.engine.jobs.error_clusters(filter, caller=context.caller, limit=limit)


@needs(Scope.READ)
async def why_not_running(context: Context, jobs: Sequence[Job]) -> list[list[Blockage]]:
    """Every cause that keeps each of the jobs from running now; none when it is about to run."""
    return await context.engine.blockages.of_many(jobs)


@needs(Scope.READ)
async def watch(context: Context, id: str, *, with_: frozenset[str] | None = None) -> AsyncGenerator[Job | None, None]:
    """The job now and after every change, to its end; `None` and the end where there is none, or none any more."""
    job = await get(context, id, with_=frozenset())
    if job is None:
        yield None
        return
    our_id = job.id
    async with changes(context, Topic.JOB, our_id) as noticed:
        while True:
            job = await get(context, our_id, with_=with_)
            yield job
            if job is None or job.state in FINAL:
                return
            await noticed.wait()
            if noticed.ended:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of jobs: every given condition must hold."""

    job_ids: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    names: frozenset[str] | None = None
    to: frozenset[str] | None = None
    types: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    group: str | None = None
    parent_id: str | None = None

    def __call__(self, event: Event) -> bool:
        """Whether the event is wanted."""
        return (
            (self.job_ids is None or event.id in self.job_ids)
            and (self.queues is None or event.queue in self.queues)
            and (self.names is None or event.name in self.names)
            and (self.to is None or (event.to_state in self.to and event.from_state != event.to_state))
            and (self.types is None or event.type in self.types)
            and (self.tags is None or not self.tags.isdisjoint(event.tags))
            and (self.group is None or event.group == self.group)
            and (self.parent_id is None or event.parent_id == self.parent_id)
        )

    def check(self) -> EventFilter:
        """Itself, if it is within bounds. Raises InvalidInput."""
        if self.job_ids is not None:
            check_ids("filter.jobIds", tuple(self.job_ids))
        for field, values in (("queues", self.queues), ("names", self.names), ("tags", self.tags)):
            check_values(f"filter.{field}", None if values is None else tuple(values))
        return self


@needs(Scope.READ)
def events(context: Context, filter: EventFilter, *, after: str | None = None) -> AsyncGenerator[Event | Gap, None]:
    """What happens to the jobs that the filter wants, from now on or from behind `after`. Raises InvalidInput."""
    return follow(context, Topic.JOB, filter.check(), after=after)
