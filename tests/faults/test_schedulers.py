"""Eight schedulers without election, killed and frozen: every slot makes its job, and no slot makes two."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.crons import CatchUp, NewCron, Overlap, Schedule
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER
from tests.nightly.counting import count

ROOT = Path(__file__).resolve().parents[2]
SCHEDULERS = 8
EVERY_MS = 100


class Schedulers:
    """Processes that schedule; each can be killed, frozen, thawed and replaced."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pids: list[int] = []

    def add(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("one\n")
        self._process.stdin.flush()
        self.pids.append(int(self._process.stdout.readline()))

    def kill(self, pid: int) -> None:
        self.pids.remove(pid)
        signalled(pid, signal.SIGKILL)


def signalled(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def schedulers(url: str, database: str) -> Iterator[Schedulers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.schedulers", url, database],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    running = Schedulers(process)
    try:
        yield running
    finally:
        for pid in list(running.pids):
            running.kill(pid)
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("overlap", [Overlap.ALLOW, pytest.param(Overlap.REPLACE, marks=pytest.mark.nightly)])
async def test_every_slot_makes_exactly_one_job(
    engine: Engine, view: Database[dict[str, Any]], mongodb_url: str, database_name: str, scale: str, overlap: Overlap
) -> None:
    slots = 5_000 if scale == "full" else 40
    dice = random.Random(7)
    with schedulers(mongodb_url, database_name) as running:
        for _ in range(SCHEDULERS):
            running.add()
        cron = await engine.crons.create(
            NewCron(
                name="beat",
                schedule=Schedule(every_ms=EVERY_MS),
                job=NewJob(name="tick", remove_on_complete=True),
                overlap=overlap,
                catch_up=CatchUp.ONE,
                limit=slots,
            ),
            caller=CALLER,
        )
        first = cron.next_at
        assert first is not None
        killed = frozen = 0
        asleep: list[tuple[int, float]] = []
        deadline = time.monotonic() + slots * EVERY_MS / 1000 + 60
        while (row := view["crons"].find_one({"_id": cron.id})) and (row["fired"] < slots or row["due"]):
            assert time.monotonic() < deadline, f"{row['fired']} of {slots} slots after a minute too long: {row['due']}"
            await asyncio.sleep(0.15)
            for pid, until in list(asleep):
                if time.monotonic() > until:
                    asleep.remove((pid, until))
                    signalled(pid, signal.SIGCONT)
            awake = [pid for pid in running.pids if pid not in {pid for pid, _ in asleep}]
            if dice.random() < 0.15 and len(awake) > 3:
                running.kill(dice.choice(awake))
                running.add()
                killed += 1
            elif dice.random() < 0.15 and len(awake) > 4:
                pid = dice.choice(awake)
                signalled(pid, signal.SIGSTOP)
                asleep.append((pid, time.monotonic() + dice.uniform(0.5, 4)))
                frozen += 1
        for pid, _ in asleep:
            signalled(pid, signal.SIGCONT)
        await asyncio.sleep(0.2)
    assert killed >= slots // 30 and frozen >= slots // 60, "the test did not do what it is for"
    jobs = list(view["jobs"].find({"cron_id": cron.id}))
    expected = [f"{cron.id}@{int(first.timestamp() * 1000) + n * EVERY_MS}" for n in range(slots)]
    assert sorted(job["custom_id"] for job in jobs) == expected
    found = await engine.crons.get(cron.id, caller=CALLER)
    assert found is not None and (found.fired, found.next_at) == (slots, None)
    count("F13", "slots", slots)
    count("F13", "schedulers killed or frozen", killed + frozen)
    count("G7", "slots", slots)
    if overlap is Overlap.REPLACE:
        assert sum(job["state"] == "waiting" for job in jobs) <= 2
