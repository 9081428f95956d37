"""Something else happens between the read and the write of a verb: the write's own guard must see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.crons import NewCron, Schedule
from switchtower.deduplication import DeduplicationOptions
from switchtower.engine import Engine
from switchtower.engine import claims as claiming
from switchtower.engine import crons as scheduling
from switchtower.jobs import Deduplication, JobUpdate, NewJob
from switchtower.store import bulk, leases
from switchtower.store import claims as claim_commands
from switchtower.store import crons as cron_commands
from switchtower.store import jobs as job_commands
from switchtower.webhooks import SetWebhook, Target
from switchtower.workers import WorkerInfo, WorkerState
from tests.conformance.situations import CALLER, HOUR_MS, before, enqueue, fresh, job_in
from tests.databases import anywhere


async def test_a_job_that_is_put_off_while_it_is_staged_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    s = await job_in(engine, "scheduled")
    await s.set(run_at=engine.clock.now() - timedelta(seconds=1))
    later = datetime.now(UTC) + timedelta(days=1)
    before(monkeypatch, job_commands, "move_many", lambda: s.set(run_at=later))
    assert await engine.upkeep.stage() == 0
    assert await s.state() == "scheduled"


async def test_a_worker_that_renews_while_it_is_declared_lost_is_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=1))
    passed = engine.clock.now() - timedelta(seconds=1)
    await engine._store.workers.update_one({"_id": "w"}, {"$set": {"expires_at": passed}})
    engine.upkeep._healthy_since = float("-inf")
    await engine.upkeep.observe()
    before(monkeypatch, leases, "lose", lambda: engine.workers.renew("w", lease_seconds=60))
    await engine.upkeep.rescue()
    assert (await engine.workers.get_many(["w"]))["w"].state is WorkerState.LIVE


async def test_an_urgent_job_below_the_floor_waits_for_half_a_second_at_most(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, now = fresh("queue"), [100.0]
    monkeypatch.setattr(claiming, "time", SimpleNamespace(monotonic=lambda: now[0]))
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 50, caller=CALLER)
    for _ in range(3):
        assert len(await engine.claims.claim("w", [queue], limit=5)) in (1, 5)
    urgent = await enqueue(engine, queue=queue, priority=-1)
    now[0] += 0.6
    assert urgent.id in {job.id for job in await engine.claims.claim("w", [queue], limit=5)}


async def test_a_worker_that_takes_any_name_ends_what_jobs_were_parked_for(engine: Engine) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    await engine._store.jobs.update_one({"_id": job.id}, {"$set": {"parked": "no_handler"}})
    assert await engine.upkeep.unpark() == 0
    info = WorkerInfo(id=fresh("worker"), queues=[queue], names=[])
    await leases.register(engine._store, info)
    assert await engine.upkeep.unpark() == 1
    assert [found.id for found in await engine.claims.claim(info.id, [queue])] == [job.id]


async def test_a_replacement_whose_answer_was_lost_is_known_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, options = fresh("queue"), DeduplicationOptions(key="k", replace=True)
    first = await enqueue(engine, queue=queue, deduplication=options, delay_ms=HOUR_MS)
    whole = job_commands.replace

    async def lost(*args: Any) -> None:
        await whole(*args)

    monkeypatch.setattr(job_commands, "replace", lost)
    new = NewJob(name="work", queue=queue, deduplication=options, payload="now")
    again = await engine.jobs.enqueue(new, caller=CALLER)
    assert (again.job.id, again.deduplication) == (first.id, Deduplication.REPLACED)


async def test_a_scheduler_that_stood_still_makes_nothing_of_what_it_had_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, now = fresh("queue"), [100.0]
    cron = NewCron(name=fresh("cron"), schedule=Schedule("0 * * * *"), job=NewJob(name="tick", queue=queue))
    made = await engine.crons.create(cron, caller=CALLER)
    due = datetime.now(UTC) - timedelta(seconds=5)
    await engine._store.crons.update_one({"_id": made.id}, {"$set": {"next_at": due}})

    async def stand_still() -> None:
        now[0] += 60

    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    before(monkeypatch, cron_commands, "due", stand_still)
    assert await engine.crons.tick() == 0
    assert await engine._store.jobs.count_documents(anywhere(queue=queue)) == 0
    assert await engine.crons.tick() == 1


async def test_a_delivery_of_a_paused_group_is_not_claimed_to_be_given_back(engine: Engine) -> None:
    await engine.webhooks.set(SetWebhook(Target(org="acme"), "https://hooks.example/in"), caller=CALLER)
    acme, queue = Caller("ann", "acme"), fresh("queue")
    made = await engine.jobs.enqueue(NewJob(name="send", queue=queue, group="g", webhook=True), caller=acme)
    await engine.queues.pause(queue, group="g", caller=acme)
    sees = {"_id": made.job.id}
    stored = await engine._store.jobs.find_one(sees)
    assert await engine.deliveries.claim("courier", 10, room=lambda url: 10) == []
    assert await engine._store.jobs.find_one(sees) == stored


async def test_a_job_that_changes_while_a_batch_is_claimed_is_handed_out_as_it_is(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    jobs = [await enqueue(engine, queue=queue, payload="old") for _ in range(3)]
    change = JobUpdate(payload="new")
    before(monkeypatch, claim_commands, "claim_batch", lambda: engine.jobs.update(jobs[1].id, change, caller=CALLER))
    won = [job for _ in range(3) for job in await engine.claims.claim("w", [queue], limit=3)]
    assert {job.id: job.payload for job in won} == {jobs[0].id: "old", jobs[1].id: "new", jobs[2].id: "old"}


async def test_a_chunk_of_a_bulk_operation_counts_once(engine: Engine) -> None:
    store = engine._store
    made = {"_id": "op", "after": "", "done": False, "matched": 0, "changed": 0, "failed": 0, "event_seq": 1}
    await store.bulk_operations.insert_one({**made, "actor": "olga", "verb": "cancel"})
    for _ in range(2):
        await bulk.advance(store, "op", seen="", reached="job_5", matched=5, changed=4, failed=1, done=False)
    row = await store.bulk_operations.find_one({"_id": "op"})
    assert row is not None
    assert (row["after"], row["matched"], row["changed"], row["failed"], row["event_seq"]) == ("job_5", 5, 4, 1, 2)
