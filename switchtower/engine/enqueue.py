"""How does a job come into being, exactly once whatever happens to the answer?

Concurrent calls of one event-loop turn share one insert. Ids are made before the first try, so a repeated insert finds
itself; caller's ids, idempotency keys and unique keys are unique indexes, so a duplicate is an answer, not a race.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from switchtower.callers import Caller
from switchtower.errors import (
    Conflict,
    InvalidInput,
    InvalidTransition,
    LeaseLost,
    NotFound,
    StoreUnavailable,
    SwitchtowerError,
)
from switchtower.ids import JOB, new_id
from switchtower.jobs import Deduplication, Enqueued, NewJob
from switchtower.states import FINAL, JobState
from switchtower.store import jobs as commands
from switchtower.store import operations, outbox, transitions
from switchtower.store.collections import Store
from switchtower.store.documents import job_document, job_from
from switchtower.store.driver import unavailable

__all__ = ["Enqueuer"]

Document = dict[str, Any]
T = TypeVar("T")

PATIENCE_SECONDS = 5.0
BATCH = 1_000
FLIGHTS = 2

_REASONS = {
    "idempotency_key": Deduplication.IDEMPOTENCY_KEY,
    "custom_id": Deduplication.JOB_ID,
    "unique_hold": Deduplication.UNIQUE_KEY,
}
"""The unique indexes, and what being refused by each of them means."""


class Enqueuer:
    """Turns NewJobs into documents and inserts them, many in one command."""

    def __init__(self, store: Store, payload_limit: int) -> None:
        self._store = store
        self._payload_limit = payload_limit
        self._pending: list[tuple[Document, asyncio.Future[str | None]]] = []
        self._flights = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def enqueue(self, new: NewJob, *, caller: Caller, session: Any = None, lease: str | None = None) -> Enqueued:
        """Creates one job, or finds the one that an earlier equal call created.

        Raises: InvalidInput; NotFound for an unknown parent or dependency; InvalidTransition for a parent that is
        final;
            Conflict for a duplicate inside the caller's own transaction; StoreUnavailable with an unknown outcome.
        """
        new.check(payload_limit=self._payload_limit)
        if session is not None:
            return await self._within(session, new, caller)
        if new.parent_id is not None or new.depends_on:
            return await self._linked(new, caller, lease)
        document = self._document(new, caller)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()
        self._pending.append((document, future))
        if not self._scheduled and self._flights < FLIGHTS:
            self._scheduled = True
            loop.call_soon(self._take_off)
        return await self._answer(document, await future)

    async def enqueue_as(self, id: str, new: NewJob, *, caller: Caller) -> Enqueued:
        """Creates the job that has this id whoever creates it; one that is there, or was removed, is an answer too.

        Raises: InvalidInput; StoreUnavailable with an unknown outcome.
        """
        new.check(payload_limit=self._payload_limit)
        document = self._document(new, caller, id=id)
        return await self._answer(document, (await self._insert([document])).get(0))

    async def enqueue_many(self, news: Sequence[NewJob], *, caller: Caller) -> list[Enqueued | SwitchtowerError]:
        """Creates many jobs; every item gets its own answer, in order.

        One chunk is built while the one before is written; chunks are written in order, since their `seq` is the
        server's.
        """
        answers: list[Enqueued | SwitchtowerError] = [StoreUnavailable()] * len(news)
        documents: list[tuple[int, Document]] = []
        under_way: asyncio.Task[None] | None = None
        for position, new in enumerate(news):
            try:
                new.check(payload_limit=self._payload_limit)
                if new.parent_id is not None or new.depends_on:
                    answers[position] = await self._linked(new, caller)
                else:
                    documents.append((position, self._document(new, caller)))
            except SwitchtowerError as error:
                answers[position] = error
            except Exception as error:
                if not unavailable(error):
                    raise
                answers[position] = StoreUnavailable()
            if len(documents) >= BATCH or (documents and position == len(news) - 1):
                if under_way is not None:
                    await under_way
                under_way = asyncio.create_task(self._insert_chunk(documents, answers))
                documents = []
                await asyncio.sleep(0)
        if under_way is not None:
            await under_way
        if documents:
            await self._insert_chunk(documents, answers)
        return answers

    async def enqueue_awaited(
        self, jobs: Sequence[tuple[str, NewJob]], *, caller: Caller, parent_id: str | None, flow_id: str | None
    ) -> None:
        """Creates jobs under ids that were decided, and told to whoever waits for them, before; harmless to repeat.

        Raises: Conflict when another job holds a key of one; StoreUnavailable with an unknown outcome.
        """
        for start in range(0, len(jobs), BATCH):
            documents = []
            for id, new in jobs[start : start + BATCH]:
                document = self._document(new, caller, id=id)
                document["awaited"] = True
                if parent_id is not None:
                    document["parent_id"] = document["event"]["1"]["parent"] = parent_id
                    document["flow_id"] = document["event"]["1"]["flow"] = flow_id
                documents.append(document)
            refused = await self._insert(documents)
            if refused:
                raise Conflict(f"Another job holds the {next(iter(refused.values())).replace('_', ' ')} of a child.")

    async def _insert_chunk(
        self, chunk: list[tuple[int, Document]], answers: list[Enqueued | SwitchtowerError]
    ) -> None:
        try:
            refused = await self._insert([document for _, document in chunk])
        except StoreUnavailable as error:
            for position, _ in chunk:
                answers[position] = error
            return
        for offset, (position, document) in enumerate(chunk):
            try:
                answers[position] = await self._answer(document, refused.get(offset))
            except SwitchtowerError as error:
                answers[position] = error

    def _document(
        self, new: NewJob, caller: Caller, *, id: str | None = None, pending: list[str] | None = None
    ) -> Document:
        return job_document(
            new,
            id=id or new_id(JOB),
            org=caller.owner,
            app=caller.app,
            actor=caller.actor,
            source=caller.surface,
            now_ms=self._store.clock.now_ms(),
            pending=pending or [],
        )

    def _take_off(self) -> None:
        self._scheduled = False
        while self._pending and self._flights < FLIGHTS:
            batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
            self._flights += 1
            task = asyncio.ensure_future(self._fly(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fly(self, batch: list[tuple[Document, asyncio.Future[str | None]]]) -> None:
        try:
            refused = await self._insert([document for document, _ in batch])
            for position, (_, future) in enumerate(batch):
                if not future.done():
                    future.set_result(refused.get(position))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else StoreUnavailable())
            if not isinstance(error, Exception):
                raise
        finally:
            self._flights -= 1
            self._take_off()

    async def _insert(self, documents: list[Document]) -> dict[int, str]:
        """Inserts until the outcome is known; an own earlier landing is success."""
        refused = await self._until_known(lambda: commands.insert_many(self._store, documents))
        return {position: index for position, index in refused.items() if index != "_id"}

    async def _until_known(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeats a write that is harmless to repeat until its outcome is known, for at most `PATIENCE_SECONDS`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await write()
            except Exception as error:
                if not unavailable(error):
                    raise
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        "The database did not confirm the enqueue; it may have happened. Repeat it with the same "
                        "idempotencyKey or jobId to get exactly one job."
                    ) from error
                await asyncio.sleep(0.05)

    async def _answer(self, document: Document, refused: str | None) -> Enqueued:
        """The job that was created, or the one that holds what the insert was refused for."""
        for _ in range(20):
            if refused is None:
                return Enqueued(partial(job_from, document))
            holder = await self._holder(document, refused)
            if holder is not None:
                if holder["_id"] == document["_id"]:
                    return Enqueued(job_from(document))
                if refused != "unique_hold" or "dedup" not in document:
                    return Enqueued(job_from(holder), _REASONS[refused])
                try:
                    answer = await self._deduplicated(document, holder)
                except commands.Duplicate as duplicate:
                    refused = duplicate.index
                    continue
                if answer is not None:
                    return answer
                continue
            refused = (await self._insert([document])).get(0)
        raise Conflict("The key changed hands twenty times while this job was being enqueued; try again.")

    async def _deduplicated(self, document: Document, holder: Document) -> Enqueued | None:
        """The answer to an enqueue whose deduplication key is held: that job, replaced where it may be. None when the
        holder of a debounce left its delay meanwhile: the next look lets go of its key.

        Raises: Duplicate when its idempotency key stands for another job.
        """
        asked, id = document["dedup"], holder["_id"]
        if holder.get("replaced_by") == document["_id"]:
            return Enqueued(job_from(holder), Deduplication.REPLACED)
        held = holder.get("idempotency_key")
        if "idempotency_key" in document and document["idempotency_key"] in (
            held if isinstance(held, list) else [held]
        ):
            return Enqueued(job_from(holder), Deduplication.IDEMPOTENCY_KEY)
        if asked["mode"] == "debounce" or asked.get("replace"):
            pipeline = operations.replace(document, document["event"]["1"]["actor"])
            replaced = await self._until_known(lambda: commands.replace(self._store, id, document, pipeline))
            if replaced is None:
                # It changed under our eyes, perhaps by this very write whose answer was lost.
                found = await commands.find_by_ids(self._store, [id])
                if found and found[0].get("replaced_by") == document["_id"]:
                    replaced = found[0]
            if replaced is not None:
                return Enqueued(job_from(replaced), Deduplication.REPLACED)
            if holder["dedup"]["mode"] == "debounce":
                return None
        if asked.get("extend"):
            await self._until_known(lambda: commands.extend(self._store, id, document))
        return Enqueued(job_from(holder), Deduplication(holder["dedup"]["mode"]))

    async def _holder(self, document: Document, index: str) -> Document | None:
        """Who holds the key, unless its time has passed: then it is let go, and None says to try again."""
        match = {"org": document["org"], index: document[index]}
        if index == "custom_id":
            match["queue"] = document["queue"]
        holder: Document | None = await self._store.jobs.find_one(match)
        if holder is None:
            return None
        if index == "unique_hold" and "dedup" in holder:
            lapsed = commands.may_have_lapsed(holder, self._store.clock.now())
            return None if lapsed and await commands.release_hold(self._store, holder["_id"]) else holder
        now = self._store.clock.now()
        over = holder.get("idempotency_until" if index == "idempotency_key" else "unique_until")
        final = holder["state"] in FINAL or holder["state"] == "removed"
        if over is not None and over <= now and (index == "idempotency_key" or final):
            await commands.let_go(self._store)
            still: Document | None = await self._store.jobs.find_one({**match, "_id": holder["_id"]}, {"_id": 1})
            return holder if still else None
        return holder

    async def _within(self, session: Any, new: NewJob, caller: Caller) -> Enqueued:
        """Inserts through the caller's own session: the job appears when the business transaction commits."""
        if new.parent_id is not None or new.depends_on:
            raise InvalidInput("session", "a job with a parent or dependencies cannot be part of a transaction.")
        document = self._document(new, caller)
        if "dedup" in document:
            # A hold whose time has passed must not abort the transaction.
            await self._holder(document, "unique_hold")
        try:
            await commands.insert_in_session(self._store, document, session)
        except commands.Duplicate as duplicate:
            raise Conflict(
                f"Another job holds this {duplicate.index.replace('_', ' ')}; the transaction is aborted."
            ) from None
        return Enqueued(job_from(document))

    async def _linked(self, new: NewJob, caller: Caller, lease: str | None = None) -> Enqueued:
        """Creates a job that waits for others, or that its parent waits for; either side may end at any moment."""
        earlier = await self._earlier(new, caller)
        if earlier is not None:
            return earlier
        id = new_id(JOB)
        dependencies = await self._dependencies(new, caller)
        document = self._document(new, caller, id=id, pending=[row["_id"] for row in dependencies])
        if dependencies:
            document["depends_on"] = [row["_id"] for row in dependencies]
        if new.parent_id is not None:
            await self._join_parent(document, new.parent_id, caller, lease)
        refused = (await self._insert([document])).get(0)
        answer = await self._answer(document, refused)
        if answer.job.id != id:
            if new.parent_id is not None:
                await self._store.jobs.update_many({"pending": id}, transitions.unblock([id]))
            return answer
        if not dependencies:
            return answer
        await commands.mark_awaited(self._store, document["pending"])
        fields = {"state": 1, "last_state": 1, "name": 1, "error": 1}
        now = await commands.find_by_ids(self._store, document["pending"], fields=fields)
        await outbox.settle(self._store, [row for row in now if row["state"] in FINAL or row["state"] == "removed"])
        after = await commands.find_by_ids(self._store, [id])
        return Enqueued(job_from(after[0])) if after else answer

    async def _earlier(self, new: NewJob, caller: Caller) -> Enqueued | None:
        """What an equal call created, whatever became since of those that it is linked to."""
        document = self._document(new, caller)
        for index, reason in _REASONS.items():
            if index in document:
                holder = await self._holder(document, index)
                if holder is not None:
                    deduplicated = index == "unique_hold" and "dedup" in holder
                    stands = Deduplication(holder["dedup"]["mode"]) if deduplicated else reason
                    return Enqueued(job_from(holder), stands)
        return None

    async def _dependencies(self, new: NewJob, caller: Caller) -> list[Document]:
        rows = {}
        for id in dict.fromkeys(new.depends_on):
            row = await commands.locate(self._store, id, caller, fields={"state": 1})
            if row is None:
                raise NotFound("Job", id)
            rows[row["_id"]] = row
        return list(rows.values())

    async def _refuse_circle(self, parent_id: str, dependencies: Sequence[str]) -> None:
        """A job that waits for what its own parent holds up would wait for ever, and its parent with it."""
        seen: set[str] = set()
        found = set(dependencies)
        while found:
            if parent_id in found:
                raise InvalidInput(
                    "dependsOn", "would make a circle: the parent waits for this job, and it for the parent."
                )
            seen |= found
            rows = await commands.find_by_ids(self._store, list(found), fields={"pending": 1})
            found = {id for row in rows for id in row.get("pending", ())} - seen

    async def _join_parent(self, document: Document, parent_id: str, caller: Caller, lease: str | None) -> None:
        """Makes the parent wait for the child before the child exists: it can never finish without having been seen.

        Guard: with `lease`, the token of the run that adds the child is still the parent's. Raises: LeaseLost then.
        """
        parent = await commands.locate(self._store, parent_id, caller, fields={"state": 1})
        if parent is None:
            raise NotFound("Job", parent_id)
        await self._refuse_circle(parent["_id"], document.get("pending", ()))
        document["parent_id"] = document["event"]["1"]["parent"] = parent["_id"]
        pipeline = operations.add_child(document["_id"], caller.actor)
        states = [state.value for state in JobState if state not in FINAL]
        moved = await self._store.jobs.find_one_and_update(
            {"_id": parent["_id"], "state": {"$in": states}, **({} if lease is None else {"token": lease})},
            pipeline,
            {"flow_id": 1},
            return_document=True,
        )
        if moved is not None:
            document["flow_id"] = document["event"]["1"]["flow"] = moved["flow_id"]
        else:
            if lease is not None:
                raise LeaseLost(parent["_id"])
            row = await commands.locate(self._store, parent_id, caller, fields={"state": 1})
            raise InvalidTransition("add a child to", row["state"] if row else "removed", states)
