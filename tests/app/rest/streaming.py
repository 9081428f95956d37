"""An event stream read without a network: what was sent, event by event, and a client that can leave or stand still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.types import ASGIApp, Message

from tests.waiting import until


@dataclass
class Reader:
    """One open stream. `reading` is cleared to stand still: nothing more is taken until it is set again."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    ended: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def blocks(self) -> list[dict[str, str]]:
        """The blocks that came whole, each with its fields; a comment's is "" ."""
        whole = self.text.decode().split("\n\n")[:-1]
        return [dict(line.split(": ", 1) for line in block.split("\n")) for block in whole]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The events, each with its data."""
        return [(block["event"], orjson.loads(block["data"])) for block in self.blocks if "data" in block]

    @property
    def last_id(self) -> str:
        """What an EventSource would send as `Last-Event-ID`."""
        return [block["id"] for block in self.blocks if "id" in block][-1]

    async def until(self, count: int) -> list[tuple[str, Any]]:
        """The events, when so many have come."""
        await until(lambda: len(self.events) >= count)
        return self.events


@asynccontextmanager
async def opened(app: ASGIApp, target: str, *, key: str | None = None, **headers: str) -> AsyncIterator[Reader]:
    """A stream, from its first event to the end of the block; the client leaves there, if it did not before."""
    reader = Reader()
    reader.reading.set()
    path, _, query = target.partition("?")
    given = [("host", "localhost"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    if key is not None:
        given.append(("authorization", f"Bearer {key}"))
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await reader.gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await reader.reading.wait()
        if message["type"] == "http.response.start":
            reader.status = message["status"]
            reader.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            reader.text += message.get("body", b"")
            reader.ended = not message.get("more_body", False)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
    }
    answering = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
    try:
        await until(lambda: reader.events or reader.ended or answering.done())
        yield reader
    finally:
        reader.gone.set()
        async with asyncio.timeout(60):
            await answering
