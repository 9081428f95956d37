"""Workflows on real workers: steps, waits, children, sagas, versions."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from switchtower import App, Backoff, BackoffKind, ChildFailed, Fail, StepFailed, WaitTimeout, WorkflowContext, testing
from switchtower.callers import SYSTEM
from switchtower.clock import from_ms
from switchtower.engine import Engine
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.workflows import NewRun, RunState, StepKind, WorkflowRun
from tests.waiting import until

FINAL = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED)
AT_ONCE = Backoff(BackoffKind.NONE)


async def reaches(app: App, id: str, *states: RunState, seconds: float = 60) -> WorkflowRun:
    engine = await app.connect()

    async def arrived() -> WorkflowRun | None:
        run = await engine.workflows.get(id, caller=SYSTEM)
        assert run is not None
        return run if run.state in (states or FINAL) else None

    return await until(arrived, timeout_seconds=seconds)  # type: ignore[return-value]


async def publish(app: App, name: str, payload: Any = None) -> None:
    engine: Engine = await app.connect()
    await engine.workflows.publish(name, payload, caller=SYSTEM)


async def has_step(app: App, id: str, name: str) -> bool:
    run = await (await app.connect()).workflows.get(id, caller=SYSTEM)
    return run is not None and any(step.name == name for step in run.steps)


async def lapse(app: App, id: str, name: str) -> None:
    """Ends the sleep of a run that waits in this step: its time has come."""
    engine = await app.connect()
    past = {"steps.$[step].until": from_ms(0)}
    await engine._store.jobs.update_one({"_id": id}, {"$set": past}, array_filters=[{"step.name": name}])
    await engine.jobs.promote(id, caller=SYSTEM)


async def run(app: App, workflow: Any, **input: Any) -> WorkflowRun:
    """Starts a run and waits for its end."""
    async with testing.worker(app):
        return await reaches(app, (await workflow.start(**input)).job.id)


async def test_steps_run_once_and_answer_from_their_checkpoints(app: App) -> None:
    calls: list[str] = []

    def note(name: str) -> str:
        calls.append(name)
        return threading.current_thread().name

    async def later(when: datetime) -> dict[str, Any]:
        calls.append("later")
        return {"when": when, "pair": (1, 2)}

    @app.workflow
    async def flow(ctx: WorkflowContext, day: datetime) -> dict[str, Any]:
        calls.append("called")
        thread = await ctx.step("note", note, "note")
        made = await ctx.step("later", later, when=day)
        await ctx.sleep(timedelta(hours=1))
        return {"thread": thread != "MainThread", "made": made, "again": await ctx.step("note", note, "two")}

    async with testing.worker(app):
        id = (await flow.start(day=datetime(2026, 1, 2, tzinfo=UTC))).job.id
        await reaches(app, id, RunState.SLEEPING)
        await lapse(app, id, "sleep")
        done = await reaches(app, id)
    assert calls == ["called", "note", "later", "called", "two"]
    assert done.output is not None and done.output["made"] == {"when": "2026-01-02T00:00:00Z", "pair": [1, 2]}
    assert done.output["thread"]
    assert [step.name for step in done.steps] == ["note", "later", "sleep", "note#2"]


async def test_step_is_tried_again_and_then_fails(app: App) -> None:
    tries: list[int] = []

    def broken() -> None:
        tries.append(1)
        raise ValueError("no luck")

    def hopeless() -> None:
        tries.append(100)
        raise Fail("never")

    @app.workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        seen = []
        for function in (broken, hopeless):
            try:
                await ctx.step(function.__name__, function, max_attempts=3, backoff=AT_ONCE)
            except StepFailed as error:
                seen.append(str(error))
        await ctx.sleep(timedelta(seconds=1.1))
        return seen

    done = await run(app, flow)
    assert tries == [1, 1, 1, 100], "failed for good is a checkpoint too"
    assert done.output == ["Step 'broken' failed: no luck", "Step 'hopeless' failed: never"]
    assert [step.attempts for step in done.steps] == [3, 1, 1]


async def test_long_backoff_gives_the_job_back(app: App) -> None:
    tries: list[float] = []

    def second_time() -> str:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise ValueError("first")
        return "ok"

    @app.workflow
    async def flow(ctx: WorkflowContext) -> str:
        wait = Backoff(BackoffKind.FIXED, base_ms=3_000, jitter=0)
        return await ctx.step("s", second_time, backoff=wait)

    done = await run(app, flow)
    assert (done.output, len(tries)) == ("ok", 2)
    assert tries[1] - tries[0] > 2.9
    assert "snooze" in [entry.type for entry in done.job.timeline]


async def test_result_that_cannot_be_stored_fails_its_step(app: App) -> None:
    @app.workflow
    async def flow(ctx: WorkflowContext, kind: str) -> Any:
        made = {"object": object(), "large": "x" * 2_000_000, "nan": float("nan")}[kind]
        return await ctx.step("s", lambda: made)

    async with testing.worker(app):
        for kind in ("object", "large", "nan"):
            done = await reaches(app, (await flow.start(kind=kind)).job.id)
            assert done.state is RunState.FAILED and done.error is not None
            assert "result" in done.error.message


async def test_waits_for_events(app: App) -> None:
    @app.workflow
    async def flow(ctx: WorkflowContext) -> list[Any]:
        one = await ctx.wait_for_event("one", match={"n": 2})
        some = await ctx.wait_for_any(["two", "three"])
        both = await ctx.wait_for_all(["four", "five"])
        return [one, list(some), both]

    async with testing.worker(app):
        await publish(app, "four", 4)
        id = (await flow.start()).job.id
        await reaches(app, id, RunState.WAITING)
        await publish(app, "one", {"n": 1})
        await publish(app, "one", {"n": 2})
        await publish(app, "three", 3)
        await until(lambda: has_step(app, id, "waitall:four"))
        await publish(app, "five", 5)
        done = await reaches(app, id)
    assert done.output == [{"n": 2}, ["three", 3], {"four": 4, "five": 5}]


async def test_wait_ends_by_itself(app: App) -> None:
    @app.workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            await ctx.wait_for_event("never", timeout=timedelta(seconds=1.2))
        except WaitTimeout:
            await ctx.sleep(timedelta(seconds=1.1))
            return "late"
        return "came"

    assert (await run(app, flow)).output == "late"


async def test_children(app: App) -> None:
    @app.task(max_attempts=1)
    async def plain(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return n + 1

    @app.workflow
    async def sub(ctx: WorkflowContext, n: int) -> int:
        return await ctx.step("double", lambda: n * 2)

    @app.workflow
    async def flow(ctx: WorkflowContext) -> dict[str, Any]:
        spawned = await ctx.spawn(sub, {"n": 50})
        child = await ctx.child(sub, {"n": 1})
        named = await ctx.child("sub", {"n": 2})
        fan = await ctx.fan_out(plain, [{"n": n} for n in range(20)])
        try:
            await ctx.fan_out(plain, [{"n": 1}, {"n": -1}], name="broken")
        except ChildFailed as error:
            broken = str(error)
        return {"child": [child, named], "fan": fan, "broken": broken, "spawned": await spawned.result()}

    done = await run(app, flow)
    assert done.output is not None, done.error
    assert (done.output["child"], done.output["spawned"]) == ([2, 4], 100)
    assert done.output["fan"] == list(range(1, 21))
    assert "negative" in done.output["broken"]
    engine = await app.connect()
    children = (await engine.jobs.children_of([done.job.id], caller=SYSTEM))[done.job.id]
    assert len(children.items) == 24, "spawned ones are nobody's children"
    runs = await engine.workflows.page(caller=SYSTEM, workflow="sub")
    assert sorted(run.parent_run_id or "" for run in runs.items) == ["", done.id, done.id]


async def test_branches_go_on_side_by_side(app: App) -> None:
    calls: list[str] = []

    @app.workflow
    async def sub(ctx: WorkflowContext) -> str:
        return await ctx.wait_for_event("child")

    @app.workflow
    async def flow(ctx: WorkflowContext) -> Any:
        async def branch(name: str) -> Any:
            got = await ctx.wait_for_event(name)
            return await ctx.step(f"after-{name}", lambda: calls.append(name) or got)

        return await ctx.parallel({"a": branch("a"), "b": branch("b"), "c": ctx.child(sub)})

    async with testing.worker(app):
        id = (await flow.start()).job.id
        await reaches(app, id, RunState.WAITING)
        await publish(app, "b", 2)
        await until(lambda: calls == ["b"])
        await publish(app, "child", 3)
        await publish(app, "a", 1)
        done = await reaches(app, id)
    assert (done.output, calls) == ({"a": 1, "b": 2, "c": 3}, ["b", "a"])


async def test_failed_branch_ends_the_wait_of_another(app: App) -> None:
    def broken() -> None:
        raise ValueError("branch")

    @app.workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            await ctx.parallel(ctx.wait_for_event("never"), ctx.step("broken", broken, max_attempts=1))
        except StepFailed as error:
            return error.error.message
        return "no"

    assert (await run(app, flow)).output == "branch"


async def test_saga(app: App) -> None:
    done: list[Any] = []

    def undo_two(result: Any) -> None:
        done.append(("undo", result))
        raise RuntimeError("cannot")

    def broken() -> None:
        raise ValueError("card declined")

    @app.workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.step("one", lambda: 1, compensate=lambda result: done.append(("undo", result)))
        await ctx.step("two", lambda: 2, compensate=undo_two, max_attempts=2, backoff=AT_ONCE)
        await ctx.step("three", lambda: 3)
        await ctx.step("charge", broken, max_attempts=1, compensate=lambda result: done.append("never"))

    ended = await run(app, flow)
    assert done == [("undo", 2), ("undo", 2), ("undo", 1)]
    assert ended.state is RunState.FAILED and ended.error is not None
    assert (ended.error.type, ended.error.message) == ("ValueError", "Step 'charge' failed: card declined")
    undone = [(step.name, str(step.status)) for step in ended.steps if step.kind is StepKind.COMPENSATE]
    assert undone == [("compensate", "completed"), ("compensate:two", "failed"), ("compensate:one", "completed")]


async def test_retry_after_a_saga_does_the_undone_steps_again(app: App) -> None:
    fails = [True]
    calls: list[str] = []

    def charge() -> str:
        if fails:
            fails.clear()
            raise ValueError("once")
        return "paid"

    @app.workflow
    async def flow(ctx: WorkflowContext) -> str:
        await ctx.step("reserve", lambda: calls.append("reserve"), compensate=lambda _: calls.append("undo"))
        await ctx.step("look", lambda: calls.append("look"))
        return await ctx.step("charge", charge, max_attempts=1)

    async with testing.worker(app):
        id = (await flow.start()).job.id
        assert (await reaches(app, id)).state is RunState.FAILED
        await (await app.connect()).jobs.retry(id, caller=SYSTEM)
        done = await reaches(app, id, RunState.COMPLETED)
    assert (done.output, calls) == ("paid", ["reserve", "look", "undo", "reserve"])


async def test_run_stays_on_its_version(app: App) -> None:
    @app.workflow(name="flow", version=1)
    async def old(ctx: WorkflowContext) -> str:
        await ctx.wait_for_event("go")
        return "old"

    @app.workflow(name="flow", version=2)
    async def new(ctx: WorkflowContext) -> str:
        return "new"

    async with testing.worker(app):
        first = (await old.start()).job.id
        await reaches(app, first, RunState.WAITING)
        engine = await app.connect()
        second = (await engine.workflows.start(NewRun(workflow="flow"), caller=SYSTEM)).job.id
        assert (await reaches(app, second)).output == "new"
        await publish(app, "go")
        assert (await reaches(app, first)).output == "old"


@pytest.mark.parametrize("change", ["inserted", "removed", "kind"])
async def test_changed_code_is_refused(app: App, change: str) -> None:
    changed: list[bool] = []
    ran: list[str] = []

    @app.workflow
    async def flow(ctx: WorkflowContext) -> None:
        if changed and change == "inserted":
            await ctx.step("new", lambda: ran.append("new"))
        if changed and change == "kind":
            await ctx.sleep(0, name="first")
        elif not (changed and change == "removed"):
            await ctx.step("first", lambda: 1)
        await ctx.wait_for_event("go")

    async with testing.worker(app):
        id = (await flow.start()).job.id
        await reaches(app, id, RunState.WAITING)
        changed.append(True)
        await publish(app, "go")
        done = await reaches(app, id)
    assert done.state is RunState.FAILED and done.error is not None and not ran
    assert "changed under this run" in done.error.message and "'first'" in done.error.message


async def test_cancel_while_it_runs_and_while_it_waits(app: App) -> None:
    begun = asyncio.Event()

    async def hold() -> None:
        begun.set()
        await asyncio.Event().wait()

    @app.workflow
    async def running(ctx: WorkflowContext) -> None:
        await ctx.step("hold", hold)

    @app.workflow
    async def waiting(ctx: WorkflowContext) -> None:
        await ctx.sleep(timedelta(days=30))

    engine = await app.connect()
    async with testing.worker(app):
        one, two = (await running.start()).job.id, (await waiting.start()).job.id
        await begun.wait()
        asleep = await reaches(app, two, RunState.SLEEPING)
        assert asleep.job.run_at - datetime.now(UTC) > timedelta(days=29)
        for id in (one, two):
            await engine.workflows.cancel(id, caller=SYSTEM)
            assert (await reaches(app, id)).state is RunState.CANCELLED


async def test_replay_from_a_step(app: App) -> None:
    calls: list[str] = []

    @app.workflow
    async def flow(ctx: WorkflowContext) -> int:
        for name in ("a", "b", "c"):
            await ctx.step(name, calls.append, name)
        return len(calls)

    async with testing.worker(app):
        id = (await flow.start()).job.id
        assert (await reaches(app, id)).output == 3
        await (await app.connect()).workflows.replay(id, "b", caller=SYSTEM)
        done = await reaches(app, id, RunState.COMPLETED)
        await until(lambda: calls == ["a", "b", "c", "b", "c"])
    assert [step.name for step in done.steps] == ["a", "b", "c"]


async def test_step_within_a_step_is_refused(app: App) -> None:
    @app.workflow
    async def flow(ctx: WorkflowContext) -> None:
        async def outer() -> None:
            await ctx.step("inner", lambda: 1)

        await ctx.step("outer", outer, max_attempts=1)

    done = await run(app, flow)
    assert done.error is not None and "'inner' is inside of a step" in done.error.message


async def test_what_cannot_be_a_workflow(app: App) -> None:
    with pytest.raises(ConfigurationError, match="coroutine function"):
        app.workflow(lambda ctx: None)

    async def flow(ctx: WorkflowContext, n: int) -> None: ...

    made = app.workflow(flow)
    with pytest.raises(ConfigurationError, match="Two workflows"):
        app.workflow(flow)
    with pytest.raises(InvalidInput):
        app.workflow(name="a#b")(flow)
    with pytest.raises(InvalidInput, match="n"):
        await made.start(n="many")
    outcome = await testing.run(made, {"n": 1})
    assert outcome.error is not None and "testing.worker" in outcome.error.message


@pytest.mark.parametrize("name", ["", "compensate", "compensate:a", "x" * 300])
async def test_bad_step_names(app: App, name: str) -> None:
    @app.workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.step(name, lambda: 1)

    done = await run(app, flow)
    assert done.state is RunState.FAILED and done.error is not None and "step" in done.error.message
