"""What can be asked of a job, and done with it?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from switchtower.callers import Caller
from switchtower.clock import from_ms, to_ms
from switchtower.dialects import Dialect, whole_priority
from switchtower.engine.effects import Effects
from switchtower.engine.enqueue import Enqueuer
from switchtower.engine.error_clusters import ErrorCluster, error_clusters
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, NotFound, SwitchtowerError
from switchtower.jobs import Enqueued, Job, JobFilter, JobUpdate, NewJob, check_rank
from switchtower.pages import Count, Page
from switchtower.payloads import check_text, check_value
from switchtower.states import JobState, allowed_from
from switchtower.store import counters, listing, operations
from switchtower.store import jobs as commands
from switchtower.store.collections import Store
from switchtower.store.documents import job_from
from switchtower.store.driver import translate_errors
from switchtower.store.guards import NOT_REMOVED, starts_from
from switchtower.store.listing import JobOrder

__all__ = ["JobOrder", "Jobs"]


Document = dict[str, Any]

RESTRICTS_MORE_THAN_QUEUES = [
    field.name for field in fields(JobFilter) if field.name not in ("queues", "states", "payload")
]


@translate_errors
class Jobs:
    """The verbs on jobs that producers and operators use."""

    def __init__(self, store: Store, effects: Effects, payload_limit: int) -> None:
        self._store = store
        self._effects = effects
        self._payload_limit = payload_limit
        self._enqueuer = Enqueuer(store, payload_limit)

    async def enqueue(self, new: NewJob, *, caller: Caller, session: Any = None, lease: str | None = None) -> Enqueued:
        """Creates a job, or answers with the one that already stands for it.

        With `session`, of a transaction on either driver, the job appears if and when that transaction commits. With
        `lease`, the token of the parent's run, a child is created only while that run still holds its job.

        Raises: InvalidInput, NotFound (queue, parent, dependency), InvalidTransition (the parent is final), LeaseLost,
            StoreUnavailable (it may have happened: repeat it with the same keys). Only with a session: Conflict, and
            the driver's own errors that bear the label TransientTransactionError (run the transaction again).
        """
        caller.check_queue(new.queue)
        return _shown(await self._enqueuer.enqueue(new, caller=caller, session=session, lease=lease), caller)

    async def enqueue_as(self, id: str, new: NewJob, *, caller: Caller) -> Enqueued:
        """Creates the job that has this id whoever creates it, once; for those who derive ids from their cause.

        Raises: InvalidInput, StoreUnavailable (repeat it).
        """
        return await self._enqueuer.enqueue_as(id, new, caller=caller)

    async def enqueue_awaited(
        self, jobs: Sequence[tuple[str, NewJob]], *, caller: Caller, parent_id: str | None, flow_id: str | None
    ) -> None:
        """Creates jobs under ids that somebody waits for already, as children where a parent is given; harmless to
        repeat.

        Raises: Conflict, StoreUnavailable with an unknown outcome.
        """
        await self._enqueuer.enqueue_awaited(jobs, caller=caller, parent_id=parent_id, flow_id=flow_id)

    async def enqueue_many(self, news: Sequence[NewJob], *, caller: Caller) -> list[Enqueued | SwitchtowerError]:
        """Creates many jobs in as few commands as possible; each item has its own answer, in order."""
        if caller.queues is None:
            return await self._enqueuer.enqueue_many(news, caller=caller)
        seen = [new for new in news if new.queue in caller.queues]
        made = iter(await self._enqueuer.enqueue_many(seen, caller=caller))
        answers: list[Enqueued | SwitchtowerError] = []
        for new in news:
            try:
                caller.check_queue(new.queue)
                answer = next(made)
                answers.append(_shown(answer, caller) if isinstance(answer, Enqueued) else answer)
            except SwitchtowerError as error:
                answers.append(error)
        return answers

    async def get(self, id: str, *, caller: Caller, with_: frozenset[str] | None = None) -> Job | None:
        """The job with this id, ours or the caller's own; None when the caller sees none."""
        row = await commands.locate(self._store, id, caller, fields=listing.projection(with_))
        return None if row is None else job_from(row)

    async def get_many(
        self, ids: Sequence[str], *, caller: Caller, with_: frozenset[str] | None = None
    ) -> dict[str, Job]:
        """Jobs by our ids; those that are not there, removed or not visible are left out."""
        scope = commands.visible_to(caller)
        match = {"_id": {"$in": list(ids)}, "state": NOT_REMOVED, **scope}
        rows = await self._store.jobs.find(match, listing.projection(with_)).to_list(None)
        return {row["_id"]: job_from(row) for row in rows}

    async def page(
        self,
        filter: JobFilter,
        *,
        caller: Caller,
        order: JobOrder = JobOrder.CREATED_DESC,
        first: int | None = None,
        last: int | None = None,
        after: str | None = None,
        before: str | None = None,
        with_: frozenset[str] | None = None,
    ) -> Page[Job]:
        """One keyset page. `with_` names the heavy fields to read (payload, result, logs, attempts, timeline).

        Raises: InvalidInput for a cursor of another list.
        """
        found = await listing.keyset_page(
            self._store,
            await self._branches(filter, caller),
            order=order,
            first=first if first is not None or last is not None else 50,
            last=last,
            after=after,
            before=before,
            fields=listing.projection(with_),
        )
        return Page([job_from(row) for row in found.documents], found.cursors, found.has_next, found.has_previous)

    async def offset_page(
        self,
        filter: JobFilter,
        *,
        caller: Caller,
        order: JobOrder = JobOrder.CREATED_ASC,
        offset: int = 0,
        limit: int = 50,
        with_: frozenset[str] | None = None,
    ) -> list[Job]:
        """A page by offset, as the REST dialects ask for it."""
        match = await self._branches(filter, caller)
        rows = await listing.offset_page(
            self._store, match, order=order, offset=offset, limit=limit, fields=listing.projection(with_)
        )
        return [job_from(row) for row in rows]

    async def _branches(self, filter: JobFilter, caller: Caller) -> listing.Branches:
        if filter.name_contains is not None:
            names = await listing.names_with(self._store, filter.name_contains)
            if names is not None:
                asked = names if filter.names is None else [name for name in names if name in filter.names]
                filter = replace(filter, name_contains=None, names=asked)
        by_state = filter.queues is None and filter.states is not None and filter.ids is None
        queues = await listing.queue_names(self._store) if by_state else ()
        return listing.branches(filter, reach=caller.reach, queues=queues)

    async def count(self, filter: JobFilter, *, caller: Caller, cap: int = 10_000) -> Count:
        """How many match: exact from the counters when only queues and states restrict, else counted up to `cap`."""
        if not filter.payload and all(getattr(filter, field) is None for field in RESTRICTS_MORE_THAN_QUEUES):
            totals = await self.counts(caller=caller, queues=filter.queues)
            return Count(
                sum(totals[state] for state in set(JobState if filter.states is None else filter.states)), True
            )
        value, exact = await listing.count(self._store, (await self._branches(filter, caller)).match, cap=cap)
        return Count(value, exact)

    async def counts(self, *, caller: Caller, queues: Sequence[str] | None = None) -> dict[JobState, int]:
        """How many jobs are in each state, from the counters: a fraction of a second behind, never negative."""
        rows = await counters.by_queue(self._store, reach=caller.reach, queues=queues)
        return {state: max(0, sum(row.get(state.value, 0) for row in rows.values())) for state in JobState}

    async def counts_where(self, filter: JobFilter, *, caller: Caller, cap: int = 10_000) -> dict[JobState, Count]:
        """How many jobs of each state match a filter, each counted up to `cap`."""
        found = {}
        for state in JobState:
            if filter.states is not None and state not in filter.states:
                found[state] = Count(0, True)
                continue
            match = await self._branches(replace(filter, states=[state]), caller)
            found[state] = Count(*await listing.count(self._store, match.match, cap=cap))
        return found

    async def children_of(
        self, parent_ids: Sequence[str], *, caller: Caller, limit: int = 50, with_: frozenset[str] | None = None
    ) -> dict[str, Page[Job]]:
        """The first page of each parent's children, oldest first, in one command; the page of a filter by parent goes
        on
        from its cursors."""
        match: Document = {"parent_id": {"$in": list(parent_ids)}, "state": NOT_REMOVED, **commands.visible_to(caller)}
        fields = listing.projection(with_)
        rows = await self._store.database.aggregate(
            self._store.jobs.name,
            [
                {"$match": match},
                {"$sort": {"parent_id": 1, "_id": 1}},
                *([{"$project": fields}] if fields else []),
                {"$group": {"_id": "$parent_id", "rows": {"$firstN": {"input": "$$ROOT", "n": limit + 1}}}},
            ],
        )
        found = {row["_id"]: row["rows"] for row in rows}
        return {id: self._first_page(found.get(id, []), limit) for id in parent_ids}

    @staticmethod
    def _first_page(rows: Sequence[Document], limit: int) -> Page[Job]:
        shown = rows[:limit]
        cursors = [listing.encode_cursor(JobOrder.CREATED_ASC, row) for row in shown]
        return Page([job_from(row) for row in shown], cursors, len(rows) > limit, False)

    async def cancel(
        self, id: str, *, caller: Caller, only: Collection[JobState] | None = None, discard: bool = False
    ) -> Job:
        """Cancels an open job at once; an active one is asked to stop, and ends as cancelled when its handler stops for
        it. One that completes nevertheless is completed; with `discard` its result is discarded, and it is cancelled.
        With `only`, of these states alone.

        Raises: NotFound, InvalidTransition when it is final.
        """
        pipeline = operations.cancel(caller.actor, source=caller.surface, discard=discard)
        return await self._operate("cancel", id, caller, pipeline, any_open=True, only=only)

    async def retry(
        self,
        id: str,
        *,
        caller: Caller,
        only: Collection[JobState] | None = None,
        keep_attempts: bool = False,
        action: str | None = None,
    ) -> Job:
        """Runs a final, scheduled or retrying job now; a final one starts over with all its attempts, or with
        `keep_attempts` has those used that it had used. With `only`, of these states alone. `action` is its name in the
        audit trail.

        Raises: NotFound, InvalidTransition, Conflict when an open job holds its unique key.
        """
        await self._effects.relay(id=id)
        return await self._operate(
            "retry",
            id,
            caller,
            operations.retry(caller.actor, source=caller.surface, action=_named(action), keep_attempts=keep_attempts),
            guard={"outbox": {"$exists": False}},
            only=only,
        )

    async def promote(self, id: str, *, caller: Caller) -> Job:
        """Runs a scheduled or retrying job now. Raises: NotFound, InvalidTransition."""
        return await self._operate("promote", id, caller, operations.promote(caller.actor, source=caller.surface))

    async def reschedule(self, id: str, run_at: datetime | None, *, caller: Caller) -> Job:
        """Makes a job that waits for its time, or for its turn, due at this time; None, and what has passed, is now.

        Raises: NotFound, InvalidTransition.
        """
        at = None if run_at is None else from_ms(to_ms(run_at))
        pipeline = operations.reschedule(caller.actor, at, source=caller.surface)
        return await self._operate("reschedule", id, caller, pipeline)

    async def remove(self, id: str, *, caller: Caller, force: bool = False, action: str | None = None) -> Job:
        """Removes a job for every reader; returns it as it was. With `force` even an active one, whose worker then
        finds its lease lost. `action` is its name in the audit trail.

        Raises: NotFound, InvalidTransition.
        """
        await self._effects.relay(id=id)
        guard = {"outbox": {"$exists": False}}
        return await self._operate(
            "remove",
            id,
            caller,
            operations.remove(caller.actor, source=caller.surface, action=_named(action)),
            guard=guard,
            before=True,
            force=force,
        )

    async def update(self, id: str, change: JobUpdate, *, caller: Caller) -> Job:
        """Changes payload, priority, tags, attempts, timeout or due time of a job that is not active.

        Raises: NotFound, InvalidTransition, InvalidInput.
        """
        fields = self._fields(change)
        guard = {"state": {"$in": ["scheduled", "retrying"]}} if change.run_at is not None else None
        try:
            pipeline = operations.update(caller.actor, fields, source=caller.surface)
            return await self._operate("update", id, caller, pipeline, guard=guard)
        except InvalidTransition as error:
            if change.run_at is None or error.state == "active":
                raise
            raise InvalidTransition("set the due time of", error.state, ["scheduled", "retrying"]) from None

    def _fields(self, change: JobUpdate) -> Document:
        if change.is_empty:
            raise InvalidInput("input", "changes nothing; give at least one field.")
        fields: Document = {}
        if change.payload is not ...:
            check_value("payload", change.payload, limit=self._payload_limit)
            fields["payload"] = change.payload
        for name, value, low, high in (
            ("priority", change.priority, -(2**31), 2**31 - 1),
            ("max_attempts", change.max_attempts, 1, 10_000),
            ("timeout_ms", change.timeout_ms, 1, 366 * 24 * 3600 * 1000),
        ):
            if value is not None:
                if not low <= value <= high:
                    raise InvalidInput(_camel(name), f"must be between {low:,} and {high:,}.")
                fields[name] = value
        if change.rank is not None:
            check_rank(change.rank)
            fields["rank"], fields["priority"] = change.rank, whole_priority(change.rank)
        if change.tags is not None:
            if len(change.tags) > 50:
                raise InvalidInput("tags", "at most 50.")
            fields["tags"] = [check_text("tags", tag, limit=256) for tag in change.tags]
        if change.run_at is not None:
            if change.run_at.tzinfo is None:
                raise InvalidInput("runAt", "needs a time zone.")
            fields["run_at"] = from_ms(to_ms(change.run_at))
        return fields

    async def _operate(
        self,
        verb: str,
        id: str,
        caller: Caller,
        pipeline: list[Document],
        *,
        guard: Document | None = None,
        before: bool = False,
        any_open: bool = False,
        force: bool = False,
        only: Collection[JobState] | None = None,
    ) -> Job:
        """One guarded write; only when it matched nothing, a read finds out why."""
        allowed = allowed_from(verb) + (("active",) if any_open else ())
        scope = commands.visible_to(caller) | (guard or {})
        if any_open or only is not None:
            allowed = tuple(state for state in allowed if only is None or state in only)
            scope["state"] = {"$in": list(allowed)}
        if force:
            scope["state"] = NOT_REMOVED
        target = id
        for _ in range(5):
            try:
                row = await commands.move(self._store, verb, target, pipeline, guard=scope, before=before)
            except commands.Duplicate:
                raise Conflict(f"Cannot {verb} job {id!r}: another open job holds its unique key.") from None
            if row is not None:
                self._effects.kick()
                return job_from(row)
            fields = {"state": 1, "outbox": 1, "retry_pending": 1, "dialect": 1}
            found = await commands.locate(self._store, id, caller, fields=fields)
            if found is None:
                raise NotFound("Job", id)
            if verb == "retry" and found["state"] == "cancelled" and found.get("dialect") == Dialect.DISPATCHED:
                others = [state for state in allowed if state != "cancelled"]
                raise InvalidTransition(verb, "cancelled", others, hint="One of Dispatched stays cancelled.")
            # Else it changed between the write and the read: try again.
            if found["_id"] == target and "outbox" not in found and not _admits(scope, verb, found["state"]):
                hint, pending = _HINTS.get((verb, found["state"]), ""), found.get("retry_pending", False)
                raise InvalidTransition(verb, found["state"], allowed, hint=hint, retry_pending=pending)
            target = found["_id"]
            await self._effects.relay(id=target)
        raise Conflict(f"Job {id!r} kept changing while it was to {verb}; try again.")

    async def error_clusters(self, filter: JobFilter, *, caller: Caller, limit: int = 50) -> list[ErrorCluster]:
        """Failed and retrying jobs grouped by fault, the largest group first; looks at the newest 10,000 that match."""
        match = (await self._branches(filter, caller)).match
        return await error_clusters(self._store, match, limit=limit)


_HINTS = {
    ("update", "active"): "Cancel it first, or wait until it ends.",
    ("remove", "active"): "Cancel it first, or remove it with force.",
    ("retry", "active"): "It is running now.",
    ("retry", "waiting"): "It will run as soon as a worker is free.",
    ("retry", "blocked"): "It waits for other jobs.",
}


def _named(action: str | None) -> Document | None:
    return None if action is None else {"name": action}


def _shown(answer: Enqueued, caller: Caller) -> Enqueued:
    """Raises Conflict where the job that stands for it already is in a queue that does not exist for the caller."""
    if caller.queues is not None and not caller.reach.sees(answer.job.queue):
        raise Conflict("A job in a queue that your key does not see holds one of these keys.")
    return answer


def _admits(scope: Document, verb: str, state: str) -> bool:
    """Whether a verb with this scope starts from this state."""
    condition: Any = scope.get("state", starts_from(verb)["state"])
    if isinstance(condition, str):
        return state == condition
    return state in condition["$in"] if "$in" in condition else state != condition["$ne"]


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)
