"""A real server on a port of its own, in a thread with its own event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp

from app.server import Server, bind, configure


@dataclass
class Served:
    host: str
    port: int
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def graphql(self) -> str:
        return f"{self.url}/graphql"

    @property
    def websocket(self) -> str:
        return f"ws://{self.host}:{self.port}/graphql"

    def stop(self) -> None:
        self.server.should_exit = True


@contextmanager
def serving(
    app: ASGIApp,
    *,
    port: int = 0,
    frame_bytes: int = 2 * 1024 * 1024,
    on_closing: Callable[[], object] = lambda: None,
) -> Iterator[Served]:
    """Serves `app` until the block ends; the port is the kernel's choice unless one is given."""
    sock = bind("127.0.0.1", port)
    ready = threading.Event()
    config = configure(app, frame_bytes=frame_bytes, grace_seconds=30)
    server = Server(config, on_ready=ready.set, on_closing=on_closing)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not ready.wait(0.02):
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        yield Served("127.0.0.1", sock.getsockname()[1], server)
    finally:
        server.should_exit = True
        # Open connections are given half of this, and what else is under way has the rest.
        thread.join(120)
        assert not thread.is_alive(), "the server did not stop"
