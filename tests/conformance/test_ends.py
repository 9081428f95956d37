"""What the end of a run, or of a job, leaves behind: nothing of one generation goes into the next, or the other way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from switchtower.deduplication import DeduplicationOptions
from switchtower.engine import Engine
from switchtower.jobs import Deduplication, Job, NewJob
from switchtower.store import outbox, workflows
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, fresh, job_in


@pytest.mark.parametrize("kind", [OutcomeKind.RELEASE, OutcomeKind.SNOOZE])
async def test_a_claim_that_is_given_back_does_not_count(engine: Engine, kind: OutcomeKind) -> None:
    s = await job_in(engine, "active")
    assert (await s.document())["claims"] == 1
    await s.report(kind)
    assert (await s.document())["claims"] == 0


async def test_a_job_that_was_parked_when_it_was_cancelled_is_not_when_it_is_retried(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    await s.set(parked="no_handler")
    await engine.jobs.cancel(s.id, caller=CALLER)
    again: Job = await engine.jobs.retry(s.id, caller=CALLER)
    assert (again.state, again.parked) == ("waiting", None)
    await s.claim()


async def test_a_claim_that_never_began_spends_no_attempt_that_was_kept(engine: Engine) -> None:
    s = await job_in(engine, "failed", max_attempts=1)
    await engine.jobs.retry(s.id, caller=CALLER, keep_attempts=True)
    worker = fresh("worker")
    await engine.workers.register(WorkerInfo(id=worker, queues=[s.queue]))
    assert len(await engine.claims.claim(worker, [s.queue])) == 1
    passed = engine.clock.now() - timedelta(hours=1)
    await engine._store.workers.update_one({"_id": worker}, {"$set": {"expires_at": passed}})
    engine.upkeep._healthy_since -= 3_600
    assert await engine.upkeep.rescue() == 1
    assert await s.state() == "waiting"


async def test_a_slow_relayer_leaves_what_the_next_generation_declared(engine: Engine) -> None:
    s = await job_in(engine, "failed", max_attempts=1)
    seen_before = {**await s.document(), "outbox": ["dead_letter"]}
    await engine.jobs.retry(s.id, caller=CALLER)
    await s.claim(start=True)
    await s.report(OutcomeKind.BURY, error=ERROR)
    await s.set(outbox=["dead_letter"])
    await outbox.relay(engine._store, [seen_before])
    assert (await s.document())["outbox"] == ["dead_letter"]


@pytest.mark.parametrize(("seconds", "state"), [(50, "blocked"), (70, "waiting")])
async def test_who_waits_for_a_job_that_is_not_there_is_freed_after_a_minute(
    engine: Engine, seconds: int, state: str
) -> None:
    s = await job_in(engine, "blocked")
    await s.set(pending=["job_nowhere"], updated_at=engine.clock.now() - timedelta(seconds=seconds))
    await outbox.repair_blocked(engine._store, after="", limit=100)
    assert await s.state() == state


async def test_a_job_that_was_parked_when_it_was_put_off_is_not_any_more(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    await s.set(parked="no_handler")
    later = engine.clock.now() + timedelta(hours=1)
    assert (await engine.jobs.reschedule(s.id, later, caller=CALLER)).parked is None


async def test_a_first_claim_is_no_second_one(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    assert not (await s.claim(start=True)).recovered
    await s.report(OutcomeKind.FAIL, error=ERROR)
    assert not (await s.claim(start=True)).recovered


async def test_a_job_that_ran_and_was_put_aside_is_not_replaced(engine: Engine) -> None:
    queue, options = fresh("queue"), DeduplicationOptions(key="k", replace=True)
    s = await job_in(engine, "active", queue=queue, deduplication=options, payload="old")
    await s.report(OutcomeKind.SNOOZE, wait_ms=HOUR_MS)
    new = NewJob(name="work", queue=queue, deduplication=options, payload="new")
    again = await engine.jobs.enqueue(new, caller=CALLER)
    assert (again.job.id, again.deduplication) == (s.id, Deduplication.SIMPLE)
    assert (await s.job()).payload == "old"


async def test_an_event_is_not_taken_back_from_the_run_that_asked_for_it_since(engine: Engine) -> None:
    store, now = engine._store, engine.clock.now()
    await workflows.publish(store, "paid", None, org="", actor="olga", now=now)

    async def ask(token: str) -> tuple[dict[str, Any], bool] | None:
        return await workflows.consume(store, "job_1", token, "step", ["paid"], [], org="", queue="q")

    first, again = await ask("lost"), await ask("held")
    assert first is not None and again is not None and (first[1], again[1]) == (True, False)
    await workflows.give_back(store, first[0])
    kept = await store.events.find_one({"_id": first[0]["_id"]})
    assert kept is not None and (kept["consumed_by"], kept["lease"]) == ("job_1/step", "held")
