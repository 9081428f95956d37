"""Runs: how each one ends, what it is charged, and who takes over from a worker that is gone."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.engine.heartbeat import Heartbeat
from switchtower.engine.workers import CLAIM_ALLOWANCE
from switchtower.errors import NotFound
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.store import leases
from switchtower.store.collections import Store
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo, WorkerState
from tests.conformance.situations import (
    CALLER,
    ERROR,
    HOUR_MS,
    LONG_AGO,
    Situation,
    another,
    enqueue,
    fresh,
    job_in,
    quiet,
)
from tests.databases import anywhere

CHARGES = [
    (OutcomeKind.COMPLETE, "completed", 1, "completed"),
    (OutcomeKind.FAIL, "retrying", 1, "failed"),
    (OutcomeKind.RETRY_AT, "retrying", 1, "failed"),
    (OutcomeKind.BURY, "failed", 1, "failed"),
    (OutcomeKind.EXPIRE, "failed", 1, "expired"),
    (OutcomeKind.ABORT, "cancelled", 1, "cancelled"),
    (OutcomeKind.SNOOZE, "scheduled", 0, "snoozed"),
    (OutcomeKind.RELEASE, "waiting", 0, "released"),
]


@pytest.mark.parametrize("started", [True, False])
async def test_run_is_charged_by_how_it_ends(engine: Engine, started: bool) -> None:
    for kind, state, attempt, outcome in CHARGES:
        s = await job_in(engine, "active", started=started)
        await s.report(kind, error=ERROR, wait_ms=HOUR_MS, ran_ms=1_500)
        job = await s.job()
        assert (job.state, job.attempt, job.worker_id, job.cancel_requested_at) == (state, attempt, None, None)
        rows = [(row.number, row.generation, row.outcome, row.worker_id) for row in job.attempts]
        given_back = kind in (OutcomeKind.SNOOZE, OutcomeKind.RELEASE)
        assert rows == ([] if given_back and not started else [(1, 1, outcome, s.worker)]), kind
        if not started and not given_back:
            (row,) = job.attempts
            assert row.started_at is not None and row.ended_at is not None
            assert (row.ended_at - row.started_at) == timedelta(milliseconds=1_500)
        assert (job.finished_at is not None) == (state in ("completed", "failed", "cancelled"))
        assert job.retry_pending == (state == "retrying")


async def test_running_attempt_shows_in_the_history(engine: Engine) -> None:
    s = await job_in(engine, "active")
    (running,) = (await s.job()).attempts
    assert (running.outcome, running.number, running.worker_id, running.ended_at) == ("running", 1, s.worker, None)
    assert running.started_at == (await s.job()).started_at


async def test_wait_is_counted_from_the_report(engine: Engine) -> None:
    for kind in [OutcomeKind.FAIL, OutcomeKind.SNOOZE]:
        s = await job_in(engine, "active", lifo=True)
        await s.report(kind, error=ERROR, wait_ms=90_000)
        document = await s.document()
        assert document["run_at"] - document["updated_at"] == timedelta(seconds=90)
        assert document["order"] == -int(document["run_at"].timestamp() * 1000)


async def test_job_without_a_wait_can_be_claimed_at_once(engine: Engine) -> None:
    for kind in [OutcomeKind.FAIL, OutcomeKind.SNOOZE, OutcomeKind.RELEASE]:
        s = await job_in(engine, "active")
        await s.report(kind, error=ERROR, wait_ms=0)
        assert (await s.claim()).number == (2 if kind is OutcomeKind.FAIL else 1)


async def test_released_job_keeps_its_place(engine: Engine) -> None:
    s = await job_in(engine, "active")
    await enqueue(engine, queue=s.queue)
    before = await s.document()
    await s.report(OutcomeKind.RELEASE)
    assert (await s.document())["order"] == before["order"]
    assert (await engine.claims.claim("w", [s.queue]))[0].id == s.id


async def test_attempts_are_spent_and_then_the_job_fails(engine: Engine) -> None:
    s = await job_in(engine, "waiting", max_attempts=3)
    for number in (1, 2, 3):
        assert (await s.claim(start=number % 2 == 0)).number == number
        await s.report(OutcomeKind.FAIL, error=ERROR)
    job = await s.job()
    assert (job.state, job.attempt, job.error) == ("failed", 3, ERROR)
    assert [row.number for row in job.attempts] == [1, 2, 3]


async def test_claim_knows_of_an_earlier_claim_that_never_started(engine: Engine) -> None:
    s = await job_in(engine, "active", started=False)
    await engine.workers.bury_dead(s.worker)
    assert (await s.claim()).recovered
    await s.report(OutcomeKind.RELEASE)
    assert (await s.claim()).recovered
    await s.report(OutcomeKind.FAIL, error=ERROR)
    assert (await s.job()).attempt == 1


async def test_job_whose_cancel_was_requested_meanwhile_ends_cancelled(engine: Engine) -> None:
    given_back = (OutcomeKind.FAIL, OutcomeKind.RETRY_AT, OutcomeKind.SNOOZE, OutcomeKind.RELEASE, OutcomeKind.ABORT)
    for kind, wait_ms in product(given_back, (0, HOUR_MS)):
        s = await job_in(engine, "active", unique_key="k", started=wait_ms == 0)
        await engine.jobs.cancel(s.id, caller=CALLER)
        assert (await s.job()).cancel_requested_at is not None
        await s.report(kind, error=ERROR, wait_ms=wait_ms)
        job = await s.job()
        assert (job.state, job.timeline[-1].type, job.cancel_requested_at) == ("cancelled", "abort", None), kind
        assert job.finished_at is not None


async def test_completion_beats_a_cancel_request(engine: Engine) -> None:
    s = await job_in(engine, "active", started=False)
    await engine.jobs.cancel(s.id, caller=CALLER)
    await s.report(OutcomeKind.COMPLETE)
    assert (await s.job()).state == "completed"


async def test_second_cancel_request_changes_nothing(engine: Engine) -> None:
    s = await job_in(engine, "active")
    first = await engine.jobs.cancel(s.id, caller=CALLER)
    before = await s.document()
    again = await engine.jobs.cancel(s.id, caller=CALLER)
    assert again.cancel_requested_at == first.cancel_requested_at
    assert await s.document() == before


async def test_worker_learns_which_of_its_jobs_should_stop(engine: Engine) -> None:
    s, other = await job_in(engine, "active"), await job_in(engine, "active")
    assert await engine.claims.cancel_requests(s.worker) == set()
    await engine.jobs.cancel(s.id, caller=CALLER)
    await engine.jobs.cancel(other.id, caller=CALLER)
    assert await engine.claims.cancel_requests(s.worker) == {s.id}


async def test_mixed_batch_reports_every_outcome_and_names_only_the_fenced(engine: Engine) -> None:
    situations = [await job_in(engine, "active", started=n % 2 == 0) for n in range(12)]
    lost = situations[3:6]
    for s in lost:
        await engine.workers.bury_dead(s.worker)
    kinds = [OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.BURY, OutcomeKind.SNOOZE]
    outcomes = [
        Outcome(s.id, s.token, kinds[n % 4], result={"n": n} if n % 3 else None, error=ERROR, wait_ms=HOUR_MS)
        for n, s in enumerate(situations)
    ]
    assert await engine.claims.report(outcomes) == {s.id for s in lost}
    assert await engine.claims.report(outcomes) == {s.id for s in lost}
    await quiet(engine)
    landed = ["completed", "retrying", "failed", "scheduled"]
    for n, s in enumerate(situations):
        assert (await s.job()).state == ("waiting" if s in lost else landed[n % 4])
        if landed[n % 4] == "completed" and s not in lost:
            assert (await s.job()).result == ({"n": n} if n % 3 else None)


async def test_large_batch_of_large_reports_fits_its_commands(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 60, caller=CALLER)
    await engine.claims.claim("w", [queue])
    claimed = await engine.claims.claim("w", [queue], limit=100)
    error = JobError(ErrorKind.EXCEPTION, "E", "m" * 100_000, "s" * 100_000, "f")
    outcomes = [
        Outcome(job.id, job.token, OutcomeKind.BURY, error=error)
        if n % 2
        else Outcome(job.id, job.token, OutcomeKind.COMPLETE, result="r" * 900_000)
        for n, job in enumerate(claimed)
    ]
    assert await engine.claims.report(outcomes) == set()


async def test_start_names_the_runs_whose_lease_is_lost(engine: Engine) -> None:
    held, lost, done = [await job_in(engine, "active", started=False) for _ in range(3)]
    await engine.workers.bury_dead(lost.worker)
    await done.report(OutcomeKind.COMPLETE)
    assert await engine.claims.start([(s.id, s.token) for s in (held, lost, done)]) == {lost.id, done.id}
    assert await engine.claims.start([(held.id, held.token)]) == set()
    assert (await held.job()).attempt == 1


GONE_AT_ONCE = {"rescue": "active", "time to live": "waiting", "abandon": "blocked"} | dict.fromkeys(
    (OutcomeKind.COMPLETE, OutcomeKind.BURY, OutcomeKind.EXPIRE), "active"
)


async def test_job_that_is_to_go_when_it_ends_is_gone_at_once(engine: Engine, store: Store) -> None:
    fields: dict[str, Any] = {"remove_on_complete": True, "remove_on_fail": True, "max_attempts": 1}
    for how, state in GONE_AT_ONCE.items():
        s = await job_in(engine, state, job_id="mine", **fields)
        if how == "rescue":
            await engine.workers.bury_dead(s.worker)
        elif how == "time to live":
            await s.set(expires_at=LONG_AGO)
            await engine.upkeep.expire()
        elif how == "abandon":
            assert s.dependency is not None
            await engine.jobs.cancel(s.dependency, caller=CALLER)
        else:
            await s.report(OutcomeKind(how), error=ERROR)
        await quiet(engine)
        assert await s.state() == "removed", how
        assert await engine.jobs.get(s.id, caller=CALLER) is await engine.jobs.get("mine", caller=CALLER) is None
    assert await store.dead_letters.count_documents({}) == 0


async def test_time_to_live_fails_what_is_not_finished(engine: Engine, store: Store) -> None:
    for state in ("scheduled", "waiting", "blocked", "retrying"):
        s = await job_in(engine, state, ttl_ms=HOUR_MS, unique_key="k")
        assert await engine.upkeep.expire() == 0
        await s.set(expires_at=LONG_AGO)
        assert await engine.upkeep.expire() == 1
        await quiet(engine)
        job = await s.job()
        assert job.error is not None
        assert (job.state, job.error.kind, job.expires_at) == ("failed", "expired", None)
        assert await store.dead_letters.count_documents({"job_id": s.id}) == 1


async def test_time_to_live_leaves_what_runs_to_its_worker(engine: Engine) -> None:
    s = await job_in(engine, "active", ttl_ms=HOUR_MS)
    await s.set(expires_at=LONG_AGO)
    assert await engine.upkeep.expire() == 0
    await s.report(OutcomeKind.EXPIRE, error=JobError(ErrorKind.EXPIRED, "Expired", "too late"))
    assert (await s.job()).state == "failed"


async def test_stage_takes_what_is_due_by_the_databases_clock_and_nothing_else(engine: Engine) -> None:
    due = [await job_in(engine, state) for state in ("scheduled", "retrying")]
    later = [await job_in(engine, state) for state in ("scheduled", "retrying")]
    for s in due:
        await s.set(run_at=LONG_AGO)
    assert await engine.upkeep.stage() == 2
    assert await engine.upkeep.stage() == 0
    assert [await s.state() for s in (*due, *later)] == ["waiting", "waiting", "scheduled", "retrying"]


async def test_stage_of_many_jobs_by_two_processes_moves_each_once(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchtower.engine.upkeep.CHUNK", 100)
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue, delay_ms=HOUR_MS)] * 250, caller=CALLER)
    await store.jobs.update_many(anywhere(queue=queue), {"$set": {"run_at": LONG_AGO}})
    moved = await asyncio.gather(engine.upkeep.stage(), another(engine).upkeep.stage())
    assert sum(moved) == 250
    assert await store.jobs.count_documents({"queue": queue, "state": "waiting", "event_seq": 2}) == 250


# ---- workers that are gone


def _calm(engine: Engine) -> None:
    """As if the database had been healthy for an hour."""
    engine.upkeep._healthy_since -= 3_600


async def _held_by(engine: Engine, worker: str, *, started: bool = True, **fields: Any) -> Situation:
    job = await enqueue(engine, queue=fresh("queue"), **fields)
    (claimed,) = await engine.claims.claim(worker, [job.queue])
    if started:
        await engine.claims.start([claimed])
    return Situation(engine, job.id, job.queue, claimed.token, worker)


async def _silent(store: Store, worker: str) -> None:
    await store.workers.update_one({"_id": worker}, {"$set": {"expires_at": LONG_AGO}})


@pytest.mark.parametrize("started", [True, False])
async def test_jobs_of_a_silent_worker_go_back_and_only_started_runs_are_charged(
    engine: Engine, store: Store, started: bool
) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    s = await _held_by(engine, "w", started=started)
    _calm(engine)
    assert await engine.upkeep.rescue() == 0
    await _silent(store, "w")
    assert await engine.upkeep.rescue() == 1
    assert (await engine.workers.get_many(["w"]))["w"].state is WorkerState.LOST
    job = await s.job()
    assert (job.state, job.attempt, job.claims) == ("waiting", int(started), 1)
    assert [(row.outcome, row.error.kind if row.error else None) for row in job.attempts] == (
        [("lost", "worker_lost")] if started else []
    )
    assert await engine.upkeep.rescue() == 0


async def test_registering_again_shortens_no_lease(engine: Engine, store: Store) -> None:
    long = await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=900))
    again = await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=30))
    assert again.expires_at >= long.expires_at
    await leases.finish(store, "w", WorkerState.LOST)
    back = await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=30))
    assert back.expires_at < long.expires_at


async def test_short_lease_passes_by_the_databases_clock(engine: Engine) -> None:
    begun = time.monotonic()
    await engine.workers.register(WorkerInfo(id="w", queues=["q"], lease_seconds=0.15))
    s = await _held_by(engine, "w")
    _calm(engine)
    while await engine.upkeep.rescue() == 0:
        assert time.monotonic() - begun < 60
        await asyncio.sleep(0.01)
    assert time.monotonic() - begun > 0.1
    assert await s.state() == "waiting"


async def test_worker_that_renews_keeps_its_jobs(engine: Engine, store: Store) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    s = await _held_by(engine, "w")
    await _silent(store, "w")
    await engine.workers.renew("w")
    _calm(engine)
    assert await engine.upkeep.rescue() == 0
    assert await s.state() == "active"


async def test_lost_worker_cannot_renew_and_a_new_one_of_its_name_keeps_what_it_claims(
    engine: Engine, store: Store
) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    await _held_by(engine, "w")
    await engine.workers.bury_dead("w")
    with pytest.raises(NotFound):
        await engine.workers.renew("w")
    heartbeat = Heartbeat(engine.url, database=store.database.name, worker_id="w", lease_seconds=30)
    assert heartbeat.renew() is WorkerState.LOST
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    assert heartbeat.renew() is WorkerState.LIVE
    heartbeat.close()
    s = await _held_by(engine, "w")
    _calm(engine)
    assert await engine.upkeep.rescue() == 0
    assert await s.state() == "active"


async def test_worker_that_comes_back_while_its_jobs_are_taken_keeps_what_it_claims_anew(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    old = await _held_by(engine, "w")
    await leases.finish(store, "w", WorkerState.LOST)
    find_one = store.workers.find_one
    new: list[Situation] = []
    coming: list[bool] = []

    async def comes_back(*args: Any, **kwargs: Any) -> Any:
        found = await find_one(*args, **kwargs)
        if not coming:
            coming.append(True)
            other = another(engine)
            await other.workers.register(WorkerInfo(id="w", queues=["q"]))
            new.append(await _held_by(other, "w"))
        return found

    monkeypatch.setattr(store.workers, "find_one", comes_back)
    await engine.workers.take_back("w")
    monkeypatch.undo()
    assert len(new) == 1
    assert await new[0].state() == "active"
    assert await old.state() in ("waiting", "active")


async def test_rescue_finishes_what_a_dead_rescuer_began(engine: Engine, store: Store) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    s = await _held_by(engine, "w")
    await leases.finish(store, "w", WorkerState.LOST)
    _calm(engine)
    assert await engine.upkeep.rescue() == 1
    assert await s.state() == "waiting"


async def test_two_rescuers_and_a_completion_at_expiry_move_the_job_once(engine: Engine, store: Store) -> None:
    rescued = 0
    for n in range(8):
        await engine.workers.register(WorkerInfo(id=f"w{n}", queues=["q"]))
        s = await _held_by(engine, f"w{n}")
        await _silent(store, f"w{n}")
        other = another(engine)
        _calm(engine)
        _calm(other)
        first, second, lost = await asyncio.gather(
            engine.upkeep.rescue(), other.upkeep.rescue(), engine.claims.report([s.outcome(OutcomeKind.COMPLETE)])
        )
        assert first + second == len(lost)
        assert (await s.document())["event_seq"] == 4
        rescued += len(lost)
    assert 0 <= rescued <= 8


async def test_nobody_is_declared_lost_within_a_heartbeat_of_a_new_primary(engine: Engine, store: Store) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    s = await _held_by(engine, "w")
    await engine.upkeep.observe()
    _calm(engine)
    await _silent(store, "w")
    engine.upkeep._primary = ("another:27017", "an earlier election")
    await engine.upkeep.observe()
    assert await engine.upkeep.rescue() == 0
    assert await s.state() == "active"
    _calm(engine)
    await engine.upkeep.observe()
    assert await engine.upkeep.rescue() == 1


async def test_dead_process_gives_its_jobs_back_at_once(engine: Engine) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    started, prefetched = await _held_by(engine, "w"), await _held_by(engine, "w", started=False)
    assert await engine.workers.bury_dead("w") == 2
    assert [(await s.job()).attempt for s in (started, prefetched)] == [1, 0]
    assert await engine.workers.bury_dead("w") == 0


async def test_worker_that_says_goodbye_gives_back_what_it_holds(engine: Engine) -> None:
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    s = await _held_by(engine, "w", started=False)
    await engine.workers.drain("w")
    assert (await engine.workers.renew("w")).state is WorkerState.DRAINING
    assert await engine.workers.retire("w") == 1
    assert (await s.job()).attempt == 0
    assert await engine.workers.retire("w") == 0
    assert await engine.workers.list(caller=CALLER) == []
    assert [worker.id for worker in await engine.workers.list(caller=CALLER, include_gone=True)] == ["w"]


async def test_crashes_spend_the_attempts_and_end_in_a_dead_letter(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "waiting", max_attempts=2)
    for _ in range(2):
        await s.claim(start=True)
        await engine.workers.bury_dead(s.worker)
    await quiet(engine)
    job = await s.job()
    assert job.error is not None
    assert (job.state, job.attempt, job.error.kind) == ("failed", 2, "worker_lost")
    assert [row.number for row in job.attempts] == [1, 2]
    assert await store.dead_letters.count_documents({"job_id": s.id}) == 1


async def test_job_that_kills_its_workers_before_it_starts_is_given_up(engine: Engine) -> None:
    s = await job_in(engine, "waiting", max_attempts=2)
    for _ in range(2 + CLAIM_ALLOWANCE):
        assert await s.state() == "waiting"
        await s.claim()
        await engine.workers.bury_dead(s.worker)
    assert await s.state() == "failed"


async def test_releases_do_not_count_against_the_claim_allowance(engine: Engine) -> None:
    s = await job_in(engine, "waiting", max_attempts=1)
    for _ in range(2 * CLAIM_ALLOWANCE):
        await s.claim(start=True)
        await s.report(OutcomeKind.RELEASE)
    await s.claim(start=True)
    await s.report(OutcomeKind.COMPLETE)
    assert (await s.job()).attempt == 1


async def test_rescued_job_whose_cancel_was_requested_is_cancelled(engine: Engine) -> None:
    s = await job_in(engine, "active")
    await engine.jobs.cancel(s.id, caller=CALLER)
    await engine.workers.bury_dead(s.worker)
    assert (await s.job()).state == "cancelled"


async def test_duty_has_one_holder_at_a_time_and_every_change_of_holder_a_new_term(engine: Engine) -> None:
    elect = engine.upkeep.elect
    assert await elect("duty", "a", 60_000) == 1
    assert await elect("duty", "a", 60_000) == 1
    assert await elect("duty", "b", 60_000) is None
    await engine.upkeep.resign("duty", "b")
    assert await elect("duty", "b", 60_000) is None
    await engine.upkeep.resign("duty", "a")
    assert await elect("duty", "b", 1) == 2
    await asyncio.sleep(0.02)
    assert await elect("duty", "a", 60_000) == 3
    terms = await asyncio.gather(*(elect("other", f"{n}", 60_000) for n in range(20)))
    assert [term for term in terms if term is not None] == [1]
