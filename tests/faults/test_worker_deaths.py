"""F1, F2 and F9: workers that are killed, die at a chosen point, or freeze past their lease and come back."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.errors import LeaseLost, NotFound
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, counters_equal_a_count, drained, holders_are_present, verify
from tests.faults.processes import Nursery, WorkerProcess, at_work
from tests.histories import runs_of
from tests.nightly.counting import count
from tests.waiting import until

LEASE_SECONDS = 2.0
JOBS = {"ci": 300, "full": 50_000}
KILLS = {"ci": 2, "full": 1_000}
DEATHS = {"ci": 2, "full": 200}
ZOMBIES = {"ci": 2, "full": 50}
HELD = {"ci": 6, "full": 200}


async def enqueue(engine: Engine, count: int, **options: Any) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        news = [NewJob(**({"name": "work"} | options)) for _ in range(min(1_000, count - len(ids)))]
        ids += [answer.job.id for answer in await engine.jobs.enqueue_many(news, caller=CALLER)]  # type: ignore[union-attr]
    return ids


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_killed_workers_lose_and_double_nothing(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    choose = random.Random(1)
    ids = await enqueue(engine, JOBS[scale], payload={"seconds": 0.35}, max_attempts=50)
    workers = [nursery.start(lease_seconds=LEASE_SECONDS) for _ in range(8)]
    killed: list[tuple[float, int]] = []
    async with maintained(engine):
        await until(lambda: all(worker.ready for worker in workers), timeout_seconds=60)
        while len(killed) < KILLS[scale]:
            if view["jobs"].count_documents({"state": "waiting"}) < 100:
                ids += await enqueue(engine, 300, payload={"seconds": 0.35}, max_attempts=50)
            victim = await until(lambda: at_work(view, workers, choose))
            victim.kill()
            workers.remove(victim)
            workers.append(nursery.start(lease_seconds=LEASE_SECONDS))
            killed.append((time.time(), victim.pid))
            if len(killed) % 2:
                # As its supervisor does; the other half is found by its lease alone.
                await until(lambda victim=victim: not victim.alive)
                await engine.workers.bury_dead(victim.worker_id)
            await asyncio.sleep(choose.uniform(0, 0.4))
        await drained(engine, timeout_seconds=60 + JOBS[scale] / 25)
        ledger = Ledger(nursery.ledger).read()
        states = verify(view, ids, ledger=ledger)
        await counters_equal_a_count(engine, view)
    assert states == {"completed": len(ids)}
    interrupted, waits = how_long_they_waited(ledger, killed)
    assert len(interrupted) > KILLS[scale], "the kills hit too few running jobs to prove anything"
    for id in interrupted:
        job = view["jobs"].find_one({"_id": id})
        assert job is not None
        outcomes = [run.outcome for run in runs_of(job)]
        assert outcomes[-1] == "completed"
    lost = view["jobs"].count_documents({"attempts.outcome": "lost"})
    assert lost > KILLS[scale]
    # Lease, the rescuer's interval, and a second; a machine that also runs eight workers and more may add to it.
    count("F1", "workers killed", len(killed))
    count("G5", "restarts timed", len(waits))
    waits.sort()
    assert waits[len(waits) // 2] < LEASE_SECONDS + 0.5 + 1 + 5, waits[-20:]
    assert waits[-1] < LEASE_SECONDS + 30, waits[-5:]


def how_long_they_waited(ledger: Ledger, killed: list[tuple[float, int]]) -> tuple[set[str], list[float]]:
    """The jobs whose run a kill cut off, and the seconds from each kill to the next run's beginning."""
    deaths = {pid: at for at, pid in killed}
    finished = {(note.job, note.token) for note in ledger.notes if note.what == "effect"}
    interrupted: set[str] = set()
    waits = []
    for id, begins in ledger.of("begin").items():
        begins.sort(key=lambda note: note.fence)
        for run, following in pairwise(begins):
            if run.pid in deaths and (id, run.token) not in finished:
                interrupted.add(id)
                waits.append(following.at - deaths[run.pid])
    return interrupted, waits


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("point", ["after_claim", "after_effect", "after_complete"])
async def test_death_at_a_point(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str, point: str
) -> None:
    deaths = DEATHS[scale]
    parents = await enqueue(engine, deaths, queue="parents")
    # Long enough for its start to be marked before it ends: a quicker run that is cut off is told by its rescue alone.
    new = {"name": "work", "payload": {"seconds": 0.05}, "max_attempts": deaths + 1}
    ids = [
        (await engine.jobs.enqueue(NewJob(parent_id=parent, **new), caller=CALLER)).job.id  # type: ignore[arg-type]
        for parent in parents
    ]
    doomed: list[WorkerProcess] = []
    async with maintained(engine):
        while len(doomed) < deaths:
            # They die of nothing else: each is buried by name.
            group = [
                nursery.start(die_at=point, concurrency=1, lease_seconds=600)
                for _ in range(min(5, deaths - len(doomed)))
            ]
            doomed += group
            await until(lambda group=group: not any(worker.alive for worker in group), timeout_seconds=60)
            for worker in group:
                await engine.workers.bury_dead(worker.worker_id)
        ledger = Ledger(nursery.ledger).read()
        begun, done = ledger.of("begin"), ledger.of("effect")
        if point == "after_claim":
            assert not begun
            assert {job["attempt"] for job in view["jobs"].find({"queue": "default"})} == {0}
        else:
            assert sum(map(len, done.values())) == deaths
        if point == "after_complete":
            assert view["jobs"].count_documents({"state": "completed"}) == deaths
            # What must follow it is carried out by maintenance: the parents, whose last child it was, are freed.
            free = {"queue": "parents", "state": "waiting"}
            await until(lambda: view["jobs"].count_documents(free) == deaths, timeout_seconds=60)
        nursery.start(queues="default,parents", lease_seconds=600)
        await drained(engine, timeout_seconds=120)
        ledger.read()
        verify(view, [*ids, *parents], ledger=ledger)
        await counters_equal_a_count(engine, view)
    for id in ids:
        job = view["jobs"].find_one({"_id": id})
        assert job is not None
        runs = len(ledger.of("effect")[id])
        outcomes = [run.outcome for run in runs_of(job)]
        # While a completion is being stored the next job begins: its run is cut off before it has had its effect.
        cut_off = len(outcomes) - runs if point == "after_complete" else 0
        assert cut_off >= 0
        assert outcomes == ["lost"] * (runs + cut_off - 1) + ["completed"], f"{runs} runs, shown as {outcomes}"
    runs = sum(len(notes) for id, notes in ledger.of("effect").items() if id in set(ids))
    assert runs == (deaths * 2 if point == "after_effect" else deaths)
    count("F2", "deaths at a point", deaths)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_zombies_are_refused(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    processes, held = ZOMBIES[scale], HELD[scale]
    # Long enough for all to have begun while none has ended, however slowly so many processes start.
    ids = await enqueue(engine, processes * held, name="linger", payload={"seconds": 20})
    zombies = [nursery.start(concurrency=held, lease_seconds=6) for _ in range(processes)]
    ledger = Ledger(nursery.ledger)
    await until(lambda: len(ledger.read().of("begin")) == len(ids), timeout_seconds=60)
    # Some milliseconds later their starts are recorded, and only a recorded start is an attempt.
    await until(lambda: view["jobs"].count_documents({"state": "active", "started": True}) == len(ids))
    first = {note.job: note for note in ledger.notes}
    holders = {row["_id"]: row["worker_id"] for row in view["jobs"].find()}
    assert {row["state"] for row in view["jobs"].find()} == {"active"}
    for zombie in zombies:
        zombie.freeze()
    async with maintained(engine):
        moved = {"state": "waiting", "attempts.outcome": "lost"}
        await until(lambda: view["jobs"].count_documents(moved) == len(ids), timeout_seconds=60)
        # Half of the jobs run elsewhere when the zombies come back, half have ended there.
        await engine.workers.register(WorkerInfo(id="heir", queues=["default"], lease_seconds=600))
        taken: list[Any] = []
        while len(taken) < len(ids):
            taken += await engine.claims.claim("heir", ["default"], limit=100)
        await engine.claims.start(taken)
        ended, running = taken[::2], taken[1::2]
        await engine.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE, result="heir") for job in ended])
        before = {job["_id"]: job for job in view["jobs"].find()}
        for zombie in zombies:
            zombie.thaw()
        await until(lambda: not any(zombie.alive for zombie in zombies), timeout_seconds=60)

        # What the thawed processes tried by themselves changed nothing, and nothing was made on their behalf.
        assert {job["_id"]: job for job in view["jobs"].find()} == before
        assert not [note for note in ledger.read().notes if note.what == "child accepted"]
        fenced = await late_calls_are_refused(engine, first, holders)
        assert fenced == len(ids)
        assert {job["_id"]: job for job in view["jobs"].find()} == before
        await engine.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE, result="heir") for job in running])
        await drained(engine, timeout_seconds=120)
        await until(lambda: holders_are_present(view))
    assert verify(view, ids) == {"completed": len(ids)}
    assert {job["result"] for job in view["jobs"].find()} == {"heir"}
    count("F9", "zombies refused", processes)
    count("G2", "late holders refused", fenced)


