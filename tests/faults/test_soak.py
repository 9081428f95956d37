"""G15: a server and a worker at work for an hour, while subscribers come and go: no memory or file is lost."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from tests.faults.oracle import counters_equal_a_count, drained
from tests.faults.processes import Forked, Nursery, Servers
from tests.faults.test_slow_subscribers import subscribed
from tests.nightly.counting import count
from tests.waiting import until

MINUTES = float(os.environ.get("SWITCHTOWER_TEST_SOAK_MINUTES", "60"))
PAUSE_SECONDS = 0.2
GROWTH_BYTES_AN_HOUR = 1024 * 1024
# What a process may take and give back from one look to the next, whatever it does.
NOISE_BYTES = 4 * 1024 * 1024
ENQUEUE = """mutation($inputs: [EnqueueJobInput!]!) {
  enqueueJobs(inputs: $inputs) { items { ... on Job { id } ... on Error { message } } } }"""
LIST = "{ jobs(first: 50) { nodes { id state attempt queue name } } queues { name } }"


@dataclass
class Watched:
    """A process, and what was seen of it: (hours since the beginning, bytes of memory, open files)."""

    process: Forked
    seen: list[tuple[float, int, int]] = field(default_factory=list)

    def look(self, began: float) -> None:
        process = self.process.process
        self.seen.append(((time.monotonic() - began) / 3600, process.memory_info().rss, process.num_fds()))

    def growth(self) -> float:
        """Bytes that it grew from the third quarter to the last, by their medians; the first half is for warming up."""
        half = self.seen[len(self.seen) // 2 :]
        middle = len(half) // 2
        earlier, later = (statistics.median(rss for _, rss, _ in part) for part in (half[:middle], half[middle:]))
        return later - earlier

    def files(self) -> tuple[float, float]:
        """The open files after the first quarter, and at last."""
        numbers = [files for _, _, files in self.seen]
        quarter = len(numbers) // 4
        return statistics.median(numbers[quarter : 2 * quarter]), statistics.median(numbers[-quarter:])


@pytest.mark.nightly
@pytest.mark.timeout(7_200)
async def test_an_hour_at_work_costs_nothing(
    engine: Engine,
    view: Database[dict[str, Any]],
    nursery: Nursery,
    tmp_path: Path,
    mongodb_url: str,
    database_name: str,
) -> None:
    worker = nursery.start(lease_seconds=60, concurrency=10)
    with Servers(tmp_path, mongodb_url, database_name) as servers:
        server = servers.start()
        url = await until(lambda: server.url)
        assert url is not None
        await until(lambda: worker.ready)
        watched = [Watched(server), Watched(worker)]
        began = time.monotonic()
        made = 0
        async with httpx2.AsyncClient(timeout=60) as http:

            async def ask(query: str, **variables: Any) -> Any:
                answer = await http.post(f"{url}/graphql", json={"query": query, "variables": variables})
                assert answer.status_code == 200 and "errors" not in answer.json(), answer.text
                return answer.json()["data"]

            while time.monotonic() - began < MINUTES * 60:
                inputs = [{"name": "work", "removeOnComplete": True, "payload": {"seconds": 0.01}} for _ in range(10)]
                await ask(ENQUEUE, inputs=inputs)
                made += 10
                await ask(LIST)
                if made % 100 == 0:
                    async with subscribed(url) as connection:
                        await connection.send(json.dumps({"id": "1", "type": "complete"}))
                    for each in watched:
                        each.look(began)
                await asyncio.sleep(PAUSE_SECONDS)
        await drained(engine, timeout_seconds=120)
        await counters_equal_a_count(engine, view)
        assert server.alive and worker.alive
        hours = MINUTES / 60 / 4
        for name, each in zip(("server", "worker"), watched, strict=True):
            growth, (before, after) = each.growth(), each.files()
            print(f"{name}: {growth / 1024:+.0f} KiB in {hours * 60:.0f} minutes, {before:.0f} files, then {after:.0f}")
            assert growth < GROWTH_BYTES_AN_HOUR * hours + NOISE_BYTES, f"{name} grew by {growth / 1024**2:.1f} MiB"
            assert after <= before + 2, f"{name} holds {after:.0f} files, {before:.0f} before"
        assert '"level": "error"' not in server.said
    print(f"{made} jobs")
    count("G15", "minutes of soak", int(MINUTES))
