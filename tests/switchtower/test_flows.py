"""Flows and crons from Python, with real workers: children that a handler waits for, tasks that run by time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower import (
    App,
    ChildFailed,
    ChildFailure,
    ConfigurationError,
    InvalidInput,
    JobContext,
    JobState,
    WaitForChildren,
    node,
    testing,
)
from switchtower.callers import SYSTEM
from switchtower.crons import CatchUp, Overlap
from switchtower.jobs import Job
from switchtower.worker import Worker
from tests.switchtower.working import reaches
from tests.waiting import until


async def test_flow_runs_from_the_leaves_up(app: App) -> None:
    order: list[str] = []

    @app.task
    async def fetch(source: str) -> int:
        order.append(source)
        return len(source)

    @app.task(queue="reports")
    async def report(ctx: JobContext, day: str) -> dict[str, Any]:
        order.append("report")
        return {child.payload["source"]: child.result for child in await ctx.children()}

    root = node(
        report.job(day="mon"),
        node(fetch.job(source="bb"), depends_on=["first"]),
        node(fetch.options(priority=5).job(source="a"), key="first"),
    )
    async with testing.worker(app):
        flow = await app.enqueue_flow(root, idempotency_key="mon")
        done = await reaches(app, flow.id, JobState.COMPLETED)
        assert done.result == {"a": 1, "bb": 2}
        assert order == ["a", "bb", "report"]
        assert (await app.enqueue_flow(root, idempotency_key="mon")).id == flow.id


async def test_handler_adds_children_and_waits_for_them(app: App) -> None:
    calls: list[int] = []

    @app.task
    async def square(n: int) -> int:
        return n * n

    @app.task(timeout_seconds=5)
    async def total(ctx: JobContext, count: int) -> int:
        calls.append(ctx.attempt)
        for n in range(count):
            await ctx.enqueue(square, {"n": n}, idempotency_key=f"{ctx.idempotency_key}:{n}")
        return sum(child.result for child in await ctx.wait_for_children())

    async with testing.worker(app, concurrency=2):
        jobs = [(await total.enqueue(count=count)).job.id for count in (20, 0, 3)]
        results = [(await reaches(app, id, JobState.COMPLETED)).result for id in jobs]
    assert results == [sum(n * n for n in range(20)), 0, 5]
    assert set(calls) == {1} and len(calls) >= 5
    engine = await app.connect()
    flow = await engine.flows.get(jobs[0], caller=SYSTEM)
    assert flow is not None and (flow.total, flow.finished) == (21, 21)


@pytest.mark.parametrize("policy", [ChildFailure.FAIL, ChildFailure.IGNORE, ChildFailure.REMOVE])
@pytest.mark.parametrize("late", [False, True])
async def test_waiting_handler_meets_a_failed_child_as_its_policy_says(
    app: App, policy: ChildFailure, late: bool
) -> None:
    """Whether the child fails before the handler suspends or after it, the outcome is the same."""

    @app.task(max_attempts=1)
    async def bad() -> None:
        raise ValueError("broken")

    @app.task
    async def good() -> str:
        return "fine"

    @app.task
    async def parent(ctx: JobContext) -> list[str]:
        key = ctx.idempotency_key
        await ctx.enqueue(good, idempotency_key=f"{key}:good")
        await ctx.enqueue(bad, idempotency_key=f"{key}:bad")
        if not late:
            ended = lambda child: child.state in ("completed", "failed")  # noqa: E731
            for _ in range(300):
                children = await ctx.children()
                if all(map(ended, children)):
                    break
                await asyncio.sleep(0.01)
        return sorted(child.state.value for child in await ctx.wait_for_children())

    async with testing.worker(app):
        id = (await parent.options(on_child_failure=policy).enqueue()).job.id
        job = await reaches(app, id, JobState.COMPLETED, JobState.FAILED)
    if policy is ChildFailure.FAIL:
        assert job.state == "failed" and job.error is not None and job.error.kind == "dependency"
    else:
        assert job.state == "completed"
        expected = ["completed", "failed"] if policy is ChildFailure.IGNORE else ["completed"]
        assert job.result == expected or (policy is ChildFailure.REMOVE and job.result == ["completed", "failed"])


async def test_waiting_handler_is_cancelled_with_its_flow(app: App) -> None:
    @app.task(queue="nobody")
    async def never() -> None: ...

    @app.task
    async def parent(ctx: JobContext) -> None:
        await ctx.enqueue(never, idempotency_key=ctx.idempotency_key)
        await ctx.wait_for_children()

    async with testing.worker(app, queues=["default"]):
        id = (await parent.enqueue()).job.id
        await reaches(app, id, JobState.BLOCKED)
        engine = await app.connect()
        assert (await engine.flows.cancel(id, caller=SYSTEM)).matched == 2
        await reaches(app, id, JobState.CANCELLED)


async def test_wait_is_told_from_its_children_without_a_database(app: App) -> None:
    @app.task
    async def parent(ctx: JobContext) -> int:
        return len(await ctx.wait_for_children())

    def child(state: JobState) -> Job:
        from tests.schema.fakes import job

        return job(state=state)

    waits = await testing.run(parent, children=[child(JobState.COMPLETED), child(JobState.ACTIVE)])
    assert waits.kind == "suspend"
    ended = await testing.run(parent, children=[child(JobState.COMPLETED)] * 2)
    assert (ended.kind, ended.result) == ("complete", 2)
    broken = await testing.run(parent, children=[child(JobState.FAILED), child(JobState.ACTIVE)])
    assert broken.kind == "bury" and broken.error is not None and broken.error.kind == "dependency"
    assert issubclass(ChildFailed, Exception) and issubclass(WaitForChildren, Exception)


async def test_flow_that_cannot_be_is_refused_before_anything_is_stored(app: App) -> None:
    @app.task
    async def step(n: int) -> None: ...

    with pytest.raises(InvalidInput):
        step.job(m=1)
    with pytest.raises(InvalidInput, match="cycle"):
        await app.enqueue_flow(node(step.job(n=0), node(step.job(n=1), key="a", depends_on=["a"])))
    engine = await app.connect()
    assert (await engine.flows.page(caller=SYSTEM)).items == []


# ---- crons


async def test_worker_puts_its_crons_into_the_database_and_they_run(app: App) -> None:
    ran: list[str] = []

    @app.cron(every_seconds=0.2, name="often", payload={"what": "tick"}, queue="beats")
    @app.cron("0 3 * * *", tz="Europe/Berlin", overlap="skip", catch_up="all", jitter_seconds=1.5, limit=3)
    @app.task(name="beat", max_attempts=2)
    async def beat(what: str = "nightly") -> None:
        ran.append(what)

    async with testing.worker(app, queues=["default", "beats"]):
        await until(lambda: len(ran) >= 3)
        engine = await app.connect()
        crons = {cron.name: cron for cron in (await engine.crons.page(caller=SYSTEM)).items}
        assert crons.keys() == {"often", "beat"}
        assert (crons["often"].schedule.every_ms, crons["often"].job.queue) == (200, "beats")
        nightly = crons["beat"]
        assert (nightly.schedule.expression, nightly.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
        assert (nightly.overlap, nightly.catch_up, nightly.jitter_ms, nightly.limit) == (
            Overlap.SKIP,
            CatchUp.ALL,
            1_500,
            3,
        )
        assert nightly.job.max_attempts == 2
        await engine.crons.disable(crons["often"].id, caller=SYSTEM)
    async with testing.worker(app):
        again = {cron.name: cron for cron in (await engine.crons.page(caller=SYSTEM)).items}
        assert again["often"].id == crons["often"].id and not again["often"].enabled
        assert again["beat"].updated_at == nightly.updated_at
    assert set(ran) == {"tick"}


async def test_plain_function_becomes_a_task_with_a_cron(app: App) -> None:
    @app.cron("@daily")
    async def sweep() -> str:
        return "swept"

    assert app.tasks["sweep"] is sweep and app.crons["sweep"].job.name == "sweep"
    assert await sweep() == "swept"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no schedule": ({}, "one of the two"),
    "two schedules": ({"expression": "@daily", "every_seconds": 5}, "one of the two"),
    "no such date": ({"expression": "0 0 30 2 *"}, "no such date"),
    "no such zone": ({"expression": "@daily", "tz": "Mars/Olympus"}, "time zone"),
    "no such option": ({"expression": "@daily", "every": 5}, "not an option of a cron"),
    "no such policy": ({"expression": "@daily", "overlap": "maybe"}, "allow, skip, replace"),
    "no such argument": ({"expression": "@daily", "payload": {"m": 1}}, "m"),
    "not a number": ({"every_seconds": "5"}, "number of seconds"),
    "too often": ({"every_seconds": 0.01}, "everyMs"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_cron_that_cannot_be_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    app = App()
    options = dict(options)
    with pytest.raises(InvalidInput, match=words):

        @app.cron(options.pop("expression", None), **options)
        @app.task
        async def tick(n: int = 0) -> None: ...

    assert app.crons == {}


def test_two_crons_of_one_name_are_refused() -> None:
    app = App()

    @app.cron("@daily")
    @app.task
    async def tick() -> None: ...

    with pytest.raises(ConfigurationError, match="Two crons"):
        app.cron("@hourly")(tick)
    assert app.cron("@hourly", name="other")(tick) is tick


async def test_worker_does_not_start_with_a_cron_that_the_database_refuses(app: App) -> None:
    @app.cron("@daily")
    @app.task
    async def tick() -> None: ...

    app.crons["tick"].limit = 0
    with pytest.raises(ConfigurationError, match="tick"):
        await Worker(app).run()
