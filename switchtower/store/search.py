"""Which jobs hold what somebody types, found in bounded time?

Jobs are looked through newest first, one window of ids after another: a window's end is found in an index alone, then
its jobs are compared in the server. The search stops when a page is full or its time is spent, and says how far it
came, so that the next call goes on there. With an index on the payload path the windows hold its matches only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import PyMongoError

from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.store.driver import time_limit, unavailable
from switchtower.store.indexes import payload_index
from switchtower.store.listing import payload_path

__all__ = ["SCAN_SECONDS", "Scan", "custom_ids", "indexed", "look_through"]

Document = dict[str, Any]

SCAN_SECONDS = 0.6
WINDOW_LIMIT_MS = 1_500
FIRST_WINDOW, LARGEST_WINDOW = 2_000, 32_000
MOST_SCANNED = 500_000
_AT_REST = sorted(state.value for state in JobState if state is not JobState.ACTIVE)


@dataclass(slots=True)
class Scan:
    """What a search found, newest first; `reached` is the id to go on behind, None when nothing is left."""

    documents: list[Document] = field(default_factory=list)
    scanned: int = 0
    reached: str | None = None


async def indexed(store: Store, path: str) -> bool:
    """Whether a payload path has an index of its own."""
    return payload_index(path) in await store.jobs.index_information()


async def look_through(
    store: Store,
    condition: Document,
    *,
    scope: Document,
    queue: str | None = None,
    path: tuple[str, Sequence[Any]] | None = None,
    after: str | None,
    limit: int,
    fields: Mapping[str, int] | None,
    seconds: float = SCAN_SECONDS,
) -> Scan:
    """The newest jobs that meet `condition` and `scope`, behind the id `after`, at most `limit`.

    `path` is a payload path that has an index, with its values: only jobs that match it are looked at. Otherwise every
    job is, of one `queue` or of all, for about `seconds` or 500,000 jobs.
    """
    base, hint = _base(queue, path)
    narrowed = scope if queue is None else {**scope, "queue": queue}
    found = Scan(reached=after)
    window, began = FIRST_WINDOW, time.monotonic()
    while True:
        started = time.monotonic()
        try:
            with time_limit(WINDOW_LIMIT_MS):
                end = await _end(store, base, hint, found.reached, window)
                part = _between(end, found.reached)
                left = limit + 1 - len(found.documents)
                rows = await _rows(store, [base | part, narrowed, condition], hint, left, fields)
                if hint == "listing":
                    # Active jobs are few, and stand in an index of their own.
                    active: Document = {"state": "active", "queue": queue} | part
                    rows += await _rows(store, [active, narrowed, condition], "active", left, fields)
                    rows = sorted(rows, key=lambda row: row["_id"], reverse=True)[:left]
        except PyMongoError as error:
            if found.scanned and unavailable(error):
                return found
            raise
        found.documents += rows
        found.scanned += window if end is not None else await _rest(store, base, hint, found.reached)
        if len(found.documents) > limit:
            found.documents = found.documents[:limit]
            found.reached = found.documents[-1]["_id"]
            return found
        found.reached = end
        spent = time.monotonic() - began
        if end is None or spent > seconds or found.scanned >= MOST_SCANNED:
            return found
        pace = window / max(0.001, time.monotonic() - started)
        window = min(LARGEST_WINDOW, window * 2, max(FIRST_WINDOW // 4, int(pace * max(0.05, seconds - spent))))


def _base(queue: str | None, path: tuple[str, Sequence[Any]] | None) -> tuple[Document, str]:
    if path is not None:
        return {payload_path(path[0]): {"$in": list(path[1])}}, payload_index(path[0])
    if queue is not None:
        return {"queue": queue, "state": {"$in": _AT_REST}}, "listing"
    return {}, "_id_"


def _between(end: str | None, after: str | None) -> Document:
    bounds = {"$gte": end, "$lt": after}
    chosen = {operator: id for operator, id in bounds.items() if id is not None}
    return {"_id": chosen} if chosen else {}


async def _end(store: Store, base: Document, hint: str, after: str | None, window: int) -> str | None:
    """The id of the last job of the next window, read from the index; None when fewer are left."""
    match = base | _between(None, after)
    rows = store.jobs.find(match, {"_id": 1}, sort=[("_id", -1)], skip=window - 1, limit=1, hint=hint)
    found = await rows.to_list(1)
    return found[0]["_id"] if found else None


async def _rest(store: Store, base: Document, hint: str, after: str | None) -> int:
    with time_limit(WINDOW_LIMIT_MS):
        count: int = await store.jobs.count_documents(base | _between(None, after), hint=hint, limit=LARGEST_WINDOW)
    return count


async def _rows(
    store: Store, clauses: Sequence[Document], hint: str, limit: int, fields: Mapping[str, int] | None
) -> list[Document]:
    match = {"$and": [clause for clause in clauses if clause]}
    found = store.jobs.find(match, fields, sort=[("_id", -1)], limit=limit, hint=hint)
    rows: list[Document] = await found.to_list(None)
    return rows


async def custom_ids(
    store: Store, prefix: str, *, scope: Document, limit: int, fields: Mapping[str, int] | None
) -> list[Document]:
    """Jobs whose own id begins with this."""
    match = {"custom_id": {"$gte": prefix, "$lt": prefix + "\U0010ffff"}, **scope}
    with time_limit(WINDOW_LIMIT_MS):
        rows = store.jobs.find(match, fields, sort=[("custom_id", 1)], limit=limit, hint="custom_id")
        found: list[Document] = await rows.to_list(None)
        return found
