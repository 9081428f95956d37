"""A job that repeats: each completed run is followed by one more job, exactly once, and nothing else is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from switchtower.dialects import Dialect
from switchtower.engine import Engine
from switchtower.jobs import Job, JobFilter
from switchtower.repeats import Repeat
from switchtower.store import outbox
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, ERROR, enqueue, fresh, job_in, quiet

EVERY = Repeat(every_ms=60_000, limit=3)


async def listed(engine: Engine, queue: str) -> list[Job]:
    return (await engine.jobs.page(JobFilter(queues=[queue]), caller=CALLER)).items


async def test_a_completed_run_is_followed_by_one_job(engine: Engine) -> None:
    opts = {"repeat": {"every": 60_000, "limit": 3}, "x": 1}
    s = await job_in(
        engine, "active", repeat=EVERY, payload={"a": 1}, rank=0.5, tags=["t"], group="g", timeout_ms=9,
        dialect=Dialect.CONVEYOR, opts=opts, job_id=fresh("mine"),
    )  # fmt: skip
    await s.report(OutcomeKind.COMPLETE)
    following, done = await listed(engine, s.queue)
    assert (done.state, following.state, following.repeats) == ("completed", "scheduled", True)
    assert done.finished_at is not None and following.run_at == done.finished_at + timedelta(minutes=1)
    assert (following.payload, following.rank, following.tags, following.group) == ({"a": 1}, 0.5, ["t"], "g")
    assert (following.timeout_ms, following.dialect, following.custom_id) == (9, "conveyor", None)
    assert following.opts == {"repeat": {"every": 60_000, "limit": 2}, "x": 1}
    assert (following.attempt, following.generation, following.claims) == (0, 1, 0)


async def test_the_last_run_is_followed_by_none(engine: Engine) -> None:
    s = await job_in(engine, "active", repeat=Repeat(every_ms=1_000, limit=1))
    await s.report(OutcomeKind.COMPLETE)
    assert len(await listed(engine, s.queue)) == 1


async def test_a_job_that_removes_itself_repeats_all_the_same(engine: Engine) -> None:
    s = await job_in(engine, "active", repeat=EVERY, remove_on_complete=True)
    await s.report(OutcomeKind.COMPLETE)
    (following,) = await listed(engine, s.queue)
    assert following.state == "scheduled" and following.remove_on_complete


@pytest.mark.parametrize("end", ["failed", "cancelled", "removed"])
async def test_any_other_end_ends_the_repetition(engine: Engine, end: str) -> None:
    s = await job_in(engine, "active", repeat=EVERY, max_attempts=1)
    if end == "failed":
        await s.report(OutcomeKind.FAIL, error=ERROR)
    elif end == "cancelled":
        await engine.jobs.cancel(s.id, caller=CALLER)
        await s.report(OutcomeKind.ABORT)
    else:
        await engine.jobs.remove(s.id, caller=CALLER, force=True)
        await quiet(engine)
    assert [job.id for job in await listed(engine, s.queue)] == ([] if end == "removed" else [s.id])


async def test_an_outbox_that_is_relayed_by_many_makes_one_job(engine: Engine) -> None:
    s = await job_in(engine, "active", repeat=EVERY)
    document = {**await s.document(), "outbox": ["settle"]}
    ended = datetime.now(UTC).replace(microsecond=0)
    document |= {"state": "completed", "finished_at": ended}
    await asyncio.gather(*(outbox.relay(engine._store, [dict(document)]) for _ in range(5)))
    assert len(await listed(engine, s.queue)) == 2


async def test_a_repetition_goes_on_where_the_process_died_before_it_relayed(engine: Engine) -> None:
    s = await job_in(engine, "active", repeat=EVERY)
    # The report of a process that dies behind it: nobody is kicked.
    kick, engine.effects.kick = engine.effects.kick, lambda: None  # type: ignore[method-assign]
    await engine.claims.report([s.outcome(OutcomeKind.COMPLETE)])
    engine.effects.kick = kick  # type: ignore[method-assign]
    assert (await s.document())["outbox"] == ["settle"]
    await engine.effects.relay()
    assert len(await listed(engine, s.queue)) == 2


async def test_activity_tells_what_repeats_and_when_something_was_done(engine: Engine) -> None:
    queue = fresh("queue")
    for repeat in (EVERY, EVERY, None):
        await enqueue(engine, queue=queue, delay_ms=60_000, repeat=repeat)
    found = await engine.queues.activity([queue, fresh("queue")], caller=CALLER)
    assert [each.repeating for each in found.values()] == [2, 0]


async def test_cleaning_by_age_goes_by_the_end_or_the_beginning(engine: Engine) -> None:
    queue = fresh("queue")
    states = ("active", "waiting", "completed", "failed", "cancelled", "retrying")
    made = {state: await job_in(engine, state, queue=f"{queue}-{state}") for state in states}
    for state, s in made.items():
        ended = state in ("completed", "failed", "cancelled")
        await s.set(**{"finished_at" if ended else "created_at": datetime(2026, 1, 1, tzinfo=UTC)})
        name = f"{queue}-{state}"
        young = 100 * 366 * 24 * 3600 * 1000
        clean = engine.queues.clean
        assert await clean(name, [(await s.job()).state], grace_ms=young, caller=CALLER, by_age=True) == 0
        assert await clean(name, [(await s.job()).state], grace_ms=1_000, caller=CALLER, by_age=True) == 1
        await quiet(engine)
    assert await made["active"].report(OutcomeKind.COMPLETE) == {made["active"].id}, "its lease is lost"
