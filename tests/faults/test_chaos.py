"""G1: workers are killed and frozen, primaries killed and told to step down, and whole sets die, all in one storm."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.jobs import Enqueued, NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, drained, verify
from tests.faults.processes import Nursery, WorkerProcess, at_work
from tests.faults.test_failover import all_away, kill_primary, step_down
from tests.mongod import ReplicaSet
from tests.nightly.counting import count
from tests.nightly.scale import SEED
from tests.waiting import until

DATABASE = "chaos"
JOBS = 5_000
KILLS = 100
ZOMBIES = 20
WORKERS = 8
LEASE_SECONDS = 6.0
PAYLOAD = {"seconds": 0.3}
FAULTS = {"primaries killed": (kill_primary, 2), "step downs": (step_down, 2), "full stops": (all_away, 1)}
AWAY_SECONDS = 5.0

T = TypeVar("T")


class Storm:
    """Jobs, the workers that run them, and what befalls both."""

    def __init__(self, engine: Engine, client: MongoClient[dict[str, Any]], nursery: Nursery) -> None:
        self.engine = engine
        self.view = client[DATABASE]
        self.nursery = nursery
        self.dice = random.Random(1_000 + SEED)
        self.workers: list[WorkerProcess] = []
        self.frozen: list[WorkerProcess] = []
        self.acknowledged: list[str] = []
        self.killed = self.thawed = 0

    async def seen(self, look: Callable[[], T]) -> T:
        """What the database says, as soon as it says something."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return await asyncio.to_thread(look)
            except PyMongoError:
                assert time.monotonic() < deadline, "the database does not come back"

    async def enqueue(self) -> None:
        """Never many more than the workers run, until there were enough; each batch again until all of it is there."""
        while len(self.acknowledged) < JOBS:
            waiting = await self.seen(lambda: self.view["jobs"].count_documents({"state": "waiting"}, limit=400))
            if waiting >= 400:
                await asyncio.sleep(0.1)
                continue
            first = len(self.acknowledged)
            news = [
                NewJob(name="work", payload=PAYLOAD, max_attempts=100, idempotency_key=f"{first + n}")
                for n in range(100)
            ]
            answers: list[Any] = []
            while not answers or not all(isinstance(answer, Enqueued) for answer in answers):
                try:
                    answers = await self.engine.jobs.enqueue_many(news, caller=CALLER)
                except StoreUnavailable:
                    continue
            self.acknowledged += [answer.job.id for answer in answers]

    async def keep_alive(self) -> None:
        """As a supervisor does: who ended is replaced, and its jobs are given back, at least every other time."""
        while True:
            for worker in [worker for worker in self.workers if not worker.alive]:
                self.drop(worker)
                if self.dice.random() < 0.5:
                    with suppress(StoreUnavailable):
                        await self.engine.workers.bury_dead(worker.worker_id)
            while len(self.workers) < WORKERS:
                self.workers.append(self.nursery.start(lease_seconds=LEASE_SECONDS))
            await asyncio.sleep(0.05)

    async def strike_workers(self) -> None:
        """Kills one at work, or freezes it until it has long been declared lost."""
        fates = ["kill"] * KILLS + ["freeze"] * ZOMBIES
        self.dice.shuffle(fates)
        for fate in fates:
            victim = await until(lambda: self.busy(), timeout_seconds=120)
            if fate == "kill":
                victim.kill()
                self.killed += 1
            else:
                victim.freeze()
                self.drop(victim)
                self.frozen.append(victim)
                asyncio.get_running_loop().call_later(LEASE_SECONDS * 2, self.thaw, victim)
            await asyncio.sleep(self.dice.uniform(0, 0.6))
        await until(lambda: self.thawed == ZOMBIES)

    def drop(self, worker: WorkerProcess) -> None:
        """Another takes its place; it may have died, and been found dead, by itself meanwhile."""
        self.workers = [each for each in self.workers if each is not worker]

    def thaw(self, worker: WorkerProcess) -> None:
        worker.thaw()
        self.thawed += 1

    async def busy(self) -> WorkerProcess | None:
        return await self.seen(lambda: at_work(self.view, list(self.workers), self.dice))

    async def strike_database(self, replicas: ReplicaSet) -> None:
        faults = [fault for fault, times in FAULTS.values() for _ in range(times)]
        self.dice.shuffle(faults)
        for number, fault in enumerate(faults, 1):
            due = JOBS * number // (len(faults) + 2)
            await until(lambda due=due: len(self.acknowledged) >= due, timeout_seconds=1_200)
            await fault(replicas, AWAY_SECONDS)


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
async def test_a_storm_loses_and_doubles_nothing(replica_set: ReplicaSet, tmp_path: Path) -> None:
    engine = await Engine.connect(replica_set.url, database=DATABASE, role="server")
    await engine.prepare()
    client: MongoClient[dict[str, Any]] = MongoClient(replica_set.url, timeoutMS=10_000)
    with client, Nursery(tmp_path, replica_set.url, DATABASE) as nursery:
        storm = Storm(engine, client, nursery)
        async with maintained(engine):
            keeping = asyncio.create_task(storm.keep_alive())
            raging = asyncio.gather(storm.enqueue(), storm.strike_workers(), storm.strike_database(replica_set))
            try:
                await asyncio.wait({keeping, raging}, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
                await raging
                await drained(engine, timeout_seconds=300)
                # Whoever comes back after its lease ends by itself.
                await until(lambda: not any(zombie.alive for zombie in storm.frozen))
            finally:
                for task in (keeping, raging):
                    task.cancel()
                await asyncio.gather(keeping, raging, return_exceptions=True)
            ledger = Ledger(nursery.ledger).read()
            states = verify(storm.view, storm.acknowledged, ledger=ledger)
            await counters_equal_a_count(engine, storm.view)
        assert states == {"completed": len(storm.acknowledged)}
        assert storm.view["jobs"].count_documents({"attempts.outcome": "lost"}) > KILLS
    await engine.close()
    count("G1", "jobs", len(storm.acknowledged))
    count("G1", "workers killed", storm.killed)
    count("G1", "zombies", storm.thawed)
    for what, (_, times) in FAULTS.items():
        count("G1", what, times)
