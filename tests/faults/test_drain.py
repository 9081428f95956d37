"""F20: SIGTERM. What runs is finished, what was not begun goes back, nothing runs twice, nothing waits for a lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import Ledger, drained, verify
from tests.faults.processes import TASKS, Nursery
from tests.nightly.counting import count
from tests.waiting import until

IN_FLIGHT = 100
LEASE_SECONDS = 60
RESTARTS = {"ci": 2, "full": 50}


@pytest.fixture
def start(tmp_path: Path, mongodb_url: str, database_name: str) -> Any:
    """Starts `python -P -m switchtower.runner` on the fault tests' tasks, with a lease that outlasts the test."""

    @contextmanager
    def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        environment = os.environ | {
            "SWITCHTOWER_MONGODB_URL": mongodb_url,
            "SWITCHTOWER_DATABASE": database_name,
            "LEDGER": str(tmp_path / "ledger"),
        }
        command = [sys.executable, "-P", "-m", "switchtower.runner", "tasks:app", "--app-dir", str(TASKS.parent)]
        process = subprocess.Popen([*command, "--lease-seconds", str(LEASE_SECONDS), *arguments], env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    return started


async def enqueue(engine: Engine, count: int, **options: Any) -> list[str]:
    answers = await engine.jobs.enqueue_many([NewJob(**options) for _ in range(count)], caller=CALLER)
    return [answer.job.id for answer in answers]  # type: ignore[union-attr]


async def all_begun(ledger: Ledger, count: int) -> None:
    await until(lambda: len(ledger.read().of("begin")) == count, timeout_seconds=60)


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    return process.poll()


@pytest.mark.slow
async def test_sigterm_finishes_what_runs_and_gives_back_the_rest(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, start: Any
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    # Quick ones first, so that the worker learns to hold a stock; then a hundred that run when the signal comes.
    warm = await enqueue(engine, 1_000, name="work")
    flying = await enqueue(engine, IN_FLIGHT, name="work", payload={"seconds": 3}, priority=1)
    stock = await enqueue(engine, 200, name="work", priority=2)
    with start("--concurrency", str(IN_FLIGHT)) as process:
        await until(lambda: {*flying} <= set(ledger.read().of("begin")), timeout_seconds=60)
        process.send_signal(signal.SIGTERM)
        # It may begin more until the signal has reached it: by the time that it says so it has given back the rest.
        await until(lambda: [row["state"] for row in view["workers"].find()] in (["draining"], ["stopped"]))
        began = len(ledger.read().of("begin"))
        await until(lambda: exit_code(process) is not None, timeout_seconds=60)
        assert process.returncode == 0
    ledger.read()
    assert len(ledger.of("begin")) == began, "it began jobs after the signal"
    assert all(len(notes) == 1 for notes in ledger.of("effect").values())
    assert {*warm, *flying} <= set(ledger.of("effect"))
    given_back = [job for job in view["jobs"].find({"_id": {"$in": stock}}) if job["state"] == "waiting"]
    assert all((job["attempt"], job["claims"]) == (0, 0) and "token" not in job for job in given_back)
    assert view["jobs"].count_documents({"state": "active"}) == 0
    assert {job["state"] for job in view["jobs"].find({"_id": {"$in": flying}})} == {"completed"}
    assert [worker["state"] for worker in view["workers"].find()] == ["stopped"]

    with start("--concurrency", "10"):
        await until(lambda: view["jobs"].count_documents({"state": "waiting"}) == 0, timeout_seconds=60)
        await until(lambda: view["jobs"].count_documents({"state": "active"}) == 0)
    assert all(len(notes) == 1 for notes in ledger.read().of("begin").values()), "a job was executed twice"
    assert verify(view, [*warm, *flying, *stock], ledger=ledger) == {"completed": 1_300}
    count("F20", "drains", 1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["the drain's time is up", "a second SIGTERM"])
async def test_unfinished_jobs_are_released_not_left_to_the_lease(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, start: Any, way: str
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ids = await enqueue(engine, IN_FLIGHT, name="work", payload={"seconds": 45})
    drain_seconds = "1" if way == "the drain's time is up" else "40"
    with start("--concurrency", str(IN_FLIGHT), "--drain-seconds", drain_seconds) as process:
        await all_begun(ledger, IN_FLIGHT)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if way == "a second SIGTERM":
            await until(lambda: [row["state"] for row in view["workers"].find()] == ["draining"])
            process.send_signal(signal.SIGTERM)
        await until(lambda: exit_code(process) is not None, timeout_seconds=60)
        assert process.returncode == 0
        assert time.monotonic() - told < LEASE_SECONDS - 15
    jobs = list(view["jobs"].find())
    assert {job["state"] for job in jobs} == {"waiting"}
    assert {job["attempt"] for job in jobs} == {0}, "an attempt that the operator cut off was charged"
    assert not ledger.read().of("effect")
    again = await engine.claims.claim("next", ["default"], limit=1)
    assert again[0].id in ids, "they can run at once elsewhere"
    count("F20", "drains", 1)


@pytest.mark.slow
async def test_sigkill_during_the_drain_is_a_crash_like_any_other(
    engine: Engine, view: Database[dict[str, Any]], tmp_path: Path, start: Any
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    await enqueue(engine, 20, name="work", payload={"seconds": 45})
    with start("--concurrency", "20") as process:
        await all_begun(ledger, 20)
        await until(lambda: view["jobs"].count_documents({"started": True}) == 20)
        process.send_signal(signal.SIGTERM)
        await until(lambda: [row["state"] for row in view["workers"].find()] == ["draining"])
        process.kill()
        process.wait()
    worker = view["workers"].find_one()
    assert worker is not None
    assert await engine.workers.bury_dead(worker["_id"]) == 20
    assert {job["attempts"][0]["outcome"] for job in view["jobs"].find({"state": "waiting"})} == {"lost"}
    count("F20", "drains", 1)


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
async def test_rolling_restarts_under_load_execute_nothing_twice(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, scale: str
) -> None:
    ids: list[str] = []
    workers = [nursery.start(lease_seconds=LEASE_SECONDS, drain_seconds=60) for _ in range(3)]
    async with maintained(engine):
        for _ in range(RESTARTS[scale]):
            while view["jobs"].count_documents({"state": "waiting"}) < 200:
                ids += await enqueue(engine, 200, name="work", payload={"seconds": 0.5})
            old = workers.pop(0)
            workers.append(nursery.start(lease_seconds=LEASE_SECONDS, drain_seconds=60))
            await until(lambda: workers[-1].ready)
            running = {"worker_id": old.worker_id, "started": True}
            await until(lambda running=running: view["jobs"].count_documents(running, limit=1))
            old.terminate()
            await until(lambda old=old: not old.alive)
        await drained(engine, timeout_seconds=120)
    ledger = Ledger(nursery.ledger).read()
    assert verify(view, ids, ledger=ledger) == {"completed": len(ids)}
    assert all(len(notes) == 1 for notes in ledger.of("begin").values()), "a job was executed twice"
    count("G6", "rolling restarts under load", RESTARTS[scale])
