"""How is something done to all jobs that match a filter?"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import check_filter
from schema.resolvers.streams import changes
from switchtower.access import Scope
from switchtower.engine import BulkOperation
from switchtower.events import Topic
from switchtower.jobs import JobFilter

__all__ = ["finish", "get", "start", "watch"]

REFRESH_SECONDS = 1.0


@audited(lambda given: f"bulk.{given['verb']}")
@needs(Scope.OPERATE)
async def start(context: Context, verb: str, filter: JobFilter, *, dry_run: bool = False) -> BulkOperation:
    """Starts `cancel`, `retry`, `promote` or `remove` of every job that matches now; `dry_run` only counts them.

    Raises:
        InvalidInput: a filter out of bounds.
    """
    check_filter(filter)
    return await context.engine.bulk.start(verb, filter, caller=context.caller, dry_run=dry_run)


@needs(Scope.OPERATE)
async def finish(context: Context, verb: str, filter: JobFilter) -> BulkOperation:
    """Does `verb` to every job that matches now, and answers when all is done. Raises InvalidInput."""
    operation = await start(context, verb, filter)
    if operation.id is not None and not operation.done:
        async for found in watch(context, operation.id):
            operation = found or operation
    return operation


@needs(Scope.READ)
async def get(context: Context, id: str) -> BulkOperation | None:
    """The operation with this id."""
    return await context.engine.bulk.get(id, caller=context.caller)


@needs(Scope.READ)
async def watch(context: Context, id: str) -> AsyncGenerator[BulkOperation | None, None]:
    """The operation now and as it goes on, to its end; None and the end where there is none."""
    async with changes(context, Topic.BULK, id) as noticed:
        shown: object = ...
        while True:
            operation = await get(context, id)
            if operation != shown:
                shown = operation
                yield operation
            if operation is None or operation.done:
                return
            await noticed.wait(REFRESH_SECONDS)
            if noticed.ended:
                return
