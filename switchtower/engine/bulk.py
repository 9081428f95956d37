"""How does one verb reach a million jobs without being forgotten half-way?

A bulk operation is a document: the verb, the filter, a cut (jobs created later are not meant), and how far it came. It
goes through the jobs in id order, a thousand at a time, and can be taken up by any process after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from switchtower.callers import Caller
from switchtower.engine.effects import Effects
from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.ids import BULK, new_id
from switchtower.jobs import JobFilter
from switchtower.states import JobState
from switchtower.store import bulk as commands
from switchtower.store import leases, listing, operations
from switchtower.store.collections import Store
from switchtower.store.driver import DriverError, translate_errors, unavailable
from switchtower.store.guards import listed, starts_from

__all__ = ["VERBS", "Bulk", "BulkOperation"]

Document = dict[str, Any]

log = logging.getLogger(__name__)

CHUNK = 1_000
MOST_EXPECTED = 1_000_000
SAMPLE = 20
TERM_MS = 15_000
FIRST_ANSWER_SECONDS = 2.0
VERBS = ("cancel", "retry", "promote", "remove")


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """How far a bulk operation came. `matched` jobs met the filter so far, `changed` were moved, `failed` refused (a
    unique key held elsewhere); `expected` is how many matched at its start, None where that is not known. A dry run has
    no id: it only counted (up to 10,000) and sampled."""

    id: str | None
    verb: str
    matched: int
    exact: bool
    changed: int
    failed: int
    done: bool
    sample_ids: list[str]
    actor: str
    created_at: datetime
    finished_at: datetime | None
    expected: int | None = None


def _operation_from(d: Document) -> BulkOperation:
    return BulkOperation(
        d["_id"],
        d["verb"],
        d["matched"],
        True,
        d["changed"],
        d["failed"],
        d["done"],
        d["sample"],
        d["actor"],
        d["created_at"],
        d.get("finished_at"),
        d.get("expected"),
    )


@translate_errors
class Bulk:
    """The verbs on many jobs at once."""

    def __init__(self, store: Store, effects: Effects, holder: str) -> None:
        self._store = store
        self._effects = effects
        self._holder = holder
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, verb: str, filter: JobFilter, *, caller: Caller, dry_run: bool = False) -> BulkOperation:
        """Applies a verb to every job that matches now and may make that transition.

        A dry run changes nothing: it answers with how many match (up to 10,000) and a sample. Otherwise the answer
        comes
        when all is done, or after two seconds, with the operation going on; `get` and its events tell how far.
        """
        if verb not in VERBS:
            raise InvalidInput("verb", f"must be one of {', '.join(VERBS)}.")
        may_move = self._states(verb)["state"]["$in"]
        asked = JobState if filter.states is None else filter.states
        states = [state for state in asked if state.value in may_move]
        match = listing.branches(replace(filter, states=states), reach=caller.reach).match
        now = self._store.clock.now()
        # As `_chunk` asks: in the order of ids, whatever index that takes.
        first = {"$and": [match, {"_id": {"$gt": ""}}]}
        rows = await self._store.jobs.find(first, {"_id": 1}, sort=[("_id", 1)], limit=SAMPLE).to_list(None)
        sample = [row["_id"] for row in rows]
        if dry_run:
            value, exact = await listing.count(self._store, match, cap=10_000)
            return BulkOperation(None, verb, value, exact, 0, 0, True, sample, caller.actor, now, None)
        id = new_id(BULK)
        document: Document = {
            "_id": id,
            "verb": verb,
            "match": commands.stored(match),
            "cut": now,
            "after": "",
            "matched": 0,
            "changed": 0,
            "failed": 0,
            "done": False,
            "sample": sample,
            "actor": caller.actor,
            "org": caller.org,
            "created_at": now,
            "event_seq": 1,
            "event": {"1": {"type": "start", "at": now, "actor": caller.actor, "org": caller.owner, "verb": verb}},
        }
        if filter.flow_id is not None:
            document["flow"] = document["event"]["1"]["flow"] = filter.flow_id
        if caller.queues is not None:
            document["queues"] = sorted(caller.queues)
        if caller.surface is not None:
            document["source"] = document["event"]["1"]["source"] = caller.surface
        await self._store.bulk_operations.insert_one(document)
        task = asyncio.create_task(self._run(id), name=f"bulk {id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), FIRST_ANSWER_SECONDS)
        found = await self.get(id, caller=caller)
        assert found is not None
        return found

    async def get(self, id: str, *, caller: Caller) -> BulkOperation | None:
        """The operation with this id; None when the caller sees none."""
        match = {"_id": id} | ({} if caller.org is None else {"org": caller.org}) | listed(caller.reach)
        row = await self._store.bulk_operations.find_one(match)
        return None if row is None else _operation_from(row)

    async def resume(self) -> int:
        """Takes up operations whose process died. Returns: how many were brought to their end."""
        ended = 0
        rows = await self._store.bulk_operations.find({"done": False}, {"_id": 1}, sort=[("_id", 1)], limit=20).to_list(
            None
        )
        for row in rows:
            await self._run(row["_id"])
            ended += 1
        return ended

    async def close(self) -> None:
        """Leaves what is under way to the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    def _states(verb: str) -> Document:
        states = [state.value for state in JobState]
        if verb == "cancel":
            states = ["scheduled", "waiting", "blocked", "retrying", "active"]
        elif verb != "remove":
            condition = starts_from(verb)["state"]
            states = condition["$in"] if isinstance(condition, dict) else [condition]
        else:
            states.remove("active")
        return {"state": {"$in": states}}

    async def _run(self, id: str) -> None:
        duty, counted = f"bulk {id}", False
        try:
            while await leases.acquire(self._store, duty, self._holder, TERM_MS) is not None:
                if not counted:
                    await self._expect(id)
                    counted = True
                if await self._chunk(id):
                    await self._store.leases.delete_one({"_id": duty})
                    return
        except DriverError as error:
            log.warning("bulk operation %s is left to maintenance: %s", id, error)
        except asyncio.CancelledError:
            with contextlib.suppress(DriverError):
                await leases.resign(self._store, duty, self._holder)
            raise

    async def _expect(self, id: str) -> None:
        """Counts what is to be done before anything is; of more than a million, or where it takes too long, it stays
        unknown."""
        operation = await self._store.bulk_operations.find_one({"_id": id, "after": "", "expected": {"$exists": False}})
        if operation is None:
            return
        match = {"$and": [commands.restored(operation["match"]), {"created_at": {"$lte": operation["cut"]}}]}
        try:
            value, exact = await listing.count(self._store, match, cap=MOST_EXPECTED)
        except StoreUnavailable:
            return
        except DriverError as error:
            if unavailable(error):
                return
            raise
        await self._store.bulk_operations.update_one({"_id": id}, {"$set": {"expected": value if exact else None}})

    async def _chunk(self, id: str) -> bool:
        """One chunk; returns whether the operation is done.

        A chunk that is repeated after a crash changes no job twice (moved jobs no longer match); those that the dead
        process moved and did not get to count are missing from `changed`, never from the work.
        """
        operation = await self._store.bulk_operations.find_one({"_id": id})
        if operation is None or operation["done"]:
            return True
        seen = operation["after"]
        mark = f"{id}#{seen}"
        ids_only = {"_id": {"$gt": seen}, "created_at": {"$lte": operation["cut"]}}
        match = {"$and": [commands.restored(operation["match"]), ids_only]}
        rows = await self._store.jobs.find(match, {"outbox": 1}, sort=[("_id", 1)], limit=CHUNK).to_list(None)
        ids = [row["_id"] for row in rows]
        if operation["verb"] in ("retry", "remove"):
            await self._tell(ids, [row["_id"] for row in rows if "outbox" in row])
        failed = await self._apply(operation["verb"], ids, operation["actor"], mark) if ids else 0
        changed = await self._store.jobs.count_documents({"_id": {"$in": ids}, "bulk": mark}) if ids else 0
        done = len(rows) < CHUNK
        self._effects.kick()
        await commands.advance(
            self._store,
            id,
            seen=seen,
            reached=ids[-1] if ids else seen,
            matched=len(ids),
            changed=changed,
            failed=failed,
            done=done,
        )
        return done

    async def _tell(self, ids: list[str], untold: list[str]) -> None:
        """Carries out what these jobs' ends declared, and what follows of it for others of the chunk."""
        while untold:
            for id in untold:
                await self._effects.relay(id=id)
            match = {"_id": {"$in": ids}, "outbox": {"$exists": True}}
            untold = [row["_id"] async for row in self._store.jobs.find(match, {"_id": 1})]

    async def _apply(self, verb: str, ids: list[str], actor: str, mark: str) -> int:
        """Moves a chunk with one guarded write; where a unique key refuses one job, each job by itself. Returns:
        refused."""
        pipeline = getattr(operations, verb)(actor)
        pipeline = [{"$set": {**pipeline[0]["$set"], "bulk": mark}}]
        guard: Document = dict(self._states(verb))
        if verb in ("retry", "remove"):
            guard["outbox"] = {"$exists": False}
        return await commands.move_chunk(self._store, verb, ids, pipeline, guard=guard)
