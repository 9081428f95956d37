"""How does a job come into being, exactly once whatever happens to the answer?

Ids are made before the first try, so a repeated insert finds itself; caller's ids, idempotency keys and unique keys are
unique indexes, so a duplicate is an answer, not a race.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from switchtower.callers import Caller
from switchtower.engine.inserts import BATCH, Inserts, until_known
from switchtower.engine.rooms import NoRoom, Rooms, is_bounded
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
from switchtower.payloads import check_value
from switchtower.states import FINAL, JobState
from switchtower.store import jobs as commands
from switchtower.store import operations, outbox, transitions
from switchtower.store.collections import Store
from switchtower.store.documents import job_document, job_from
from switchtower.store.driver import unavailable
from switchtower.store.templates import Filled, Template, likeness

__all__ = ["Enqueuer"]

Document = dict[str, Any]
_Made = Document | Filled
"""A job's document, which nobody looks into where a template made it."""
_Templates = dict[tuple[Any, ...], Template]

JOBS_PER_TURN = 50

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
        self._rooms = Rooms(store)
        self._inserts = Inserts(store)
        self._templates: dict[Caller, _Templates] = {}
        self._templates_ms = 0

    async def enqueue(self, new: NewJob, *, caller: Caller, session: Any = None, lease: str | None = None) -> Enqueued:
        """Creates one job, or finds the one that an earlier equal call created.

        Raises: InvalidInput; NotFound for an unknown parent or dependency; InvalidTransition for a parent that ended;
            Conflict for a duplicate inside the caller's own transaction; StoreUnavailable with an unknown outcome.
        """
        if session is None and not (is_bounded(new) or new.parent_id is not None or new.depends_on):
            made = self._made(new, caller, self._alike(caller))
            refused = await self._inserts.one(made)
            return Enqueued(made) if isinstance(made, Filled) else await self._answer(made, refused)
        new.check(payload_limit=self._payload_limit)
        id = new_id(JOB)
        if not is_bounded(new):
            return await self._enqueue(id, new, caller, session, lease)
        try:
            async with self._rooms.place(new, id, caller=caller, keep=session is not None):
                return await self._enqueue(id, new, caller, session, lease)
        except NoRoom as full:
            if session is None and (earlier := await self._earlier(new, caller)) is not None:
                return earlier
            raise Conflict(str(full)) from None

    async def _enqueue(self, id: str, new: NewJob, caller: Caller, session: Any, lease: str | None) -> Enqueued:
        if session is not None:
            return await self._within(session, id, new, caller)
        if new.parent_id is not None or new.depends_on:
            return await self._linked(id, new, caller, lease)
        document = self._document(new, caller, id=id)
        return await self._answer(document, await self._inserts.one(document))

    async def enqueue_as(self, id: str, new: NewJob, *, caller: Caller) -> Enqueued:
        """Creates the job that has this id whoever creates it; one that is there, or was removed, is an answer too.

        Raises: InvalidInput; StoreUnavailable with an unknown outcome.
        """
        new.check(payload_limit=self._payload_limit)
        document = self._document(new, caller, id=id)
        return await self._answer(document, (await self._inserts.many([document])).get(0))

    async def enqueue_many(self, news: Sequence[NewJob], *, caller: Caller) -> list[Enqueued | SwitchtowerError]:
        """Creates many jobs; every item gets its own answer, in order.

        One chunk is built while the one before is written; chunks are written in order, since their `seq` is the
        server's. Jobs of a chunk that are alike (`templates.likeness`) share all but id and payload, times included.
        """
        answers: list[Enqueued | SwitchtowerError] = [StoreUnavailable()] * len(news)
        documents: list[tuple[int, _Made]] = []
        templates: _Templates = {}
        under_way: asyncio.Task[None] | None = None
        for position, new in enumerate(news):
            try:
                if is_bounded(new):
                    # It counts those before it.
                    if under_way is not None:
                        await under_way
                        under_way = None
                    await self._insert_chunk(documents, answers)
                    documents, templates = [], {}
                    answers[position] = await self.enqueue(new, caller=caller)
                elif new.parent_id is not None or new.depends_on:
                    answers[position] = await self.enqueue(new, caller=caller)
                    templates.clear()
                else:
                    documents.append((position, self._made(new, caller, templates)))
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
                documents, templates = [], {}
            if position % JOBS_PER_TURN == 0:
                # Or the chunk under way would only be sent when the next is built; nor may thousands hold the loop up.
                await asyncio.sleep(0)
        if under_way is not None:
            await under_way
        await self._insert_chunk(documents, answers)
        return answers

    def _alike(self, caller: Caller) -> _Templates | None:
        """Templates for what this caller enqueues one by one in this millisecond, since times are shared too; None for
        the first job of a command, which may be alone in it."""
        if not self._inserts.waits:
            return None
        now_ms = self._store.clock.now_ms()
        if now_ms != self._templates_ms:
            self._templates, self._templates_ms = {}, now_ms
        return self._templates.setdefault(caller, {})

    def _made(self, new: NewJob, caller: Caller, templates: _Templates | None) -> _Made:
        """The document of a job that stands alone; from `templates` where one of its like is there."""
        kind = None if templates is None else likeness(new)
        template = None if templates is None or kind is None else templates.get(kind)
        if template is not None:
            check_value("payload", new.payload, limit=self._payload_limit)
            return template.filled(new_id(JOB), new.payload)
        new.check(payload_limit=self._payload_limit)
        document = self._document(new, caller)
        if templates is None or kind is None or not commands.is_announced(self._store, document):
            return document
        templates[kind] = template = Template(document)
        return template.filled(document["_id"], new.payload)

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
            refused = await self._inserts.many(documents)
            if refused:
                raise Conflict(f"Another job holds the {next(iter(refused.values())).replace('_', ' ')} of a child.")

    async def _insert_chunk(self, chunk: list[tuple[int, _Made]], answers: list[Enqueued | SwitchtowerError]) -> None:
        if not chunk:
            return
        try:
            refused = await self._inserts.many([document for _, document in chunk])
        except StoreUnavailable as error:
            for position, _ in chunk:
                answers[position] = error
            return
        for offset, (position, document) in enumerate(chunk):
            if isinstance(document, Filled):
                # It has no key that another job could hold.
                answers[position] = Enqueued(document)
            else:
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
            key_id=caller.key_id,
            traceparent=caller.traceparent,
        )

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
            refused = (await self._inserts.many([document])).get(0)
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
            replaced = await until_known(lambda: commands.replace(self._store, id, document, pipeline))
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
            await until_known(lambda: commands.extend(self._store, id, document))
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

    async def _within(self, session: Any, id: str, new: NewJob, caller: Caller) -> Enqueued:
        """Inserts through the caller's own session: the job appears when the business transaction commits."""
        if new.parent_id is not None or new.depends_on:
            raise InvalidInput("session", "a job with a parent or dependencies cannot be part of a transaction.")
        document = self._document(new, caller, id=id)
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

    async def _linked(self, id: str, new: NewJob, caller: Caller, lease: str | None = None) -> Enqueued:
        """Creates a job that waits for others, or that its parent waits for; either side may end at any moment."""
        earlier = await self._earlier(new, caller)
        if earlier is not None:
            return earlier
        dependencies = await self._dependencies(new, caller)
        document = self._document(new, caller, id=id, pending=[row["_id"] for row in dependencies])
        if dependencies:
            document["depends_on"] = [row["_id"] for row in dependencies]
        if new.parent_id is not None:
            await self._join_parent(document, new.parent_id, caller, lease)
        refused = (await self._inserts.many([document])).get(0)
        answer = await self._answer(document, refused)
        if answer.job.id != id:
            if new.parent_id is not None:
                await self._store.jobs.update_many({"pending": id}, transitions.unblock([id]))
            return answer
        if not dependencies:
            return answer
        await commands.mark_awaited(self._store, document["pending"])
        fields = {"state": 1, "last_state": 1, "name": 1, "error": 1, "outbox": 1}
        now = await commands.find_by_ids(self._store, document["pending"], fields=fields)
        ended = [row for row in now if row["state"] in FINAL or row["state"] == "removed"]
        for row in ended:
            if "outbox" in row:
                # All that its end declares, before a policy to remove it can take that away.
                await outbox.relay(self._store, await outbox.pending(self._store, 1, id=row["_id"]))
        # Nobody may have waited yet when it ended: then what it declared does not tell this job.
        await outbox.settle(self._store, ended)
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
