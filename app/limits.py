"""What is refused before anything is parsed?

The order is the same for every surface: headers, then method and route, then media type, then size, then parsing. Each
check is cheaper than the next, and a refused request has cost less than the one after it would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

__all__ = [
    "LOOPBACK_HOSTS",
    "Refused",
    "RequestLimits",
    "check_head",
    "check_length",
    "host_name",
    "media_type",
    "read_body",
]

LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""The names under which a server on the same machine is addressed."""


ONCE = (b"host", b"authorization", b"content-type", b"content-length")
"""Headers whose second value another server on the way may read in place of the first."""


class Refused(Exception):
    """The request is answered with this status and goes no further; nothing was executed."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 16 * 1024 * 1024
    frame_bytes: int = 2 * 1024 * 1024
    header_bytes: int = 32 * 1024
    header_count: int = 100
    url_bytes: int = 32 * 1024
    body_seconds: float = 30.0


def check_head(scope: Scope, limits: RequestLimits) -> None:
    """Checks the sizes of a request's line and headers.

    Raises:
        Refused: 414 for the address, 431 for the headers, 400 for one that may stand there once and stands twice.
    """
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > limits.url_bytes:
        raise Refused(
            414, "URI_TOO_LONG", f"The address is longer than {limits.url_bytes:,} bytes; send the operation by POST."
        )
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > limits.header_count or sum(len(k) + len(v) for k, v in headers) > limits.header_bytes:
        raise Refused(
            431,
            "HEADERS_TOO_LARGE",
            f"At most {limits.header_count} headers of {limits.header_bytes:,} bytes together are read.",
            {"Connection": "close"},
        )
    names = [name for name, _ in headers]
    for name in ONCE:
        if names.count(name) > 1:
            raise Refused(400, "BAD_REQUEST", f"The request has {name.decode().title()} more than once.")


def host_name(headers: Headers) -> str:
    """The name under which a request addresses the server, in lower case and without the port."""
    host = headers.get("host", "").lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def media_type(headers: Headers) -> tuple[str, dict[str, str]]:
    """The media type of a request's body in lower case, "" without one, and its parameters."""
    kind, *rest = headers.get("content-type", "").split(";")
    parameters: dict[str, str] = {}
    for part in rest:
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"').lower()
    return kind.strip().lower(), parameters


def check_length(headers: Headers, limits: RequestLimits) -> None:
    """Raises Refused (413) for a body that says of itself that it is too large."""
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 15 or int(declared) > limits.body_bytes):
        raise _too_large(limits)


async def read_body(headers: Headers, receive: Receive, limits: RequestLimits) -> bytes:
    """Reads a request's body, never more of it than the limit and one chunk.

    Raises:
        Refused: 415 for a compressed body, 413 beyond the limit, 408 when it does not arrive in time, 400 when the
            client hangs up.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused(
            415,
            "UNSUPPORTED_CONTENT_ENCODING",
            "Compressed request bodies are not accepted; send the body as it is.",
            {"Accept-Encoding": "identity"},
        )
    check_length(headers, limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _collect(receive, limits)
    except TimeoutError:
        raise Refused(
            408, "BODY_TIMEOUT", f"The body did not arrive within {limits.body_seconds:g} s.", {"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise Refused(400, "CLIENT_DISCONNECTED", "The client hung up before the body was complete.") from None


async def _collect(receive: Receive, limits: RequestLimits) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if chunk := message.get("body", b""):
            size += len(chunk)
            if size > limits.body_bytes:
                raise _too_large(limits)
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limits: RequestLimits) -> Refused:
    # The rest of the body is unread: the connection cannot be used again.
    return Refused(
        413, "PAYLOAD_TOO_LARGE", f"The body is larger than {limits.body_bytes:,} bytes.", {"Connection": "close"}
    )
