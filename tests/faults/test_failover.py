"""F4, F5 and F7: the primary is killed, steps down, and the whole set is away, while real workers are at work."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.events import Event, Gap, Topic
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, drained, verify
from tests.faults.processes import Nursery
from tests.mongod import ReplicaSet
from tests.nightly.counting import count
from tests.waiting import until

AWAY_SECONDS = {"ci": 10.0, "full": 30.0}
REPEATS = {"ci": 1, "full": 12}
DATABASE = "failover"
LEASE_SECONDS = 30.0
SHORT_SECONDS = 3.0
# A worker stops by itself five seconds before its lease passes, and its last renewal is up to a third of it old.
OUTLIVED_SECONDS = LEASE_SECONDS - 5 - LEASE_SECONDS / 3


class Load:
    """Enqueues all the time, each job under a key that is repeated until it is acknowledged; keeps the longest gap."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.acknowledged: list[str] = []
        self.gap = 0.0
        self.refused = 0

    async def run(self, stop: asyncio.Event) -> None:
        last = time.monotonic()
        while not stop.is_set():
            new = NewJob(
                name="work", payload={"seconds": 0.1}, idempotency_key=f"{len(self.acknowledged)}", max_attempts=20
            )
            while True:
                try:
                    answer = await self._engine.jobs.enqueue(new, caller=CALLER)
                    break
                except StoreUnavailable:
                    self.refused += 1
            self.acknowledged.append(answer.job.id)
            self.gap = max(self.gap, time.monotonic() - last)
            last = time.monotonic()
            await asyncio.sleep(0.01)


