"""What keeps a job from running is said with what would help."""

from __future__ import annotations

from switchtower.engine import BlockageKind, Engine
from switchtower.jobs import NewJob
from tests.conformance.situations import CALLER, HOUR_MS, Situation


async def test_a_run_that_waits_for_an_event_says_which(engine: Engine) -> None:
    job = (await engine.jobs.enqueue(NewJob(name="pay", delay_ms=HOUR_MS), caller=CALLER)).job
    run = Situation(engine, job.id, job.queue)
    await run.set(awaiting=["paid", "refused"])
    (cause, *_) = await engine.blockages.of(await run.job())
    assert cause.kind is BlockageKind.WAITS_FOR_EVENT
    assert "'paid' or 'refused'" in cause.message
    assert (cause.mutation, cause.until) == ("publishEvent", job.run_at)


async def test_a_delayed_job_says_until_when(engine: Engine) -> None:
    job = (await engine.jobs.enqueue(NewJob(name="pay", delay_ms=HOUR_MS), caller=CALLER)).job
    (cause, *_) = await engine.blockages.of(job)
    assert (cause.kind, cause.mutation, cause.until) == (BlockageKind.DELAYED, "promoteJob", job.run_at)
