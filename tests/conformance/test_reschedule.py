"""A job that has not begun is put off, brought forward, or run now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from switchtower.engine import Engine
from switchtower.errors import InvalidTransition
from tests.conformance.situations import CALLER, LONG_AGO, job_in, quiet


def in_days(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


@pytest.mark.parametrize(
    ("state", "put_off"), [("scheduled", "scheduled"), ("waiting", "scheduled"), ("retrying", "retrying")]
)
async def test_later_and_then_now(engine: Engine, state: str, put_off: str) -> None:
    s = await job_in(engine, state)
    attempt = (await s.job()).attempt
    at = in_days(2)
    job = await engine.jobs.reschedule(s.id, at, caller=CALLER)
    assert (job.state, job.run_at, job.scheduled_for, job.attempt) == (put_off, at, at, attempt)
    await engine.upkeep.stage()
    assert await s.state() == put_off and await engine.claims.claim("w", [s.queue]) == []
    job = await engine.jobs.reschedule(s.id, sooner := in_days(1), caller=CALLER)
    assert (job.state, job.run_at) == (put_off, sooner)
    job = await engine.jobs.reschedule(s.id, None, caller=CALLER)
    assert (job.state, job.scheduled_for, job.timeline[-1].type) == ("waiting", None, "reschedule")
    assert [claimed.id for claimed in await engine.claims.claim("w", [s.queue])] == [s.id]


async def test_what_has_passed_is_now(engine: Engine) -> None:
    for state in ["scheduled", "waiting", "retrying"]:
        s = await job_in(engine, state)
        before = engine.clock.now()
        job = await engine.jobs.reschedule(s.id, LONG_AGO, caller=CALLER)
        assert (job.state, job.scheduled_for) == ("waiting", None) and job.run_at >= before - timedelta(seconds=1)


async def test_what_is_put_off_leaves_its_place_and_comes_back_behind(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    other = await job_in(engine, "waiting", queue=s.queue)
    await engine.jobs.reschedule(s.id, in_days(1), caller=CALLER)
    await engine.jobs.reschedule(s.id, None, caller=CALLER)
    assert [(await engine.claims.claim("w", [s.queue], limit=1))[0].id for _ in range(2)] == [other.id, s.id]


async def test_nothing_else_is(engine: Engine) -> None:
    for state in ["active", "blocked", "completed", "failed", "cancelled"]:
        for now in [True, False]:
            s = await job_in(engine, state)
            await quiet(engine)
            before = await s.document()
            with pytest.raises(InvalidTransition, match=f"reschedule a job that is {state};"):
                await engine.jobs.reschedule(s.id, None if now else in_days(1), caller=CALLER)
            assert await s.document() == before
