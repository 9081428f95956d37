"""F11 and F12: clocks that are wrong, a new primary's by ten minutes and workers' by an hour."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, drained, verify
from tests.faults.processes import Nursery
from tests.mongod import ReplicaSet, clock_ahead
from tests.nightly.counting import count
from tests.waiting import until

AHEAD_SECONDS = 600
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = LEASE_SECONDS / 3
DELAY_SECONDS = 4.0
DATABASE = "clocks"
pytest.importorskip("libfaketime")


def give_way(replicas: ReplicaSet, *, killed: bool) -> None:
    """The member whose clock is ahead becomes the primary."""
    primary = replicas.primary()
    (other,) = [member for member in replicas.members[:-1] if member is not primary]
    other.command("replSetFreeze", 120)
    if killed:
        primary.kill()
    else:
        primary.command("replSetStepDown", 120, secondaryCatchUpPeriodSecs=10)
    assert replicas.primary() is replicas.members[-1]


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["planned", "killed"])
async def test_primary_whose_clock_is_ahead_takes_no_job_from_a_live_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, killed: bool
) -> None:
    folder = tmp_path / "replicas"
    with ReplicaSet(folder, last_ahead_seconds=AHEAD_SECONDS) as replicas:
        assert replicas.primary() is not replicas.members[-1]
        engine = await Engine.connect(replicas.url, database=DATABASE, role="server")
        await engine.prepare()
        client: MongoClient[dict[str, Any]] = MongoClient(replicas.url)
        view = client[DATABASE]
        with client, Nursery(tmp_path, replicas.url, DATABASE) as nursery:
            workers = [nursery.start(lease_seconds=LEASE_SECONDS) for _ in range(2)]
            await until(lambda: all(worker.ready for worker in workers), timeout_seconds=60)
            # Both have just renewed when the primary changes: nothing but the rescuer's grace protects them then.
            registered = {row["_id"]: row["heartbeat_at"] for row in view["workers"].find()}
            await until(lambda: all(row["heartbeat_at"] > registered[row["_id"]] for row in view["workers"].find()))
            # As long as every worker needs for its next renewal, and a while more.
            new = NewJob(name="work", payload={"seconds": HEARTBEAT_SECONDS + 5})
            ids = [(await engine.jobs.enqueue(new, caller=CALLER)).job.id for _ in range(8)]
            await until(lambda: view["jobs"].count_documents({"started": True}) == len(ids), timeout_seconds=60)
            await until(lambda: engine.clock_skew_seconds > AHEAD_SECONDS - 60)
            async with maintained(engine):
                await until(lambda: "s apart: set them by NTP" in caplog.text)
                await asyncio.to_thread(give_way, replicas, killed=killed)
                ahead = view.client.admin.command("hello")["localTime"].timestamp() - time.time()
                assert ahead > AHEAD_SECONDS - 60, "the primary's clock is not ahead: nothing is proved"
                asked = time.time()
                late = NewJob(name="work", delay_ms=int(DELAY_SECONDS * 1000), queue="default", priority=1)
                await until(lambda: engine.clock.now().timestamp() - time.time() > AHEAD_SECONDS - 60)
                ids.append((await engine.jobs.enqueue(late, caller=CALLER)).job.id)
                await drained(engine, timeout_seconds=120)
                ledger = Ledger(nursery.ledger).read()
                assert verify(view, ids, ledger=ledger) == {"completed": len(ids)}
                await counters_equal_a_count(engine, view)
            begins = ledger.of("begin")
            assert {id: len(notes) for id, notes in begins.items()} == dict.fromkeys(ids, 1), "live jobs were taken"
            assert view["workers"].count_documents({"state": "lost"}) == 0
            # What is inserted is timed by an estimate of the primary's clock, right to half a round trip.
            assert begins[ids[-1]][0].at - asked >= DELAY_SECONDS / 2, "a delayed job ran early"
            assert all(worker.alive for worker in workers)
        await engine.close()
    count("F12", "primaries ten minutes ahead", 1)
    count("G13", "wrong clocks", 1)


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_workers_whose_clocks_are_an_hour_off_steal_nothing_and_start_nothing_early(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, mongodb_url: str, database_name: str
) -> None:
    folders = [tmp_path / name for name in ("ahead", "behind")]
    for folder in folders:
        folder.mkdir()
    with (
        Nursery(folders[0], mongodb_url, database_name, **clock_ahead(3_600)) as ahead,
        Nursery(folders[1], mongodb_url, database_name, **clock_ahead(-3_600)) as behind,
    ):
        workers = [nursery.start(lease_seconds=6) for nursery in (ahead, behind) for _ in range(2)]
        async with maintained(engine):
            await until(lambda: all(worker.ready for worker in workers))
            ids = []
            for _ in range(200):
                new = NewJob(name="work", payload={"seconds": 0.2})
                ids.append((await engine.jobs.enqueue(new, caller=CALLER)).job.id)
            # Longer than the lease, and later than now: by the wrong clocks one is lost, the other due.
            new = NewJob(name="work", payload={"seconds": 8})
            long = [(await engine.jobs.enqueue(new, caller=CALLER)).job.id for _ in range(10)]
            asked = time.monotonic()
            new = NewJob(name="work", delay_ms=int(DELAY_SECONDS * 1000))
            late = (await engine.jobs.enqueue(new, caller=CALLER)).job.id
            await until(lambda: view["jobs"].count_documents({"_id": late, "state": "scheduled"}) == 0)
            assert time.monotonic() - asked >= DELAY_SECONDS / 2, "a delayed job was due early"
            await drained(engine, timeout_seconds=120)
        begins = [note.job for nursery in (ahead, behind) for note in Ledger(nursery.ledger).read().notes]
        assert verify(view, [*ids, *long, late]) == {"completed": len(ids) + len(long) + 1}
        assert len(begins) == 2 * len({*begins}), "a job ran twice"
        hours = [
            {round((note.at - time.time()) / 3600) for note in Ledger(n.ledger).read().notes} for n in (ahead, behind)
        ]
        assert hours == [{1}, {-1}], "the workers' clocks are not wrong: nothing is proved"
        assert all(worker.alive for worker in workers)
    count("F11", "clocks an hour off", 2)
    count("G13", "wrong clocks", 2)
