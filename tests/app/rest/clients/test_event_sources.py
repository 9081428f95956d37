"""The scripts of the documents, word by word, in an EventSource."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from switchtower.engine import Engine
from switchtower.workers import OutcomeKind
from tests.app.node import SCRIPTS, node, node_program
from tests.app.serving import Served
from tests.conformance.situations import ERROR, job_in

ASYNCMQ = """
const source = new EventSource('/asyncmq/events');
source.addEventListener('metrics', (event) => {
  const payload = JSON.parse(event.data);
  console.log('throughput', payload.throughput);
});
"""
CONVEYOR = """
const events = new EventSource('/api/events');

events.addEventListener('job:completed', (e) => {
  const event = JSON.parse(e.data);
  console.log(`Job ${event.jobId} completed in queue ${event.queueName}`);
});

events.addEventListener('job:failed', (e) => {
  const event = JSON.parse(e.data);
  console.log(`Job ${event.jobId} failed: ${event.data?.reason}`);
});
"""


def test_asyncmq(served: Served) -> None:
    assert node("eventsource.mjs", served.url, "1", ASYNCMQ) == [{"line": "throughput 0"}]


@asynccontextmanager
async def listening(url: str, count: int, script: str) -> AsyncIterator[AsyncIterator[Any]]:
    """What the script prints, as it prints it."""
    command = [node_program(), "eventsource.mjs", url, str(count), script]
    process = await asyncio.create_subprocess_exec(*command, cwd=SCRIPTS, stdout=asyncio.subprocess.PIPE)

    async def lines() -> AsyncIterator[Any]:
        assert process.stdout is not None
        async for line in process.stdout:
            yield json.loads(line)

    try:
        async with asyncio.timeout(60):
            yield lines()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_conveyor(served: Served, engine: Engine) -> None:
    async with listening(served.url, 2, CONVEYOR) as lines:
        assert await anext(lines) == {"connected": True}
        done = await job_in(engine, "active", queue="a")
        await done.report(OutcomeKind.COMPLETE)
        assert await anext(lines) == {"line": f"Job {done.id} completed in queue a"}
        failed = await job_in(engine, "active", queue="b", max_attempts=1)
        await failed.report(OutcomeKind.FAIL, error=ERROR)
        assert await anext(lines) == {"line": f"Job {failed.id} failed: it broke"}
