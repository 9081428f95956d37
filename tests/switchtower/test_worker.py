"""A real worker on a real database: each way a job can go, ends up as it should in the database."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower import App, Backoff, BackoffKind, Cancel, Fail, JobContext, RetryAt, Snooze, testing
from switchtower.callers import SYSTEM
from switchtower.engine import DeadLetterFilter
from switchtower.jobs import NewJob
from switchtower.states import JobState
from tests.switchtower import heavy_tasks
from tests.switchtower.working import has_logged, lines_of, progress_of, reaches, read
from tests.waiting import until

NOW_BACKOFF = Backoff(BackoffKind.NONE)


async def test_each_ending_is_recorded(app: App) -> None:
    @app.task(max_attempts=3)
    async def end(ctx: JobContext, how: str) -> dict[str, Any] | None:
        match how:
            case "return":
                return {"attempt": ctx.attempt}
            case "raise":
                raise ValueError("broken")
            case "fail":
                raise Fail("for good")
            case "snooze":
                raise Snooze(3600)
            case "later":
                raise RetryAt(datetime.now(UTC) + timedelta(hours=1), "later")
            case "cancel":
                raise Cancel
            case "exit":
                raise SystemExit(1)
        return None

    async with testing.worker(app, maintenance=False) as worker:
        ids = {
            how: (await end.enqueue(how=how)).job.id
            for how in ("return", "raise", "fail", "snooze", "later", "cancel", "exit")
        }
        misfit = (
            await (await app.connect()).jobs.enqueue(NewJob(name="end", payload={"what": 1}), caller=SYSTEM)
        ).job.id
        await worker.until_idle()
        jobs = {how: await read(app, id) for how, id in ids.items()}
        assert {how: (job.state, job.attempt) for how, job in jobs.items()} == {
            "return": ("completed", 1),
            "raise": ("retrying", 1),
            "fail": ("failed", 1),
            "snooze": ("scheduled", 0),
            "later": ("retrying", 1),
            "cancel": ("cancelled", 1),
            "exit": ("retrying", 1),
        }
        assert jobs["return"].result == {"attempt": 1}
        error = jobs["raise"].attempts[-1].error
        assert error is not None and error.type == "ValueError" and error.stack and "broken" in error.stack
        assert jobs["later"].run_at > datetime.now(UTC) + timedelta(minutes=50)
        unfit = await read(app, misfit)
        assert unfit.state == "failed" and unfit.error and unfit.error.kind == "fatal"
        engine = await app.connect()
        assert await until(lambda: engine.dead_letters.count(DeadLetterFilter(), caller=SYSTEM))
        assert worker.fenced == 0


async def test_attempts_run_out(app: App) -> None:
    seen: list[int] = []

    @app.task(max_attempts=3, backoff=NOW_BACKOFF)
    async def breaks(ctx: JobContext) -> None:
        seen.append(ctx.attempt)
        raise RuntimeError("always")

    async with testing.worker(app) as worker:
        id = (await breaks.enqueue()).job.id
        job = await reaches(app, id, JobState.FAILED)
        assert seen == [1, 2, 3] and job.attempt == 3 and len(job.attempts) == 3
        await worker.until_idle()


async def test_a_retry_waits_for_its_backoff_and_comes_back(app: App) -> None:
    @app.task(backoff=Backoff(BackoffKind.FIXED, base_ms=50, jitter=0))
    async def once_broken(ctx: JobContext) -> int:
        if ctx.attempt == 1:
            raise ValueError
        return ctx.attempt

    async with testing.worker(app):
        id = (await once_broken.enqueue()).job.id
        assert (await reaches(app, id, JobState.COMPLETED)).result == 2


async def test_at_most_concurrency_jobs_run_at_a_time_and_all_of_them_run(
    app: App, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    running = most = 0

    @app.task
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async with app:
        await app.enqueue_many([count.options().job() for _ in range(500)])
    async with testing.worker(app, concurrency=7) as worker:
        await worker.until_idle()
        completed = mongo[database_name]["jobs"].count_documents({"state": "completed"})
    assert (most, completed) == (7, 500)


async def test_a_job_is_picked_up_long_before_the_poll(app: App) -> None:
    @app.task
    async def quick() -> None: ...

    async with testing.worker(app, poll_seconds=60) as worker:
        await worker.until_idle()
        for _ in range(3):
            began = time.monotonic()
            id = (await quick.enqueue()).job.id
            await reaches(app, id, JobState.COMPLETED)
            assert time.monotonic() - began < 30


async def test_logs_and_progress_arrive_while_it_runs_and_after(app: App) -> None:
    shown, go_on = asyncio.Event(), asyncio.Event()
    release = threading.Event()

    @app.task
    async def talks(ctx: JobContext) -> None:
        ctx.log("begun")
        await ctx.progress(50, "half")
        shown.set()
        await go_on.wait()
        ctx.log("done", level="warning")
        await ctx.progress(100)

    @app.task
    def talks_in_a_thread(ctx: JobContext) -> str:
        ctx.log("from a thread")
        ctx.progress(30)
        release.wait(10)
        return threading.current_thread().name

    async with testing.worker(app) as worker:
        first, second = (await talks.enqueue()).job.id, (await talks_in_a_thread.enqueue()).job.id
        await shown.wait()
        assert await until(lambda: progress_of(app, first)) == {"percent": 50, "message": "half"}
        assert await until(lambda: progress_of(app, second)) == 30
        await until(lambda: has_logged(app, first, "begun"))
        await until(lambda: has_logged(app, second, "from a thread"))
        started = await read(app, first)
        assert started.state == "active" and started.started_at is not None
        go_on.set()
        release.set()
        await worker.until_idle()
        one, two = await read(app, first), await read(app, second)
        assert [(line.level, line.line, line.attempt) for line in one.logs] == [
            ("info", "begun", 1),
            ("warning", "done", 1),
        ]
        assert (one.progress, two.state) == (100, "completed")
        assert two.result.startswith("switchtower-job") and lines_of(two) == ["from a thread"]


async def test_processes_run_report_and_break(heavy: App) -> None:
    async with testing.worker(heavy, concurrency=4, processes=2, maintenance=False) as worker:
        square = (await heavy_tasks.square.enqueue(n=12)).job.id
        broken = {how: (await heavy_tasks.breaks.enqueue(how=how)).job.id for how in ("exit", "fail", "oops")}
        later = (await heavy_tasks.breaks.options(max_attempts=2).enqueue(how="later")).job.id
        await worker.until_idle()
        job = await read(heavy, square)
        assert job.result["square"] == 144 and job.result["pid"] != os.getpid()
        assert [line.line for line in job.logs] == [f"step {n}" for n in range(5)] and job.progress == 100
        errors = {how: (await read(heavy, id)).error for how, id in broken.items()}
        assert {how: error and (error.type, error.kind) for how, error in errors.items()} == {
            "exit": ("pebble.common.types.ProcessExpired", "exception"),
            "fail": ("Fail", "fatal"),
            "oops": ("ValueError", "exception"),
        }
        assert errors["oops"] and "heavy_tasks.py" in (errors["oops"].stack or "")
        assert (await read(heavy, later)).state == "retrying"


async def test_context_variables_do_not_leak_from_one_job_to_the_next(app: App) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    @app.task
    async def coroutine(name: str) -> str:
        seen.append(variable.get())
        variable.set(name)
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        return variable.get()

    @app.task
    def thread(name: str) -> None:
        seen.append(variable.get())
        variable.set(name)

    async with testing.worker(app, concurrency=1) as worker:
        ids = [(await coroutine.enqueue(name=name)).job.id for name in "abc"]
        for name in "de":
            await thread.enqueue(name=name)
        await worker.until_idle()
        assert [(await read(app, id)).result for id in ids] == ["a", "b", "c"]
    assert seen == ["unset"] * 5


async def test_middleware_and_hooks_run_around_and_after(app: App) -> None:
    seen: list[Any] = []

    @app.middleware
    async def outer(ctx: JobContext, call_next: Any) -> Any:
        seen.append(("outer", ctx.name))
        result = await call_next()
        return {"wrapped": result}

    @app.middleware
    async def inner(ctx: JobContext, call_next: Any) -> Any:
        seen.append("inner")
        try:
            return await call_next()
        except LookupError as error:
            raise Fail("translated") from error

    @app.on_startup
    async def startup() -> None:
        seen.append("startup")

    @app.on_shutdown
    def shutdown() -> None:
        seen.append("shutdown")

    @app.on_start
    def start(ctx: JobContext) -> None:
        seen.append("start")
        raise RuntimeError("a hook's own failure changes nothing")

    @app.on_complete
    async def complete(ctx: JobContext, result: Any) -> None:
        assert (await read(app, ctx.id)).state == "completed"
        seen.append(("complete", result))

    @app.on_failure
    def failure(ctx: JobContext, error: Any) -> None:
        seen.append(("failure", error.message))

    @app.on_cancel
    def cancel(ctx: JobContext) -> None:
        seen.append(("cancel", ctx.name))

    @app.task
    def works() -> int:
        return 1

    @app.task
    async def breaks() -> None:
        raise LookupError

    @app.task
    async def gives_up() -> None:
        raise Cancel

    async with testing.worker(app, maintenance=False) as worker:
        for task in (works, breaks, gives_up):
            await task.enqueue()
            await worker.until_idle()
    assert seen == [
        "startup",
        "start", ("outer", "works"), "inner", ("complete", {"wrapped": 1}),
        "start", ("outer", "breaks"), "inner", ("failure", "translated"),
        "start", ("outer", "gives_up"), "inner", ("cancel", "gives_up"),
        "shutdown",
    ]  # fmt: skip


async def test_a_running_job_enqueues_children(app: App) -> None:
    @app.task
    async def child(n: int) -> int:
        return n

    @app.task
    async def parent(ctx: JobContext) -> list[str]:
        made = [await ctx.enqueue(child, {"n": n}, priority=5) for n in range(3)]
        assert {one.job.parent_id for one in made} == {ctx.id}
        return [one.job.id for one in made]

    @app.task
    def parent_thread(ctx: JobContext) -> str:
        return ctx.enqueue_blocking("child", {"n": 9}).job.id

    async with testing.worker(app) as worker:
        ids = [(await task.enqueue()).job.id for task in (parent, parent_thread)]
        await worker.until_idle()
        first, second = [await read(app, id) for id in ids]
        children = [await read(app, id) for id in [*first.result, second.result]]
        assert [child.result for child in children] == [0, 1, 2, 9]
        assert [child.parent_id for child in children] == [first.id] * 3 + [second.id]
