"""The server is killed amid flows that are enqueued under keys: each key ends as one whole flow, and none is half."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.client import Client
from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from tests.app.test_process import running

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


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_key_is_one_whole_flow_however_often_the_server_dies(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, mongodb_url: str, database_name: str, scale: str
) -> None:
    count = 500 if scale == "full" else 120
    keys = [f"flow-{n}" for n in range(count)]
    answered: dict[str, list[str]] = {key: [] for key in keys}
    dice = random.Random(3)
    half: list[Any] = []

    async def look() -> None:
        """At every moment a flow is there whole or not at all."""
        while True:
            rows = await engine._store.database.aggregate(
                "jobs", [{"$group": {"_id": "$flow_id", "n": {"$sum": 1}}}, {"$match": {"n": {"$ne": NODES}}}]
            )
            half.extend(rows)
            await asyncio.sleep(0.01)

    async def send(client: Client, key: str) -> None:
        made = await client.mutate(MUTATION, {"input": flow(key)})
        assert made["total"] == NODES
        answered[key].append(made["id"])

    watching = asyncio.create_task(look())
    interrupted = 0
    for round in range(KILLS + 1):
        arguments = ("--mongodb-url", mongodb_url)
        with running(tmp_path, *arguments, SWITCHTOWER_DATABASE=database_name) as (process, line):
            url = next(word for word in line.split() if word.startswith("http://"))
            async with Client(url) as client:
                sent = [asyncio.create_task(send(client, key)) for key in keys]
                if round < KILLS:
                    goal = count * (round + 1) // (KILLS + 2)
                    while sum(map(bool, answered.values())) < goal and not all(task.done() for task in sent):
                        await asyncio.sleep(dice.uniform(0, 0.02))
                    process.kill()
                for outcome in await asyncio.gather(*sent, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        assert isinstance(outcome, StoreUnavailable), outcome
                        interrupted += 1
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert interrupted > 0, "no call was cut off"
    assert half == []
    assert all(len(set(ids)) == 1 for ids in answered.values())
    roots = list(view["jobs"].find({"flow_root": True}))
    assert Counter(root["idempotency_key"] for root in roots) == Counter(keys)
    assert view["jobs"].count_documents({}) == count * NODES
