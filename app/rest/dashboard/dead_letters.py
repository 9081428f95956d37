"""How are dead letters of all queues looked through, replayed and put away?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import dead_letters
from switchtower.dead_letters import DeadLetter, DeadLetterFilter
from switchtower.errors import InvalidInput, NotFound, SwitchtowerError
from switchtower.pages import Count, Page

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
REPLAYED: Final = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Found:
    """One page of dead letters, how many there are, and what they were asked for by."""

    page: Page[DeadLetter]
    count: Count
    queue: str
    name: str
    text: str
    replayed: str


def _listed(given: Given) -> dict[str, Any]:
    asked = {name: (given.text(name) or "").strip() for name in ("queue", "name", "text", "replayed")}
    return {**asked, **fields.cursors(given)}


async def _list(
    context: Context, queue: str, name: str, text: str, replayed: str, after: str | None, before: str | None
) -> Found:
    filter = DeadLetterFilter(
        queues=[queue] if queue else None,
        names=[name] if name else None,
        text=text or None,
        replayed=REPLAYED.get(replayed),
    )
    listed = await dead_letters.page(context, filter, fields.part(context, after, before))
    return Found(listed.page, await listed.count(), queue, name, text, replayed)


def _shown(found: Found, visit: Visit) -> Response:
    return page("dead_letters.html", visit, shown=found)


def _chosen(given: Given) -> dict[str, Any]:
    return {"action": given.form.text("action"), "ids": given.form.texts("id"), "queue": given.form.text("queue")}


async def _act(context: Context, action: str, ids: list[str], queue: str) -> Flash:
    match action:
        case "replay":
            return await _replay(context, ids)
        case "replay-all":
            filter = DeadLetterFilter(queues=[queue] if queue else None)
            done, errors = await dead_letters.replay_all(context, filter)
            more = f" {len(errors)} could not be: {errors[0].message}" if errors else ""
            return Flash("failed" if errors else "done", f"{done} replayed.{more}")
        case "remove":
            return Flash("done", f"{await dead_letters.remove(context, ids)} removed.")
        case _:
            raise InvalidInput("action", "must be replay, replay-all or remove.")


async def _replay(context: Context, ids: list[str]) -> Flash:
    done, refused = 0, ""
    for id in ids[: dead_letters.MAX_REPLAYS]:
        try:
            await dead_letters.replay(context, id)
            done += 1
        except (NotFound, InvalidInput) as error:
            refused = error.message
        except SwitchtowerError as error:
            # Whatever stops one of them, such as a month's quota, stops the others too.
            return Flash("failed", f"{done} replayed. {error.message}")
    return Flash("failed" if refused else "done", f"{done} replayed. {refused}".strip())


def _acted(flash: Flash, visit: Visit) -> Response:
    return visit.redirect(visit.url("dead-letters", queue=visit.form.text("queue")), flash=flash)


ROUTES: Final = (
    Route(
        method="GET",
        path="/dead-letters",
        summary="Dead letters of all queues",
        parse=_listed,
        resolver=_list,
        page=_shown,
    ),
    Route(
        method="POST",
        path="/dead-letters",
        summary="Replay or remove dead letters",
        parse=_chosen,
        resolver=_act,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"dead_letter.{given.form.text('action') or 'unknown'}",
    ),
)
