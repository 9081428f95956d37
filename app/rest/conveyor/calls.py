"""What does each of Conveyor's routes ask of the resolvers?

A queue that nobody knows is one without jobs here, never an error; one that the caller may not see is not found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from app.limits import Refused
from app.rest.conveyor import wire
from app.rest.conveyor.errors import BAD_REQUEST
from app.rest.conveyor.given import Slice
from app.rest.streams import Position, ServerEvent
from schema.context import Context
from schema.resolvers import bulk, families, jobs, keys, looking, metrics, queues, search, streams, workers
from schema.resolvers.jobs import JobOrder
from switchtower.errors import Conflict, NotFound
from switchtower.job_filters import JobFilter
from switchtower.jobs import Job, JobUpdate, NewJob
from switchtower.metrics import Granularity
from switchtower.states import FINAL, JobState

__all__ = [
    "Page",
    "add_job",
    "cancel_job",
    "children",
    "clean",
    "config",
    "drain",
    "edit_job",
    "events",
    "find",
    "flows",
    "get_job",
    "groups",
    "list_jobs",
    "list_queues",
    "metrics_of",
    "metrics_status",
    "obliterate",
    "pause",
    "promote_all",
    "promote_job",
    "queue",
    "remove_job",
    "resume",
    "retry_all",
    "retry_job",
    "search_jobs",
    "sparklines",
]

MOST_FLOWS: Final = 100
MOST_FOUND: Final = 50
ENDED: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ACTIVE: Final = frozenset({JobState.ACTIVE})


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list as it is shown, and how many there are in all."""

    shown: Sequence[Any]
    total: int
    part: Slice


async def _shown(context: Context, found: Sequence[Job]) -> list[dict[str, Any]]:
    holders = {job.worker_id for job in found if job.worker_id is not None}
    related, known = await asyncio.gather(families.of_jobs(context, found), workers.get_many(context, holders))
    return wire.jobs(wire.Jobs(found, related, known))


async def _one(context: Context, job: Job) -> dict[str, Any]:
    return (await _shown(context, [job]))[0]


async def config(context: Context) -> dict[str, Any]:
    """What a dashboard must know before it asks for anything."""
    return {"readOnly": context.read_only, "authRequired": await keys.are_asked_for(context)}


async def list_queues(context: Context) -> list[dict[str, Any]]:
    """All queues."""
    return await _queues(context, "")


async def _queues(context: Context, having: str) -> list[dict[str, Any]]:
    found = [queue for queue in await queues.list_all(context) if having in queue.name]
    activity = await queues.activity(context, [queue.name for queue in found])
    return [wire.queue(queue, activity[queue.name]) for queue in found]


async def queue(context: Context, queue: str) -> dict[str, Any]:
    """One queue."""
    return wire.queue_detail(queue, await queues.get(context.within(queue), queue))


async def pause(context: Context, queue: str, job_name: str) -> dict[str, str]:
    """Pauses a queue or a job name."""
    await queues.pause(context, queue, job_name=_name_alone(job_name))
    return {"paused": job_name}


async def resume(context: Context, queue: str, job_name: str) -> dict[str, str]:
    """Resumes a queue or a job name."""
    await queues.resume(context, queue, job_name=_name_alone(job_name))
    return {"resumed": job_name}


def _name_alone(job_name: str) -> str | None:
    return None if job_name == wire.ALL else job_name


async def _unless_unknown(context: Context, queue: str, verb: Callable[..., Awaitable[int]], **options: Any) -> int:
    """How many jobs it was done to: none in a queue that nobody knows."""
    context.caller.check_queue(queue)
    with suppress(NotFound):
        return await verb(context, queue, **options)
    return 0


async def drain(context: Context, queue: str) -> dict[str, bool]:
    """Removes every job that has not begun."""
    await _unless_unknown(context, queue, queues.drain)
    return {"drained": True}


async def clean(context: Context, queue: str, states: Collection[JobState], grace_ms: int) -> dict[str, int]:
    """Removes jobs of a state that are older than the grace."""
    options: dict[str, Any] = {"states": states, "grace_ms": grace_ms, "limit": None, "by_age": True}
    return {"removed": await _unless_unknown(context, queue, queues.clean, **options)}


async def obliterate(context: Context, queue: str, force: bool) -> dict[str, bool]:
    """Removes a queue with everything in it."""
    try:
        await _unless_unknown(context, queue, queues.obliterate, force=force)
    except Conflict as error:
        raise Refused(400, BAD_REQUEST, error.message) from None
    return {"obliterated": True}


async def retry_all(context: Context, queue: str, states: Sequence[JobState]) -> dict[str, int]:
    """Runs all ended jobs of a kind again."""
    done = await bulk.finish(context.within(queue), "retry", JobFilter(queues=[queue], states=states))
    return {"retried": done.changed}


async def promote_all(context: Context, queue: str) -> dict[str, int]:
    """Makes all delayed jobs due now."""
    states = wire.STATES["delayed"]
    done = await bulk.finish(context.within(queue), "promote", JobFilter(queues=[queue], states=states))
    return {"promoted": done.changed}


async def groups(context: Context, queue: str) -> list[dict[str, Any]]:
    """The groups of a queue."""
    return [wire.group(group) for group in await queues.groups(context, queue)]


async def list_jobs(context: Context, queue: str, states: Sequence[JobState], part: Slice) -> Page:
    """Jobs in one state: ended ones newest first, all others in the order in which they were added."""
    ended = FINAL.issuperset(states)
    order = JobOrder.FINISHED_DESC if ended else JobOrder.CREATED_ASC
    return await _page(context.within(queue), JobFilter(queues=[queue], states=states), part, order, above=context)


