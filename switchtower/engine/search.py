"""Where is what somebody types?"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from switchtower.callers import Caller
from switchtower.engine.queues import Queues
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import Job
from switchtower.payloads import check_text
from switchtower.store import jobs as job_commands
from switchtower.store import listing
from switchtower.store import search as commands
from switchtower.store.collections import Store
from switchtower.store.documents import job_from
from switchtower.store.driver import translate_errors
from switchtower.store.guards import NOT_REMOVED
from switchtower.store.texts import text_condition

__all__ = ["Found", "Search", "SearchType", "checked_paths"]

Document = dict[str, Any]

TEXT_LIMIT = 256
MOST_PATHS = 20
QUEUE_LIMIT = 100
_PATH = re.compile(r"[^\W\d][^\s.:$]*(\.[^\s.:$]+)*")
_PATH_AND_VALUE = re.compile(rf"({_PATH.pattern}):(?!//)(\S.*)", re.DOTALL)


class SearchType(StrEnum):
    """Where a search looks."""

    ALL = "all"
    ID = "id"
    QUEUE = "queue"
    NAME = "name"
    PAYLOAD = "payload"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Found:
    """One page of what a search found: jobs, those with the id first and then newest first, and names of queues.

    `scanned` is how many jobs were looked at. Unless `exhaustive`, older ones were not: `cursor` goes on behind them.
    `indexed` says that an index led to the jobs.
    """

    jobs: list[Job]
    queues: list[str]
    scanned: int
    exhaustive: bool
    indexed: bool
    cursor: str | None


def checked_paths(paths: Sequence[str]) -> list[str]:
    """Payload paths that can have an index. Raises ConfigurationError for one that cannot, and for more than 20."""
    for path in paths:
        if not _PATH.fullmatch(path) or len(path) > 100:
            raise ConfigurationError(
                f"{path[:100]!r} is no payload path: dotted names such as user.email, without '$'."
            )
    if len(paths) > MOST_PATHS:
        raise ConfigurationError(
            f"At most {MOST_PATHS} payload paths can have an index, since every enqueue pays for them."
        )
    return list(dict.fromkeys(paths))


@translate_errors
class Search:
    """One verb: literal, without regard to case, bounded in time whatever is typed."""

    def __init__(self, store: Store, queues: Queues) -> None:
        self._store = store
        self._queues = queues

    async def find(
        self,
        query: str,
        *,
        caller: Caller,
        type: SearchType = SearchType.ALL,
        queue: str | None = None,
        first: int = 50,
        after: str | None = None,
        with_: frozenset[str] | None = None,
    ) -> Found:
        """Jobs whose id begins with the text, whose name, error or payload has it, and queues whose name has it.

        `path:value`, such as `user.id:42`, looks for a value at a dotted path of the payload: a number, true, false and
        null also as text, a text in double quotes as text alone. A path with an index is found at once; everything else
        is looked for in the newest jobs for some 600 ms, and from `after` on in older ones. Where the text is an id,
        nothing else is looked for.

        Raises: InvalidInput, NotFound (the queue).
        """
        check_text("query", query, limit=TEXT_LIMIT)
        if "\0" in query or not query.strip():
            raise InvalidInput("query", "must be a text.")
        if queue is not None:
            check_text("queue", queue, limit=TEXT_LIMIT)
            caller.check_queue(queue)
        position = None if after is None else _decode(after)
        scope = job_commands.visible_to(caller) | {"state": NOT_REMOVED}
        narrowed = scope | ({} if queue is None else {"queue": queue})
        fields = listing.projection(with_)
        named: list[Document] = []
        queues: list[str] = []
        if position is None:
            if type in (SearchType.ALL, SearchType.ID):
                named = await self._by_id(query, narrowed, first, fields)
            if type in (SearchType.ALL, SearchType.QUEUE):
                names = await self._queues.names(caller=caller)
                queues = [name for name in names if query.casefold() in name.casefold()][:QUEUE_LIMIT]
        is_id = bool(named) and query in (named[0]["_id"], named[0].get("custom_id"))
        if type in (SearchType.ID, SearchType.QUEUE) or is_id or len(named) >= first:
            return Found([job_from(row) for row in named[:first]], queues, len(named), len(named) <= first, True, None)
        path = await self._path(query, type)
        found = await commands.look_through(
            self._store,
            {} if path is not None else _condition(query, type),
            scope=scope,
            queue=queue,
            path=path,
            after=position,
            limit=first,
            fields=fields,
        )
        known = {row["_id"] for row in named}
        rows = named + [row for row in found.documents if row["_id"] not in known]
        reached = None if found.reached is None else _encode(found.reached)
        return Found([job_from(row) for row in rows], queues, found.scanned, reached is None, path is not None, reached)

    async def _by_id(self, query: str, scope: Document, limit: int, fields: Any) -> list[Document]:
        """Jobs whose id, ours or the caller's own, begins with the text."""
        begins = {"$gte": query, "$lt": query + "\U0010ffff"}
        rows: list[Document] = await self._store.jobs.find({"_id": query, **scope}, fields).to_list(None)
        if not rows and len(query) >= len("job_") + 8:
            found = self._store.jobs.find({"_id": begins, **scope}, fields, sort=[("_id", -1)], limit=limit)
            rows = await found.to_list(None)
        own = await commands.custom_ids(self._store, query, scope=scope, limit=limit + 1, fields=fields)
        known = {row["_id"] for row in rows}
        return [*rows, *(row for row in own if row["_id"] not in known)]

    async def _path(self, query: str, type: SearchType) -> tuple[str, list[Any]] | None:
        """The path and the values to look for where the text names a path that has an index."""
        if type not in (SearchType.ALL, SearchType.PAYLOAD):
            return None
        match = _match(query)
        return match if match is not None and await commands.indexed(self._store, match[0]) else None


def _match(query: str) -> tuple[str, list[Any]] | None:
    match = _PATH_AND_VALUE.fullmatch(query)
    return None if match is None else (match[1], _values(match[3]))


def _values(text: str) -> list[Any]:
    """What a value may be that somebody typed as this."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [text]
    if isinstance(value, str):
        return [value]
    if isinstance(value, (dict, list)):
        return [text]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return [text]
    return [text, value]


def _condition(query: str, type: SearchType) -> Document:
    within = {
        SearchType.ALL: ("name", "error", "payload"),
        SearchType.NAME: ("name",),
        SearchType.ERROR: ("error",),
        SearchType.PAYLOAD: ("payload",),
    }[type]
    match = _match(query) if type in (SearchType.ALL, SearchType.PAYLOAD) else None
    if match is None:
        return text_condition(query, within)
    path, values = match
    # Null stands for a missing field as well, which nobody means who names a path.
    at: Document = {listing.payload_path(path): {"$in": values} | ({"$exists": True} if None in values else {})}
    others = [where for where in within if where != "payload"]
    return {"$or": [at, text_condition(query, others)]} if others else at


def _encode(id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(["s", id])).decode().rstrip("=")


def _decode(cursor: str) -> str:
    try:
        kind, id = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if kind != "s" or not isinstance(id, str):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise InvalidInput("after", "is not a cursor of a search.") from None
    return id
