"""How does a job begin on a page?"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import jobs
from schema.resolvers.authority import authorise
from switchtower.access import Scope
from switchtower.jobs import Enqueued, NewJob

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"


def _blank(given: Given) -> dict[str, Any]:
    return {"queue": (given.text("queue") or "")[:256], "name": (given.text("name") or "")[:256]}


async def _form(context: Context, queue: str, name: str) -> dict[str, str]:
    authorise(context, Scope.READ)
    return {"queue": queue, "name": name}


def _shown(found: dict[str, str], visit: Visit) -> Response:
    return page("enqueue.html", visit, queue=found["queue"], name=found["name"])


def _new(given: Given) -> dict[str, Any]:
    form = given.form
    delay = fields.whole_of("delay", form.text("delay"))
    return {
        "new": NewJob(
            name=form.text("name"),
            queue=form.text("queue") or "default",
            payload=fields.json_of("payload", form.text("payload") or "null"),
            priority=fields.whole_of("priority", form.text("priority")) or 0,
            delay_ms=None if delay is None else delay * 1_000,
            max_attempts=fields.whole_of("max_attempts", form.text("max_attempts")) or 4,
            unique_key=form.text("unique_key") or None,
            tags=[tag for each in form.text("tags").split(",") if (tag := each.strip())],
            group=form.text("group") or None,
        )
    }


def _enqueued(found: Enqueued, visit: Visit) -> Response:
    said = "The job was enqueued." if found.deduplication is None else "This job stands for it already."
    url = visit.url("queues", found.job.queue, "jobs", found.job.custom_id or found.job.id)
    return visit.redirect(url, flash=Flash("done", said))


ROUTES: Final = (
    Route(method="GET", path="/enqueue", summary="The form for a job", parse=_blank, resolver=_form, page=_shown),
    Route(
        method="POST",
        path="/enqueue",
        summary="Enqueue a job",
        parse=_new,
        resolver=jobs.enqueue,
        page=_enqueued,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: "job.enqueue",
        again="/enqueue",
    ),
)
