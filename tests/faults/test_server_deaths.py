"""The server is killed amid flows that are enqueued under keys: each key ends as one whole flow, and none is half."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from switchtower.client import Client
from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from tests.app.test_process import running
from tests.waiting import until

NODES = 20
KILLS = 4
MUTATION = """mutation($input: EnqueueFlowInput!) { enqueueFlow(input: $input) {
  ... on Flow { id total } ... on Error { code message } } }"""


def flow(key: str) -> dict[str, Any]:
    children = [{"job": {"name": f"step{n}", "queue": "flows"}, "key": f"{n}"} for n in range(NODES - 1)]
    for n in range(10, NODES - 1):
        children[n]["dependsOn"] = [f"{n - 10}"]
    root = {"job": {"name": "root", "queue": "flows", "payload": {"key": key}}, "children": children}
    return {"root": root, "idempotencyKey": key}


def _come_to(answered: dict[str, list[str]], goal: int, sent: list[asyncio.Task[None]]) -> bool:
    return sum(map(bool, answered.values())) >= goal or all(task.done() for task in sent)


async def _round(
    folder: Path, url: str, database: str, keys: list[str], answered: dict[str, list[str]], goal: int | None
) -> int:
    """Sends every key to a new server, and kills it when `goal` keys have ever been answered. Returns: how many calls
    that cut off."""

    async def send(client: Client, key: str) -> None:
        made = await client.mutate(MUTATION, {"input": flow(key)})
        assert made["total"] == NODES
        answered[key].append(made["id"])

    with running(folder, "--mongodb-url", url, SWITCHTOWER_DATABASE=database) as (process, line):
        address = next(word for word in line.split() if word.startswith("http://"))
        async with Client(address) as client:
            sent = [asyncio.create_task(send(client, key)) for key in keys]
            if goal is not None:
                await until(lambda: _come_to(answered, goal, sent), timeout_seconds=60)
                process.kill()
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
    cut_off = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(outcome, StoreUnavailable) for outcome in cut_off), cut_off
    return len(cut_off)


@pytest.fixture
def short_transactions(mongo: MongoClient[dict[str, Any]]) -> Iterator[None]:
    """The database ends what a dead process left open after three seconds, not after its usual minute."""
    name = "transactionLifetimeLimitSeconds"
    usual = mongo.admin.command({"getParameter": 1, name: 1})[name]
    mongo.admin.command({"setParameter": 1, name: 3})
    yield
    mongo.admin.command({"setParameter": 1, name: usual})


@pytest.mark.usefixtures("short_transactions")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_key_is_one_whole_flow_however_often_the_server_dies(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, mongodb_url: str, database_name: str, scale: str
) -> None:
    count = 500 if scale == "full" else 120
    keys = [f"flow-{n}" for n in range(count)]
    answered: dict[str, list[str]] = {key: [] for key in keys}
    half: list[Any] = []

    async def look() -> None:
        """At every moment a flow is there whole or not at all."""
        while True:
            rows = await engine._store.database.aggregate(
                "jobs", [{"$group": {"_id": "$flow_id", "n": {"$sum": 1}}}, {"$match": {"n": {"$ne": NODES}}}]
            )
            half.extend(rows)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(look())
    interrupted = 0
    try:
        for n in range(1, KILLS + 1):
            interrupted += await _round(tmp_path, mongodb_url, database_name, keys, answered, count * n // (KILLS + 1))
        deadline = time.monotonic() + 60
        while missing := [key for key in keys if not answered[key]]:
            assert time.monotonic() < deadline, f"{len(missing)} keys stay without an answer"
            await _round(tmp_path, mongodb_url, database_name, missing, answered, None)
        await _round(tmp_path, mongodb_url, database_name, keys, answered, None)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    assert interrupted > 0, "no call was cut off"
    assert half == []
    assert all(len(set(ids)) == 1 for ids in answered.values())
    roots = list(view["jobs"].find({"flow_root": True}))
    assert Counter(root["idempotency_key"] for root in roots) == Counter(keys)
    assert view["jobs"].count_documents({}) == count * NODES
