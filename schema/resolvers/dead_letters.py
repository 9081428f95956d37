"""What can be asked of dead letters, and done to them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import MAX_TEXT, Listing, Window, bounded, check_ids, check_offset, check_values
from schema.resolvers.streams import follow
from switchtower.access import Scope
from switchtower.dead_letters import DeadLetter, DeadLetterFilter
from switchtower.errors import InvalidInput, SwitchtowerError
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import Enqueued
from switchtower.pages import Count
from switchtower.payloads import check_text

__all__ = ["count", "events", "get", "offset_page", "page", "purge", "remove", "replay", "replay_all"]

MAX_REPLAYS = 1_000
CENTURY_MS = 100 * 366 * 24 * 3600 * 1000


@needs(Scope.READ)
async def get(context: Context, id: str) -> DeadLetter | None:
    """The dead letter with this id."""
    return await context.engine.dead_letters.get(id, caller=context.caller)


@needs(Scope.READ)
async def page(context: Context, filter: DeadLetterFilter, part: Window) -> Listing[DeadLetter]:
    """One page of the dead letters that match, newest first. Raises InvalidInput."""
    _check(filter)
    found = await context.engine.dead_letters.page(filter, caller=context.caller, **part.arguments)
    return Listing(found, lambda: context.engine.dead_letters.count(filter, caller=context.caller))


@needs(Scope.READ)
async def offset_page(context: Context, filter: DeadLetterFilter, *, offset: int, limit: int) -> list[DeadLetter]:
    """The dead letters that match, the oldest failure first, from the one with this number on. Raises InvalidInput."""
    _check(filter)
    check_offset(offset, limit)
    return await context.engine.dead_letters.offset_page(filter, caller=context.caller, offset=offset, limit=limit)


@needs(Scope.READ)
async def count(context: Context, filter: DeadLetterFilter) -> Count:
    """How many dead letters match, up to a bound. Raises InvalidInput."""
    _check(filter)
    return await context.engine.dead_letters.count(filter, caller=context.caller)


@audited("dead_letter.replay", target="id")
@needs(Scope.OPERATE)
async def replay(
    context: Context, id: str, *, idempotency_key: str | None = None, changes: Mapping[str, Any] | None = None
) -> Enqueued:
    """Enqueues the job again as a new one; the dead letter stays and names it. The same key gives the same job.

    `changes` are fields of `NewJob` that the new job has otherwise than the old one.

    Raises:
        NotFound, Conflict (its unique key is held), InvalidInput.
    """
    if idempotency_key is not None:
        check_text("idempotencyKey", idempotency_key, limit=512)
    await context.engine.keys.check_quota(1, caller=context.caller)
    return await context.engine.dead_letters.replay(
        id, caller=context.caller, idempotency_key=idempotency_key, changes=changes
    )


@audited("dead_letter.replay")
@needs(Scope.OPERATE)
async def replay_all(
    context: Context, filter: DeadLetterFilter, *, changes: Mapping[str, Any] | None = None
) -> tuple[int, list[SwitchtowerError]]:
    """Replays the dead letters that match and were not replayed yet; answers with how many, and what went wrong.

    At most a thousand, the oldest first: repeat it until it answers zero.
    """
    _check(filter)
    if context.caller.org is not None:
        found = await context.engine.dead_letters.count(replace(filter, replayed=False), caller=context.caller)
        await context.engine.keys.check_quota(min(found.value, MAX_REPLAYS), caller=context.caller)
    replayed, errors = await context.engine.dead_letters.replay_all(filter, caller=context.caller, changes=changes)
    return len(replayed), errors


@audited("dead_letter.remove")
@needs(Scope.OPERATE)
async def remove(context: Context, ids: Sequence[str]) -> int:
    """Deletes dead letters; answers with how many there were. Raises InvalidInput."""
    check_ids("ids", ids)
    return await context.engine.dead_letters.remove(ids, caller=context.caller) if ids else 0


@audited("dead_letter.purge")
@needs(Scope.OPERATE)
async def purge(context: Context, *, older_than_ms: int) -> int:
    """Deletes the dead letters that failed longer ago than this; answers with how many. Raises InvalidInput."""
    bounded("olderThanMs", older_than_ms, 0, CENTURY_MS)
    return await context.engine.dead_letters.purge(older_than_ms=older_than_ms, caller=context.caller)


@needs(Scope.READ)
def events(context: Context, *, after: str | None = None) -> AsyncGenerator[Event | Gap, None]:
    """Dead letters as they are made and replayed. Raises InvalidInput."""
    return follow(context, Topic.DEAD_LETTER, lambda event: True, after=after)


def _check(filter: DeadLetterFilter) -> None:
    for field, values in (("queues", filter.queues), ("names", filter.names)):
        check_values(f"filter.{field}", values)
    if filter.text is not None:
        check_text("filter.text", filter.text, limit=MAX_TEXT)
    if filter.failed_after and filter.failed_before and filter.failed_after > filter.failed_before:
        raise InvalidInput("filter.failedAfter", "lies behind failedBefore.")
