"""What keeps a job from running is said with what would help."""

from __future__ import annotations

from switchtower.crons import NewCron, Schedule
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


async def test_an_ended_job_of_a_disabled_cron_says_that_no_other_comes(engine: Engine) -> None:
    new = NewCron(name="nightly", schedule=Schedule("0 3 * * *"), job=NewJob(name="sweep"))
    cron = await engine.crons.create(new, caller=CALLER)
    job = (await engine.crons.trigger(cron.id, caller=CALLER)).job
    await engine.crons.disable(cron.id, caller=CALLER)
    open_kinds = [cause.kind for cause in await engine.blockages.of(job)]
    assert BlockageKind.CRON_DISABLED not in open_kinds, "what was enqueued runs all the same"
    ended = await engine.jobs.cancel(job.id, caller=CALLER)
    causes = await engine.blockages.of(ended)
    assert [(cause.kind, cause.mutation) for cause in causes] == [
        (BlockageKind.FINISHED, "retryJob"),
        (BlockageKind.CRON_DISABLED, "enableCron"),
    ]
    await engine.crons.enable(cron.id, caller=CALLER)
    assert [cause.kind for cause in await engine.blockages.of(ended)] == [BlockageKind.FINISHED]
