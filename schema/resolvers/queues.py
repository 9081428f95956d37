"""What can be asked of queues, and done to them?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import bounded, check_values
from schema.resolvers.streams import follow
from switchtower.access import Scope
from switchtower.engine import Activity, GroupCount, Queue
from switchtower.errors import NotFound
from switchtower.events import Event, Gap, Topic
from switchtower.limits import QueueLimits
from switchtower.payloads import check_text
from switchtower.states import JobState

__all__ = [
    "Activity",
    "GroupCount",
    "Queue",
    "activity",
    "clean",
    "drain",
    "events",
    "get",
    "groups",
    "list_all",
    "obliterate",
    "pause",
    "resume",
    "set_limits",
    "watch_counts",
]

MAX_NAME = 256
DAY_MS = 24 * 3600 * 1000


@needs(Scope.READ)
async def get(context: Context, name: str) -> Queue | None:
    """The queue, or None where no job and no control ever named it."""
    return await context.engine.queues.get(name, caller=context.caller)


@needs(Scope.READ)
async def list_all(context: Context) -> list[Queue]:
    """Every queue that the caller may see, by name."""
    return await context.engine.queues.list(caller=context.caller)


@needs(Scope.READ)
async def activity(context: Context, names: Sequence[str]) -> dict[str, Activity]:
    """What was last done in each of these queues, and what repeats in it."""
    return await context.engine.queues.activity(names, caller=context.caller)


@needs(Scope.READ)
async def groups(context: Context, name: str) -> list[GroupCount]:
    """The groups of a queue with their waiting and active jobs. Raises NotFound."""
    return await context.engine.queues.groups(name, caller=context.caller)


@audited("queue.pause", queue="name")
@needs(Scope.OPERATE)
async def pause(context: Context, name: str, *, job_name: str | None = None, group: str | None = None) -> Queue:
    """From now on nothing of the queue starts (of one job name or group: nothing of that). Raises InvalidInput."""
    _check_names(name, job_name)
    return await context.engine.queues.pause(name, caller=context.caller, job_name=job_name, group=group)


@audited("queue.resume", queue="name")
@needs(Scope.OPERATE)
async def resume(context: Context, name: str, *, job_name: str | None = None, group: str | None = None) -> Queue:
    """Ends such a pause. Raises InvalidInput."""
    _check_names(name, job_name)
    return await context.engine.queues.resume(name, caller=context.caller, job_name=job_name, group=group)


@audited("queue.limit", queue="name")
@needs(Scope.OPERATE)
async def set_limits(context: Context, name: str, limits: QueueLimits) -> Queue:
    """Sets all limits of a queue, in the place of those that it has. Raises InvalidInput."""
    return await context.engine.queues.set_limits(name, limits, caller=context.caller)


@audited("queue.drain", queue="name")
@needs(Scope.OPERATE)
async def drain(context: Context, name: str) -> int:
    """Removes the queue's jobs that have not begun; answers with how many. Raises NotFound."""
    await _known(context, name)
    return await context.engine.queues.drain(name, caller=context.caller)


@audited("queue.clean", queue="name")
@needs(Scope.OPERATE)
async def clean(
    context: Context,
    name: str,
    states: JobState | Collection[JobState],
    *,
    grace_ms: int = 0,
    limit: int | None = 10_000,
    by_age: bool = False,
) -> int:
    """Removes the queue's jobs of these states that are older than the grace (`by_age`: since they ended, or were
    created), at most `limit`; answers with how many.

    Raises:
        InvalidInput (active jobs cannot be cleaned, unless by their age), NotFound.
    """
    bounded("graceMs", grace_ms, 0, 36_500 * DAY_MS)
    if limit is not None:
        bounded("limit", limit, 1, 100_000)
    await _known(context, name)
    queues = context.engine.queues
    return await queues.clean(name, states, grace_ms=grace_ms, caller=context.caller, limit=limit, by_age=by_age)


@audited("queue.obliterate", queue="name")
@needs(Scope.ADMIN)
async def obliterate(context: Context, name: str, *, force: bool = False) -> int:
    """Removes the queue with all of its jobs, active ones only with `force`; answers with how many jobs.

    Raises:
        NotFound, Conflict (it has active jobs).
    """
    await _known(context, name)
    return await context.engine.queues.obliterate(name, force=force, caller=context.caller)


async def _known(context: Context, name: str) -> None:
    if await get(context, name) is None:
        raise NotFound("Queue", name)


def _check_names(name: str, job_name: str | None) -> None:
    check_text("name", name, limit=MAX_NAME)
    if job_name is not None:
        check_text("jobName", job_name, limit=MAX_NAME)


@needs(Scope.READ)
def events(context: Context, name: str | None, *, after: str | None = None) -> AsyncGenerator[Event | Gap, None]:
    """What operators do to one queue, or to any. Raises InvalidInput."""
    return follow(context, Topic.QUEUE, lambda event: name is None or event.queue == name, after=after)


@needs(Scope.READ)
async def watch_counts(
    context: Context, names: Sequence[str] | None, *, interval_ms: int = 1_000
) -> AsyncGenerator[list[Queue], None]:
    """The queues with their counts now, and again after each interval in which they changed. Raises InvalidInput."""
    bounded("intervalMs", interval_ms, 200, 3_600_000)
    check_values("names", names)
    wanted = None if names is None else frozenset(names)
    shown: object = None
    while True:
        found = [queue for queue in await list_all(context) if wanted is None or queue.name in wanted]
        state = [(queue.name, queue.paused, queue.paused_names, queue.counts) for queue in found]
        if state != shown:
            shown = state
            yield found
        await asyncio.sleep(interval_ms / 1000)
