"""Seeded faults of flows, bulk operations and crons, as `mutants` has them of single jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from switchtower.callers import Caller
from switchtower.crons import Cron, Fire
from switchtower.engine.bulk import Bulk
from switchtower.engine.crons import Crons
from switchtower.engine.jobs import Jobs
from switchtower.ids import new_id
from switchtower.jobs import NewJob
from switchtower.store import crons, flows, operations, outbox, transitions

GAP_SECONDS = 0.01


def _suspending(state: str) -> AbstractContextManager[Any]:
    """Runs that wait for their children always land on one state."""
    whole = transitions.give_back

    def give_back(type: str, token: str, *, wait_ms: int = 0) -> list[dict[str, Any]]:
        stages = whole(type, token, wait_ms=wait_ms)
        if type == "suspend":
            # $cond: [cancel requested, cancelled, what the children say]
            stages[0]["$set"]["state"]["$cond"][2] = state
        return stages

    return patch.object(transitions, "give_back", give_back)


def suspend_does_not_see_who_has_ended() -> AbstractContextManager[Any]:
    return _suspending("blocked")


def suspend_waits_for_nobody() -> AbstractContextManager[Any]:
    return _suspending("waiting")


def half_flows_are_made() -> AbstractContextManager[Any]:
    async def insert(store: Any, documents: Sequence[Mapping[str, Any]]) -> None:
        for document in documents:
            await store.jobs.insert_one(document)

    return patch.object(flows, "insert", insert)


def tolerant_parents_fail() -> AbstractContextManager[Any]:
    whole = outbox._settle_failure

    async def settle(store: Any, job: Any) -> None:
        await store.jobs.update_many({"pending": job["_id"]}, {"$unset": {"on_child_failure": ""}})
        await whole(store, job)

    return patch.object(outbox, "_settle_failure", settle)


def cancelled_flows_fail_what_waits_in_them() -> AbstractContextManager[Any]:
    whole = outbox._settle_failure

    async def settle(store: Any, job: Any) -> None:
        await whole(store, {field: value for field, value in job.items() if field != "cancelling"})

    return patch.object(outbox, "_settle_failure", settle)


def retry_of_a_flow_runs_what_completed() -> AbstractContextManager[Any]:
    whole = flows.retry

    async def retry(store: Any, flow_id: str, actor: str, **options: Any) -> int:
        moved = await whole(store, flow_id, actor, **options)
        match = {"flow_id": flow_id, "state": "completed", "parent_id": {"$exists": True}}
        if moved:
            moved += (await store.jobs.update_many(match, operations.retry(actor))).modified_count
        return moved

    return patch.object(flows, "retry", retry)


def retry_of_a_flow_runs_all_at_once() -> AbstractContextManager[Any]:
    whole = operations.retry
    return patch.object(operations, "retry", lambda actor, *, pending=(), **options: whole(actor, **options))


def bulk_passes_its_cut() -> AbstractContextManager[Any]:
    whole = Bulk._chunk

    async def chunk(self: Bulk, id: str) -> bool:
        await self._store.bulk_operations.update_one({"_id": id}, {"$set": {"cut": datetime(2999, 1, 1, tzinfo=UTC)}})
        return await whole(self, id)

    return patch.object(Bulk, "_chunk", chunk)


def bulk_is_noted_before_it_is_done() -> AbstractContextManager[Any]:
    whole = Bulk._apply

    async def apply(self: Bulk, verb: str, ids: list[str], actor: str, mark: str) -> int:
        await self._store.bulk_operations.update_one({"_id": mark.split("#")[0]}, {"$set": {"after": ids[-1]}})
        return await whole(self, verb, ids, actor, mark)

    return patch.object(Bulk, "_apply", apply)


@contextmanager
def slots_have_no_id_of_their_own() -> Iterator[None]:
    async def enqueue_as(self: Jobs, id: str, new: NewJob, *, caller: Caller) -> Any:
        there = await self._store.jobs.find_one({"custom_id": new.job_id}, {"_id": 1})
        return await self._enqueuer.enqueue_as(id, replace(new, job_id=None) if there else new, caller=caller)

    with (
        patch("switchtower.engine.crons.settled_id", lambda prefix, at_ms, cause: new_id(prefix)),
        patch.object(Jobs, "enqueue_as", enqueue_as),
    ):
        yield


def overlap_is_not_looked_at() -> AbstractContextManager[Any]:
    async def nobody(self: Crons, job_id: str) -> None:
        return None

    return patch.object(Crons, "_open", nobody)


def slots_behind_an_open_job_replace_nothing() -> AbstractContextManager[Any]:
    whole = Crons._make

    async def make(self: Crons, cron: Cron, slot: datetime, previous: str | None, skip: str | None) -> Fire:
        return await whole(self, cron, slot, previous if cron.overlap == "skip" else None, skip)

    return patch.object(Crons, "_make", make)


def slots_are_taken_twice() -> AbstractContextManager[Any]:
    async def take(store: Any, cron: Any, slots: Any, *, next_at: Any) -> Any:
        await asyncio.sleep(GAP_SECONDS)
        return await store.crons.find_one_and_update(
            {"_id": cron["_id"], "enabled": True},
            {"$set": {"next_at": next_at, "due": [{"slot": slot} for slot in slots]}, "$inc": {"fired": len(slots)}},
            return_document=True,
        )

    return patch.object(crons, "take_slots", take)


def skipped_slots_count() -> AbstractContextManager[Any]:
    whole = crons.settle

    async def settle(store: Any, cron_id: str, slot: datetime, fire: Fire, **options: Any) -> bool:
        settled = await whole(store, cron_id, slot, fire, **options)
        if settled and fire.outcome == "skipped":
            await store.crons.update_one({"_id": cron_id}, {"$inc": {"fired": 1}})
        return settled

    return patch.object(crons, "settle", settle)


MUTANTS_OF_FLOWS = [
    suspend_does_not_see_who_has_ended,
    suspend_waits_for_nobody,
    half_flows_are_made,
    tolerant_parents_fail,
    cancelled_flows_fail_what_waits_in_them,
    retry_of_a_flow_runs_what_completed,
    retry_of_a_flow_runs_all_at_once,
]
MUTANTS_OF_BULK = [
    bulk_passes_its_cut,
    bulk_is_noted_before_it_is_done,
]
MUTANTS_OF_CRONS = [
    slots_have_no_id_of_their_own,
    overlap_is_not_looked_at,
    slots_behind_an_open_job_replace_nothing,
    slots_are_taken_twice,
    skipped_slots_count,
]
