"""A workflow that is put aside has not ended: what its function does on its way out, it does once, at the real end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from switchtower import App, testing
from switchtower.durable import WorkflowContext
from switchtower.states import JobState
from tests.switchtower.working import reaches
from tests.waiting import until

effects: list[str] = []
LONG = 1.1
"""Seconds: a shorter pause is waited for in place."""


def do(what: str) -> str:
    effects.append(what)
    return what


@asynccontextmanager
async def locked(ctx: WorkflowContext) -> AsyncIterator[None]:
    await ctx.step("lock", do, "lock")
    try:
        yield
    finally:
        await ctx.step("unlock", do, "unlock")


async def sleeps(ctx: WorkflowContext) -> None:
    await ctx.sleep(LONG)


async def waits(ctx: WorkflowContext) -> None:
    await ctx.wait_for_event("go")


async def has_a_child(ctx: WorkflowContext) -> None:
    await ctx.child(ctx_task, {})


async def fans_out(ctx: WorkflowContext) -> None:
    await ctx.fan_out(ctx_task, [{}, {}])


async def waits_in_branches(ctx: WorkflowContext) -> None:
    await ctx.parallel(ctx.sleep(LONG, name="a"), ctx.sleep(LONG, name="b"))


PAUSES: tuple[Callable[[WorkflowContext], Any], ...] = (sleeps, waits, has_a_child, fans_out, waits_in_branches)
ctx_task: Any = None
FLOWS: dict[str, Any] = {}


@pytest.fixture(params=PAUSES, ids=lambda pause: pause.__name__)
async def app(request: pytest.FixtureRequest, mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    global ctx_task
    app = App(mongodb_url=mongodb_url, database=database_name)
    pause = request.param

    @app.task()
    async def part() -> str:
        return "part"

    ctx_task = part

    @app.workflow
    async def with_finally(ctx: WorkflowContext) -> str:
        await ctx.step("lock", do, "lock")
        try:
            await pause(ctx)
            await ctx.step("use", do, "use")
        finally:
            await ctx.step("unlock", do, "unlock")
        return "done"

    @app.workflow
    async def with_a_manager(ctx: WorkflowContext) -> str:
        async with locked(ctx):
            await pause(ctx)
            await ctx.step("use", do, "use")
        return "done"

    @app.workflow
    async def with_an_except(ctx: WorkflowContext) -> str:
        await ctx.step("lock", do, "lock")
        try:
            await pause(ctx)
            await ctx.step("use", do, "use")
        except BaseException:
            # It does not hold the run here, nor does it do anything.
            await ctx.step("never", do, "never")
        await ctx.step("unlock", do, "unlock")
        return "done"

    effects.clear()
    FLOWS.update(with_finally=with_finally, with_a_manager=with_a_manager, with_an_except=with_an_except)
    yield app
    await app.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_finally", "with_a_manager", "with_an_except"])
async def test_what_a_function_does_on_its_way_out_is_done_at_the_real_end(app: App, name: str) -> None:
    async with testing.worker(app, concurrency=2):
        job = (await FLOWS[name].start()).job.id

        async def put_aside() -> bool:
            return "lock" in effects

        await until(put_aside)
        engine = await app.connect()
        await engine.workflows.publish("go", {}, caller=app.caller)
        ended = await reaches(app, job, JobState.COMPLETED, JobState.FAILED)
    assert (ended.state, ended.error and ended.error.message) == (JobState.COMPLETED, None)
    assert (ended.result, effects) == ("done", ["lock", "use", "unlock"])