async def search_jobs(context: Context, filter: JobFilter, part: Slice) -> Page:
    """Jobs of any queue, newest first."""
    for queue in filter.queues or ():
        context.caller.check_queue(queue)
    return await _page(context, filter, part, JobOrder.CREATED_DESC, above=context)


async def _page(context: Context, filter: JobFilter, part: Slice, order: JobOrder, *, above: Context) -> Page:
    """A page, whose jobs' families are looked for in all of what `above` sees."""

    async def read() -> Sequence[Any]:
        if not part.size:
            return ()
        found = await jobs.offset_page(context, filter, offset=part.start, limit=part.size, order=order)
        return await _shown(above, found)

    total, shown = await asyncio.gather(jobs.count(context, filter), read())
    # The counters are a fraction of a second behind; what is shown is there.
    return Page(shown, max(total.value, part.start + len(shown) if shown else 0), part)


async def add_job(context: Context, new: NewJob) -> dict[str, Any]:
    """A new job, or the one that stands for it already."""
    context.caller.check_queue(new.queue)
    return await _one(context, (await jobs.enqueue(context, new)).job)


async def get_job(context: Context, queue: str, id: str) -> dict[str, Any]:
    """A job."""
    found = await jobs.get(context.within(queue), id)
    if found is None:
        raise NotFound("Job", id)
    return await _one(context, found)


async def children(context: Context, queue: str, id: str) -> list[dict[str, Any]]:
    """The children of a job, which may stand in other queues; none of one that is not there."""
    parent = await jobs.get(context.within(queue), id, with_=frozenset())
    if parent is None:
        return []
    filter = JobFilter(parent_id=parent.id)
    return await _shown(context, await jobs.offset_page(context, filter, offset=0, limit=families.MOST_CHILDREN))


async def retry_job(context: Context, queue: str, id: str) -> dict[str, bool]:
    """Runs an ended job again."""
    await jobs.retry(context.within(queue), id, only=ENDED)
    return {"retried": True}


async def promote_job(context: Context, queue: str, id: str) -> dict[str, bool]:
    """Makes a delayed job due now."""
    await jobs.promote(context.within(queue), id)
    return {"promoted": True}


async def cancel_job(context: Context, queue: str, id: str) -> dict[str, bool]:
    """Asks the handler of an active job to stop."""
    await jobs.cancel(context.within(queue), id, only=ACTIVE)
    return {"cancelled": True}


async def edit_job(context: Context, queue: str, id: str, change: JobUpdate) -> dict[str, Any]:
    """Changes the data or the priority of a job."""
    return await _one(context, await jobs.update(context.within(queue), id, change))


async def remove_job(context: Context, queue: str, id: str) -> dict[str, bool]:
    """Removes a job, whatever it is doing; one that is not there is removed already."""
    within = context.within(queue)
    with suppress(NotFound):
        await jobs.remove(within, id, force=True)
    return {"removed": True}


async def flows(context: Context, states: Sequence[JobState] | None) -> list[dict[str, Any]]:
    """The roots of flows, newest first."""
    filter = JobFilter(flow_root=True, states=states)
    found = await jobs.offset_page(context, filter, offset=0, limit=MOST_FLOWS, order=JobOrder.CREATED_DESC)
    return await _shown(context, found)


async def find(context: Context, query: str, type: str, queue: str | None) -> Any:
    """What a text leads to: a job by its id, queues or jobs by their names, or jobs by their data."""
    if queue is not None:
        context = context.within(queue)
    match type:
        case "queue":
            return await _queues(context, query)
        case "name":
            found = await search.find(context, query, search.SearchType.NAME, first=MOST_FOUND)
            return await _shown(context, found.jobs)
        case "payload":
            return await _having(context, query, [] if queue is None else [queue])
        case _:
            job = await jobs.get(context, query)
            return None if job is None else await _one(context, job)


async def _having(context: Context, query: str, queues: Sequence[str]) -> list[dict[str, Any]]:
    wanted = query.casefold()
    seen = await looking.look_through(
        context,
        JobFilter(queues=queues),
        lambda job: wanted in orjson.dumps(job.payload).decode().casefold(),
        order=JobOrder.CREATED_DESC,
        page=1,
        size=MOST_FOUND,
        to_the_end=False,
    )
    return await _shown(context, seen.jobs)


async def metrics_of(
    context: Context, queue: str, granularity: Granularity, since: datetime | None, until: datetime | None
) -> list[dict[str, Any]]:
    """What happened in a queue over time."""
    context.caller.check_queue(queue)
    _need_metrics(context)
    found = await metrics.buckets(
        context, queue, name=None, by_name=True, granularity=granularity, since=since, until=until
    )
    return wire.buckets(found)


async def sparklines(context: Context) -> dict[str, list[int]]:
    """What ended in the last hour, per queue."""
    _need_metrics(context)
    return wire.sparklines(await metrics.sparklines(context))


async def metrics_status(context: Context) -> dict[str, bool]:
    """Whether metrics are kept."""
    return {"enabled": metrics.enabled(context)}


def _need_metrics(context: Context) -> None:
    if not metrics.enabled(context):
        raise Refused(400, "METRICS_DISABLED", "Metrics are not enabled on this server")


async def events(
    context: Context, after: str | None, queue: str | None = None
) -> AsyncGenerator[ServerEvent | Position, None]:
    """What happens, as it happens; the first event says that everything behind it will be told."""
    joined = False
    async for item in streams.activity(context, queue, after=after):
        told = wire.event(item, joined=joined)
        joined = True
        if told is not None:
            yield told
