"""Requests handed to an application without a network between."""

from __future__ import annotations

from starlette.types import ASGIApp, Message


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
