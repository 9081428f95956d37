"""What can be asked of the audit trail?"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import MAX_TEXT, Listing, Window, check_values
from schema.resolvers.streams import follow
from switchtower.access import Scope
from switchtower.audit import AuditFilter, AuditRow
from switchtower.errors import InvalidInput
from switchtower.events import Event, Gap, Topic
from switchtower.payloads import check_text

__all__ = ["events", "get", "page"]


@needs(Scope.READ)
async def page(context: Context, filter: AuditFilter, part: Window) -> Listing[AuditRow]:
    """One page of the rows that match, the newest first. Raises InvalidInput: the trail is paged forwards only."""
    if part.first is None or part.before is not None:
        raise InvalidInput("last", "the audit trail is paged forwards; use first and after.")
    _check(filter)
    audit = context.engine.audit
    found = await audit.page(filter, caller=context.caller, first=part.first, after=part.after)
    return Listing(found, lambda: audit.count(filter, caller=context.caller))


@needs(Scope.READ)
async def get(context: Context, id: str) -> AuditRow | None:
    """The row with this id."""
    return await context.engine.audit.get(id, caller=context.caller)


@needs(Scope.READ)
def events(context: Context, *, after: str | None = None) -> AsyncGenerator[Event | Gap, None]:
    """Rows as they are written. Raises InvalidInput."""
    return follow(context, Topic.AUDIT, lambda event: True, after=after)


def _check(filter: AuditFilter) -> None:
    for field, values in (
        ("actions", filter.actions),
        ("statuses", filter.statuses),
        ("sources", filter.sources),
        ("actors", filter.actors),
    ):
        check_values(f"filter.{field}", values)
        for value in values or ():
            check_text(f"filter.{field}", value, limit=MAX_TEXT)
    for field, text in (("queue", filter.queue), ("jobId", filter.job_id), ("text", filter.text)):
        if text is not None:
            check_text(f"filter.{field}", text, limit=MAX_TEXT)
            if "\0" in text:
                raise InvalidInput(f"filter.{field}", "must not contain NUL.")
    for field, at in (("after", filter.after), ("before", filter.before)):
        if at is not None and at.tzinfo is None:
            raise InvalidInput(f"filter.{field}", "needs a time zone.")
    if filter.after and filter.before and filter.after > filter.before:
        raise InvalidInput("filter.after", "lies behind before.")
