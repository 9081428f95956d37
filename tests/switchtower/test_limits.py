"""Limits as workers meet them: what they hold back starts as soon as it may, and costs little until then."""

from __future__ import annotations

import asyncio
import time

import pytest

from switchtower import App, JobContext, testing
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.limits import Limit, QueueLimits, Rate
from tests.switchtower.working import reaches
from tests.waiting import until

CALLER = Caller("tests")


async def bound(app: App, limits: QueueLimits) -> Engine:
    engine = await app.connect()
    await engine.queues.set_limits("default", limits, caller=CALLER)
    return engine


async def test_next_job_starts_as_soon_as_one_has_ended(app: App) -> None:
    running = most = 0
    both = asyncio.Event()

    @app.task
    async def work(ctx: JobContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            both.set()
        await both.wait()
        await asyncio.sleep(0.005)
        running -= 1

    await bound(app, QueueLimits(Limit(2)))
    # Its polls are rare: what it is not woken for takes the test's time.
    async with testing.worker(app, poll_seconds=20):
        ids = [(await work.enqueue()).job.id for _ in range(30)]
        await asyncio.gather(*(reaches(app, id, "completed") for id in ids))
    assert most == 2


async def test_another_worker_is_woken_when_a_place_becomes_free(app: App) -> None:
    release = asyncio.Event()
    began: list[str] = []

    @app.task
    async def work(ctx: JobContext) -> None:
        began.append(ctx.id)
        await release.wait()

    await bound(app, QueueLimits(Limit(1)))
    async with (
        testing.worker(app, poll_seconds=20, worker_id="one", concurrency=1),
        testing.worker(app, poll_seconds=20, worker_id="two", concurrency=1),
    ):
        ids = [(await work.enqueue()).job.id for _ in range(6)]
        await until(lambda: began)
        release.set()
        await asyncio.gather(*(reaches(app, id, "completed") for id in ids))


async def test_rate_that_slides_wakes_the_worker(app: App) -> None:
    claimed: list[float] = []

    @app.task
    async def work(ctx: JobContext) -> None:
        claimed.append(time.monotonic())

    await bound(app, QueueLimits(Limit(rate=Rate(2, 500))))
    async with testing.worker(app, poll_seconds=20):
        ids = [(await work.enqueue()).job.id for _ in range(8)]
        jobs = await asyncio.gather(*(reaches(app, id, "completed") for id in ids))
    claims = sorted(next(row.at for row in job.timeline if row.type == "claim") for job in jobs)
    assert all((later - at).total_seconds() >= 0.5 for at, later in zip(claims, claims[2:], strict=False)), claims


@pytest.mark.parametrize("limits", [QueueLimits(Limit(1)), QueueLimits(Limit(rate=Rate(1, 3_600_000)))])
async def test_worker_that_may_start_nothing_does_not_spin(app: App, limits: QueueLimits) -> None:
    forever = asyncio.Event()

    @app.task
    async def work(ctx: JobContext) -> None:
        await forever.wait()

    engine = await bound(app, limits)
    calls: list[float] = []
    async with testing.worker(app, poll_seconds=0.5) as worker:
        claim = engine.claims.claim
        assert worker is not None

        async def counted(*args: object, **kwargs: object) -> object:
            calls.append(time.monotonic())
            return await claim(*args, **kwargs)  # type: ignore[arg-type]

        engine.claims.claim = counted  # type: ignore[method-assign,assignment]
        ids = [(await work.enqueue()).job.id for _ in range(20)]
        await reaches(app, ids[0], "active")
        # The jobs' own arrivals wake it too, as late as their stream tells of them: then come seven whole polls.
        await until(lambda: len(calls) > 8 and calls[-1] - calls[-8] > 2)
        forever.set()
        await engine.queues.set_limits("default", QueueLimits(), caller=CALLER)
        await asyncio.gather(*(reaches(app, id, "completed") for id in ids))
