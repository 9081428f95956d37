"""What does a search find?"""

from __future__ import annotations

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import MAX_CURSOR, bounded
from switchtower.access import Scope
from switchtower.engine import Found, SearchType
from switchtower.errors import InvalidInput

__all__ = ["SearchType", "find"]

MAX_HITS = 100


@needs(Scope.READ)
async def find(
    context: Context,
    query: str,
    type: SearchType,
    *,
    queue: str | None = None,
    first: int = 50,
    after: str | None = None,
    with_: frozenset[str] | None = None,
) -> Found:
    """Jobs and queues that a text leads to. Raises InvalidInput."""
    bounded("first", first, 1, min(MAX_HITS, context.max_page))
    if after is not None and not 0 < len(after) <= MAX_CURSOR:
        raise InvalidInput("after", "is not a cursor of a search.")
    return await context.engine.search.find(
        query, caller=context.caller, type=type, queue=queue, first=first, after=after, with_=with_
    )
