"""How long a server waits for the head of a request."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from app import server
from app.server import Server, bind, configure


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, requests_before: int
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    listening = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    running = Server(configure(PlainTextResponse("here"), frame_bytes=1_000), on_ready=ready.set)
    running.config.lifespan = "off"
    task = asyncio.create_task(running.serve([listening]))
    try:
        await ready.wait()
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        for _ in range(requests_before):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nHost: local")
        # Far less than what an idle connection is kept for.
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    finally:
        running.should_exit = True
        await task
