"""How is something done to all jobs of a filter from a page: counted first, then begun, then watched?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import bulk
from switchtower.errors import InvalidInput

if TYPE_CHECKING:
    from switchtower.engine import BulkOperation

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
VERBS: Final = ("retry", "cancel", "promote", "remove")


@dataclass(frozen=True, slots=True)
class Begun:
    """An operation, or with `operation.id` None what it would do."""

    operation: BulkOperation
    asked: fields.Asked


def _start(given: Given) -> dict[str, Any]:
    return {
        "verb": given.form.text("verb"),
        "asked": fields.filter_of(fields.in_form(given)),
        "confirmed": given.form.text("confirmed") == "yes",
    }


async def _begin(context: Context, verb: str, asked: fields.Asked, confirmed: bool) -> Begun:
    if verb not in VERBS:
        raise InvalidInput("verb", f"must be one of {', '.join(VERBS)}.")
    return Begun(await bulk.start(context, verb, asked.filter, dry_run=not confirmed), asked)


def _begun(found: Begun, visit: Visit) -> Response:
    if found.operation.id is not None:
        flash = Flash("done", f"{found.operation.verb.capitalize()} has begun.")
        return visit.redirect(visit.url("bulk", found.operation.id), flash=flash)
    return page("bulk_confirm.html", visit, operation=found.operation, asked=found.asked)


def _watched(found: Any, visit: Visit) -> Response:
    return page("bulk.html", visit, operation=found)


ROUTES: Final = (
    Route(
        method="POST",
        path="/bulk",
        summary="Count what a verb would do to the jobs of a filter; once confirmed, begin",
        parse=_start,
        resolver=_begin,
        page=_begun,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"bulk.{given.form.text('verb') or 'unknown'}",
    ),
    Route(
        method="GET",
        path="/bulk/{id}",
        summary="How far an operation came",
        parse=lambda given: {"id": given.path["id"]},
        resolver=bulk.get,
        page=_watched,
        missing="Bulk operation",
    ),
)
