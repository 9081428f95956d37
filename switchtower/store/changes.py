"""How does the database's change stream become events?

One fixed, versioned pipeline serves every hub and the folder of counters, so that their cursors are interchangeable. A
worker's small wake stream has its own pipeline and never shows its cursors.

Reading follows the listener pattern: each read has a deadline of its own, since a primary in quiesce mode goes silent
for 17 s without an error (docs/decisions/0004-change-streams.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from switchtower.errors import StoreUnavailable
from switchtower.events import Event, HistoryLost, Topic
from switchtower.store.collections import WATCHED, Store
from switchtower.store.driver import unavailable
from switchtower.webhooks import COURIER

__all__ = ["CURSOR_VERSION", "delivery_wakes", "event_from", "is_cursor", "moment_of", "read", "wakes"]

Document = dict[str, Any]

_TOPICS = {
    "jobs": Topic.JOB,
    "queues": Topic.QUEUE,
    "workers": Topic.WORKER,
    "dead_letters": Topic.DEAD_LETTER,
    "bulk_operations": Topic.BULK,
    "crons": Topic.CRON,
    "audit": Topic.AUDIT,
    "keys": Topic.KEY,
}

_IS_EVENT = {
    "$or": [
        {"$eq": ["$$pair.k", "event"]},
        {"$eq": [{"$substrCP": ["$$pair.k", 0, 6]}, "event."]},
    ]
}

_SET = "$updateDescription.updatedFields"
EVENTS: list[Document] = [
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": list(WATCHED)}, "operationType": {"$in": ["insert", "update", "replace"]}},
                {"operationType": "invalidate"},
            ]
        }
    },
    {
        "$project": {
            "coll": "$ns.coll",
            "id": "$documentKey._id",
            "event": {
                "$ifNull": [
                    "$fullDocument.event",
                    f"{_SET}.event",
                    {
                        "$first": {
                            "$filter": {
                                "input": {"$objectToArray": _SET},
                                "as": "pair",
                                "cond": _IS_EVENT,
                            }
                        }
                    },
                ]
            },
            "at": {"$ifNull": [f"{_SET}.finished_at", f"{_SET}.claimed_at"]},
            "over": {"$cond": [{"$eq": ["$operationType", "invalidate"]}, True, "$$REMOVE"]},
        }
    },
    {"$match": {"$or": [{"event": {"$exists": True}}, {"over": True}]}},
]
"""Version 3, flat and without what the cursor tells, since decoding it was a third of a reader's time. An event of
`store.plain` stands without its time, which is then that of the claim or of the end. Mostly the field `event` comes
whole; the search among the fields is for when it does not. Cursors are valid for this very pipeline: change it only
together with `CURSOR_VERSION`."""

CURSOR_VERSION = "3"
_LOST = {280, 286, 260, 10334}
"""ChangeStreamFatalError, ChangeStreamHistoryLost, InvalidResumeToken, BSONObjectTooLarge: the token is of no more
use."""

_INTERRUPTED = {43, 237, 11601}
"""CursorNotFound, CursorKilled, Interrupted: somebody ended the cursor; the history is there."""
_UNAUTHORIZED = 13

_TOKEN = re.compile(r"82([0-9A-F]{8})[0-9A-F]{18,502}")
"""A timestamp in the server's key format, seconds first, and what tells events of one moment apart."""
_AHEAD = timedelta(hours=1)
_TYPE_ZERO = "29"


def is_cursor(cursor: str, *, now: datetime) -> bool:
    """Whether this text has the form of one of our cursors, of a time that is not far ahead of the database's `now`."""
    version, _, token = cursor.partition(".")
    form = _TOKEN.fullmatch(token)
    return version == CURSOR_VERSION and form is not None and int(form[1], 16) < (now + _AHEAD).timestamp()


def moment_of(cursor: str) -> Timestamp:
    """The last cluster time that is behind a reader who stands at this cursor."""
    token = cursor.partition(".")[2]
    seconds, increment = int(token[2:10], 16), int(token[10:18], 16)
    # The token of no event ("high water mark", type 0) stands before the time that it names, which may be yet to come.
    return Timestamp(seconds, increment - 1 if token[22:24] == _TYPE_ZERO and increment else increment)


def _cursor(token: Document) -> str:
    return f"{CURSOR_VERSION}.{token['_data']}"


def _token(cursor: str) -> Document:
    return {"_data": cursor.partition(".")[2]}


def event_from(change: Document) -> Event | None:
    """The event that a change carries; None for a change without one. Takes `change` apart."""
    event: Any = change.get("event")
    if not event:
        return None
    # The pair of an updated field and its value; else, and where the field is `event` itself, by sequence number.
    if "k" in event:
        nested = event["k"] == "event"
        event = event["v"]
        if nested and not event:
            return None
    else:
        nested = True
    e: Document = next(iter(event.values())) if nested else event
    token: str = change["_id"]["_data"]
    take = e.pop
    return Event(
        cursor=f"{CURSOR_VERSION}.{token}",
        topic=_TOPICS[change["coll"]],
        type=take("type"),
        id=change["id"],
        at=take("at", None) or change["at"],
        queue=take("queue", ""),
        name=take("name", ""),
        from_state=take("from", None),
        to_state=take("to", None),
        attempt=take("attempt", 0),
        actor=take("actor", None),
        org=take("org", ""),
        app=take("app", ""),
        group=take("group", None),
        parent_id=take("parent", None),
        flow_id=take("flow", None),
        source=take("source", None),
        tags=tuple(take("tags", ())),
        custom_id=take("custom", None),
        data=e,
        clock=int(token[2:18], 16),
    )


