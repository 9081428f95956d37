"""A cancel that discards: whatever its handler still returns, a running job ends as cancelled."""

from __future__ import annotations

from itertools import product

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, enqueue, fresh, job_in, quiet


async def test_late_result_is_discarded(engine: Engine) -> None:
    for started, result in product((True, False), (None, {"answer": 42})):
        key = fresh("key")
        s = await job_in(engine, "active", started=started, unique_key=key, remove_on_complete=True)
        asked = await engine.jobs.cancel(s.id, caller=CALLER, discard=True)
        assert (asked.state, asked.cancel_requested_at is None) == ("active", False)
        assert await s.report(OutcomeKind.COMPLETE, result=result, ran_ms=7) == set()
        job = await s.job()
        assert (job.state, job.result, job.error) == ("cancelled", None, None)
        last = job.timeline[-1]
        assert (last.type, last.from_state, last.to_state) == ("abort", "active", "cancelled")
        assert [(row.number, row.outcome) for row in job.attempts] == [(1, "cancelled")]
        assert not {"token", "cancel_requested_at", "cancel_discards", "limited", "_"} & set(await s.document())
        assert (await enqueue(engine, unique_key=key)).id != s.id


async def test_a_worker_that_completes_with_plain_updates_has_its_result_discarded_too(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    claimed = await s.claim(start=True)
    assert claimed.plain
    await engine.jobs.cancel(s.id, caller=CALLER, discard=True)
    await s.report(OutcomeKind.COMPLETE, result=42, claimed=claimed)
    assert ((await s.job()).state, (await s.job()).result) == ("cancelled", None)


async def test_one_request_that_discards_is_enough(engine: Engine) -> None:
    for first in [True, False]:
        s = await job_in(engine, "active")
        await engine.jobs.cancel(s.id, caller=CALLER, discard=first)
        events = (await s.document())["event_seq"]
        await engine.jobs.cancel(s.id, caller=CALLER, discard=not first)
        assert (await s.document())["event_seq"] == events
        await s.report(OutcomeKind.COMPLETE, result=42)
        assert await s.state() == "cancelled"


async def test_what_waits_for_a_discarded_child_is_told_that_it_was_cancelled(engine: Engine) -> None:
    s = await job_in(engine, "active")
    new = NewJob(name="work", queue=s.queue, depends_on=[s.id])
    waiting = (await engine.jobs.enqueue(new, caller=CALLER)).job
    await engine.jobs.cancel(s.id, caller=CALLER, discard=True)
    await s.report(OutcomeKind.COMPLETE)
    await quiet(engine)
    told = await engine.jobs.get(waiting.id, caller=CALLER)
    assert told is not None and told.state == "failed"
