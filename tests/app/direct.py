"""Requests handed to an application without a network between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson
from starlette.types import ASGIApp, Message


@dataclass(frozen=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def request(
    app: ASGIApp, method: str, target: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
) -> Answer:
    """Sends a request without a network; `target` is what stands in the request line, as it is."""
    raw_path, _, query = target.partition("?")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def sending(message: Message) -> None:
        sent.append(message)

    given = list(headers)
    if "host" not in (name.lower() for name, _ in given):
        given.insert(0, ("host", "localhost"))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
    }
    await app(scope, receive, sending)
    found = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


async def send(app: ASGIApp, method: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, bytes]:
    """Sends a request without a network, and returns status and body."""
    sent: list[Message] = []
    received = False

    async def receive() -> Message:
        nonlocal received
        if received:
            return {"type": "http.disconnect"}
        received = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def sending(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/graphql",
        "raw_path": b"/graphql",
        "root_path": "",
        "query_string": b"query=" + body[:2000] if method == "GET" else b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
    }
    await app(scope, receive, sending)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
