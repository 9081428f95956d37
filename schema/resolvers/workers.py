"""Who does the work?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.streams import changes
from switchtower.access import Scope
from switchtower.events import Topic
from switchtower.workers import Worker

__all__ = ["get", "get_many", "list_all", "watch"]

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
    return {id: worker for id, worker in found.items() if visible(context, worker)}


@needs(Scope.READ)
async def list_all(context: Context, *, include_gone: bool = False) -> list[Worker]:
    """The workers that live or drain; with `include_gone` also those that stopped or were lost lately."""
    return await context.engine.workers.list(caller=context.caller, include_gone=include_gone)


def visible(context: Context, worker: Worker) -> bool:
    """Whether the caller may see it: an operator sees all, a tenant its own and the operator's."""
    return context.caller.org is None or worker.org in (None, context.caller.org)


@needs(Scope.READ)
async def watch(context: Context) -> AsyncGenerator[list[Worker], None]:
    """The workers now, and again whenever one comes, changes or goes."""
    async with changes(context, Topic.WORKER) as noticed:
        while True:
            yield await list_all(context)
            await noticed.wait(REFRESH_SECONDS)
            if noticed.ended:
                return
