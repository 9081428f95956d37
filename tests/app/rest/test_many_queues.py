"""Ten thousand queues are listed, counted and shown by every surface, and none of them gives up."""

from __future__ import annotations

import pytest

from switchtower.jobs import NewJob
from tests.app.rest.conftest import Server
from tests.conformance.situations import CALLER
from tests.waiting import until

QUEUES = {"ci": 500, "full": 10_000}
"""Of the suite, and of the nightly run."""


@pytest.mark.slow
async def test_many_queues(maintained: Server, scale: str) -> None:
    queues = QUEUES[scale]
    for start in range(0, queues, 500):
        news = [NewJob(name="work", queue=f"queue-{n:05d}") for n in range(start, start + 500)]
        await maintained.engine.jobs.enqueue_many(news, caller=CALLER)

    async def counted() -> bool:
        rows = (await maintained.graphql("{ queues { name counts { waiting } } }"))["queues"]
        return len(rows) == queues and all(row["counts"]["waiting"] for row in rows)

    await until(counted)
    rows = (await maintained.graphql("{ queues { name latencyMs counts { waiting } } }"))["queues"]
    assert {row["counts"]["waiting"] for row in rows} == {1} and all(row["latencyMs"] is not None for row in rows)
    for path in (
        "/",
        "/queues",
        "/queues?page=400",
        "/queues/queue-00042",
        "/metrics",
        "/jobs",
        "/search?q=queue-00042",
    ):
        page = await maintained.ask("GET", path, accept="text/html")
        assert page.status == 200 and len(page.body) < 300_000, path
    listed = await maintained.ask("GET", "/api/queues")
    assert listed.status == 200 and len(listed.json["data"]) == queues
    answer = await maintained.ask("GET", "/asyncmq/queues", accept="application/json")
    assert answer.status == 200 and answer.json
    scraped = await maintained.ask("GET", "/metrics/prometheus")
    assert b"switchtower_database_up 1.0" in scraped.body and b'queue="queue-00042"' in scraped.body
