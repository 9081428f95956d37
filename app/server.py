"""How does the process listen, and how does it stop?

Uvicorn with additions: request heads are bounded in size and time while they arrive (the parser itself keeps whatever
is sent), and open streams are told to end before the server waits for connections to close.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from switchtower.errors import ConfigurationError

__all__ = ["BoundedHttpProtocol", "Server", "bind", "configure", "new_event_loop"]

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 15.0
KEEP_ALIVE_SECONDS: Final = 75
GRACE_SECONDS: Final = 10


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose request line and headers must arrive within 64 KiB and 15 s."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            # Raised inside the parser it becomes a parser error: 400, and the connection closes.
            raise ValueError("request head too large")

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class ClosableWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that can be shut down in every state; the library's raises while a close is under way."""

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:
            self.transport.close()


class Server(uvicorn.Server):
    """Calls `on_ready` once it listens, and `on_closing` before it waits for open connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_ready: Callable[[], Any] = lambda: None,
        on_closing: Callable[[], Any] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_closing = on_closing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_closing()
        await super().shutdown(sockets)
        # Uvicorn would raise the signal that stopped it once more: a stop that was asked for is not a failure.
        self._captured_signals.clear()


def configure(app: ASGIApp, *, frame_bytes: int, grace_seconds: int = GRACE_SECONDS) -> uvicorn.Config:
    """The server's configuration; `frame_bytes` bounds a WebSocket message while it arrives (closed with 1009)."""
    return uvicorn.Config(
        app,
        http=BoundedHttpProtocol,
        ws=ClosableWebSocket,
        ws_max_size=frame_bytes,
        # Compression costs more than the small messages of a subscription save, and lets small frames grow large here.
        ws_per_message_deflate=False,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: the port is taken or not ours to take, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise ConfigurationError(_why_not(host, port, error)) from None
    sock.set_inheritable(False)
    return sock


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use by another program; stop it, or use --port."
    if error.errno == errno.EACCES:
        return f"Port {port} needs rights that this process does not have; use --port with one above 1023."
    if error.errno in (errno.EADDRNOTAVAIL, socket.EAI_NONAME):
        return f"{host} is not an address of this machine; use --host 127.0.0.1."
    return f"Cannot listen on {host} port {port}: {error.strerror or error}."