class Observer:
    """A subscriber from the first job on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.gaps = 0

    async def run(self, ready: asyncio.Event) -> None:
        async with self._engine.hub().subscribe(lambda event: event.topic is Topic.JOB, buffer=100_000) as items:
            ready.set()
            async for item in items:
                if isinstance(item, Gap):
                    self.gaps += 1
                else:
                    self.events[item.id].append(item)


@asynccontextmanager
async def running(load: Load, observer: Observer) -> AsyncIterator[Callable[[], Any]]:
    stop, ready = asyncio.Event(), asyncio.Event()
    watching = asyncio.create_task(observer.run(ready))
    await asyncio.wait_for(ready.wait(), 60)
    enqueuing = asyncio.create_task(load.run(stop))

    async def end() -> None:
        stop.set()
        await asyncio.wait_for(enqueuing, 60)

    try:
        yield end
    finally:
        for task in (watching, enqueuing):
            task.cancel()
        await asyncio.gather(watching, enqueuing, return_exceptions=True)


async def kill_primary(replicas: ReplicaSet, seconds: float) -> None:
    victim = await asyncio.to_thread(replicas.primary)
    await asyncio.to_thread(victim.kill)
    await asyncio.to_thread(replicas.primary)
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(replicas.wait_healthy)


async def step_down(replicas: ReplicaSet, seconds: float) -> None:
    await asyncio.to_thread(replicas.step_down)
    await asyncio.to_thread(replicas.wait_healthy)


async def all_away(replicas: ReplicaSet, seconds: float) -> None:
    for member in replicas.members:
        await asyncio.to_thread(member.kill)
    await asyncio.sleep(seconds)
    for member in replicas.members:
        await asyncio.to_thread(member.start)
    await asyncio.to_thread(replicas.wait_healthy)


# What is done, and the longest gap that it may leave.
FAULTS = {"primary killed": (kill_primary, 5.0), "planned step down": (step_down, 3.0), "all away": (all_away, 30.0)}
CHOSEN = {"ci": ["primary killed"], "full": list(FAULTS)}
COUNTS = (("F4", "primaries killed"), ("F5", "primaries stepped down"), ("F7", "full stops"))
# A machine that does other things at the same time may take its time.
PATIENCE = {"ci": 4, "full": 1}


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_failovers_lose_nothing_and_execute_nothing_twice(
    replica_set: ReplicaSet, tmp_path: Path, scale: str
) -> None:
    engine = await Engine.connect(replica_set.url, database=DATABASE, role="server")
    await engine.prepare()
    client: MongoClient[dict[str, Any]] = MongoClient(replica_set.url)
    load, observer = Load(engine), Observer(engine)
    with client, Nursery(tmp_path, replica_set.url, DATABASE) as nursery:
        # The lease outlasts every outage: nothing that goes on running may be taken for dead meanwhile.
        workers = [nursery.start(lease_seconds=90, concurrency=10) for _ in range(3)]
        async with maintained(engine), running(load, observer) as end:
            await until(lambda: all(worker.ready for worker in workers), timeout_seconds=60)
            gaps: dict[str, float] = {}
            for _ in range(REPEATS[scale]):
                for name in CHOSEN[scale]:
                    fault, _ = FAULTS[name]
                    before = len(load.acknowledged)
                    await until(lambda before=before: len(load.acknowledged) > before + 50, timeout_seconds=60)
                    load.gap = 0.0
                    await fault(replica_set, AWAY_SECONDS[scale])
                    before = len(load.acknowledged)
                    await until(lambda before=before: len(load.acknowledged) > before + 50, timeout_seconds=60)
                    gaps[name] = max(gaps.get(name, 0.0), load.gap)
            await end()
            await drained(engine, timeout_seconds=120)
            ledger = Ledger(nursery.ledger).read()
            view = client[DATABASE]
            states = verify(view, load.acknowledged, ledger=ledger)
            await counters_equal_a_count(engine, view)
            assert states == {"completed": len(load.acknowledged)}
            assert [worker.said[-2_000:] for worker in workers if not worker.alive] == []
            twice = {id for id, notes in ledger.of("begin").items() if len(notes) > 1}
            assert not twice, f"{len(twice)} jobs ran twice although their workers lived"
            for name, gap in gaps.items():
                extra = AWAY_SECONDS[scale] if name == "all away" else 0
                assert gap < FAULTS[name][1] * PATIENCE[scale] + extra, gaps
            await every_event_was_seen_once(view, observer)
    await engine.close()
    for (id, what), name in zip(COUNTS, FAULTS, strict=True):
        if name in gaps:
            count(id, what, REPEATS[scale])
            count("G3", "failovers", REPEATS[scale])
            count("G4", "failovers under a subscriber", REPEATS[scale])


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_jobs_go_on_through_failovers_under_the_lease_of_production(
    replica_set: ReplicaSet, tmp_path: Path
) -> None:
    engine = await Engine.connect(replica_set.url, database=DATABASE, role="server")
    await engine.prepare()
    client: MongoClient[dict[str, Any]] = MongoClient(replica_set.url)
    load, observer = Load(engine), Observer(engine)
    with client, Nursery(tmp_path, replica_set.url, DATABASE) as nursery:
        view = client[DATABASE]
        workers = [nursery.start(lease_seconds=LEASE_SECONDS, concurrency=20) for _ in range(2)]
        async with maintained(engine), running(load, observer) as end:
            await until(lambda: all(worker.ready for worker in workers))
            # Longer than all the outages and the rescuer's grace after the last one.
            new = NewJob(name="work", payload={"seconds": 40}, priority=-1, max_attempts=20)
            ids = [(await engine.jobs.enqueue(new, caller=CALLER)).job.id for _ in range(20)]
            started = {"_id": {"$in": ids}, "started": True}
            await until(lambda: view["jobs"].count_documents(started) == len(ids))
            outage = 0.0
            for fault in (kill_primary, step_down, all_away):
                load.gap = 0.0
                await fault(replica_set, SHORT_SECONDS)
                before = len(load.acknowledged)
                await until(lambda before=before: len(load.acknowledged) > before + 20)
                outage = max(outage, load.gap)
            await end()
            await drained(engine, timeout_seconds=120)
            ledger = Ledger(nursery.ledger).read()
            assert verify(view, [*ids, *load.acknowledged], ledger=ledger) == {
                "completed": len(ids) + len(load.acknowledged)
            }
        if outage < OUTLIVED_SECONDS:
            twice = {id for id, notes in ledger.of("begin").items() if len(notes) > 1}
            assert not twice, f"{len(twice)} jobs ran twice in outages of at most {outage:.1f} s"
            assert all(worker.alive for worker in workers)
            assert view["workers"].count_documents({"state": "lost"}) == 0
    await engine.close()
    count("G3", "failovers under the lease of production", len(FAULTS))


async def every_event_was_seen_once(view: Any, observer: Observer) -> None:
    assert observer.gaps == 0, "history was not lost, so none may be reported lost"
    expected = {job["_id"]: job["event_seq"] for job in view["jobs"].find({}, {"event_seq": 1})}
    await until(
        lambda: all(len(observer.events[id]) >= n for id, n in expected.items()),
    )
    assert {id: len(observer.events[id]) for id in expected} == expected
    for events in observer.events.values():
        cursors = [event.cursor for event in events]
        assert cursors == sorted(set(cursors))
