"""How are jobs of all queues found, changed and run again from pages?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from app.dashboard.redaction import restored
from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import jobs, stats
from schema.resolvers.bounds import within
from schema.resolvers.jobs import JobOrder
from switchtower.errors import InvalidInput, NotFound
from switchtower.jobs import Job, JobUpdate, NewJob
from switchtower.pages import Count, Page
from switchtower.states import JobState

if TYPE_CHECKING:
    from switchtower.engine import ErrorCluster

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
CLUSTERS: Final = 10
PATIENCE: Final = 0.5
"""For how many seconds jobs are looked for before the page tells that it would take longer."""
ORDERS: Final = (JobOrder.CREATED_DESC, JobOrder.CREATED_ASC)


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the jobs that a filter means, how many there are, and, where asked for, the faults among them; of
    what could not be told in time it is None."""

    asked: fields.Asked
    order: JobOrder
    page: Page[Job] | None
    count: Count | None
    grouped: bool
    clusters: list[ErrorCluster] | None


def _listed(given: Given) -> dict[str, Any]:
    order = given.text("order")
    return {
        "asked": fields.filter_of(fields.in_query(given)),
        "order": JobOrder(order) if order in {each.value for each in ORDERS} else ORDERS[0],
        "grouped": given.text("by") == "error",
        **fields.cursors(given),
    }


async def _list(
    context: Context, asked: fields.Asked, order: JobOrder, grouped: bool, after: str | None, before: str | None
) -> Found:
    part = fields.part(context, after, before)
    with within(context, PATIENCE):
        listed, count, clusters = await asyncio.gather(
            fields.in_time(jobs.page(context, asked.filter, part, order=order, with_=frozenset())),
            fields.in_time(jobs.count(context, asked.filter)),
            fields.in_time(jobs.error_clusters(context, asked.filter, limit=CLUSTERS)) if grouped else _none(),
        )
    if listed is None:
        # Either it would take too long to find them, or the database is away, and then this says so.
        await stats.totals(context)
    return Found(asked, order, None if listed is None else listed.page, count, grouped, clusters)


async def _none() -> None:
    return None


def _shown(found: Found, visit: Visit) -> Response:
    path, text = found.asked.first("path"), found.asked.first("text")
    sought = f"{path}:{found.asked.first('value')}" if path else text
    export = f"/export/jobs.ndjson?{urlencode({'filter': fields.export_filter(found.asked)})}"
    return page("all_jobs.html", visit, shown=found, states=list(JobState), orders=ORDERS, export=export, sought=sought)


def _id(given: Given) -> dict[str, Any]:
    return {"id": given.path["id"]}


async def _light(context: Context, id: str) -> Job | None:
    return await jobs.get(context, id, with_=frozenset())


def _to_its_page(job: Job, visit: Visit) -> Response:
    return visit.redirect(_address(job, visit))


def _address(job: Job, visit: Visit) -> str:
    return visit.url("queues", job.queue, "jobs", job.custom_id or job.id)


async def _promote(context: Context, id: str) -> tuple[Job, str]:
    return await jobs.promote(context, id), "It is due now."


async def _retry(context: Context, id: str) -> tuple[Job, str]:
    return await jobs.retry(context, id), "It starts over with all its attempts."


def _edited(given: Given) -> dict[str, Any]:
    form = given.form
    tags = form.raw("tags")
    return {
        **_id(given),
        "change": JobUpdate(
            payload=... if form.raw("payload") is None else fields.json_of("payload", form.raw("payload") or ""),
            priority=fields.whole_of("priority", form.text("priority")),
            max_attempts=fields.whole_of("max_attempts", form.text("max_attempts")),
            tags=None if tags is None else [tag for each in tags.split(",") if (tag := each.strip())],
        ),
        "again": form.text("as") == "new",
    }


async def _edit(context: Context, id: str, change: JobUpdate, again: bool) -> tuple[Job, str]:
    """Changes a job, or enqueues a new one that is like it but for the change."""
    job = await jobs.get(context, id)
    if job is None:
        raise NotFound("Job", id)
    if change.payload is ...:
        raise InvalidInput("payload", "is missing.")
    payload = restored(change.payload, job.payload)
    if not again:
        return await jobs.update(context, id, replace(change, payload=payload)), "It was changed."
    new = NewJob(
        name=job.name,
        queue=job.queue,
        payload=payload,
        priority=job.priority if change.priority is None else change.priority,
        max_attempts=change.max_attempts or job.max_attempts,
        tags=job.tags if change.tags is None else change.tags,
        backoff=job.backoff,
        timeout_ms=job.timeout_ms,
        ttl_ms=job.ttl_ms,
        group=job.group,
    )
    return (await jobs.enqueue(context, new)).job, "This is the new job."


def _acted(found: tuple[Job, str], visit: Visit) -> Response:
    job, said = found
    return visit.redirect(_address(job, visit), flash=Flash("done", said))


def _act(verb: str, resolver: Any, summary: str, parse: Any = _id, again: str | None = None) -> Route:
    return Route(
        method="POST",
        path=f"/jobs/{{id}}/{verb}",
        summary=summary,
        parse=parse,
        resolver=resolver,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"job.{verb}",
        again=again,
    )


ROUTES: Final = (
    Route(
        method="GET", path="/jobs", summary="Jobs of all queues by a filter", parse=_listed, resolver=_list, page=_shown
    ),
    Route(
        method="GET",
        path="/jobs/{id}",
        summary="The page of a job, whose queue need not be known",
        parse=_id,
        resolver=_light,
        page=_to_its_page,
        missing="Job",
    ),
    _act("promote", _promote, "Make a delayed job due"),
    _act("retry", _retry, "Run a job that ended again, with all its attempts"),
    _act("edit", _edit, "Change a job, or enqueue a new one like it", _edited, "/queues/{queue}/jobs/{id}"),
)
