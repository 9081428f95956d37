"""How running jobs are stopped: by a cancel, the clock, a drain, a lost lease, a database that is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower import App, JobContext, Stop, testing
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.errors import InvalidTransition, LeaseLost
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.worker import Ending, Worker
from switchtower.workers import WorkerInfo
from tests.mongod import fail_command
from tests.switchtower import heavy_tasks
from tests.switchtower.working import has_started, reaches, read
from tests.waiting import until


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
        assert ctx.cancel_event.wait(120)
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
        assert time.monotonic() - asked < 30
        assert reasons == [Stop.CANCEL] and worker.running == []


async def test_timeouts_and_expiry_stop_the_handler(app: App) -> None:
    @app.task(timeout_seconds=0.05, max_attempts=1)
    async def slow() -> None:
        await asyncio.Event().wait()

    @app.task(timeout_seconds=0.05, max_attempts=1)
    def slow_thread(ctx: JobContext) -> None:
        assert ctx.deadline is not None and ctx.remaining_seconds is not None
        ctx.cancel_event.wait(60)
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
        assert await asyncio.wait_for(worker.run(), 60) is Ending.STUCK
    release.set()


async def test_a_deaf_process_is_killed_at_its_timeout_and_at_a_cancel(heavy: App, tmp_path: Path) -> None:
    async with testing.worker(heavy, concurrency=2, processes=2, maintenance=False):
        engine = await heavy.connect()
        # A process starts in its own time, which counts as its job's.
        started: set[int] = set()
        while len(started) < 2:
            ids = [(await heavy_tasks.square.enqueue(n=2)).job.id for _ in range(4)]
            started |= {(await reaches(heavy, id, JobState.COMPLETED)).result["pid"] for id in ids}
        first, second = tmp_path / "first", tmp_path / "second"
        timed = (await heavy_tasks.spin.options(timeout_seconds=3).enqueue(path=str(first))).job.id
        cancelled = (await heavy_tasks.spin.enqueue(path=str(second))).job.id
        await until(lambda: second.exists() and second.read_text())
        await engine.jobs.cancel(cancelled, caller=SYSTEM)
        await reaches(heavy, cancelled, JobState.CANCELLED)
        assert (await reaches(heavy, timed, JobState.FAILED)).error.kind == "timeout"  # type: ignore[union-attr]
        for file in (first, second):
            pid = int(file.read_text())
            await until(lambda pid=pid: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


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
    assert await asyncio.wait_for(running, 60) is Ending.DRAINED
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
    assert await asyncio.wait_for(running, 60) is Ending.DRAINED
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

    worker = Worker(app, concurrency=1, lease_seconds=6)
    running = asyncio.create_task(worker.run())
    id = (await holds.enqueue()).job.id
    await begun.wait()
    engine = await app.connect()
    await reaches(app, id, JobState.ACTIVE)
    await until(lambda: has_started(app, id))
    assert await engine.workers.bury_dead(worker.id) == 1
    await engine.workers.register(WorkerInfo(id="wkr_other", queues=["default"], names=["holds"]))
    (taken,) = await engine.claims.claim("wkr_other", ["default"], names=["holds"], limit=1)
    assert taken.id == id and taken.number == 2
    assert await asyncio.wait_for(running, 60) is Ending.LEASE_LOST
    assert seen == [Stop.LEASE_LOST]
    job = await read(app, id)
    assert (job.state, job.result, job.worker_id, job.logs) == ("active", None, "wkr_other", [])


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
        assert await asyncio.wait_for(ended, 60) is Stop.LEASE_LOST
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
    app: App, mongodb_url: str, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    begun = asyncio.Event()
    stopped: list[tuple[Any, float]] = []

    @app.task
    async def holds(ctx: JobContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append((ctx.stop_reason, time.time()))

    worker = Worker(app, concurrency=1, lease_seconds=12, drain_seconds=0)
    running = asyncio.create_task(worker.run())
    id = (await holds.enqueue()).job.id
    await begun.wait()
    await until(lambda: has_started(app, id))
    with fail_command(mongodb_url, ["update", "findAndModify", "find", "aggregate"], closeConnection=True):
        await until(lambda: stopped)
        ((reason, at),) = stopped
        (expires_at,) = mongo[database_name]["workers"].distinct("expires_at", {"_id": worker.id})
        # Both clocks are this machine's.
        assert reason is Stop.LEASE_LOST and at < expires_at.replace(tzinfo=UTC).timestamp()
    assert await asyncio.wait_for(running, 60) is Ending.LEASE_LOST


async def test_what_died_before_its_start_was_marked_is_marked_before_it_runs_again(app: App) -> None:
    marked: list[bool] = []

    @app.task
    async def careful(ctx: JobContext) -> int:
        marked.append(await has_started(app, ctx.id))
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
