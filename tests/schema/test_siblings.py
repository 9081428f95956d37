"""Fields that fail beside others of one request: the others are given up, and the server goes on."""

from __future__ import annotations

import asyncio
from itertools import product

from switchtower.engine import Engine
from tests.schema.conftest import Graph
from tests.waiting import until

QUEUES = 12
FAILING = (
    'jobs(before: "x") { nodes { id } }',
    "jobs(first: 501) { nodes { id } }",
    'jobs(after: "x") { nodes { id } }',
)


async def test_failing_sibling_fields_lock_nothing(graph: Graph, maintained: Engine) -> None:
    for number in range(QUEUES):
        await graph.enqueue(queue=f"q{number}")

    async def counted() -> bool:
        return len(await graph("{ queues { name } }")) == QUEUES

    await until(counted)
    besides = ("groups { name } latencyMs", "latencyMs", "counts { waiting } groups { name }")
    for failing, beside, _ in product(FAILING, besides, range(3)):
        answer = await graph.raw(f"{{ queues {{ name {beside} {failing} }} }}")
        assert answer.errors, answer
    asked = asyncio.ensure_future(graph("{ queues { name latencyMs } }"))
    done, _ = await asyncio.wait({asked}, timeout=30)
    assert done, "the server is locked"
    assert len(asked.result()) == QUEUES