async def late_calls_are_refused(engine: Engine, first: dict[str, Any], holders: dict[str, str]) -> int:
    """Every verb of a worker, with the tokens that the zombies noted: all must be refused. Returns: how many jobs."""
    error = JobError(ErrorKind.EXCEPTION, "ValueError", "late")
    for id, note in first.items():
        for kind in OutcomeKind:
            with pytest.raises(LeaseLost):
                await engine.claims.report_one(Outcome(id, note.token, kind, error=error, wait_ms=1_000))
        for late in (
            engine.claims.progress(id, note.token, 50),
            engine.claims.log(id, note.token, [("info", "late")]),
            engine.claims.leased(id, note.token),
        ):
            with pytest.raises(LeaseLost):
                await late
    pairs = [(id, note.token) for id, note in first.items()]
    assert await engine.claims.start(pairs) == set(first)
    for kind in OutcomeKind:
        outcomes = [Outcome(id, token, kind, error=error, logs=[("info", "late")], progress=1) for id, token in pairs]
        assert await engine.claims.report(outcomes) == set(first)
    for worker in set(holders.values()):
        with pytest.raises(NotFound):
            await engine.workers.renew(worker)
    return len(first)


@pytest.mark.slow
async def test_restart_under_the_old_id_leaves_no_job_behind(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery
) -> None:
    # The lease outlasts the test: the new process renews it, and nobody would ever find the old one's jobs.
    ids = await enqueue(engine, 5, payload={"seconds": 2})
    first = nursery.start(worker_id="mine", lease_seconds=600)
    ledger = Ledger(nursery.ledger)
    await until(lambda: view["jobs"].count_documents({"started": True}) == 5, timeout_seconds=60)
    first.kill()
    await until(lambda: not first.alive)
    nursery.start(worker_id="mine", lease_seconds=600)
    await drained(engine, timeout_seconds=120)
    assert verify(view, ids, ledger=ledger.read()) == {"completed": 5}
    assert {job["attempts"][0]["outcome"] for job in view["jobs"].find()} == {"lost"}


@pytest.mark.slow
async def test_claim_of_a_worker_that_does_not_know_it_is_lost_is_found(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery
) -> None:
    await enqueue(engine, 3)
    await engine.workers.register(WorkerInfo(id="thawed", queues=["default"]))
    await engine.workers.bury_dead("thawed")
    await engine.claims.claim("thawed", ["default"], limit=1)
    assert not holders_are_present(view)
    async with maintained(engine):
        await until(lambda: view["jobs"].count_documents({"state": "waiting"}) == 3, timeout_seconds=60)
