"""The example worker in Node, against a real server: jobs run, cancels arrive, a killed worker's job starts again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.app.node import node_program
from tests.app.product import ENQUEUE, execute, product
from tests.app.serving import Served
from tests.waiting import until

WORKER = Path(__file__).parents[2] / "examples" / "node_worker" / "worker.mjs"
JOB = """query ($id: ID!) { job(id: $id) {
  state result attempt progress logs { line } error { type message } worker { hostname } attempts { outcome }
} }"""

pytestmark = pytest.mark.acceptance


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


@contextmanager
def worker(served: Served, **variables: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "SWITCHTOWER_URL": served.url, **variables}
    process = subprocess.Popen(
        [node_program(), str(WORKER)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"]
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def enqueue(http: httpx2.Client, name: str, payload: Any, **options: Any) -> str:
    answer = execute(http, ENQUEUE, input={"name": name, "payload": payload, "queue": "node", **options})["enqueueJob"]
    assert answer["__typename"] == "Job", answer
    return str(answer["id"])


def read(http: httpx2.Client, id: str) -> dict[str, Any]:
    return dict(execute(http, JOB, id=id)["job"])


async def in_state(http: httpx2.Client, id: str, state: str, *, timeout_seconds: float = 60) -> dict[str, Any]:
    await until(lambda: asyncio.to_thread(lambda: read(http, id)["state"] == state), timeout_seconds=timeout_seconds)
    return read(http, id)


async def test_jobs_run_and_report(served: Served, http: httpx2.Client) -> None:
    texts = [f"to be or not to be {i}" for i in range(25)]
    before = [enqueue(http, "sha256", {"text": text}) for text in texts]
    with worker(served) as process:
        counted = enqueue(http, "word_count", {"text": "to be or not to be"})
        for id, text in zip(before, texts, strict=True):
            job = await in_state(http, id, "COMPLETED")
            assert job["result"] == {"sha256": hashlib.sha256(text.encode()).hexdigest()}
        job = await in_state(http, counted, "COMPLETED")
        assert job["result"] == {"words": 6, "distinct": 4}
        assert job["progress"] == {"done": 6, "of": 6}
        assert [line["line"] for line in job["logs"]] == ["counting 6 words"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


async def test_a_new_job_is_heard_of_at_once(served: Served, http: httpx2.Client) -> None:
    # Its polls are rare: what it does not hear of takes the test's time.
    with worker(served, SWITCHTOWER_POLL_SECONDS="600"):
        made: list[str] = []

        def heard() -> bool:
            made.append(enqueue(http, "sha256", {"text": ""}))
            return read(http, made[0])["state"] == "COMPLETED"

        # The stream opens in its own time: jobs are made until it tells of one.
        await until(lambda: asyncio.to_thread(heard))
        for _ in range(10):
            await in_state(http, enqueue(http, "sha256", {"text": "x"}), "COMPLETED")


async def test_failures(served: Served, http: httpx2.Client) -> None:
    with worker(served):
        fatal = enqueue(http, "word_count", {"text": 5}, maxAttempts=5)
        repeated = enqueue(http, "watch", {"url": "no address"}, maxAttempts=2, backoff={"kind": "FIXED", "baseMs": 10})
        job = await in_state(http, fatal, "FAILED")
        assert job["attempt"] == 1 and job["error"]["message"] == "payload.text must be text"
        job = await in_state(http, repeated, "FAILED")
        assert job["attempt"] == 2 and job["error"]["type"] == "TypeError"


async def test_a_cancel_reaches_the_handler(served: Served, http: httpx2.Client) -> None:
    with worker(served):
        id = enqueue(http, "watch", {"url": f"{served.url}/livez", "everyMs": 20})
        await until(lambda: asyncio.to_thread(lambda: read(http, id)["progress"] is not None))
        execute(http, "mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=id)
        job = await in_state(http, id, "CANCELLED")
        assert job["attempt"] == 1


async def test_a_killed_workers_job_starts_again(served: Served, http: httpx2.Client) -> None:
    id = enqueue(http, "watch", {"url": f"{served.url}/livez", "everyMs": 20}, maxAttempts=50)
    with worker(served, SWITCHTOWER_LEASE_SECONDS="2") as first:
        await until(lambda: asyncio.to_thread(lambda: read(http, id)["progress"] is not None))
        first.kill()
        first.wait()
        attempt = read(http, id)["attempt"]
    with worker(served):
        await until(lambda: asyncio.to_thread(lambda: read(http, id)["attempt"] > attempt))


async def test_a_stop_releases_what_is_not_done(served: Served, http: httpx2.Client) -> None:
    id = enqueue(http, "watch", {"url": f"{served.url}/livez", "everyMs": 20})
    with worker(served, SWITCHTOWER_DRAIN_SECONDS="0.2") as process:
        await in_state(http, id, "ACTIVE")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert (await in_state(http, id, "WAITING"))["state"] == "WAITING"
