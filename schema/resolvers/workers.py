"""Who does the work?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import replace

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.streams import changes
from switchtower.access import Scope
from switchtower.events import Topic
from switchtower.jobs import Job
from switchtower.workers import Worker

__all__ = ["current_jobs", "get", "get_many", "list_all", "watch"]

REFRESH_SECONDS = 10.0
"""Heartbeats change a worker without an event; a list that is watched is read again this often."""


@needs(Scope.READ)
async def get(context: Context, id: str) -> Worker | None:
    """The worker with this id, if the caller may see it."""
    return (await get_many(context, [id])).get(id)


@needs(Scope.READ)
async def get_many(context: Context, ids: Collection[str]) -> dict[str, Worker]:
    """Those of these workers that there are and that the caller may see, by id."""
    found = await context.engine.workers.get_many(list(ids))
    return {id: _shown(context, worker) for id, worker in found.items() if visible(context, worker)}


@needs(Scope.READ)
async def list_all(context: Context, *, include_gone: bool = False) -> list[Worker]:
    """The workers that live or drain; with `include_gone` also those that stopped or were lost lately."""
    found = await context.engine.workers.list(caller=context.caller, include_gone=include_gone)
    return [_shown(context, worker) for worker in found]


@needs(Scope.READ)
async def current_jobs(context: Context, ids: Collection[str]) -> dict[str, list[Job]]:
    """What each of these workers holds now, as far as the caller may see it, without payloads; at most 1,000 in all."""
    return await context.engine.workers.current_jobs(list(ids), caller=context.caller)


def visible(context: Context, worker: Worker) -> bool:
    """Whether the caller may see it: an operator sees all, a tenant its own and the operator's; those that serve one of
    its queues."""
    caller = context.caller
    return (caller.org is None or worker.org in (None, caller.org)) and any(map(caller.reach.sees, worker.queues))


def _shown(context: Context, worker: Worker) -> Worker:
    """The worker without the queues that the caller does not see."""
    if context.caller.queues is None:
        return worker
    return replace(worker, queues=[queue for queue in worker.queues if queue in context.caller.queues])


@needs(Scope.READ)
async def watch(context: Context) -> AsyncGenerator[list[Worker], None]:
    """The workers now, and again whenever one comes, changes or goes."""
    async with changes(context, Topic.WORKER) as noticed:
        while True:
            yield await list_all(context)
            await noticed.wait(REFRESH_SECONDS)
            if noticed.ended:
                return
