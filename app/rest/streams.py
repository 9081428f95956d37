"""How does what happens reach a client as an event stream?

One response per stream: what its source gives is written as it comes, at the pace of its reader. While nothing comes,
comments keep the connection alive. It ends with its client, with the key that it was opened with, and with the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.auth import Gate, Session
from switchtower.callers import Caller

__all__ = ["EVENT_STREAM", "Encoded", "EventStreams", "Position", "ServerEvent"]

EVENT_STREAM: Final = "text/event-stream"
RETRY_MS: Final = 2_000
PING_SECONDS: Final = 15.0
FAREWELL_SECONDS: Final = 1.0
PING: Final = b": ping\n\n"
HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    # Proxies that collect answers before they pass them on let this one through.
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its name, its data as a JSON value, and the id behind which a client resumes."""

    name: str
    data: Any
    id: str | None = None

    @property
    def text(self) -> bytes:
        """As it is written."""
        id = b"" if self.id is None else b"id: %b\n" % self.id.encode()
        data = orjson.dumps(self.data, option=orjson.OPT_UTC_Z)
        return b"event: %b\n%bdata: %b\n\n" % (self.name.encode(), id, data)


@dataclass(frozen=True, slots=True)
class Position:
    """Nothing that a client is told of, but the id behind which it resumes from now on."""

    id: str

    @property
    def text(self) -> bytes:
        """As it is written."""
        return b"id: %b\n\n" % self.id.encode()


@dataclass(frozen=True, slots=True)
class Encoded:
    """Events that were written once for many readers."""

    text: bytes


Render = Callable[[Any], ServerEvent | Position | Encoded | None]


class EventStreams:
    """Opens event streams. Each counts among what its key has open; when `closing` is set they all end."""

    def __init__(self, gate: Gate, closing: asyncio.Event) -> None:
        self._gate = gate
        self.closing = closing

    async def open(self, caller: Caller, items: AsyncGenerator[Any, None], render: Render) -> Response:
        """The response that writes these items, as `render` makes them events, until they or anybody ends it.

        Waits for the first one: until then what goes wrong can be said with a status, and is raised.
        Raises: Refused (429) when the key has too much open.
        """
        self._gate.check_subscriptions(caller)
        session = self._gate.open(caller, lambda: 1)
        try:
            first = await anext(items, None)
        except BaseException:
            self._gate.close(session)
            raise
        return _EventStream(first, items, render, session, self)

    def close(self, session: Session) -> None:
        """A stream has ended."""
        self._gate.close(session)


class _EventStream(Response):
    def __init__(
        self, first: Any, items: AsyncGenerator[Any, None], render: Render, session: Session, streams: EventStreams
    ) -> None:
        super().__init__(headers=HEADERS, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._first = first
        self._items = items
        self._render = render
        self._session = session
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await self._until_over(receive, send)
            with suppress(TimeoutError):
                # A reader that stands still does not hear the end; its connection is cut instead.
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.close(self._session)
            await self._items.aclose()

    async def _until_over(self, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self._write(send))
        ends = (_gone(receive), self._session.ended.wait(), self._streams.closing.wait())
        tasks = [writing, *map(asyncio.ensure_future, ends)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not writing.cancelled() and (error := writing.exception()) is not None:
            raise error

    async def _write(self, send: Send) -> None:
        async def put(text: bytes) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": True})

        await put(b"retry: %d\n\n" % RETRY_MS)
        item = self._first
        while item is not None:
            if (event := self._render(item)) is not None:
                await put(event.text)
            following = asyncio.ensure_future(anext(self._items, None))
            try:
                while not (await asyncio.wait({following}, timeout=PING_SECONDS))[0]:
                    await put(PING)
                item = following.result()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
