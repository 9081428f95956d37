"""Where is what somebody types, on a page?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dialect import Given, Route
from app.visit import Visit
from schema.context import Context
from schema.resolvers import search
from schema.resolvers.authority import authorise
from schema.resolvers.search import SearchType
from switchtower.access import Scope

if TYPE_CHECKING:
    from switchtower.engine import Found

__all__ = ["ROUTES"]

HITS: Final = 50


@dataclass(frozen=True, slots=True)
class Searched:
    """What was asked for, and what was found; None where nothing was asked for yet."""

    q: str
    type: SearchType
    queue: str
    found: Found | None


def _asked(given: Given) -> dict[str, Any]:
    type = next((each for each in SearchType if each.value == given.text("type")), SearchType.ALL)
    return {
        "q": (given.text("q") or "").strip(),
        "type": type,
        "queue": (given.text("queue") or "").strip(),
        "after": given.text("after"),
    }


async def _find(context: Context, q: str, type: SearchType, queue: str, after: str | None) -> Searched:
    authorise(context, Scope.READ)
    if not q:
        return Searched(q, type, queue, None)
    found = await search.find(
        context, q, type, queue=queue or None, first=min(HITS, context.max_page), after=after, with_=frozenset()
    )
    return Searched(q, type, queue, found)


def _shown(found: Searched, visit: Visit) -> Response:
    return page("search.html", visit, shown=found, types=list(SearchType))


ROUTES: Final = (
    Route(method="GET", path="/search", summary="Jobs and queues by a text", parse=_asked, resolver=_find, page=_shown),
)
