"""What can be asked of a workflow run, and done with it?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from switchtower.callers import EVERYTHING, Caller, Reach
from switchtower.engine.effects import Effects
from switchtower.engine.jobs import Jobs
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, LeaseLost, NotFound
from switchtower.ids import job_of_run
from switchtower.jobs import ChildFailure, Enqueued, NewJob, PayloadMatch
from switchtower.pages import Count, Page
from switchtower.payloads import check_text, check_value
from switchtower.states import FINAL, JobState
from switchtower.store import jobs as job_commands
from switchtower.store import leases, listing, outbox
from switchtower.store import workflows as commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import NOT_REMOVED
from switchtower.workflows import NewRun, RunState, Step, WorkflowRun, handler_name, split_name

__all__ = ["Workflows"]

Document = dict[str, Any]

LEAN = {"logs": 0, "attempts": 0, "timeline": 0, "event": 0}


@translate_errors
class Workflows:
    """The verbs on workflow runs and events."""

    def __init__(self, store: Store, jobs: Jobs, effects: Effects, payload_limit: int) -> None:
        self._store = store
        self._jobs = jobs
        self._effects = effects
        self._payload_limit = payload_limit

    async def names(self, *, reach: Reach = EVERYTHING) -> dict[str, list[int]]:
        """The workflows of the live workers that somebody with this reach sees, each with its versions, sorted."""
        match: Document = {"state": {"$in": leases.PRESENT}} | leases.visible_to(reach)
        rows = await self._store.workers.distinct("names", match)
        found: dict[str, list[int]] = {}
        for name in rows:
            if (parts := split_name(name)) is not None:
                found.setdefault(parts[0], []).append(parts[1])
        return {name: sorted(found[name]) for name in sorted(found)}

    async def _queue_of(self, name: str, reach: Reach) -> str:
        """A queue of this reach that live workers with this handler serve; `default` where it is one of them, or there
        are none."""
        match = {"state": {"$in": leases.PRESENT}, "names": name} | leases.visible_to(reach)
        rows = [queue for queue in await self._store.workers.distinct("queues", match) if reach.sees(queue)]
        return "default" if "default" in rows or not rows else str(min(rows))

    async def start(self, new: NewRun, *, caller: Caller, parent_id: str | None = None) -> Enqueued:
        """Starts a run on the version that is stamped into it for good.

        Raises: InvalidInput (an unknown workflow needs an explicit version), NotFound and InvalidTransition (parent).
        """
        new.check()
        version = new.version
        if version is None:
            versions = (await self.names(reach=caller.reach)).get(new.workflow)
            if not versions:
                raise InvalidInput(
                    "workflow", f"no live worker has {new.workflow[:100]!r}; start one, or give the version explicitly."
                )
            version = versions[-1]
        name = handler_name(new.workflow, version)
        job = NewJob(
            name=name,
            payload=new.input,
            queue=new.queue if new.queue is not None else await self._queue_of(name, caller.reach),
            priority=new.priority,
            max_attempts=new.max_attempts,
            job_id=new.run_id,
            idempotency_key=new.idempotency_key,
            delay_ms=new.delay_ms,
            tags=new.tags,
            parent_id=parent_id,
            on_child_failure=ChildFailure.IGNORE,
            workflow=(new.workflow, version),
        )
        return await self._jobs.enqueue(job, caller=caller)

    async def get(self, id: str, *, caller: Caller) -> WorkflowRun | None:
        """The run with this id; None when the caller sees none."""
        row = await job_commands.locate(self._store, job_of_run(id), caller)
        return None if row is None or "run" not in row else commands.run_from(row)

    async def page(
        self,
        *,
        caller: Caller,
        workflow: str | None = None,
        states: Sequence[RunState] | None = None,
        first: int | None = None,
        last: int | None = None,
        after: str | None = None,
        before: str | None = None,
        ascending: bool = False,
    ) -> Page[WorkflowRun]:
        """Runs, the newest first (or the oldest, with `ascending`), without their steps."""
        order = listing.JobOrder.CREATED_ASC if ascending else listing.JobOrder.CREATED_DESC
        found = await listing.keyset_page(
            self._store,
            await self._branches(caller, workflow, states),
            order=order,
            first=first if first is not None or last is not None else 50,
            last=last,
            after=after,
            before=before,
            fields={**LEAN, "steps": 0},
        )
        items = [commands.run_from(row) for row in found.documents]
        return Page(items, found.cursors, found.has_next, found.has_previous)

    async def offset_page(
        self, *, caller: Caller, states: Sequence[RunState] | None = None, offset: int = 0, limit: int = 50
    ) -> list[WorkflowRun]:
        """Runs by offset, the oldest first, without their steps, as the REST dialects ask for them."""
        rows = await listing.offset_page(
            self._store,
            await self._branches(caller, None, states),
            order=listing.JobOrder.CREATED_ASC,
            offset=offset,
            limit=limit,
            fields={**LEAN, "steps": 0},
        )
        return [commands.run_from(row) for row in rows]

    async def get_many(self, ids: Sequence[str], *, caller: Caller) -> dict[str, WorkflowRun]:
        """Runs by their ids, with their steps; what is not there, not visible or no run is left out."""
        match = {
            "_id": {"$in": [job_of_run(id) for id in ids]},
            "run": {"$exists": True},
            "state": NOT_REMOVED,
            **job_commands.visible_to(caller),
        }
        rows = await self._store.jobs.find(match, LEAN).to_list(None)
        return {run.id: run for run in map(commands.run_from, rows)}

    async def count(
        self,
        *,
        caller: Caller,
        workflow: str | None = None,
        states: Sequence[RunState] | None = None,
        cap: int = 10_000,
    ) -> Count:
        """How many runs `page` would list, counted up to `cap`."""
        found = await self._branches(caller, workflow, states)
        return Count(*await listing.count(self._store, found.match, cap=cap, hint=found.hint))

    async def _branches(
        self, caller: Caller, workflow: str | None, states: Sequence[RunState] | None
    ) -> listing.Branches:
        # By name, the index has them in the order of their ids; all runs together it has not.
        names = [workflow] if workflow is not None else await listing.workflow_names(self._store)
        clauses: list[Document] = [
            {"run": {"$exists": True}, "run.workflow": {"$in": names}},
            {"state": {"$in": [s.value for s in JobState]}, **job_commands.visible_to(caller)},
        ]
        if states is not None:
            clauses.append({"$or": [_state_filter(state) for state in states]} if states else {"_id": {"$in": []}})
        return listing.Branches([{"$and": clauses}], hint=listing.BY_WORKFLOW)

    async def cancel(self, id: str, *, caller: Caller) -> WorkflowRun:
        """Cancels a run: at once while it sleeps or waits, else its handler is asked to stop. Raises: NotFound,
        InvalidTransition."""
        run = await self._required(id, caller)
        await self._jobs.cancel(run.job.id, caller=caller)
        return await self._required(id, caller)

    async def replay(self, id: str, from_step: str, *, caller: Caller) -> WorkflowRun:
        """Runs a finished run again from a step on: that step and all after it lose their checkpoints.

        Raises: NotFound (run), InvalidInput (no such step), InvalidTransition while it is open.
        """
        run = await self._required(id, caller)
        if run.job.state not in FINAL:
            raise InvalidTransition("replay", run.job.state, sorted(state.value for state in FINAL))
        names = [step.name for step in run.steps]
        if from_step not in names:
            raise InvalidInput(
                "fromStep", f"{from_step[:100]!r} is no step of this run; it has: {', '.join(names[:20])}."
            )
        await self._effects.relay(id=run.job.id)
        row = await commands.replay(
            self._store, run, caller.actor, keep=names[: names.index(from_step)], source=caller.surface
        )
        if row is None:
            raise Conflict(f"Run {id!r} changed meanwhile; try again.")
        return commands.run_from(row)

    async def publish(
        self, name: str, payload: Any, *, caller: Caller, idempotency_key: str | None = None
    ) -> tuple[str, datetime]:
        """Publishes an event: the first run that waits for it, now or later, in a queue that the caller sees takes it.
        Kept for 30 days.

        Returns: its id and time. Raises: InvalidInput.
        """
        check_text("name", name, limit=256)
        check_value("payload", payload, limit=self._payload_limit)
        if idempotency_key is not None:
            check_text("idempotencyKey", idempotency_key, limit=512)
        event = await commands.publish(
            self._store,
            name,
            payload,
            org=caller.owner,
            actor=caller.actor,
            now=self._store.clock.now(),
            key=idempotency_key,
            queues=caller.reach.among(None),
        )
        await commands.wake(self._store, event=event)
        return event["_id"], event["published_at"]

    async def _required(self, id: str, caller: Caller) -> WorkflowRun:
        run = await self.get(id, caller=caller)
        if run is None:
            raise NotFound("Workflow run", id)
        return run

    # What the worker that runs it needs.

    async def resume(self, run_id: str, token: str) -> WorkflowRun:
        """The run with its steps, for the worker that holds it. Raises: LeaseLost, InvalidInput (no workflow's job)."""
        row = await commands.steps_of(self._store, job_of_run(run_id), token)
        if row is None:
            raise LeaseLost(run_id)
        if "run" not in row:
            raise InvalidInput("name", f"{row['name'][:100]!r} is no workflow's; it has no version.")
        return commands.run_from(row)

    async def checkpoint(
        self, run_id: str, token: str, step: Step, *, compensating: bool = False, adopt: Sequence[str] = ()
    ) -> None:
        """Records a step; from then on it answers from its checkpoint. The run waits for the jobs in `adopt` as for
        children: their ids are decided before they exist, so that no crash makes them twice.

        Raises: InvalidInput (a result that cannot be stored; all steps together over 8 MiB), LeaseLost.
        """
        check_text("step", step.name, limit=512)
        size = check_value(f"result of step {step.name!r}", step.result, limit=self._payload_limit)
        size += len(orjson.dumps([match.value for match in step.match])) + 60 * len(step.children) + 500
        if step.error is not None:
            size += len(step.error.message) + len(step.error.stack or "")
        id = job_of_run(run_id)
        written = await commands.checkpoint(
            self._store, id, token, step, size=size, compensating=compensating, adopt=adopt
        )
        if not written:
            if await commands.is_held(self._store, id, token):
                raise InvalidInput("steps", "the results of all steps together are over 8 MiB; store them elsewhere.")
            raise LeaseLost(run_id)

    async def enqueue_children(
        self, run: WorkflowRun, jobs: Sequence[tuple[str, NewJob]], *, caller: Caller, linked: bool
    ) -> None:
        """Creates the jobs whose ids a checkpoint holds; harmless to repeat. `linked` ones are the run's children.

        Raises: StoreUnavailable; repeat it.
        """
        await self._jobs.enqueue_awaited(
            jobs,
            caller=caller,
            parent_id=run.job.id if linked else None,
            flow_id=(run.job.flow_id or run.job.id) if linked else None,
        )

    async def settle(self, ids: Sequence[str]) -> None:
        """After a run began to wait for jobs that were there before: those that had ended do not hold it up."""
        await outbox.settle(self._store, await commands.ended(self._store, ids))

    async def consume(self, run: WorkflowRun, token: str, step: Step) -> tuple[str, Any] | None:
        """The event that this waiting step gets: (name, payload), the same at every call; None while there is none.

        Raises: LeaseLost; the event is nobody's then, unless the run's next worker has it.
        """
        id = run.job.id
        found = await commands.consume(
            self._store, id, token, step.name, step.events, step.match, org=run.job.org, queue=run.job.queue
        )
        if found is None:
            return None
        event, taken = found
        if not await commands.is_held(self._store, id, token):
            if taken:
                await commands.give_back(self._store, event)
            raise LeaseLost(run.id)
        return event["name"], event["payload"]

    async def recheck(self, run_id: str) -> bool:
        """After a run was put aside to wait: whether an event had come in between, and it was promoted for it."""
        return await commands.wake(self._store, job_id=job_of_run(run_id)) > 0

    async def wake(self) -> int:
        """Promotes runs whose event is there and whose publisher died before it told them. Returns: how many."""
        return await commands.wake(self._store)

    @staticmethod
    def conditions(match: dict[str, Any] | None) -> tuple[PayloadMatch, ...]:
        """Conditions on an event's payload, from {path: value}. Raises: InvalidInput for a malformed path."""
        conditions = tuple(PayloadMatch(path, value) for path, value in (match or {}).items())
        for condition in conditions:
            listing.payload_path(condition.path)
        return conditions


def _state_filter(state: RunState) -> Document:
    match state:
        case RunState.SLEEPING:
            return {"state": "scheduled", "awaiting": {"$exists": False}}
        case RunState.WAITING:
            return {"$or": [{"state": "scheduled", "awaiting": {"$exists": True}}, {"state": "blocked"}]}
        case RunState.RUNNING | RunState.COMPENSATING:
            compensating: Any = True if state is RunState.COMPENSATING else {"$ne": True}
            return {"state": {"$in": ["waiting", "active", "retrying"]}, "run.compensating": compensating}
    return {"state": state.value}
