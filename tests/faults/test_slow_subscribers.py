"""F15: subscribers that stop reading cost the server little and the others nothing, and are told what they missed."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import string
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from switchtower.engine import Engine
from switchtower.jobs import ClaimedJob, NewJob
from switchtower.workers import WorkerInfo
from tests.faults.conftest import CALLER
from tests.faults.processes import Servers
from tests.nightly.counting import count
from tests.waiting import until

STALLED = {"ci": 8, "full": 250}
HEALTHY = {"ci": 2, "full": 50}
EVENTS = {"ci": 400, "full": 5_000}
EVENT_BYTES = 5_000
# No healthy reader may fall behind because this machine is slow: the writer waits for them this often.
STEP = 50
GROWTH_BYTES = 64 * 1024 * 1024
QUERY = """subscription { jobEvents(filter: {types: [PROGRESS]}) {
  __typename ... on JobProgress { progress } ... on StreamGap { reason } } }"""


@asynccontextmanager
async def subscribed(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    # Compressed, nothing would ever fill the buffers in between.
    transport = Subprotocol("graphql-transport-ws")
    address = url.replace("http", "ws", 1) + "/graphql"
    async with connect(
        address, subprotocols=[transport], compression=None, max_size=None, open_timeout=60, close_timeout=1, **options
    ) as connection:
        await connection.send('{"type":"connection_init"}')
        assert json.loads(await connection.recv())["type"] == "connection_ack"
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": QUERY}}))
        yield connection


@asynccontextmanager
async def streamed(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """An event stream, of which nothing is read until somebody does."""
    parts = urlsplit(url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    narrow.connect((parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1_024)
    body = json.dumps({"query": QUERY})
    head = [
        *("POST /graphql HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"),
        *("Accept: text/event-stream", f"Content-Length: {len(body)}", "", body),
    ]
    writer.write("\r\n".join(head).encode())
    try:
        yield reader
    finally:
        writer.transport.abort()


class Healthy:
    """Reads as fast as it can."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.there = False
        self.seen: list[int] = []

    async def run(self) -> None:
        async for message in self._connection:
            event = json.loads(message)["payload"]["data"]["jobEvents"]
            assert event["__typename"] == "JobProgress", event
            if event["progress"]["n"] < 0:
                self.there = True
            else:
                self.seen.append(event["progress"]["n"])


class Writer:
    """Makes large events, no faster than the healthy readers read them."""

    def __init__(self, engine: Engine, job: ClaimedJob, readers: list[Healthy]) -> None:
        self._engine, self._job, self._readers = engine, job, readers
        self._filler = "".join(random.Random(15).choices(string.ascii_letters, k=2 * EVENT_BYTES))
        self.written = 0

    async def write(self, count: int) -> float:
        """Returns: how many seconds it took until every reader had read them."""
        began = time.monotonic()
        for _ in range(count // STEP):
            for _ in range(STEP):
                at = self.written % EVENT_BYTES
                value = {"n": self.written, "filler": self._filler[at : at + EVENT_BYTES]}
                await self._engine.claims.progress(self._job.id, self._job.token, value)
                self.written += 1
            await until(lambda: all(len(reader.seen) >= self.written for reader in self._readers))
        return time.monotonic() - began


async def everyone_is_there(url: str, engine: Engine, job: ClaimedJob, readers: list[Healthy]) -> None:
    """A subscription begins somewhere behind its request: events are made until each reader has seen one."""

    async def seen() -> bool:
        await engine.claims.progress(job.id, job.token, {"n": -1})
        return all(reader.there for reader in readers)

    await until(seen)


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
async def test_stalled_subscribers_cost_little_and_the_others_nothing(
    engine: Engine, tmp_path: Path, mongodb_url: str, database_name: str, scale: str
) -> None:
    await engine.jobs.enqueue(NewJob(name="work"), caller=CALLER)
    await engine.workers.register(WorkerInfo(id="w", queues=["default"], lease_seconds=3_600))
    (job,) = await engine.claims.claim("w", ["default"])
    with Servers(tmp_path, mongodb_url, database_name) as servers:
        server = servers.start()
        url = await until(lambda: server.url)
        assert url is not None
        async with AsyncExitStack() as stack:
            readers = [Healthy(await stack.enter_async_context(subscribed(url))) for _ in range(HEALTHY[scale])]
            reading = [asyncio.create_task(reader.run()) for reader in readers]
            stack.callback(lambda: [task.cancel() for task in reading])
            await everyone_is_there(url, engine, job, readers)
            writer = Writer(engine, job, readers)
            alone = await writer.write(EVENTS[scale])

            sockets = [await stack.enter_async_context(subscribed(url, max_queue=1)) for _ in range(STALLED[scale])]
            streams = [await stack.enter_async_context(streamed(url)) for _ in range(STALLED[scale])]
            before = server.process.memory_info().rss
            beside = await writer.write(EVENTS[scale])
            growth = server.process.memory_info().rss - before
            assert growth < GROWTH_BYTES, f"{growth / 1024**2:.0f} MiB for {2 * STALLED[scale]} stalled subscribers"
            assert beside < 3 * alone + 10, f"{beside:.1f} s beside stalled subscribers, {alone:.1f} s without"
            for reader in readers:
                assert reader.seen == list(range(writer.written)), "a healthy reader missed an event, or saw it twice"
            assert [task for task in reading if task.done()] == []

            # Who reads on is told of the gap: nothing was dropped in silence.
            async with asyncio.timeout(120):
                for connection in sockets:
                    await until_gap(connection)
                for stream in streams:
                    while b"StreamGap" not in await stream.read(65_536):
                        pass
        assert server.alive
    for goal in ("F15", "G12"):
        count(goal, "stalled subscribers", 2 * STALLED[scale])


async def until_gap(connection: ClientConnection) -> None:
    while '"StreamGap"' not in str(await connection.recv()):
        pass
