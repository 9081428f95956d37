"""A real worker on a real database: each way a job can go, ends up as it should in the database."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower import App, Backoff, BackoffKind, Cancel, Fail, Job, JobContext, RetryAt, Snooze, Stop, testing
from switchtower.callers import SYSTEM
from switchtower.engine import DeadLetterFilter, Engine
from switchtower.errors import InvalidTransition, LeaseLost
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.worker import Ending, Worker
from switchtower.workers import WorkerInfo
from tests.mongod import fail_command
from tests.switchtower import heavy_tasks
from tests.waiting import until

NOW_BACKOFF = Backoff(BackoffKind.NONE)


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    app = App(mongodb_url=mongodb_url, database=database_name)
    yield app
    await app.close()


@pytest.fixture
async def heavy(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    heavy_tasks.app.mongodb_url, heavy_tasks.app.database = mongodb_url, database_name
    yield heavy_tasks.app
    await heavy_tasks.app.close()


async def read(app: App, id: str) -> Job:
    job = await (await app.connect()).jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job


async def reaches(app: App, id: str, *states: JobState, seconds: float = 10) -> Job:
    async def arrived() -> Job | None:
        job = await read(app, id)
        return job if job.state in states else None

    return await until(arrived, timeout_seconds=seconds)  # type: ignore[return-value]


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
            assert time.monotonic() - began < 1


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
        assert await until(lambda: _progress(app, first)) == {"percent": 50, "message": "half"}
        assert await until(lambda: _progress(app, second)) == 30
        started = await read(app, first)
        assert (started.state, _lines(started)) == ("active", ["begun"]) and started.started_at is not None
        go_on.set()
        release.set()
        await worker.until_idle()
        one, two = await read(app, first), await read(app, second)
        assert [(line.level, line.line, line.attempt) for line in one.logs] == [
            ("info", "begun", 1),
            ("warning", "done", 1),
        ]
        assert (one.progress, two.state) == (100, "completed")
        assert two.result.startswith("switchtower-job") and [line.line for line in two.logs] == ["from a thread"]


def _lines(job: Job) -> list[str]:
    return [line.line for line in job.logs]


async def _progress(app: App, id: str) -> Any:
    return (await read(app, id)).progress


async def test_a_cancel_reaches_coroutine_and_thread_within_a_second(app: App) -> None:
    begun = asyncio.Event()
    thread_begun = threading.Event()
    reasons: list[Any] = []

    @app.task
    async def waits(ctx: JobContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.stop_reason)

    @app.task
    def works(ctx: JobContext) -> None:
        thread_begun.set()
        assert ctx.cancel_event.wait(10)
        ctx.raise_if_cancelled()

    async with testing.worker(app) as worker:
        ids = [(await task.enqueue()).job.id for task in (waits, works)]
        await begun.wait()
        await until(thread_begun.is_set)
        engine = await app.connect()
        asked = time.monotonic()
        for id in ids:
            answer = await engine.jobs.cancel(id, caller=SYSTEM)
            assert answer.state == "active" and answer.cancel_requested_at is not None
        for id in ids:
            await reaches(app, id, JobState.CANCELLED)
        assert time.monotonic() - asked < 1.5
        assert reasons == [Stop.CANCEL] and worker.running == []


async def test_timeouts_and_expiry_stop_the_handler(app: App) -> None:
    @app.task(timeout_seconds=0.05, max_attempts=1)
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.task(timeout_seconds=0.05, max_attempts=1)
    def slow_thread(ctx: JobContext) -> None:
        assert ctx.deadline is not None and ctx.remaining_seconds is not None
        ctx.cancel_event.wait(10)
        raise OSError("interrupted")

    @app.task(ttl_seconds=0.3)
    async def too_late(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    @app.task(timeout_seconds=0.05)
    async def finishes_anyway() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"

    async with testing.worker(app, maintenance=False) as worker:
        ids = [(await task.enqueue()).job.id for task in (slow, slow_thread, too_late, finishes_anyway)]
        for id in ids:
            await reaches(app, id, JobState.FAILED, JobState.COMPLETED)
        jobs = [await read(app, id) for id in ids]
        assert [job.error and job.error.kind for job in jobs] == ["timeout", "timeout", "expired", None]
        assert jobs[0].error and "Stopped after" in jobs[0].error.message and "wait" in (jobs[0].error.stack or "")
        assert jobs[3].result == "saved"
        await worker.until_idle()


async def test_a_timeout_of_the_handler_holds_for_jobs_that_came_without_one(app: App) -> None:
    @app.task(timeout_seconds=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    async with testing.worker(app, maintenance=False):
        engine = await app.connect()
        id = (await engine.jobs.enqueue(NewJob(name="slow", max_attempts=1), caller=SYSTEM)).job.id
        assert (await reaches(app, id, JobState.FAILED)).error.kind == "timeout"  # type: ignore[union-attr]


async def test_a_handler_that_ignores_its_stop_is_left_behind(app: App) -> None:
    release = threading.Event()
    stubborn_ended = asyncio.Event()

    @app.task(timeout_seconds=0.05, max_attempts=1)
    def deaf() -> None:
        release.wait(20)

    @app.task(timeout_seconds=0.05, max_attempts=1)
    async def stubborn() -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        stubborn_ended.set()

    @app.task
    async def fine() -> None: ...

    async with testing.worker(app, maintenance=False, grace_seconds=0.1, concurrency=3) as worker:
        ids = [(await task.enqueue()).job.id for task in (deaf, stubborn)]
        for id in ids:
            assert (await reaches(app, id, JobState.FAILED)).error.kind == "timeout"  # type: ignore[union-attr]
        after = (await fine.enqueue()).job.id
        await reaches(app, after, JobState.COMPLETED)
        assert worker.left_behind == 2
        release.set()
        await stubborn_ended.wait()
    assert [(await read(app, id)).state for id in ids] == ["failed", "failed"]


async def test_too_many_deaf_handlers_end_the_worker(app: App) -> None:
    release = threading.Event()

    @app.task(timeout_seconds=0.02, max_attempts=1)
    def deaf() -> None:
        release.wait(20)

    async with app:
        await app.enqueue_many([deaf.options().job() for _ in range(2)])
        worker = Worker(app, concurrency=2, grace_seconds=0.05)
        assert await asyncio.wait_for(worker.run(), 20) is Ending.STUCK
    release.set()


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


async def test_a_deaf_process_is_killed_at_its_timeout_and_at_a_cancel(heavy: App, tmp_path: Path) -> None:
    async with testing.worker(heavy, concurrency=2, processes=2, maintenance=False):
        engine = await heavy.connect()
        first, second = tmp_path / "first", tmp_path / "second"
        timed = (await heavy_tasks.spin.options(timeout_seconds=3).enqueue(path=str(first))).job.id
        cancelled = (await heavy_tasks.spin.enqueue(path=str(second))).job.id
        await until(lambda: second.exists() and second.read_text())
        await engine.jobs.cancel(cancelled, caller=SYSTEM)
        await reaches(heavy, cancelled, JobState.CANCELLED)
        assert (await reaches(heavy, timed, JobState.FAILED)).error.kind == "timeout"  # type: ignore[union-attr]
        for file in (first, second):
            pid = int(file.read_text())
            await until(lambda pid=pid: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


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


async def test_a_drain_finishes_what_runs_and_gives_back_the_rest_uncharged(app: App) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.task
    async def first() -> None:
        begun.set()
        await go_on.wait()

    worker = Worker(app, concurrency=1)
    running = asyncio.create_task(worker.run())
    busy = (await first.enqueue()).job.id
    await begun.wait()
    waiting = [(await first.enqueue()).job.id for _ in range(5)]
    worker.drain()
    engine = await app.connect()
    await until(lambda: _worker_state(engine, worker.id, "draining"))
    go_on.set()
    assert await asyncio.wait_for(running, 10) is Ending.DRAINED
    assert (await read(app, busy)).state == "completed"
    assert {((await read(app, id)).state, (await read(app, id)).attempt) for id in waiting} == {("waiting", 0)}
    assert await _worker_state(engine, worker.id, "stopped")


async def _worker_state(engine: Engine, id: str, state: str) -> bool:
    found = await engine.workers.get_many([id])
    return found[id].state == state


async def test_a_hasty_stop_releases_what_runs(app: App) -> None:
    begun = asyncio.Event()
    reasons: list[Any] = []

    @app.task
    async def endless(ctx: JobContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.stop_reason)

    worker = Worker(app, concurrency=2)
    running = asyncio.create_task(worker.run())
    id = (await endless.enqueue()).job.id
    await begun.wait()
    worker.drain()
    worker.stop_now()
    assert await asyncio.wait_for(running, 10) is Ending.DRAINED
    job = await read(app, id)
    assert (job.state, job.attempt, reasons) == ("waiting", 0, [Stop.DRAIN])


async def test_jobs_held_ready_behind_slow_ones_go_back_to_others(app: App) -> None:
    """A stock taken for fast jobs must not be hoarded when the runners turn out to be busy."""
    gate, blocked = asyncio.Event(), asyncio.Event()

    @app.task
    async def fast() -> None: ...

    @app.task
    async def slow() -> None:
        blocked.set()
        await gate.wait()

    worker = Worker(app, concurrency=1)
    async with app:
        await app.enqueue_many([fast.options().job() for _ in range(200)])
        await app.enqueue_many([slow.options().job()])
        await app.enqueue_many([fast.options().job() for _ in range(50)])
        running = asyncio.create_task(worker.run())
        await blocked.wait()
        engine = await app.connect()

        async def given_back() -> bool:
            counts = await engine.claims.active_count(worker.id)
            return counts == 1

        await until(given_back)
        gate.set()
        await worker.until_idle()
        worker.drain()
        await running


async def test_a_lost_lease_stops_the_handlers_and_their_outcomes_are_refused(app: App) -> None:
    begun = asyncio.Event()
    seen: list[Any] = []

    @app.task
    async def holds(ctx: JobContext) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(ctx.stop_reason)
            for attempt in (ctx.progress, ctx.log):
                with pytest.raises(LeaseLost):
                    attempt("late")
            with pytest.raises(LeaseLost):
                await ctx.enqueue("holds")
        return "zombie"

    worker = Worker(app, concurrency=1, lease_seconds=2)
    running = asyncio.create_task(worker.run())
    id = (await holds.enqueue()).job.id
    await begun.wait()
    engine = await app.connect()
    await reaches(app, id, JobState.ACTIVE)
    await until(lambda: _started(app, id))
    assert await engine.workers.bury_dead(worker.id) == 1
    await engine.workers.register(WorkerInfo(id="wkr_other", queues=["default"], names=["holds"]))
    (taken,) = await engine.claims.claim("wkr_other", ["default"], names=["holds"], limit=1)
    assert taken.id == id and taken.number == 2
    assert await asyncio.wait_for(running, 10) is Ending.LEASE_LOST
    assert seen == [Stop.LEASE_LOST]
    job = await read(app, id)
    assert (job.state, job.result, job.worker_id, job.logs) == ("active", None, "wkr_other", [])


async def _started(app: App, id: str) -> bool:
    return (await read(app, id)).started_at is not None


async def test_a_removed_job_stops_its_handler(app: App) -> None:
    """Its next progress, log or start mark finds the lease gone."""
    begun = asyncio.Event()
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @app.task
    async def ticks(ctx: JobContext) -> None:
        begun.set()
        try:
            while True:
                await ctx.progress(1)
                await asyncio.sleep(0.01)
        except BaseException:
            ended.set_result(ctx.stop_reason)
            raise

    async with testing.worker(app) as worker:
        id = (await ticks.enqueue()).job.id
        await begun.wait()
        engine = await app.connect()
        await engine.jobs.remove(id, caller=SYSTEM, force=True)
        assert await asyncio.wait_for(ended, 5) is Stop.LEASE_LOST
        await worker.until_idle()
        assert worker.fenced == 0


async def test_outcomes_outlive_an_unreachable_database(app: App, mongodb_url: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.task
    async def works(n: int) -> int:
        begun.set()
        await go_on.wait()
        return n

    async with testing.worker(app, maintenance=False) as worker:
        ids = [(await works.enqueue(n=n)).job.id for n in range(5)]
        await begun.wait()
        await until(lambda: len(worker.running) == 5)
        with fail_command(mongodb_url, ["update", "findAndModify"], closeConnection=True):
            go_on.set()
            await until(lambda: not worker.is_connected)
            assert worker.running == []
            assert {(await read(app, id)).state for id in ids} == {"active"}
        await worker.until_idle()
        assert worker.is_connected
        jobs = [await read(app, id) for id in ids]
        assert [(job.state, job.result, job.attempt) for job in jobs] == [("completed", n, 1) for n in range(5)]
        assert worker.fenced == 0


async def test_a_worker_cut_off_from_the_database_stops_before_others_may_take_its_jobs(
    app: App, mongodb_url: str
) -> None:
    begun = asyncio.Event()
    stopped: list[tuple[Any, float]] = []

    @app.task
    async def holds(ctx: JobContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append((ctx.stop_reason, time.monotonic()))

    worker = Worker(app, concurrency=1, lease_seconds=3, drain_seconds=0)
    running = asyncio.create_task(worker.run())
    id = (await holds.enqueue()).job.id
    await begun.wait()
    await until(lambda: _started(app, id))
    renewed = (await (await app.connect()).workers.get_many([worker.id]))[worker.id]
    cut_off = time.monotonic()
    with fail_command(mongodb_url, ["update", "findAndModify", "find", "aggregate"], closeConnection=True):
        await until(lambda: stopped)
        ((reason, at),) = stopped
        assert reason is Stop.LEASE_LOST and at - cut_off < 3 and renewed.lease_seconds == 3
    assert await asyncio.wait_for(running, 30) is Ending.LEASE_LOST


async def test_what_died_before_its_start_was_marked_is_marked_before_it_runs_again(app: App) -> None:
    marked: list[bool] = []

    @app.task
    async def careful(ctx: JobContext) -> int:
        marked.append(await _started(app, ctx.id))
        return ctx.attempt

    engine = await app.connect()
    id = (await careful.enqueue()).job.id
    await engine.workers.register(WorkerInfo(id="wkr_dead", queues=["default"], names=["careful"]))
    (claimed,) = await engine.claims.claim("wkr_dead", ["default"], names=["careful"], limit=1)
    assert claimed.id == id
    assert await engine.workers.bury_dead("wkr_dead") == 1
    async with testing.worker(app) as worker:
        await worker.until_idle()
    assert marked == [True] and (await read(app, id)).result == 1


async def test_a_job_cancelled_while_it_waits_never_runs(app: App) -> None:
    ran: list[str] = []

    @app.task
    async def never(ctx: JobContext) -> None:
        ran.append(ctx.id)

    engine = await app.connect()
    id = (await never.enqueue()).job.id
    assert (await engine.jobs.cancel(id, caller=SYSTEM)).state == "cancelled"
    async with testing.worker(app) as worker:
        await worker.until_idle()
    assert ran == []
    with pytest.raises(InvalidTransition):
        await engine.jobs.cancel(id, caller=SYSTEM)
