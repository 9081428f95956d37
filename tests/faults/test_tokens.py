"""F10: a lease token after its time. The winner's call gets its answer again; every other is refused; nothing moves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.errors import LeaseLost
from switchtower.jobs import ClaimedJob, ErrorKind, JobError, JobFilter, NewJob
from switchtower.states import JobState
from switchtower.store.expressions import token_hash
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER
from tests.nightly.counting import count

PAIRS = {"ci": 100, "full": 10_000}
ERROR = JobError(ErrorKind.EXCEPTION, "ValueError", "no")
KINDS = [OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.BURY, OutcomeKind.SNOOZE, OutcomeKind.RELEASE]


async def claim_all(engine: Engine, worker: str, count: int) -> list[ClaimedJob]:
    won: list[ClaimedJob] = []
    while len(won) < count:
        jobs = await engine.claims.claim(worker, ["default"], limit=500)
        assert jobs, f"{len(won)} of {count} were claimed"
        won += jobs
    return won


def whole(view: Database[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {job["_id"]: job for job in view["jobs"].find()}


async def refused(engine: Engine, outcomes: Sequence[Outcome]) -> set[tuple[str, str]]:
    lost: set[tuple[str, str]] = set()
    for start in range(0, len(outcomes), 200):
        chunk = outcomes[start : start + 200]
        by_id = {outcome.job_id: outcome for outcome in chunk}
        assert len(by_id) == len(chunk)
        lost |= {(id, by_id[id].token) for id in await engine.claims.report(chunk)}
    return lost


@pytest.mark.slow
async def test_replayed_calls_change_nothing(engine: Engine, view: Database[dict[str, Any]], scale: str) -> None:
    pairs = PAIRS[scale]
    choose = random.Random(10)
    await engine.workers.register(WorkerInfo(id="w", queues=["default"], lease_seconds=600))
    for _ in range(0, pairs, 1_000):
        await engine.jobs.enqueue_many([NewJob(name="work") for _ in range(min(pairs, 1_000))], caller=CALLER)

    # First lives: every way for a run to end, and one that is taken from its worker.
    first = await claim_all(engine, "w", pairs)
    begun = [job for job in first if choose.random() < 0.5]
    assert await engine.claims.start(begun) == set()
    ends = [Outcome(job.id, job.token, choose.choice(KINDS), error=ERROR) for job in first]
    taken, reported = ends[: pairs // 10], ends[pairs // 10 :]
    assert await refused(engine, reported) == set()
    await engine.workers.bury_dead("w")

    # What became of them since: replayed, retried, cancelled, running under another token, or as they were.
    await engine.upkeep.relay()
    await engine.upkeep.stage()
    await engine.bulk.start("retry", JobFilter(states=[JobState.FAILED]), caller=CALLER)
    await engine.workers.register(WorkerInfo(id="other", queues=["default"], lease_seconds=600))
    running = await engine.claims.claim("other", ["default"], limit=500)
    running += await engine.claims.claim("other", ["default"], limit=pairs // 4)
    half = [Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in running[::2]]
    assert await refused(engine, half) == set()
    await engine.bulk.start("cancel", JobFilter(states=[JobState.WAITING, JobState.SCHEDULED]), caller=CALLER)
    await engine.upkeep.relay()

    before = whole(view)
    old = [*taken, *reported]
    last_word = {id: job["reported"]["token"] for id, job in before.items() if "reported" in job}
    winners = {(o.job_id, o.token) for o in old if last_word.get(o.job_id) == token_hash(o.token)}
    assert len(winners) > pairs // 4
    assert len(old) - len(winners) > pairs // 10
    for _ in range(3):
        choose.shuffle(old)
        lost = await refused(engine, old)
        assert lost == {(o.job_id, o.token) for o in old} - winners
        for outcome in old[: pairs // 20]:
            for late in (
                engine.claims.progress(outcome.job_id, outcome.token, 1),
                engine.claims.log(outcome.job_id, outcome.token, [("info", "late")]),
                engine.claims.leased(outcome.job_id, outcome.token),
            ):
                with pytest.raises(LeaseLost):
                    await late
            if (outcome.job_id, outcome.token) not in winners:
                with pytest.raises(LeaseLost):
                    await engine.claims.report_one(outcome)
        tokens = {o.job_id: o.token for o in old}
        assert await engine.claims.start(list(tokens.items())) == set(tokens)
        assert await engine.claims.start([(id, "x" * 27) for id in tokens]) == set(tokens)
    assert whole(view) == before
    count("F10", "tokens replayed", pairs)
