"""What the folder adds up, in minutes, hours and snapshots."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.callers import EVERYTHING, Caller
from switchtower.engine import Engine
from switchtower.errors import InvalidInput
from switchtower.jobs import NewJob
from switchtower.maintenance import Maintenance
from switchtower.metrics import Granularity, MetricBucket
from switchtower.states import JobState
from switchtower.store import counters
from switchtower.store.collections import Store
from switchtower.store.driver import outrun as was_outrun
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, fresh
from tests.waiting import until


@asynccontextmanager
async def folding(engine: Engine) -> AsyncIterator[None]:
    """The folder runs, and has begun."""
    task = asyncio.create_task(Maintenance(engine)._fold())
    try:
        await until(lambda: engine._store.counters.count_documents({"_id": "#fold"}))
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def run_jobs(
    engine: Engine, queue: str, *, ran_ms: list[int], caller: Caller = CALLER, name: str = "work"
) -> None:
    """Jobs that took so long each."""
    worker = fresh("wkr")
    await engine.workers.register(WorkerInfo(id=worker, queues=[queue]))
    for _ in ran_ms:
        await engine.jobs.enqueue(NewJob(name=name, queue=queue), caller=caller)
    left = list(ran_ms)
    while left:
        claimed = await engine.claims.claim(worker, [queue], limit=50)
        await engine.claims.report(
            [Outcome(job.id, job.token, OutcomeKind.COMPLETE, result=1, ran_ms=left.pop()) for job in claimed]
        )


async def test_minutes_and_hours_hold_the_same_sums_and_percentiles(engine: Engine) -> None:
    queue = fresh("queue")
    times = [10] * 90 + [1_000] * 9 + [60_000]
    async with folding(engine):
        await run_jobs(engine, queue, ran_ms=times)

        async def whole() -> bool:
            buckets = await engine.metrics.buckets(queue, caller=CALLER)
            return sum(bucket.completed for bucket in buckets) == 100

        await until(whole)
    for granularity in Granularity:
        merged = together(await engine.metrics.buckets(queue, caller=CALLER, granularity=granularity))
        assert (merged.enqueued, merged.completed, merged.runs, merged.claimed) == (100, 100, 100, 100)
        assert (merged.run_ms, merged.min_ms, merged.max_ms) == (sum(times), 10, 60_000)
        assert merged.percentile_ms(0.5) == pytest.approx(10, rel=0.051)
        assert merged.percentile_ms(0.95) == pytest.approx(1_000, rel=0.051)
        assert merged.percentile_ms(1.0) == pytest.approx(60_000, rel=0.051)


def together(buckets: Sequence[MetricBucket]) -> MetricBucket:
    """One bucket of them all, since whatever takes a moment may lie in two minutes."""
    whole = replace(buckets[0], histogram=dict(buckets[0].histogram))
    for other in buckets[1:]:
        whole.add(other)
    return whole


async def test_a_tenant_sees_its_own_numbers(engine: Engine) -> None:
    queue = fresh("queue")
    acme, other = Caller("a", org="acme"), Caller("b", org="other")
    async with folding(engine):
        await run_jobs(engine, queue, ran_ms=[5, 5], caller=acme)
        await run_jobs(engine, queue, ran_ms=[5], caller=other)

        async def counted() -> bool:
            return sum(b.completed for b in await engine.metrics.buckets(queue, caller=CALLER)) == 3

        await until(counted)
    assert sum(b.completed for b in await engine.metrics.buckets(queue, caller=acme)) == 2
    assert sum(b.completed for b in await engine.metrics.buckets(queue, caller=other)) == 1
    assert sum((await engine.metrics.sparklines([queue], caller=acme))[queue]) == 2


async def test_by_name_keeps_names_apart(engine: Engine) -> None:
    queue = fresh("queue")
    async with folding(engine):
        await run_jobs(engine, queue, ran_ms=[1], name="one")
        await run_jobs(engine, queue, ran_ms=[2, 2], name="two")

        async def counted() -> bool:
            return sum(b.runs for b in await engine.metrics.buckets(queue, caller=CALLER)) == 3

        await until(counted)
    apart = await engine.metrics.buckets(queue, caller=CALLER, by_name=True)
    assert {b.name: together([a for a in apart if a.name == b.name]).runs for b in apart} == {"one": 1, "two": 2}
    only = await engine.metrics.buckets(queue, caller=CALLER, name="two")
    assert {b.name for b in only} == {"two"} and together(only).runs == 2


async def test_all_queues_together_are_the_sum_of_each(engine: Engine) -> None:
    queues = [fresh("queue") for _ in range(3)]
    async with folding(engine):
        for number, queue in enumerate(queues):
            await run_jobs(engine, queue, ran_ms=[10 ** (number + 1)] * 2, name=f"task-{number}")
        await run_jobs(engine, queues[0], ran_ms=[7], name="task-0", caller=Caller("a", org="acme"))

        async def all_of_them() -> bool:
            return sum(b.runs for b in await engine.metrics.buckets(None, caller=CALLER)) == 7

        await until(all_of_them)
    for granularity in Granularity:
        read = partial(engine.metrics.buckets, granularity=granularity)
        apart: dict[datetime, list[MetricBucket]] = defaultdict(list)
        for queue in queues:
            for bucket in await read(queue, caller=CALLER):
                apart[bucket.at].append(bucket)
        of_all = await read(None, caller=CALLER)
        assert [bucket.at for bucket in of_all] == sorted(apart)
        for bucket in of_all:
            whole = together([MetricBucket(bucket.at, granularity, "", None), *apart[bucket.at]])
            assert bucket == whole and bucket.percentile_ms(0.99) == whole.percentile_ms(0.99)
        named: Counter[str | None] = Counter()
        for bucket in await read(None, caller=CALLER, by_name=True):
            named[bucket.name] += bucket.runs
        assert named == {"task-0": 3, "task-1": 2, "task-2": 2}
        slow = together(await read(None, caller=CALLER, name="task-2"))
        assert (slow.runs, slow.max_ms) == (2, 1_000)
        assert sum(b.runs for b in await read(None, caller=Caller("a", org="acme"))) == 1
        assert sum(b.runs for b in await read(None, caller=Caller("k", queues=frozenset(queues[:1])))) == 3


async def test_a_batch_is_counted_once_however_often_it_is_committed(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    seen = []
    async with engine.hub().subscribe(lambda event: event.queue == queue) as events:
        await run_jobs(engine, queue, ran_ms=[7])
        async for event in events:
            seen.append(event)
            if len(seen) == 3:
                break
    await counters.recount(store, reached="")
    delta = counters.fold(seen)
    assert await counters.commit(store, delta, reached="there", seen="")
    assert not await counters.commit(store, delta, reached="there", seen="")
    bucket = together(await engine.metrics.buckets(queue, caller=CALLER))
    assert (bucket.enqueued, bucket.claimed, bucket.completed) == (1, 1, 1)


async def test_a_batch_that_another_write_outruns_is_committed_all_the_same(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    await run_jobs(engine, queue, ran_ms=[7])
    await counters.recount(store, reached="")
    delta = counters.Delta()
    delta.states[queue, ""]["completed"] = 1
    delta.latest[queue, ""] = engine.clock.now()
    with mongo.start_session() as session:
        session.start_transaction()
        mongo[engine.database_name]["counters"].update_one({"queue": queue}, {"$set": {"x": 1}}, session=session)
        outran: list[bool] = []

        def outrun(error: BaseException) -> bool:
            outran.append(was_outrun(error))
            if session.in_transaction:
                session.abort_transaction()
            return outran[-1]

        monkeypatch.setattr(counters, "outrun", outrun)
        assert await counters.commit(store, delta, reached="there", seen="")
    assert outran and all(outran) and (await engine.jobs.counts(caller=CALLER))[JobState.COMPLETED] == 2


async def test_snapshots_are_ten_seconds_apart_whoever_takes_them(engine: Engine) -> None:
    taken = [await engine.metrics.snapshot() for _ in range(5)]
    history = await engine.metrics.history()
    assert taken.count(True) == len(history) <= 2
    for newer, older in pairwise(history):
        assert newer.at - older.at >= timedelta(seconds=10)
    assert set(history[0].counts) == {
        "scheduled", "waiting", "blocked", "active", "retrying", "completed", "failed", "cancelled"
    }  # fmt: skip


async def test_turned_off_nothing_is_kept_but_states_are(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    engine.metrics.enabled = False
    async with folding(engine):
        await run_jobs(engine, queue, ran_ms=[5])

        async def counted() -> bool:
            return (await counters.by_queue(store, reach=EVERYTHING)).get(queue, {}).get("completed") == 1

        await until(counted)
    assert await store.minutes.count_documents({"queue": queue}) == 0
    assert not await engine.metrics.snapshot()
    with pytest.raises(InvalidInput, match="turned off"):
        await engine.metrics.buckets(queue, caller=CALLER)