@contextlib.asynccontextmanager
async def _opened(store: Store, pipeline: Sequence[Document], **options: Any) -> AsyncIterator[Any]:
    stream = None
    try:
        stream = await store.database.watch(pipeline, max_await_time_ms=1_000, batch_size=1_000, **options)
        yield stream
    except OperationFailure as error:
        if error.code in _LOST or "resume token" in str(error).lower():
            raise HistoryLost(str(error)[:200]) from error
        if unavailable(error) or error.code in _INTERRUPTED:
            raise StoreUnavailable() from error
        if stream is None and "resume_after" in options and error.code != _UNAUTHORIZED:
            # The server has a dozen ways to say that a text is no token of its own.
            raise HistoryLost(str(error)[:200]) from error
        raise
    except PyMongoError as error:
        if unavailable(error):
            raise StoreUnavailable() from error
        raise
    finally:
        if stream is not None:
            # In the background: a read may be under way, and a server in quiesce mode holds the goodbye up.
            goodbye = asyncio.ensure_future(store.database.stream(stream.close()))
            goodbye.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({goodbye}, timeout=0.5)


async def read(
    store: Store, *, after: str | None, silence_seconds: float = 5.0
) -> AsyncIterator[tuple[list[Event], str]]:
    """Batches of events behind `after` (from now on without it), each with the cursor to go on from.

    An empty batch comes at least every second while nothing happens: its cursor keeps an idle reader inside the oplog.
    Raises: HistoryLost when `after` is gone; StoreUnavailable when the stream broke or stayed silent: open it again
        from the last cursor.
    """
    options = {} if after is None else {"resume_after": _token(after)}
    async with _opened(store, EVENTS, **options) as stream:
        if after is None and stream.resume_token is not None:
            yield [], _cursor(stream.resume_token)
        while True:
            batch: list[Event] = []
            change = await _within(store, stream.try_next(), silence_seconds)
            while change is not None:
                received = _received(stream)
                # `try_next` costs as much as the rest for each change (with motor it is a thread's turn); it takes the
                # last of those that are here already, so that the stream's token stands behind them all.
                for one in (change, *(received.popleft() for _ in range(len(received) - 1))):
                    if "over" in one:
                        raise HistoryLost("a watched collection was dropped or renamed")
                    event = event_from(one)
                    if event is not None:
                        batch.append(event)
                change = await store.database.stream(stream.try_next()) if received else None
            if stream.resume_token is not None:
                yield batch, _cursor(stream.resume_token)


def _received(stream: Any) -> deque[Document]:
    """The changes that are here already, at most one batch of the server's (both drivers keep it in the raw cursor)."""
    inner = getattr(stream, "delegate", stream)
    received: deque[Document] = getattr(getattr(inner, "_cursor", None), "_data", None) or deque()
    return received


async def _within(store: Store, operation: Any, seconds: float) -> Any:
    """The result, or StoreUnavailable when it takes longer; what is overdue is abandoned, not waited for."""
    asked = asyncio.ensure_future(store.database.stream(operation))
    # A read that is given up ends with an error, as its cursor is killed: that is nothing to report.
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes together with the result.
    done, _ = await asyncio.wait({asked}, timeout=seconds)
    if done:
        return asked.result()
    raise StoreUnavailable("The change stream went silent.")


def _wake_pipeline(queues: Sequence[str]) -> list[Document]:
    names = list(queues)
    return [
        {
            "$match": {
                "$or": [
                    {
                        "ns.coll": "jobs",
                        "operationType": "insert",
                        "fullDocument.state": "waiting",
                        "fullDocument.queue": {"$in": names},
                    },
                    {"ns.coll": "jobs", "operationType": "update", "updateDescription.updatedFields.state": "waiting"},
                    {
                        "ns.coll": "jobs",
                        "operationType": "update",
                        "updateDescription.removedFields": {"$in": ["parked", "limited"]},
                    },
                    {"ns.coll": "queues"},
                ]
            }
        },
        {"$project": {"queue": "$fullDocument.queue", "ns.coll": 1}},
    ]


async def wakes(store: Store, queues: Sequence[str]) -> AsyncIterator[str]:
    """Yields the name of a queue ("" when it may be any of them) whenever a job may have become claimable.

    The first comes as soon as the stream is open: what became claimable before that has no event in it.

    Raises: StoreUnavailable, HistoryLost: open it again.
    """
    async with _opened(store, _wake_pipeline(queues)) as stream:
        yield ""
        while True:
            change = await _within(store, stream.try_next(), 10)
            if change is not None:
                yield change.get("queue") or ""


_DELIVERY_WAKES: list[Document] = [
    {
        "$match": {
            "$or": [
                {
                    "ns.coll": "jobs",
                    "operationType": "insert",
                    "fullDocument.state": "waiting",
                    "fullDocument.executor": COURIER,
                },
                {"ns.coll": "jobs", "operationType": "update", "updateDescription.updatedFields.state": "waiting"},
                {
                    "ns.coll": "jobs",
                    "operationType": "update",
                    "updateDescription.removedFields": {"$in": ["parked", "limited"]},
                },
                {"ns.coll": {"$in": ["queues", "webhooks"]}},
            ]
        }
    },
    {"$project": {"_id": 1}},
]


async def delivery_wakes(store: Store) -> AsyncIterator[None]:
    """Yields whenever a job for the courier may have become claimable, and once when the stream is open.

    Raises: StoreUnavailable, HistoryLost: open it again.
    """
    async with _opened(store, _DELIVERY_WAKES) as stream:
        yield None
        while True:
            if await _within(store, stream.try_next(), 10) is not None:
                yield None
