"""How are crons looked at, made, changed and run from pages?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.redaction import restored
from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import crons
from switchtower.crons import CatchUp, Cron, NewCron, Overlap, Schedule, duration_ms
from switchtower.errors import InvalidInput, NotFound
from switchtower.jobs import Enqueued, NewJob
from switchtower.pages import Count, Page

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
NEXT: Final = 10
Acted = tuple[Cron | Enqueued | None, str]
"""What the browser goes on to (None: the list), and what it is told."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of crons, and how many there are."""

    page: Page[Cron]
    count: Count


@dataclass(frozen=True, slots=True)
class Detail:
    """A cron and its next slots."""

    cron: Cron
    next: list[datetime]


async def _list(context: Context, after: str | None, before: str | None) -> Listed:
    listed = await crons.page(context, fields.part(context, after, None))
    return Listed(listed.page, await listed.count())


def _shown(found: Listed, visit: Visit) -> Response:
    return page("crons.html", visit, shown=found)


def _id(given: Given) -> dict[str, Any]:
    return {"id": given.path["id"]}


async def _detail(context: Context, id: str) -> Detail | None:
    cron = await crons.get(context, id)
    return None if cron is None else Detail(cron, crons.next_runs(context, cron, NEXT))


def _one(found: Detail, visit: Visit) -> Response:
    return page(
        "cron.html", visit, cron=found.cron, next=found.next, overlaps=list(Overlap), catch_ups=list(CatchUp), new=False
    )


async def _blank(context: Context) -> Cron | None:
    # Asked for, so that who may not read sees no form either.
    await crons.count(context)
    return None


def _new(found: Any, visit: Visit) -> Response:
    return page("cron.html", visit, cron=None, next=[], overlaps=list(Overlap), catch_ups=list(CatchUp), new=True)


def _defined(given: Given) -> dict[str, Any]:
    """The definition that a form holds. Raises InvalidInput."""
    form = given.form
    text, zone = form.text("schedule"), form.text("timezone") or "UTC"
    every = text.removeprefix("every ").strip() if text.startswith("every ") else None
    for field in ("schedule", "task"):
        if not form.text(field):
            raise InvalidInput(field, "must not be empty.")
    schedule = Schedule(text, timezone=zone) if every is None else Schedule(every_ms=duration_ms(every), timezone=zone)
    job = NewJob(
        name=form.text("task"),
        queue=form.text("queue") or "default",
        payload=fields.json_of("payload", form.text("payload") or "null"),
        max_attempts=fields.whole_of("max_attempts", form.text("max_attempts")) or 4,
    )
    return {
        "name": form.text("name"),
        "schedule": schedule,
        "job": job,
        "overlap": _one_of(Overlap, "overlap", form.text("overlap") or Overlap.ALLOW),
        "catch_up": _one_of(CatchUp, "catch_up", form.text("catch_up") or CatchUp.ONE),
    }


def _one_of(kind: Any, field: str, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(field, f"must be one of {', '.join(kind)}.") from None


async def _create(context: Context, **definition: Any) -> tuple[Cron, str]:
    return await crons.create(context, NewCron(**definition)), "The cron was created."


def _asked(given: Given) -> dict[str, Any]:
    action = given.form.text("action")
    return {**_id(given), "action": action, "definition": _defined(given) if action == "update" else {}}


async def _act(
    context: Context, id: str, action: str, definition: dict[str, Any]
) -> tuple[Cron | Enqueued | None, str]:
    match action:
        case "run":
            return await crons.trigger(context, id), "Its job is enqueued."
        case "enable" | "disable":
            on = action == "enable"
            return await crons.switch(context, id, on=on), "It fires again." if on else "It does not fire any more."
        case "delete":
            await crons.delete(context, id)
            return None, "The cron was deleted; its jobs stay."
        case "update":
            return await _update(context, id, definition)
        case _:
            raise InvalidInput("action", "must be run, enable, disable, delete or update.")


async def _update(context: Context, id: str, definition: dict[str, Any]) -> tuple[Cron, str]:
    there = await crons.get(context, id)
    if there is None:
        raise NotFound("Cron", id)
    # What the form does not show of its job stays.
    shown = definition["job"]
    job = replace(there.job, name=shown.name, queue=shown.queue, max_attempts=shown.max_attempts)
    job.payload = restored(shown.payload, there.job.payload)
    return await crons.update(context, id, definition | {"job": job}), "The cron was changed."


def _acted(found: Acted, visit: Visit) -> Response:
    thing, said = found
    if isinstance(thing, Enqueued):
        target = visit.url("queues", thing.job.queue, "jobs", thing.job.custom_id or thing.job.id)
    else:
        target = visit.url("crons") if thing is None else visit.url("crons", thing.id)
    return visit.redirect(target, flash=Flash("done", said))


ROUTES: Final = (
    Route(method="GET", path="/crons", summary="Crons", parse=fields.cursors, resolver=_list, page=_shown),
    Route(method="GET", path="/crons/new", summary="The form for a cron", resolver=_blank, page=_new),
    Route(
        method="POST",
        path="/crons/new",
        summary="Create a cron",
        parse=_defined,
        resolver=_create,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: "cron.create",
        again="/crons/new",
    ),
    Route(
        method="GET",
        path="/crons/{id}",
        summary="A cron: when it fires, when it fired, and how to change it",
        parse=_id,
        resolver=_detail,
        page=_one,
        missing="Cron",
    ),
    Route(
        method="POST",
        path="/crons/{id}",
        summary="Run, switch, change or delete a cron",
        parse=_asked,
        resolver=_act,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"cron.{given.form.text('action') or 'unknown'}",
        again="/crons/{id}",
    ),
)
