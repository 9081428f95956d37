"""Are this supervisor's workers well? `/livez` and `/readyz` for an orchestrator, over a socket of a few lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from switchtower.errors import ConfigurationError

__all__ = ["serve_health"]

REQUEST_SECONDS = 5.0
Status = Callable[[], dict[str, Any]]


async def serve_health(host: str, port: int, status: Status) -> asyncio.Server:
    """Answers GET /livez (200) and GET /readyz (200, or 503 while `status()["ready"]` is false) in JSON.

    Raises:
        ConfigurationError: the port is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head.split(b"\r\n", 1)[0].decode("latin-1"), status))
                await writer.drain()
        writer.close()

    try:
        return await asyncio.start_server(answer, host, port, limit=16 * 1024)
    except OSError as error:
        raise ConfigurationError(
            f"The health endpoint cannot listen on {host}:{port} ({error.strerror}). Choose another --health-port."
        ) from error


def _response(line: str, status: Status) -> bytes:
    method, _, rest = line.partition(" ")
    body: dict[str, Any]
    path = rest.partition(" ")[0].partition("?")[0]
    if method not in ("GET", "HEAD"):
        code, body = "405 Method Not Allowed\r\nAllow: GET, HEAD", {"error": "Use GET."}
    elif path == "/livez":
        code, body = "200 OK", {"live": True}
    elif path == "/readyz":
        body = status()
        code = "200 OK" if body["ready"] else "503 Service Unavailable"
    else:
        code, body = "404 Not Found", {"error": "There are /livez and /readyz here."}
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else data)
