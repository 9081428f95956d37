"""Templates: jobs that share most of a document are the jobs that they would be one by one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.errors import InvalidInput
from switchtower.jobs import Enqueued, NewJob
from switchtower.retry import Backoff, BackoffKind
from switchtower.store.templates import likeness
from tests.conformance.situations import CALLER, HOUR_MS, fresh
from tests.databases import anywhere

SHARED: dict[str, dict[str, Any]] = {
    "bare": {},
    "full": {
        "tags": ["red", "$blue"],
        "group": "$g",
        "priority": -3,
        "lifo": True,
        "ttl_ms": HOUR_MS,
        "timeout_ms": 5_000,
        "max_attempts": 7,
        "backoff": Backoff(BackoffKind.LINEAR, base_ms=5),
        "remove_on_complete": True,
        "remove_on_fail": True,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
    "delayed": {"delay_ms": HOUR_MS},
    "at a time": {"run_at": datetime(2100, 1, 1, tzinfo=UTC), "rank": 0.5},
    "delivered": {"webhook": True},
}
PAYLOADS: list[Any] = [None, {"n": 1, "deep": [{"$x": {"a.b": "é\U0001f600"}}]}, "$name", 2**62, [], {"": 1.5}]
TRACES = [None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]
OWN = {"_id", "payload", "seq", "order", "queue", "timeline", "event", "line"}


async def made(engine: Engine, news: list[NewJob]) -> list[Enqueued]:
    answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    assert all(isinstance(answer, Enqueued) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Enqueued)]


async def at_once(engine: Engine, news: list[NewJob]) -> list[Enqueued]:
    return await asyncio.gather(*(engine.jobs.enqueue(new, caller=CALLER) for new in news))


@pytest.mark.parametrize("made", [made, at_once])
async def test_jobs_of_a_template_are_those_that_they_would_be_alone(engine: Engine, made: Any) -> None:
    for kind in SHARED:
        queue = fresh("queue")
        news = [NewJob(name="work", queue=queue, payload=payload, **SHARED[kind]) for payload in PAYLOADS]
        assert len({likeness(new) for new in news}) == 1, "they share a template"
        answers = await made(engine, news)
        alone = (await engine.jobs.enqueue(NewJob(name="work", queue=queue, **SHARED[kind]), caller=CALLER)).job
        stored = {row["_id"]: row async for row in engine._store.jobs.find(anywhere(queue=queue))}
        expected = stored.pop(alone.id)
        assert list(stored) == [answer.job.id for answer in answers], "in the order that they were given"
        assert sorted(stored, key=lambda id: (stored[id]["seq"].time, stored[id]["seq"].inc)) == list(stored)
        for answer, payload in zip(answers, PAYLOADS, strict=True):
            document = stored[answer.job.id]
            assert document["payload"] == payload
            assert document.keys() == expected.keys()
            for field, value in document.items():
                if isinstance(value, datetime):
                    assert abs(value - expected[field]) < timedelta(minutes=1), field
                elif field not in OWN:
                    assert value == expected[field], field
            assert document["event"]["1"].keys() == expected["event"]["1"].keys()
            assert answer.job == await engine.jobs.get(answer.job.id, caller=CALLER)


async def test_enqueues_of_one_turn_are_each_callers_own(engine: Engine) -> None:
    queue = fresh("queue")
    callers = [replace(CALLER, org=f"org-{n % 3}", actor=f"a{n % 2}", traceparent=TRACES[n % 2]) for n in range(120)]
    news = [NewJob(name="work", queue=queue, payload=n) for n in range(120)]
    answers = await asyncio.gather(
        *(engine.jobs.enqueue(new, caller=caller) for new, caller in zip(news, callers, strict=True))
    )
    for n, answer in enumerate(answers):
        job = answer.job
        assert (job.payload, job.org, job.traceparent) == (n, f"org-{n % 3}", TRACES[n % 2])
        assert job.timeline[0].actor == f"a{n % 2}"
        assert await engine.jobs.get(job.id, caller=callers[n]) == job


async def test_no_job_shares_an_earlier_ones_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    began = engine._store.clock.now_ms()
    times = iter(range(began, began + 1_000, 10))
    monkeypatch.setattr(engine._store.clock, "now_ms", lambda: next(times))
    new = NewJob(name="work", queue=fresh("queue"), delay_ms=HOUR_MS)
    answers = await at_once(engine, [new] * 10)
    due = [answer.job.run_at for answer in answers]
    assert len(set(due)) == 10
    assert due == sorted(due)


async def test_each_job_is_checked_among_those_like_it(engine: Engine) -> None:
    queue = fresh("queue")
    news: list[NewJob] = [
        NewJob(name="work", queue=queue, priority=1, payload=1),
        NewJob(name="work", queue=queue, priority=True, payload=2),
        NewJob(name="work", queue=queue, priority=1, payload=float("nan")),
        NewJob(name="work", queue=queue, priority=1, payload={"k": "x" * 2_000_000}),
        NewJob(name={"un": "hashable"}, queue=queue),  # type: ignore[arg-type]
        NewJob(name="work", queue=queue, tags=[["un"]]),  # type: ignore[list-item]
        NewJob(name="work", queue=queue, tags="text"),
        NewJob(name="work", queue=queue, priority=1, job_id=""),
        NewJob(name="work", queue=queue, priority=1, depends_on=""),
        NewJob(name="work", queue=queue, priority=1, payload=3),
    ]
    answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    fields = [answer.field if isinstance(answer, InvalidInput) else None for answer in answers]
    assert fields == [None, "priority", "payload", "payload", "name", "tags", "tags", "jobId", "dependsOn", None]
    assert await engine._store.jobs.count_documents(anywhere(queue=queue)) == 2


def test_what_must_be_looked_at_has_no_template() -> None:
    for own in ("job_id", "idempotency_key", "unique_key", "parent_id"):
        assert likeness(NewJob(name="work", **{own: "x"})) is None  # type: ignore[arg-type]
    assert likeness(NewJob(name="work", depends_on=["x"])) is None


async def test_lanes_are_announced_before_the_jobs_in_them(engine: Engine) -> None:
    queue = fresh("queue")
    await made(engine, [NewJob(name="work", queue=queue, group=f"g{n % 2}") for n in range(4)])
    won = []
    while jobs := await engine.claims.claim(fresh("worker"), [queue], limit=2):
        won += [job.group for job in jobs]
    assert sorted(won) == ["g0", "g0", "g1", "g1"]


async def test_thousands_are_made_in_order_across_chunks(engine: Engine) -> None:
    queue = fresh("queue")
    answers = await made(engine, [NewJob(name=f"work-{n % 3}", queue=queue, payload=n) for n in range(1_234)])
    assert [answer.job.payload for answer in answers] == list(range(1_234))
    rows = await engine._store.jobs.find(anywhere(queue=queue), {"payload": 1}, sort=[("seq", 1)]).to_list(None)
    assert [row["payload"] for row in rows] == list(range(1_234))
