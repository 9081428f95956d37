"""How is a queue limited, emptied and cleaned from its page?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import queues
from switchtower.errors import InvalidInput
from switchtower.limits import Limit, QueueLimits, Rate
from switchtower.states import JobState

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
HOUR_MS: Final = 3_600_000


def _limits(given: Given) -> dict[str, Any]:
    form = given.form
    numbers = {
        name: fields.whole_of(name, form.text(name)) for name in ("concurrency", "starts", "per_seconds", "per_group")
    }
    return {"name": given.path["name"], **numbers}


async def _limit(
    context: Context,
    name: str,
    concurrency: int | None,
    starts: int | None,
    per_seconds: int | None,
    per_group: int | None,
) -> str:
    if (starts is None) != (per_seconds is None):
        raise InvalidInput("starts", "and per_seconds are given together, or neither.")
    rate = None if starts is None or per_seconds is None else Rate(starts, per_seconds * 1_000)
    found = await queues.get(context, name)
    # What the form does not show, limits of single names and groups, stays.
    there = QueueLimits() if found is None else found.limits
    wanted = replace(there, queue=Limit(concurrency, rate), per_group=replace(there.per_group, concurrency=per_group))
    await queues.set_limits(context, name, wanted)
    return "The limits are set."


def _emptied(given: Given) -> dict[str, Any]:
    form = given.form
    return {
        "name": given.path["name"],
        "action": form.text("action"),
        "confirmed": form.text("confirmed") == "yes",
        "state": form.text("state"),
        "hours": fields.whole_of("hours", form.text("hours")) or 0,
    }


async def _empty(context: Context, name: str, action: str, confirmed: bool, state: str, hours: int) -> str:
    if not confirmed:
        raise InvalidInput("confirmed", "must be ticked: what is removed does not come back.")
    match action:
        case "drain":
            return f"{await queues.drain(context, name):,} jobs that had not begun were removed."
        case "clean":
            wanted = next((each for each in JobState if each.value == state), None)
            if wanted is None:
                raise InvalidInput("state", "must be the state of the jobs to remove.")
            removed = await queues.clean(context, name, wanted, grace_ms=hours * HOUR_MS, limit=100_000)
            return f"{removed:,} {state} jobs were removed."
        case _:
            raise InvalidInput("action", "must be drain or clean.")


def _acted(said: str, visit: Visit) -> Response:
    return visit.redirect(visit.url("queues", visit.names["name"]), flash=Flash("done", said))


ROUTES: Final = (
    Route(
        method="POST",
        path="/queues/{name}/limits",
        summary="Limit how many jobs of a queue run at once, and how many start in a time",
        parse=_limits,
        resolver=_limit,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: "queue.limit",
        again="/queues/{name}",
    ),
    Route(
        method="POST",
        path="/queues/{name}/remove",
        summary="Remove jobs of a queue: those that have not begun, or those of a state",
        parse=_emptied,
        resolver=_empty,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"queue.{given.form.text('action') or 'unknown'}",
        again="/queues/{name}",
    ),
)
