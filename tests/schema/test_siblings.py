"""Fields that fail beside others of one request: the others are given up, and the server goes on."""

from __future__ import annotations

import asyncio

import pytest

from switchtower.engine import Engine
from tests.schema.conftest import Graph
from tests.waiting import until

QUEUES = 12
FAILING = (
    'jobs(before: "x") { nodes { id } }',
    "jobs(first: 501) { nodes { id } }",
    'jobs(after: "x") { nodes { id } }',
)


@pytest.mark.parametrize("failing", FAILING)
async def test_failing_sibling_fields_lock_nothing(graph: Graph, maintained: Engine, failing: str) -> None:
    for number in range(QUEUES):
        await graph.enqueue(queue=f"q{number}")

    async def counted() -> bool:
        return len(await graph("{ queues { name } }")) == QUEUES

    await until(counted)
    for beside in ("groups { name } latencyMs", "latencyMs", "counts { waiting } groups { name }"):
        for _ in range(3):
            answer = await graph.raw(f"{{ queues {{ name {beside} {failing} }} }}")
            assert answer.errors, answer
    asked = asyncio.ensure_future(graph("{ queues { name latencyMs } }"))
    done, _ = await asyncio.wait({asked}, timeout=30)
    assert done, "the server is locked"
    assert len(asked.result()) == QUEUES
