"""What can be done with jobs that failed for good?"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from switchtower.callers import Caller
from switchtower.clock import from_ms, to_ms
from switchtower.dead_letters import DeadLetter, DeadLetterFilter
from switchtower.dialects import Dialect
from switchtower.engine.audit import Audit
from switchtower.engine.jobs import Jobs
from switchtower.errors import InvalidInput, NotFound, SwitchtowerError
from switchtower.jobs import Enqueued, NewJob
from switchtower.pages import Count, Page
from switchtower.store import dead_letters as commands
from switchtower.store import jobs as job_commands
from switchtower.store.collections import Store
from switchtower.store.dead_letters import dead_letter_from
from switchtower.store.documents import backoff_from
from switchtower.store.driver import time_limit, translate_errors
from switchtower.store.listing import TIME_LIMIT_MS
from switchtower.webhooks import COURIER

__all__ = ["DeadLetter", "DeadLetterFilter", "DeadLetters"]

REPLAY_ALL = 1_000
MOST_IDS = 100
"""How many ids an audit row names."""


@translate_errors
class DeadLetters:
    """The verbs on dead letters."""

    def __init__(self, store: Store, jobs: Jobs, audit: Audit) -> None:
        self._store = store
        self._audit = audit
        self._jobs = jobs

    async def get(self, id: str, *, caller: Caller) -> DeadLetter | None:
        """The entry with this id; None when the caller sees none."""
        row = await self._store.dead_letters.find_one({"_id": id, **job_commands.visible_to(caller)})
        return None if row is None else dead_letter_from(row)

    async def for_jobs(self, job_ids: Sequence[str], *, caller: Caller) -> dict[str, DeadLetter]:
        """The newest entry of each job that has one."""
        match = {"job_id": {"$in": list(job_ids)}, **job_commands.visible_to(caller)}
        rows = await self._store.dead_letters.find(match, sort=[("job_id", 1), ("generation", 1)]).to_list(None)
        return {row["job_id"]: dead_letter_from(row) for row in rows}

    async def page(
        self,
        filter: DeadLetterFilter,
        *,
        caller: Caller,
        first: int | None = None,
        last: int | None = None,
        after: str | None = None,
        before: str | None = None,
        ascending: bool = False,
    ) -> Page[DeadLetter]:
        """One keyset page, the newest failure first (or the oldest, with `ascending`)."""
        backwards = last is not None
        size = last if last is not None else first if first is not None else 50
        clauses = [commands.filter_document(filter, reach=caller.reach)]
        direction = 1 if ascending else -1
        for cursor, sign in ((after, direction), (before, -direction)):
            if cursor is not None:
                at, id = _decode(cursor)
                operator = "$gt" if sign > 0 else "$lt"
                clauses.append({"$or": [{"failed_at": {operator: at}}, {"failed_at": at, "_id": {operator: id}}]})
        step = -direction if backwards else direction
        found = self._store.dead_letters.find(
            {"$and": clauses}, sort=[("failed_at", step), ("_id", step)], limit=size + 1
        )
        with time_limit(TIME_LIMIT_MS):
            rows = await found.to_list(size + 1)
        more = len(rows) > size
        rows = rows[:size]
        if backwards:
            rows.reverse()
        return Page(
            [dead_letter_from(row) for row in rows],
            [_encode(row["failed_at"], row["_id"]) for row in rows],
            has_next=before is not None if backwards else more,
            has_previous=more if backwards else after is not None,
        )

    async def offset_page(
        self, filter: DeadLetterFilter, *, caller: Caller, offset: int = 0, limit: int = 50
    ) -> list[DeadLetter]:
        """A page by offset, the oldest failure first, as the REST dialects ask for it."""
        match = commands.filter_document(filter, reach=caller.reach)
        found = self._store.dead_letters.find(match, sort=[("failed_at", 1), ("_id", 1)], skip=offset, limit=limit)
        with time_limit(TIME_LIMIT_MS):
            return [dead_letter_from(row) for row in await found.to_list(limit)]

    async def count(self, filter: DeadLetterFilter, *, caller: Caller, cap: int = 100_000) -> Count:
        """How many entries match, counted up to `cap`."""
        match = commands.filter_document(filter, reach=caller.reach)
        with time_limit(TIME_LIMIT_MS):
            value = await self._store.dead_letters.count_documents(match, limit=cap + 1, **commands.hinted(match))
        return Count(min(value, cap), value <= cap)

    async def replay(
        self,
        id: str,
        *,
        caller: Caller,
        idempotency_key: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Enqueued:
        """Enqueues a new job with what the failed one had; the entry stays and names the new job.

        With an idempotency key a repeated call makes no second job. `changes` are fields of `NewJob` that the new job
        has otherwise. Raises: NotFound.
        """
        entry = await self._store.dead_letters.find_one({"_id": id, **job_commands.visible_to(caller)})
        if entry is None:
            raise NotFound("Dead letter", id)
        new = replace(_as_new(entry, idempotency_key), **(changes or {}))
        owner = Caller(caller.actor, entry["org"], entry.get("app", ""), caller.source)
        answer = await self._jobs.enqueue(new, caller=owner)
        await commands.mark_replayed(self._store, id, answer.job.id, caller.actor, source=caller.surface)
        return answer

    async def replay_all(
        self,
        filter: DeadLetterFilter,
        *,
        caller: Caller,
        limit: int = REPLAY_ALL,
        changes: Mapping[str, Any] | None = None,
    ) -> tuple[list[Enqueued], list[SwitchtowerError]]:
        """Replays the oldest `limit` matching entries that never were, each once. Returns: jobs and errors."""
        match = commands.filter_document(filter, reach=caller.reach) | {"replayed_at": {"$exists": False}}
        rows = await self._store.dead_letters.find(
            match, {"_id": 1}, sort=[("failed_at", 1), ("_id", 1)], limit=limit
        ).to_list(None)
        jobs: list[Enqueued] = []
        errors: list[SwitchtowerError] = []
        for row in rows:
            try:
                key = f"replay-all {row['_id']}"
                jobs.append(await self.replay(row["_id"], caller=caller, idempotency_key=key, changes=changes))
            except SwitchtowerError as error:
                errors.append(error)
        return jobs, errors

    async def remove(self, ids: Sequence[str], *, caller: Caller) -> int:
        """Deletes entries; their jobs stay. Returns: how many were there."""
        return await self._delete("remove", {"_id": {"$in": list(ids)}}, caller, {"ids": list(ids)[:MOST_IDS]})

    async def purge(self, *, older_than_ms: int, caller: Caller) -> int:
        """Deletes entries that failed longer ago than this. Returns: how many."""
        if older_than_ms < 0:
            raise InvalidInput("olderThanMs", "must not be negative.")
        try:
            before = self._store.clock.now() - timedelta(milliseconds=older_than_ms)
        except OverflowError:
            return 0
        return await self._delete("purge", {"failed_at": {"$lt": before}}, caller, {"failed_before": before})

    async def _delete(self, type: str, match: dict[str, Any], caller: Caller, details: dict[str, Any]) -> int:
        """Deletions leave no event: their audit row is written before them."""
        row = await self._audit.begin(f"dead_letter.{type}", caller=caller, details=details)
        try:
            result = await self._store.dead_letters.delete_many(match | job_commands.visible_to(caller))
        except Exception as error:
            with contextlib.suppress(Exception):
                await self._audit.end(row, error=str(error))
            raise
        await self._audit.end(row, details={"removed": int(result.deleted_count)})
        return int(result.deleted_count)


def _as_new(entry: dict[str, Any], idempotency_key: str | None) -> NewJob:
    get = entry.get
    return NewJob(
        name=entry["name"],
        queue=entry["queue"],
        payload=get("payload"),
        priority=get("priority", 0),
        max_attempts=entry["max_attempts"],
        backoff=backoff_from(get("backoff")),
        timeout_ms=get("timeout_ms"),
        ttl_ms=get("ttl_ms"),
        group=get("group"),
        tags=get("tags", ()),
        lifo=get("lifo", False),
        # A replay is asked for by name; it stands for no other enqueue.
        unique_key=None if "dedup" in entry else get("unique_key"),
        unique_for_ms=get("unique_for_ms"),
        remove_on_complete=get("remove_on_complete", False),
        remove_on_fail=get("remove_on_fail", False),
        idempotency_key=idempotency_key,
        dialect=Dialect(entry["dialect"]) if "dialect" in entry else None,
        rank=get("rank") if get("rank") != get("priority", 0) else None,
        opts=get("opts"),
        webhook=get("executor") == COURIER,
        webhook_key=get("webhook_key"),
    )


def _encode(at: datetime, id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([to_ms(at), id])).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        ms, id = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(ms, int) or not isinstance(id, str):
            raise ValueError
        return from_ms(ms), id
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise InvalidInput("after/before", "is not a cursor of this list.") from None
