"""Seeded faults: guards and pipelines broken one at a time, as they were found broken in other queues.

Each is a context manager that patches the product while it is open; `index` names what it drops from the database.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from switchtower.engine import dead_letters, enqueue, workers
from switchtower.engine.claims import Claims
from switchtower.engine.jobs import Jobs
from switchtower.engine.permits import Permits
from switchtower.engine.upkeep import Upkeep
from switchtower.engine.workers import CLAIM_ALLOWANCE, Workers
from switchtower.jobs import ErrorKind, JobError
from switchtower.store import claims, leases, operations, outbox, permits, plain, transitions
from switchtower.store import jobs as job_commands
from switchtower.store.documents import claimed_from, job_from

Mutant = Callable[[], AbstractContextManager[Any]]
GAP_SECONDS = 0.01
"""Between the two halves of what must be one step."""


def _pipeline(module: Any, name: str, change: Callable[[list[dict[str, Any]]], None]) -> AbstractContextManager[Any]:
    """A transition whose pipeline is changed after it was made."""
    whole = getattr(module, name)

    def broken(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        stages: list[dict[str, Any]] = whole(*arguments, **options)
        change(stages)
        return stages

    return patch.object(module, name, broken)


def report_by_state_only() -> AbstractContextManager[Any]:
    return patch.object(claims, "by_token", lambda verb, token: {"state": "active"})


def plain_completions_are_not_guarded() -> AbstractContextManager[Any]:
    return patch.object(plain, "completion_guard", lambda job: {})


def report_by_id_only() -> AbstractContextManager[Any]:
    return patch.object(claims, "by_token", lambda verb, token: {})


def rescue_without_the_seen_token() -> AbstractContextManager[Any]:
    async def take_back(self: Workers, worker_id: str) -> int:
        error = JobError(ErrorKind.WORKER_LOST, "WorkerLost", "lost", None, "")
        pipeline = transitions.rescue(error, claim_allowance=CLAIM_ALLOWANCE)
        rows = await self._store.jobs.find({"worker_id": worker_id, "state": "active"}, {"_id": 1}).to_list(None)
        await asyncio.sleep(GAP_SECONDS)
        match = {"_id": {"$in": [row["_id"] for row in rows]}, "state": "active"}
        return int((await self._store.jobs.update_many(match, pipeline)).modified_count)

    return patch.object(Workers, "take_back", take_back)


def rescue_in_grace() -> AbstractContextManager[Any]:
    whole = Upkeep.rescue

    async def rescue(self: Upkeep) -> int:
        self._healthy_since = float("-inf")
        return await whole(self)

    return patch.object(Upkeep, "rescue", rescue)


def starts_are_not_charged() -> AbstractContextManager[Any]:
    return _pipeline(transitions, "start", lambda stages: stages[0]["$set"].pop("attempt"))


def poison_runs_for_ever() -> AbstractContextManager[Any]:
    def change(stages: list[dict[str, Any]]) -> None:
        branches = stages[0]["$set"]["_"]["to"]["$switch"]["branches"]
        branches[:] = [branch for branch in branches if branch["then"] != "failed"]

    return _pipeline(transitions, "rescue", change)


def attempts_are_not_bounded() -> AbstractContextManager[Any]:
    def change(stages: list[dict[str, Any]]) -> None:
        for branch in stages[0]["$set"]["_"]["$switch"]["branches"]:
            if branch["then"].get("to") == "failed":
                branch["case"] = branch["case"]["$or"][0]

    return _pipeline(transitions, "fail", change)


def cancel_requests_are_forgotten() -> AbstractContextManager[Any]:
    def change(stages: list[dict[str, Any]]) -> None:
        branches = stages[0]["$set"]["_"]["$switch"]["branches"]
        branches[:] = [branch for branch in branches if branch["then"].get("to") != "cancelled"]

    return _pipeline(transitions, "fail", change)


def cancel_reads_then_writes() -> AbstractContextManager[Any]:
    whole = Jobs.cancel

    async def cancel(self: Jobs, id: str, *, caller: Any) -> Any:
        row = await self._store.jobs.find_one({"_id": id})
        await asyncio.sleep(GAP_SECONDS)
        if row is None or row["state"] not in ("waiting", "scheduled", "blocked", "retrying"):
            return await whole(self, id, caller=caller)
        move = {"$set": {"state": "cancelled"}, "$unset": {"token": "", "worker_id": "", "unique_hold": ""}}
        return job_from(await self._store.jobs.find_one_and_update({"_id": id}, move, return_document=True))

    return patch.object(Jobs, "cancel", cancel)


def letters_without_an_index() -> AbstractContextManager[Any]:
    return _without_index("dead_letters", "job")


def unique_keys_without_an_index() -> AbstractContextManager[Any]:
    return _without_index("jobs", "unique_hold")


@contextmanager
def _without_index(collection: str, index: str) -> Any:
    yield (collection, index)


def retry_ignores_the_unique_key() -> AbstractContextManager[Any]:
    def change(stages: list[dict[str, Any]]) -> None:
        stages[0]["$set"]["unique_hold"] = "$unique_hold"

    return _pipeline(operations, "retry", change)


def retry_keeps_the_generation() -> AbstractContextManager[Any]:
    return _pipeline(operations, "retry", lambda stages: stages[0]["$set"].pop("generation"))


def children_are_counted_not_named() -> AbstractContextManager[Any]:
    def change(stages: list[dict[str, Any]]) -> None:
        # As `$inc: {remaining: -1}` does: whatever is told again is subtracted again.
        pending = {"$ifNull": ["$pending", []]}
        size = {"$size": pending}
        rest = {"$slice": [pending, 1, {"$max": [1, size]}]}
        stages[0]["$set"]["_"]["left"] = {"$cond": [{"$gt": [size, 1]}, rest, []]}

    @contextmanager
    def broken() -> Any:
        whole = outbox.settle

        async def settle(store: Any, jobs: Any) -> None:
            for job in jobs:
                parent = {"_id": job.get("parent_id"), "pending": {"$exists": True}}
                if job.get("last_state", job["state"]) == "completed" and parent["_id"]:
                    await store.jobs.update_many(parent, transitions.unblock([job["_id"]]))
            await whole(store, jobs)

        with _pipeline(transitions, "unblock", change), patch.object(outbox, "settle", settle):
            yield

    return broken()


def outbox_is_cleared_first() -> AbstractContextManager[Any]:
    whole = outbox.relay

    async def relay(store: Any, jobs: Any) -> int:
        ids = [job["_id"] for job in jobs]
        await store.jobs.update_many({"_id": {"$in": ids}}, {"$unset": {"outbox": ""}})
        return await whole(store, jobs)

    return patch.object(outbox, "relay", relay)


def renewal_revives_the_lost() -> AbstractContextManager[Any]:
    async def renew(store: Any, worker_id: str, lease_ms: int | None = None) -> Any:
        return await store.workers.find_one_and_update(
            {"_id": worker_id}, {"$set": {"state": "live"}}, return_document=True
        )

    return patch.object(leases, "renew", renew)


def replay_ignores_its_key() -> AbstractContextManager[Any]:
    whole = dead_letters._as_new
    return patch.object(dead_letters, "_as_new", lambda entry, key: whole(entry, None))


def claims_ignore_priority() -> AbstractContextManager[Any]:
    return patch.object(claims, "ORDER", [("order", 1), ("seq", 1)])


def paused_jobs_are_kept() -> AbstractContextManager[Any]:
    async def allowed(self: Claims, rows: Any, controls: Any, granted: Any = None) -> Any:
        return [claimed_from(row) for row in rows]

    return patch.object(Claims, "allowed", allowed)


def limits_are_not_looked_at_again() -> AbstractContextManager[Any]:
    async def needs(self: Permits, jobs: Any, controls: Any) -> Any:
        return defaultdict(dict)

    @contextmanager
    def patched() -> Iterator[None]:
        whole = Claims.allowed

        async def allowed(self: Claims, rows: Any, controls: Any, granted: Any = None) -> Any:
            with patch.object(Permits, "needs", needs):
                return await whole(self, rows, controls, granted)

        with patch.object(Claims, "allowed", allowed):
            yield

    return patched()


def limits_do_not_see_what_runs() -> AbstractContextManager[Any]:
    async def running(store: Any, match: Any) -> dict[str, int]:
        return {}

    return patch.object(permits, "running", running)


def new_handlers_unpark_nothing() -> AbstractContextManager[Any]:
    return patch.object(workers.transitions, "unpark", lambda: [{"$set": {"parked": "$parked"}}])


def active_jobs_can_be_removed() -> AbstractContextManager[Any]:
    whole = job_commands.starts_from
    return patch.object(job_commands, "starts_from", lambda verb: {} if verb == "remove" else whole(verb))


def gone_claimers_are_not_looked_for() -> AbstractContextManager[Any]:
    async def nobody(store: Any, limit: int = 0) -> set[str]:
        rows = await store.workers.find({"state": {"$in": ["lost", "stopped"]}, "seen": None}).to_list(None)
        await store.workers.update_many({"state": {"$in": ["lost", "stopped"]}}, {"$set": {"seen": True}})
        return {row["_id"] for row in rows}

    return patch.object(leases, "stray_holders", nobody)


def failed_children_free_their_parents() -> AbstractContextManager[Any]:
    async def settle(store: Any, jobs: Any) -> None:
        ids = [job["_id"] for job in jobs]
        await store.jobs.update_many({"pending": {"$in": ids}}, transitions.unblock(ids))

    return patch.object(outbox, "settle", settle)


def idempotency_keys_are_forgotten() -> AbstractContextManager[Any]:
    whole = enqueue.job_document

    def document(new: Any, **options: Any) -> dict[str, Any]:
        made = whole(new, **options)
        made.pop("idempotency_key", None)
        return made

    return patch.object(enqueue, "job_document", document)


def throttles_never_end() -> AbstractContextManager[Any]:
    return patch.object(job_commands, "may_have_lapsed", lambda holder, now: False)


def throttles_end_with_their_jobs() -> AbstractContextManager[Any]:
    whole = job_commands.may_have_lapsed

    def lapsed(holder: Any, now: Any) -> bool:
        return holder["state"] in ("completed", "failed", "cancelled") or whole(holder, now)

    async def release(store: Any, id: str) -> bool:
        await store.jobs.update_one({"_id": id}, {"$unset": {"unique_hold": ""}})
        return True

    return patch.multiple(job_commands, may_have_lapsed=lapsed, release_hold=release)


MUTANTS: list[Mutant] = [
    report_by_state_only,
    report_by_id_only,
    plain_completions_are_not_guarded,
    rescue_without_the_seen_token,
    rescue_in_grace,
    starts_are_not_charged,
    poison_runs_for_ever,
    attempts_are_not_bounded,
    cancel_requests_are_forgotten,
    cancel_reads_then_writes,
    letters_without_an_index,
    unique_keys_without_an_index,
    retry_ignores_the_unique_key,
    retry_keeps_the_generation,
    children_are_counted_not_named,
    outbox_is_cleared_first,
    renewal_revives_the_lost,
    replay_ignores_its_key,
    claims_ignore_priority,
    paused_jobs_are_kept,
    limits_are_not_looked_at_again,
    limits_do_not_see_what_runs,
    new_handlers_unpark_nothing,
    active_jobs_can_be_removed,
    gone_claimers_are_not_looked_for,
    failed_children_free_their_parents,
    idempotency_keys_are_forgotten,
    throttles_never_end,
    throttles_end_with_their_jobs,
]
