"""How are workflow runs looked at, cancelled and replayed from pages?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import workflows
from schema.resolvers.workflows import Workflow
from switchtower.errors import InvalidInput
from switchtower.pages import Page
from switchtower.workflows import RunState, WorkflowRun

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
OPEN: Final = (RunState.RUNNING, RunState.SLEEPING, RunState.WAITING, RunState.COMPENSATING)


@dataclass(frozen=True, slots=True)
class Found:
    """One page of runs, and the workflows that live workers have."""

    page: Page[WorkflowRun]
    workflows: list[Workflow]
    workflow: str
    state: str


def _listed(given: Given) -> dict[str, Any]:
    return {
        "workflow": (given.text("workflow") or "").strip(),
        "state": given.text("state") or "",
        **fields.cursors(given),
    }


async def _list(context: Context, workflow: str, state: str, after: str | None, before: str | None) -> Found:
    states = [each for each in RunState if each.value == state] if state else None
    part = fields.part(context, after, before)
    listed = await workflows.page(context, part, workflow=workflow or None, states=states)
    return Found(listed.page, await workflows.names(context), workflow, state)


def _shown(found: Found, visit: Visit) -> Response:
    return page("runs.html", visit, shown=found, states=list(RunState))


def _id(given: Given) -> dict[str, Any]:
    return {"id": given.path["id"]}


def _one(found: WorkflowRun, visit: Visit) -> Response:
    return page("run.html", visit, run=found, is_open=found.state in OPEN)


def _asked(given: Given) -> dict[str, Any]:
    return {**_id(given), "action": given.form.text("action"), "step": given.form.text("step")}


async def _act(context: Context, id: str, action: str, step: str) -> str:
    match action:
        case "cancel":
            await workflows.cancel(context, id)
            return "The run is cancelled."
        case "replay":
            await workflows.replay(context, id, step)
            return f"It runs again from {step} on."
        case _:
            raise InvalidInput("action", "must be cancel or replay.")


def _acted(said: str, visit: Visit) -> Response:
    return visit.redirect(visit.url("runs", visit.names["id"]), flash=Flash("done", said))


ROUTES: Final = (
    Route(method="GET", path="/runs", summary="Workflow runs", parse=_listed, resolver=_list, page=_shown),
    Route(
        method="GET",
        path="/runs/{id}",
        summary="A run with its steps",
        parse=_id,
        resolver=workflows.get,
        page=_one,
        missing="Workflow run",
    ),
    Route(
        method="POST",
        path="/runs/{id}",
        summary="Cancel a run, or run it again from a step on",
        parse=_asked,
        resolver=_act,
        page=_acted,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: f"workflow.{given.form.text('action') or 'unknown'}",
    ),
)
