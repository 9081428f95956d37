"""What can be asked of flows, and done to them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from schema.resolvers.bounds import Listing, Window
from schema.resolvers.streams import changes_where
from switchtower.access import Scope
from switchtower.engine import BulkOperation
from switchtower.events import Topic
from switchtower.flows import Flow, FlowNode, plan
from switchtower.jobs import JobFilter
from switchtower.payloads import check_text
from switchtower.states import FINAL, JobState

__all__ = ["cancel", "enqueue", "get", "page", "retry", "watch"]

COALESCED_SECONDS = 0.1


@needs(Scope.OPERATE)
async def enqueue(context: Context, root: FlowNode, *, idempotency_key: str | None = None) -> Flow:
    """Creates all jobs of a flow, or none. Raises InvalidInput, Conflict, RateLimited (the month's quota)."""
    if idempotency_key is not None:
        check_text("idempotencyKey", idempotency_key, limit=512)
    if context.caller.org is not None:
        await context.engine.keys.check_quota(len(plan(root)), caller=context.caller)
    return await context.engine.flows.enqueue(root, caller=context.caller, idempotency_key=idempotency_key)


@needs(Scope.READ)
async def get(context: Context, id: str) -> Flow | None:
    """The flow with this root, or that this job belongs to."""
    return await context.engine.flows.get(id, caller=context.caller)


@needs(Scope.READ)
async def page(context: Context, states: Sequence[JobState] | None, part: Window) -> Listing[Flow]:
    """One page of flows by the states of their roots, newest first. Raises InvalidInput."""
    wanted = None if states is None else list(states)
    found = await context.engine.flows.page(caller=context.caller, states=wanted, **part.arguments)
    filter = JobFilter(flow_root=True, states=wanted)
    return Listing(found, lambda: context.engine.jobs.count(filter, caller=context.caller))


@audited("flow.cancel", job_id="id")
@needs(Scope.OPERATE)
async def cancel(context: Context, id: str) -> BulkOperation:
    """Cancels what is open of a flow. Raises NotFound, InvalidTransition."""
    return await context.engine.flows.cancel(id, caller=context.caller)


@audited("flow.retry", job_id="id")
@needs(Scope.OPERATE)
async def retry(context: Context, id: str) -> Flow:
    """Runs what failed or was cancelled again. Raises NotFound, InvalidTransition, Conflict."""
    return await context.engine.flows.retry(id, caller=context.caller)


@needs(Scope.READ)
async def watch(context: Context, id: str) -> AsyncGenerator[Flow | None, None]:
    """The flow now, then whenever one of its jobs changed (ten times a second at most), to its end."""
    flow = await get(context, id)
    if flow is None:
        yield None
        return
    root = flow.id
    async with changes_where(context, lambda event: event.topic is Topic.JOB and event.flow_id == root) as noticed:
        while True:
            flow = await get(context, root)
            yield flow
            if flow is None or all(not count for state, count in flow.counts.items() if state not in FINAL):
                return
            await noticed.wait()
            if noticed.ended:
                return
            await noticed.pause(COALESCED_SECONDS)
