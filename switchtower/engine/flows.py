"""How do jobs that wait for each other come into being at once, and how are they handled as one?"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from switchtower.callers import Caller
from switchtower.engine.bulk import Bulk, BulkOperation
from switchtower.engine.effects import Effects
from switchtower.engine.inserts import PATIENCE_SECONDS
from switchtower.errors import Conflict, Forbidden, InvalidTransition, NotFound, StoreUnavailable
from switchtower.flows import MAX_NODES, Flow, FlowNode, plan
from switchtower.ids import AUDIT, JOB, new_id
from switchtower.jobs import Job, JobFilter
from switchtower.pages import Page
from switchtower.states import FINAL, JobState
from switchtower.store import flows as commands
from switchtower.store import jobs as job_commands
from switchtower.store import listing
from switchtower.store.collections import Store
from switchtower.store.documents import job_document, job_from
from switchtower.store.driver import outrun, translate_errors, unavailable

__all__ = ["Flows"]

Document = dict[str, Any]


@translate_errors
class Flows:
    """The verbs on flows."""

    def __init__(self, store: Store, effects: Effects, bulk: Bulk, payload_limit: int) -> None:
        self._store = store
        self._effects = effects
        self._bulk = bulk
        self._payload_limit = payload_limit

    async def enqueue(self, root: FlowNode, *, caller: Caller, idempotency_key: str | None = None) -> Flow:
        """Creates all jobs of a flow or none: no part of it can be claimed before all of it is there.

        With an idempotency key a repeated call answers with the flow that the first one made.

        Raises: InvalidInput, NotFound (a queue), Conflict when a job's own id or unique key is held elsewhere,
            StoreUnavailable with an unknown outcome.
        """
        planned = plan(root)
        for entry in planned:
            entry.node.job.check(payload_limit=self._payload_limit)
            commands.refuse_own_links(entry.node.job)
            caller.check_queue(entry.node.job.queue)
        documents = self._documents(planned, caller, idempotency_key)
        refused = await self._insert(documents)
        if refused is not None:
            holder = None
            if idempotency_key is not None:
                match = {"org": caller.owner, "idempotency_key": idempotency_key}
                holder = await self._store.jobs.find_one(match, {"flow_id": 1})
            if holder is None:
                raise Conflict(
                    f"A job of this flow has a {refused.replace('_', ' ').replace('hold', 'key')} that another job "
                    "holds; nothing was created."
                )
            found = await self.get(holder.get("flow_id", holder["_id"]), caller=caller)
            if found is None:
                raise Conflict("The idempotency key stands for a job that is not a flow any more.")
            return found
        counts = dict.fromkeys(JobState, 0)
        for document in documents:
            counts[JobState(document["state"])] += 1
        made = job_from(documents[0])
        return Flow(id=made.id, root=made, counts=counts, created_at=made.created_at)

    def _documents(self, planned: list[Any], caller: Caller, idempotency_key: str | None) -> list[Document]:
        ids = [new_id(JOB) for _ in planned]
        now_ms = self._store.clock.now_ms()
        documents = []
        for position, entry in enumerate(planned):
            job = entry.node.job
            document = job_document(
                replace(job, idempotency_key=idempotency_key) if not position else job,
                id=ids[position],
                org=caller.owner,
                app=caller.app,
                actor=caller.actor,
                now_ms=now_ms,
                pending=[ids[other] for other in entry.waits_for],
                key_id=caller.key_id,
                traceparent=caller.traceparent,
            )
            documents.append(commands.placed(document, planned, position, ids))
        return documents

    async def _insert(self, documents: list[Document]) -> str | None:
        """All or none, until the outcome is known. Returns: the index that refused it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        wait = 0.02
        while True:
            try:
                await commands.insert(self._store, documents)
            except job_commands.Duplicate as duplicate:
                root = await job_commands.find_by_ids(self._store, [documents[0]["_id"]], fields={"_id": 1})
                return None if root else duplicate.index
            except Exception as error:
                if not unavailable(error) and not outrun(error):
                    raise
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        "The database did not confirm the flow; it may exist. Repeat it with the same idempotencyKey."
                    ) from error
                # A process that died in its transaction holds the key until the database ends that, within a minute.
                await asyncio.sleep(wait * random.uniform(0.5, 1))
                wait = min(2 * wait, 1.0)
            else:
                return None

    async def get(self, id: str, *, caller: Caller) -> Flow | None:
        """The flow with this root, or that this job belongs to; None when the caller sees none."""
        row = await job_commands.locate(self._store, id, caller)
        if row is None or "flow_id" not in row:
            return None
        if row["flow_id"] != row["_id"]:
            row = await job_commands.locate(self._store, row["flow_id"], caller)
            if row is None:
                return None
        counts = await commands.counts(self._store, [row["_id"]])
        return _flow(job_from(row), counts)

    async def get_many(self, roots: Sequence[str], *, caller: Caller) -> dict[str, Flow]:
        """Flows by the ids of their roots, without heavy fields; those that are not visible are left out."""
        match: Document = {"_id": {"$in": list(roots)}, "flow_root": True, "state": {"$ne": "removed"}}
        rows = await self._store.jobs.find(
            match | job_commands.visible_to(caller), listing.projection(frozenset())
        ).to_list(None)
        counts = await commands.counts(self._store, [row["_id"] for row in rows])
        return {row["_id"]: _flow(job_from(row), counts) for row in rows}

    async def page(
        self,
        *,
        caller: Caller,
        states: list[JobState] | None = None,
        first: int | None = None,
        last: int | None = None,
        after: str | None = None,
        before: str | None = None,
    ) -> Page[Flow]:
        """Flows by the state of their roots, the newest first."""
        match: Document = {"flow_root": True, "state": {"$in": [state.value for state in states or JobState]}}
        found = await listing.keyset_page(
            self._store,
            match | job_commands.visible_to(caller),
            order=listing.JobOrder.CREATED_DESC,
            first=first if first is not None or last is not None else 50,
            last=last,
            after=after,
            before=before,
            fields=listing.projection(frozenset()),
        )
        counts = await commands.counts(self._store, [row["_id"] for row in found.documents])
        items = [_flow(job_from(row), counts) for row in found.documents]
        return Page(items, found.cursors, found.has_next, found.has_previous)

    async def children(self, parent_id: str, *, caller: Caller) -> list[Job]:
        """All children of a job, oldest first, with payload, result and error, without logs and history."""
        match: Document = {"parent_id": parent_id, "state": {"$ne": "removed"}, **job_commands.visible_to(caller)}
        fields = listing.projection(frozenset({"payload", "result"}))
        rows = self._store.jobs.find(match, fields, sort=[("_id", 1)], limit=MAX_NODES)
        return [job_from(row) async for row in rows]

    async def cancel(self, id: str, *, caller: Caller) -> BulkOperation:
        """Cancels every open job of a flow; active ones are asked to stop. Raises: NotFound, Forbidden when it has jobs
        that the caller does not see, InvalidTransition when all of it is final."""
        flow = await self._whole(id, caller)
        if not any(count for state, count in flow.counts.items() if state not in FINAL):
            raise InvalidTransition("cancel", flow.root.state, [state for state in JobState if state not in FINAL])
        await commands.mark_cancelling(self._store, flow.id, caller.actor)
        return await self._bulk.start("cancel", JobFilter(flow_id=flow.id), caller=caller)

    async def retry(self, id: str, *, caller: Caller) -> Flow:
        """Runs what failed or was cancelled again: jobs whose children completed at once, those above them when theirs
        have. What completed stays. Harmless to repeat.

        Raises: NotFound, Forbidden (as for `cancel`), InvalidTransition when nothing of it failed, Conflict when a
            unique key is held elsewhere.
        """
        flow = await self._whole(id, caller)
        await self._ended(flow.id)
        action = {"name": "flow.retry", "id": new_id(AUDIT), "at_ms": self._store.clock.now_ms()}
        try:
            moved = await commands.retry(self._store, flow.id, caller.actor, source=caller.surface, action=action)
        except job_commands.Duplicate:
            raise Conflict(
                f"Cannot retry all of flow {flow.id!r}: an open job elsewhere holds the unique key of one of its jobs."
            ) from None
        if not moved:
            again = await self._required(id, caller)
            raise InvalidTransition("retry", again.root.state, ["failed", "cancelled"])
        self._effects.kick()
        return await self._required(id, caller)

    async def _ended(self, id: str) -> None:
        """Waits, for a few seconds, until a cancel of the flow has gone through it, and every end in it is told.

        Raises: Conflict when it has not.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            going = await self._store.bulk_operations.find_one(
                {"flow": id, "verb": "cancel", "done": False}, {"_id": 1}
            )
            unrelayed = await commands.unrelayed(self._store, id)
            if going is None and not unrelayed:
                return
            if time.monotonic() > deadline:
                raise Conflict(f"Flow {id!r} is still being cancelled; try again when that is done.")
            for job_id in unrelayed:
                await self._effects.relay(id=job_id)
            if not unrelayed:
                await asyncio.sleep(0.02)

    async def _whole(self, id: str, caller: Caller) -> Flow:
        flow = await self._required(id, caller)
        if caller.queues is not None:
            beyond = {"flow_id": flow.id, "state": {"$ne": "removed"}, "queue": {"$nin": sorted(caller.queues)}}
            if await self._store.jobs.find_one(beyond, {"_id": 1}) is not None:
                raise Forbidden(f"Flow {flow.id!r} has jobs in queues that your key does not see.")
        return flow

    async def _required(self, id: str, caller: Caller) -> Flow:
        flow = await self.get(id, caller=caller)
        if flow is None:
            raise NotFound("Flow", id)
        return flow


def _flow(root: Job, counts: dict[str, dict[JobState, int]]) -> Flow:
    return Flow(id=root.id, root=root, counts=counts.get(root.id, {root.state: 1}), created_at=root.created_at)
