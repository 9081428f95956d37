"""How are flows looked at, cancelled and run again from pages?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import flows, jobs
from schema.resolvers.bounds import window
from schema.resolvers.jobs import JobOrder
from switchtower.errors import InvalidInput
from switchtower.flows import Flow
from switchtower.jobs import Job, JobFilter
from switchtower.pages import Page
from switchtower.states import FINAL, JobState

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
MOST_SHOWN: Final = 500


@dataclass(frozen=True, slots=True)
class Node:
    """A job of a flow with the children that it has there."""

    job: Job
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Detail:
    """A flow as a tree; `complete` is false where it has more jobs than are shown."""

    flow: Flow
    root: Node
    complete: bool


async def _list(context: Context, after: str | None, before: str | None) -> Page[Flow]:
    return (await flows.page(context, None, fields.part(context, after, before))).page


def _shown(found: Page[Flow], visit: Visit) -> Response:
    return page("flows.html", visit, shown=found)


def _id(given: Given) -> dict[str, Any]:
    return {"id": given.path["id"]}


async def _detail(context: Context, id: str) -> Detail | None:
    flow = await flows.get(context, id)
    if flow is None:
        return None
    part = window(context, first=min(MOST_SHOWN, context.max_page))
    filter = JobFilter(flow_id=flow.id)
    listed = (await jobs.page(context, filter, part, order=JobOrder.CREATED_ASC, with_=frozenset())).page
    nodes = {job.id: Node(job) for job in listed.items}
    root = nodes.setdefault(flow.id, Node(flow.root))
    for node in nodes.values():
        if node is not root:
            # One whose parent is not among those that are shown stands below the root.
            nodes.get(node.job.parent_id or "", root).children.append(node)
    return Detail(flow, root, not listed.has_next)


def _one(found: Detail, visit: Visit) -> Response:
    there = {state for state, count in found.flow.counts.items() if count}
    again = bool(there & {JobState.FAILED, JobState.CANCELLED})
    return page("flow.html", visit, shown=found, flow=found.flow, again=again, is_open=bool(there - FINAL))


async def _act(context: Context, id: str, action: str) -> str:
    match action:
        case "cancel":
            await flows.cancel(context, id)
            return "What is open of it is being cancelled."
        case "retry":
            await flows.retry(context, id)
            return "What failed or was cancelled runs again."
        case _:
            raise InvalidInput("action", "must be cancel or retry.")


def _acted(said: str, visit: Visit) -> Response:
    return visit.redirect(visit.url("flows", visit.names["id"]), flash=Flash("done", said))


ROUTES: Final = (
    Route(method="GET", path="/flows", summary="Flows", parse=fields.cursors, resolver=_list, page=_shown),
    Route(
        method="GET",
        path="/flows/{id}",
        summary="A flow as a tree",
        parse=_id,
        resolver=_detail,
        page=_one,
        missing="Flow",
    ),
    Route(
        method="POST",
        path="/flows/{id}",
        summary="Cancel a flow, or run what failed of it again",
        parse=lambda given: {**_id(given), "action": given.form.text("action")},
        resolver=_act,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"flow.{given.form.text('action') or 'unknown'}",
    ),
)
