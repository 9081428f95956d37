"""What can be asked of crons, and done to them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import Listing, Window, bounded, check_offset
from schema.resolvers.streams import follow
from switchtower.access import Scope
from switchtower.crons import Cron, NewCron
from switchtower.errors import InvalidInput
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import Enqueued
from switchtower.payloads import check_text

__all__ = [
    "count",
    "create",
    "delete",
    "events",
    "get",
    "next_runs",
    "offset_page",
    "page",
    "switch",
    "trigger",
    "update",
]

MAX_RUNS = 100


@needs(Scope.READ)
async def get(context: Context, id: str) -> Cron | None:
    """The cron with this id."""
    return await context.engine.crons.get(id, caller=context.caller)


@needs(Scope.READ)
async def page(context: Context, part: Window) -> Listing[Cron]:
    """One page of the crons, oldest first. Raises InvalidInput: crons are paged forwards only."""
    if part.first is None or part.before is not None:
        raise InvalidInput("last", "crons are paged forwards; use first and after.")
    found = await context.engine.crons.page(caller=context.caller, first=part.first, after=part.after)
    return Listing(found, lambda: context.engine.crons.count(caller=context.caller))


@needs(Scope.READ)
async def offset_page(context: Context, *, offset: int, limit: int, queue: str | None = None) -> list[Cron]:
    """The crons (of one queue), the oldest first, from the one with this number on. Raises InvalidInput."""
    check_offset(offset, limit)
    return await context.engine.crons.offset_page(caller=context.caller, offset=offset, limit=limit, queue=queue)


@needs(Scope.READ)
async def count(context: Context, *, queue: str | None = None) -> int:
    """How many crons there are (of one queue)."""
    return (await context.engine.crons.count(caller=context.caller, queue=queue)).value


@audited("cron.create")
@needs(Scope.OPERATE)
async def create(context: Context, new: NewCron) -> Cron:
    """Creates a cron; the same one again is harmless. Raises InvalidInput, Conflict (its name means another)."""
    return await context.engine.crons.create(new, caller=context.caller)


@audited("cron.update", target="id")
@needs(Scope.OPERATE)
async def update(context: Context, id: str, given: Mapping[str, Any]) -> Cron:
    """Changes what is given. Raises NotFound, InvalidInput, Conflict."""
    return await context.engine.crons.update(id, given, caller=context.caller)


@audited(lambda given: "cron.enable" if given["on"] else "cron.disable", target="id")
@needs(Scope.OPERATE)
async def switch(context: Context, id: str, *, on: bool) -> Cron:
    """Enables or disables a cron; idempotent. Raises NotFound."""
    crons = context.engine.crons
    return await (crons.enable if on else crons.disable)(id, caller=context.caller)


@audited("cron.delete", target="id")
@needs(Scope.OPERATE)
async def delete(context: Context, id: str) -> Cron:
    """Deletes a cron for good, and answers with it as it was. Raises NotFound."""
    return await context.engine.crons.delete(id, caller=context.caller)


@audited("cron.trigger", target="id")
@needs(Scope.OPERATE)
async def trigger(context: Context, id: str, *, idempotency_key: str | None = None) -> Enqueued:
    """Enqueues the cron's job now, beside its slots. Raises NotFound, InvalidInput."""
    if idempotency_key is not None:
        check_text("idempotencyKey", idempotency_key, limit=512)
    await context.engine.keys.check_quota(1, caller=context.caller)
    return await context.engine.crons.trigger(id, caller=context.caller, idempotency_key=idempotency_key)


@needs(Scope.READ)
def next_runs(context: Context, cron: Cron, count: int) -> list[datetime]:
    """The next slots of a cron; none while it is disabled. Raises InvalidInput."""
    bounded("count", count, 1, MAX_RUNS)
    return cron.next_slots(count, moment=context.engine.clock.now())


@needs(Scope.READ)
def events(context: Context, *, after: str | None = None) -> AsyncGenerator[Event | Gap, None]:
    """Crons as they fire and change. Raises InvalidInput."""
    return follow(context, Topic.CRON, lambda event: True, after=after)
