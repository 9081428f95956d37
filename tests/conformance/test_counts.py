"""Numbers that are shown: what they count, and whether they are exact."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from switchtower.engine import DeadLetterFilter, Engine
from switchtower.pages import Count
from switchtower.store import counters
from tests.conformance.situations import CALLER, fresh, job_in


async def test_a_count_of_dead_letters_says_whether_it_went_to_the_end(engine: Engine) -> None:
    queue = fresh("queue")
    for _ in range(3):
        await job_in(engine, "failed", queue=queue)
    counted = [await engine.dead_letters.count(DeadLetterFilter(), caller=CALLER, cap=cap) for cap in (2, 3, 4)]
    assert counted == [Count(2, False), Count(3, True), Count(3, True)]


async def test_the_throughput_is_of_all_that_ended(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def series(*_: Any, **__: Any) -> list[Any]:
        return [SimpleNamespace(queue="q", completed=20, failed=10), SimpleNamespace(queue="q", completed=0, failed=30)]

    monkeypatch.setattr(counters, "series", series)
    found = await engine.queues.throughput(["q", "idle"], caller=CALLER)
    assert 60 / 6 <= found["q"] <= 60 / 5 and found["idle"] == 0
