"""Limits under fire: many worker processes, killed all the time, never run or start more than they may."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.limits import Limit, QueueLimits, Rate
from tests.databases import anywhere
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, drained, verify
from tests.faults.processes import Nursery, at_work
from tests.histories import steps_of
from tests.nightly.counting import count
from tests.waiting import until

LEASE_SECONDS = 2.0
JOBS = {"ci": 40, "full": 3_000}
KILLS = {"ci": 3, "full": 300}
CONCURRENCY, PER_GROUP, RATE = 6, 2, Rate(30, 1_000)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_killed_workers_never_exceed_a_limit_and_leave_no_room_behind(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    choose = random.Random(1)
    limits = QueueLimits(
        Limit(CONCURRENCY), names={"work": Limit(rate=RATE)}, per_group=Limit(PER_GROUP), groups={"vip": Limit(1)}
    )
    groups = ["a", "b", "c", "vip", None]
    ids: list[str] = []

    async def enqueue(count: int) -> None:
        news = [
            NewJob(name="work", payload={"seconds": 0.2}, max_attempts=50, group=groups[n % len(groups)])
            for n in range(count)
        ]
        ids.extend(answer.job.id for answer in await engine.jobs.enqueue_many(news, caller=CALLER))  # type: ignore[union-attr]

    await engine.queues.set_limits("default", limits, caller=CALLER)
    workers = [nursery.start(lease_seconds=LEASE_SECONDS) for _ in range(6)]
    killed: dict[int, float] = {}
    seen = Seen(view)
    async with maintained(engine):
        await until(lambda: all(worker.ready for worker in workers), timeout_seconds=60)
        await enqueue(JOBS[scale])
        watching = asyncio.create_task(seen.watch())
        while len(killed) < KILLS[scale]:
            if view["jobs"].count_documents({"state": "waiting"}) < 20:
                await enqueue(20)
            victim = await until(lambda: at_work(view, workers, choose), timeout_seconds=60)
            workers.remove(victim)
            workers.append(nursery.start(lease_seconds=LEASE_SECONDS))
            victim.kill()
            killed[victim.pid] = time.time()
            await until(lambda victim=victim: not victim.alive)
            if len(killed) % 2:
                await engine.workers.bury_dead(victim.worker_id)
            await asyncio.sleep(choose.uniform(0.1, 0.4))
        await drained(engine, timeout_seconds=300)
        if watching.done():
            watching.result()
        watching.cancel()
    ledger = Ledger(nursery.ledger).read()
    assert verify(view, ids, ledger=ledger) == {"completed": len(ids)}
    assert view["jobs"].count_documents({"attempts.outcome": "lost"}) > 0, "the kills hit nothing"
    assert CONCURRENCY // 2 <= seen.most["all"] <= CONCURRENCY, "it was never under pressure, or exceeded"
    assert all(count <= (1 if group == "vip" else PER_GROUP) for (group,), count in seen.groups.items()), seen.groups
    group_of = {job["_id"]: job.get("group") for job in view["jobs"].find({}, {"group": 1})}
    runs = handlers_at_work(ledger, killed)
    assert overlap(runs) <= CONCURRENCY
    for group, most in (("a", PER_GROUP), ("b", PER_GROUP), ("vip", 1)):
        assert overlap([run for run in runs if group_of[run[0]] == group]) <= most, group
    starts = sorted(entry.at for job in view["jobs"].find() for entry in steps_of(job) if entry.type == "claim")
    assert len(starts) >= len(ids)
    assert most_within(starts, timedelta(milliseconds=RATE.per_ms)) <= RATE.starts
    count("F1", "workers killed under limits", len(killed))


class Seen:
    """What was seen active at once, looked at all the time."""

    def __init__(self, view: Database[dict[str, Any]]) -> None:
        self._view = view
        self.most: dict[str, int] = defaultdict(int)
        self.groups: dict[tuple[str | None], int] = defaultdict(int)

    async def watch(self) -> None:
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(0.01)

    def _look(self) -> None:
        groups: dict[str | None, int] = defaultdict(int)
        # A snapshot: otherwise a job that ends and the one that follows it could both be seen.
        jobs = self._view["jobs"].with_options(read_concern=ReadConcern("snapshot"))
        for row in jobs.aggregate(
            [{"$match": anywhere(state="active")}, {"$group": {"_id": "$group", "n": {"$sum": 1}}}]
        ):
            groups[row["_id"]] = row["n"]
        self.most["all"] = max(self.most["all"], sum(groups.values()))
        for group, active in groups.items():
            if group is not None:
                self.groups[(group,)] = max(self.groups[(group,)], active)


def handlers_at_work(ledger: Ledger, killed: dict[int, float]) -> list[tuple[str, float, float]]:
    """(job, from, to) of every run of a handler, ended by itself, by its worker, or by its process's death."""
    # A worker that cannot renew its lease in time, on a machine as busy as this, stops what it runs.
    ends = {(note.job, note.token): note.at for note in ledger.notes if note.what in ("effect", "stopped")}
    return [
        (note.job, note.at, ends.get((note.job, note.token)) or killed[note.pid])
        for note in ledger.notes
        if note.what == "begin"
    ]


def overlap(runs: list[tuple[str, float, float]]) -> int:
    """The most runs at one moment; of two that touch, the one that ends goes first."""
    edges = sorted([(begin, 1) for _, begin, _ in runs] + [(end, -1) for _, _, end in runs])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def most_within(times: list[datetime], interval: timedelta) -> int:
    """The most of these times that lie in one interval of this length (its end not included)."""
    most, first = 0, 0
    for place, at in enumerate(times):
        while times[first] <= at - interval:
            first += 1
        most = max(most, place - first + 1)
    return most
