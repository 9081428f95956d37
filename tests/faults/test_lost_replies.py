"""F27: some of one write command's replies are lost, executed or not, while jobs live their whole lives."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.errors import InvalidTransition, StoreUnavailable
from switchtower.jobs import Enqueued, ErrorKind, JobError, NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER, Open, maintained, struck
from tests.faults.oracle import counters_equal_a_count, drained, verify
from tests.histories import runs_of, steps_of
from tests.mongod import fail_command
from tests.nightly.counting import count

T = TypeVar("T")
ERROR = JobError(ErrorKind.EXCEPTION, "ValueError", "no")
ROUNDS = {"ci": 1, "full": 100}
LOST = {"ci": 2, "full": 100}
JOBS = 24
FAULTS: dict[str, dict[str, Any]] = {
    "executed, reply lost": {"writeConcernError": {"code": 64, "errmsg": "executed, then lost"}},
    "executed, then repeated by the driver": {
        "writeConcernError": {"code": 64, "errmsg": "executed, then lost"},
        "errorLabels": ["RetryableWriteError"],
    },
    "connection closed": {"closeConnection": True},
}


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """As every caller of ours does: what may have happened is asked for again."""
    for _ in range(60):
        try:
            return await call()
        except StoreUnavailable:
            continue
    raise AssertionError("sixty tries in a row had no answer")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("command", ["insert", "update", "findAndModify"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_lives_with_lost_replies_come_out_right(
    open_engine: Open, view: Database[dict[str, Any]], mongodb_url: str, scale: str, command: str, fault: str
) -> None:
    house, engine = await open_engine(), await open_engine()
    choose = random.Random(27)
    ids: list[str] = []
    expected: dict[str, str] = {}
    await engine.workers.register(WorkerInfo(id="w", queues=["default"], lease_seconds=600))
    async with maintained(house):
        with fail_command(
            mongodb_url,
            [command],
            mode={"activationProbability": 0.15},
            appName="switchtower-worker",
            **FAULTS[fault],
        ):
            # Which replies are lost is drawn by the server: a round more or less makes up for it.
            for round in range(10 * ROUNDS[scale]):
                if round >= ROUNDS[scale] and struck(view) >= LOST[scale]:
                    break
                for n in range(JOBS // 2):
                    ids.append(await enqueue_one(engine, f"{round} {n}", max_attempts=1 + n % 2))
                ids += await enqueue_some(engine, f"{round}", JOBS // 2)
                await work(engine, view, choose, expected)
            lost = struck(view)
            assert lost >= LOST[scale]
        await house.upkeep.relay()
        await drained(house, timeout_seconds=120)
        await counters_equal_a_count(house, view)
    assert len(set(ids)) == len(ids) == view["jobs"].count_documents({})
    verify(view, ids)
    states = {job["_id"]: job["state"] for job in view["jobs"].find()}
    assert {id: states[id] for id in expected} == expected
    # One event a step, whatever was repeated: enqueue, claim, start, end (and retry, claim, start, end).
    for job in view["jobs"].find():
        kinds = [entry.type for entry in steps_of(job)]
        assert kinds.count("start") == len([run for run in runs_of(job) if run.started_at]), kinds
        assert kinds.count("claim") == kinds.count("start"), kinds
    count("F27", "replies lost", lost)


async def enqueue_one(engine: Engine, key: str, **options: Any) -> str:
    new = NewJob(name="work", idempotency_key=f"one {key}", **options)
    return (await insist(lambda: engine.jobs.enqueue(new, caller=CALLER))).job.id


async def enqueue_some(engine: Engine, key: str, count: int) -> list[str]:
    news = [NewJob(name="work", idempotency_key=f"many {key} {n}") for n in range(count)]
    while True:
        answers = await engine.jobs.enqueue_many(news, caller=CALLER)
        if all(isinstance(answer, Enqueued) for answer in answers):
            return [answer.job.id for answer in answers if isinstance(answer, Enqueued)]


async def work(engine: Engine, view: Database[dict[str, Any]], choose: random.Random, expected: dict[str, str]) -> None:
    """Claims what there is and ends each run; some ended jobs are retried and run once more."""
    # A claim whose write was lost before it happened has won nothing, which does not mean that there is nothing.
    while view["jobs"].count_documents({"state": "waiting"}):
        jobs = await insist(lambda: engine.claims.claim("w", ["default"], limit=choose.choice([1, 10])))
        if not jobs:
            continue
        assert await insist(lambda jobs=jobs: engine.claims.start(jobs)) == set()
        outcomes = []
        for job in jobs:
            kind = choose.choice([OutcomeKind.COMPLETE, OutcomeKind.COMPLETE, OutcomeKind.BURY])
            expected[job.id] = "completed" if kind is OutcomeKind.COMPLETE else "failed"
            outcomes.append(Outcome(job.id, job.token, kind, error=ERROR))
        alone, together = outcomes[:2], outcomes[2:]
        for outcome in alone:
            ended = await insist(lambda outcome=outcome: engine.claims.report_one(outcome))
            assert ended.state == expected[outcome.job_id]
        assert await insist(lambda together=together: engine.claims.report(together)) == set()
        if choose.random() < 0.3:
            await retry(engine, outcomes[0].job_id)


async def retry(engine: Engine, id: str) -> None:
    """Repeated until it is known that it happened: a retry that finds the job waiting has happened already."""
    for _ in range(60):
        try:
            await engine.jobs.retry(id, caller=CALLER)
            return
        except StoreUnavailable:
            continue
        except InvalidTransition as refused:
            assert refused.state == "waiting"
            return
