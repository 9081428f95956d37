"""F22 and F23: two rescuers against a worker that completes at the last moment; a cancel against claim and end."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.clock import from_ms
from switchtower.engine import Engine
from switchtower.errors import InvalidTransition
from switchtower.jobs import NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER, Open
from tests.faults.oracle import verify
from tests.histories import runs_of
from tests.nightly.counting import count

RESCUES = {"ci": 1_000, "full": 100_000}
CANCELS = {"ci": 600, "full": 50_000}


async def enqueue(engine: Engine, count: int, **options: Any) -> list[str]:
    answers = await engine.jobs.enqueue_many([NewJob(name="work", **options) for _ in range(count)], caller=CALLER)
    return [answer.job.id for answer in answers]  # type: ignore[union-attr]


@pytest.mark.slow
async def test_rescue_and_completion_exclude_each_other(
    open_engine: Open, view: Database[dict[str, Any]], scale: str
) -> None:
    worker, one, two = [await open_engine() for _ in range(3)]
    for rescuer in (one, two):
        rescuer.upkeep._healthy_since = float("-inf")
    choose = random.Random(22)
    size, completed, rescued = 250, 0, 0
    await enqueue(worker, size, max_attempts=1_000)
    for round in range(RESCUES[scale] // size):
        name = f"w{round}"
        await worker.workers.register(WorkerInfo(id=name, queues=["default"]))
        jobs = await worker.claims.claim(name, ["default"], limit=1)
        jobs += await worker.claims.claim(name, ["default"], limit=size)
        assert len(jobs) == size
        await worker.claims.start(jobs)
        before = {row["_id"]: row["event_seq"] for row in view["jobs"].find({}, {"event_seq": 1})}
        view["workers"].update_one({"_id": name}, {"$set": {"expires_at": from_ms(0)}})

        async def complete(jobs: Any = jobs) -> set[str]:
            lost: set[str] = set()
            for start in range(0, size, 10):
                chunk = [Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in jobs[start : start + 10]]
                lost |= await worker.claims.report(chunk)
            return lost

        async def rescue(rescuer: Engine, wait: float = choose.random() * 0.03) -> int:
            await asyncio.sleep(wait)
            moved = 0
            while (now := await rescuer.upkeep.rescue()) or not moved:
                moved += now
                if view["jobs"].count_documents({"state": "active"}, limit=1) == 0:
                    break
            return moved

        lost, first, second = await asyncio.gather(complete(), rescue(one), rescue(two))
        rows = {row["_id"]: row for row in view["jobs"].find({"_id": {"$in": [job.id for job in jobs]}})}
        assert len(lost) == first + second, "a job was rescued and completed, or neither"
        for job in jobs:
            row = rows[job.id]
            assert row["state"] == ("waiting" if job.id in lost else "completed")
            assert row["event_seq"] == before[job.id] + 1
            assert [run.outcome for run in runs_of(row)[-1:]] == ["lost" if job.id in lost else "completed"]
        completed += size - len(lost)
        rescued += len(lost)
        await enqueue(worker, size - len(lost), max_attempts=1_000)
    count("F22", "rescues raced", completed + rescued)
    assert completed > size and rescued > size, f"{completed} completed, {rescued} rescued: no race"


@pytest.mark.slow
async def test_cancel_answers_what_becomes_of_the_job(
    open_engine: Open, view: Database[dict[str, Any]], scale: str
) -> None:
    operator, worker = await open_engine(), await open_engine()
    await worker.workers.register(WorkerInfo(id="w", queues=["default"]))
    size, seen = 100, {"cancelled": 0, "active": 0, "refused": 0}
    everything: list[str] = []
    choose = random.Random(23)
    for _ in range(CANCELS[scale] // size):
        ids = await enqueue(operator, size)
        everything += ids

        async def work() -> None:
            while True:
                jobs = await worker.claims.claim("w", ["default"], limit=choose.choice([1, 10]))
                if not jobs:
                    return
                assert await worker.claims.start(jobs) == set()
                await worker.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in jobs])

        answers: dict[str, str] = {}

        async def cancel(ids: list[str], answers: dict[str, str] = answers) -> None:
            for id in ids:
                try:
                    answers[id] = str((await operator.jobs.cancel(id, caller=CALLER)).state)
                except InvalidTransition:
                    answers[id] = "refused"

        order = choose.sample(ids, size)
        await asyncio.gather(work(), *(cancel(order[start::6]) for start in range(6)))
        await work()
        for row in view["jobs"].find({"_id": {"$in": ids}}):
            answer = answers[row["_id"]]
            seen[answer] += 1
            ran = bool(runs_of(row)) or row["attempt"] > 0
            assert (answer == "cancelled") == (row["state"] == "cancelled"), row
            assert ran == (answer != "cancelled"), row
    assert min(seen.values()) > size // 10, f"{seen}: no race"
    await operator.upkeep.relay()
    verify(view, everything)
    count("F23", "cancels raced", len(everything))
