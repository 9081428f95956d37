"""What can be asked of workflows, their runs and events, and done to them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import Listing, Window, check_offset
from schema.resolvers.streams import changes
from switchtower.access import Scope
from switchtower.errors import NotFound
from switchtower.events import Topic
from switchtower.ids import job_of_run
from switchtower.pages import Count
from switchtower.payloads import check_text
from switchtower.states import FINAL
from switchtower.workflows import NewRun, RunState, WorkflowRun

__all__ = [
    "PublishedEvent",
    "Workflow",
    "cancel",
    "count",
    "get",
    "names",
    "offset_page",
    "page",
    "publish",
    "replay",
    "start",
    "watch",
]


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow that live workers have."""

    name: str
    versions: list[int]


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event that was stored."""

    id: str
    name: str
    published_at: datetime


@needs(Scope.READ)
async def names(context: Context) -> list[Workflow]:
    """The workflows that live workers have, by name."""
    found = await context.engine.workflows.names(reach=context.caller.reach)
    return [Workflow(name, versions) for name, versions in found.items()]


@needs(Scope.READ)
async def get(context: Context, id: str) -> WorkflowRun | None:
    """The run with this id (its own, its job's, or the one that its starter chose)."""
    return await context.engine.workflows.get(id, caller=context.caller)


@needs(Scope.READ)
async def page(
    context: Context, part: Window, *, workflow: str | None, states: Sequence[RunState] | None
) -> Listing[WorkflowRun]:
    """One page of runs, newest first, without their steps. Raises InvalidInput."""
    if workflow is not None:
        check_text("filter.workflow", workflow, limit=256)
    runs = context.engine.workflows
    found = await runs.page(caller=context.caller, workflow=workflow, states=states, **part.arguments)
    return Listing(found, lambda: runs.count(caller=context.caller, workflow=workflow, states=states))


@needs(Scope.READ)
async def offset_page(
    context: Context, *, states: Sequence[RunState] | None, offset: int, limit: int
) -> list[WorkflowRun]:
    """Runs, the oldest first, from the one with this number on, without their steps. Raises InvalidInput."""
    check_offset(offset, limit)
    return await context.engine.workflows.offset_page(caller=context.caller, states=states, offset=offset, limit=limit)


@needs(Scope.READ)
async def count(context: Context, *, states: Sequence[RunState] | None, cap: int = 10_000) -> Count:
    """How many runs there are in these states, counted up to `cap`."""
    return await context.engine.workflows.count(caller=context.caller, states=states, cap=cap)


@needs(Scope.OPERATE)
async def start(context: Context, new: NewRun) -> WorkflowRun:
    """Starts a run; the same idempotency key or run id gives the same run. Raises InvalidInput."""
    await context.engine.keys.check_quota(1, caller=context.caller)
    started = await context.engine.workflows.start(new, caller=context.caller)
    run = await get(context, started.job.id)
    if run is None:
        raise NotFound("Workflow run", started.job.id)
    return run


@needs(Scope.OPERATE)
async def publish(context: Context, name: str, payload: Any, *, idempotency_key: str | None = None) -> PublishedEvent:
    """Publishes an event for one run that waits for it, now or within 30 days. Raises InvalidInput."""
    id, at = await context.engine.workflows.publish(
        name, payload, caller=context.caller, idempotency_key=idempotency_key
    )
    return PublishedEvent(id, name, at)


@audited("workflow.cancel", target="id")
@needs(Scope.OPERATE)
async def cancel(context: Context, id: str) -> WorkflowRun:
    """Cancels a run. Raises NotFound, InvalidTransition."""
    return await context.engine.workflows.cancel(id, caller=context.caller)


@audited("workflow.replay", target="id")
@needs(Scope.OPERATE)
async def replay(context: Context, id: str, from_step: str) -> WorkflowRun:
    """Runs a final run again from a step on. Raises NotFound, InvalidInput, InvalidTransition, Conflict."""
    return await context.engine.workflows.replay(id, from_step, caller=context.caller)


@needs(Scope.READ)
async def watch(context: Context, id: str) -> AsyncGenerator[WorkflowRun | None, None]:
    """The run now, then whenever it changed, to its end; None, and the end, where there is none."""
    run = await get(context, id)
    if run is None:
        yield None
        return
    async with changes(context, Topic.JOB, run.job.id) as noticed:
        while True:
            run = await get(context, job_of_run(run.id))
            yield run
            if run is None or run.job.state in FINAL:
                return
            await noticed.wait()
            if noticed.ended:
                return
