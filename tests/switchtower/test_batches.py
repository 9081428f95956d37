"""Batches: one call of the handler for many jobs, each with its own lease, attempt, timeline and outcome."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from switchtower import App, Backoff, BackoffKind, Cancel, Fail, JobContext, Snooze, testing
from switchtower.callers import SYSTEM
from switchtower.engine.claims import Claims
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import ClaimedJob, Enqueued, NewJob
from switchtower.states import JobState
from tests.switchtower.working import lines_of, reaches, read
from tests.waiting import until

NO_WAIT = Backoff(BackoffKind.NONE)


async def enqueue(app: App, name: str, payloads: list[Any], **fields: Any) -> list[str]:
    engine = await app.connect()
    news = [NewJob(name=name, payload=payload, **fields) for payload in payloads]
    answers = await engine.jobs.enqueue_many(news, caller=SYSTEM)
    return [answer.job.id for answer in answers if isinstance(answer, Enqueued)]


async def test_handler_gets_up_to_so_many_jobs_and_each_keeps_its_own_result(app: App) -> None:
    calls: list[list[int]] = []

    @app.task(batch_size=4, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> list[int]:
        calls.append([ctx.payload["n"] for ctx in jobs])
        for ctx in jobs:
            ctx.log(f"with {len(jobs)}")
        return [ctx.payload["n"] * 10 for ctx in jobs]

    ids = await enqueue(app, "index", [{"n": n} for n in range(8)])
    async with testing.worker(app, concurrency=1) as worker:
        await worker.until_idle()
    assert [len(call) for call in calls] == [4, 4]
    assert sorted(n for call in calls for n in call) == list(range(8))
    tokens = set()
    for n, id in enumerate(ids):
        job = await read(app, id)
        assert (job.state, job.result, job.attempt, lines_of(job)) == ("completed", n * 10, 1, ["with 4"])
        assert [row.outcome for row in job.attempts] == ["completed"]
        assert [row.type for row in job.timeline][-1] == "complete"
        tokens.add(job.attempts[0].id)
    assert len(tokens) == 8


async def test_batch_that_does_not_fill_runs_when_its_time_has_passed(app: App) -> None:
    sizes: list[int] = []

    @app.task(batch_size=100, batch_wait_seconds=0.2)
    def count(jobs: list[JobContext]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        sizes.append(len(jobs))

    ids = await enqueue(app, "count", [{}] * 3)
    async with testing.worker(app, concurrency=2):
        for id in ids:
            assert (await reaches(app, id, JobState.COMPLETED)).result is None
    assert sum(sizes) == 3


async def test_one_batch_is_one_job_for_the_concurrency_of_its_worker(app: App) -> None:
    running, most, total = 0, 0, 0

    @app.task(batch_size=10, batch_wait_seconds=0.5)
    async def index(jobs: list[JobContext]) -> None:
        nonlocal running, most, total
        running += 1
        most, total = max(most, running), total + len(jobs)
        await asyncio.sleep(0.02)
        running -= 1

    await enqueue(app, "index", [{}] * 95)
    async with testing.worker(app, concurrency=2) as worker:
        await worker.until_idle()
    assert (most <= 2, total) == (True, 95)


async def test_what_is_raised_fails_all_and_what_is_returned_fails_one(app: App) -> None:
    @app.task(batch_size=6, batch_wait_seconds=3)
    async def index(jobs: list[JobContext]) -> list[Any]:
        ends = {"ok": 1, "error": KeyError("mine"), "fail": Fail("no"), "snooze": Snooze(3600), "cancel": Cancel("c")}
        return [ends[ctx.payload["how"]] if ctx.attempt == 1 else "again" for ctx in jobs]

    @app.task(batch_size=3, batch_wait_seconds=60)
    async def doomed(jobs: list[JobContext]) -> list[Any]:
        if any(ctx.payload["how"] == "raise" for ctx in jobs):
            raise ValueError("all of them")
        return ["ok"] * len(jobs)

    hows = ("ok", "ok", "error", "fail", "snooze", "cancel")
    ids = await enqueue(app, "index", [{"how": how} for how in hows], max_attempts=2, backoff=NO_WAIT)
    async with testing.worker(app, concurrency=1, maintenance=False):
        jobs = [await reaches(app, id, *SETTLED) for id in ids]
    assert [job.state for job in jobs] == ["completed", "completed", "completed", "failed", "scheduled", "cancelled"]
    assert [job.result for job in jobs[:3]] == [1, 1, "again"]
    assert [row.outcome for row in jobs[2].attempts] == ["failed", "completed"]
    error = jobs[2].attempts[0].error
    assert error is not None and (error.type, error.message) == ("KeyError", "'mine'")
    ids = await enqueue(app, "doomed", [{"how": how} for how in ("ok", "raise", "ok")], max_attempts=1)
    async with testing.worker(app, concurrency=1, maintenance=False):
        for id in ids:
            job = await reaches(app, id, JobState.FAILED)
            assert job.error is not None and job.error.message == "all of them"
            assert job.error.stack is not None and "raise ValueError" in job.error.stack


SETTLED = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.SCHEDULED)


@pytest.mark.parametrize("answer", [[1], {"a": 1}, "ab", 7])
async def test_wrong_number_of_results_fails_every_job_and_says_so(app: App, answer: Any) -> None:
    @app.task(batch_size=2, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> Any:
        return answer

    ids = await enqueue(app, "index", [{}, {}], max_attempts=1)
    async with testing.worker(app):
        for id in ids:
            job = await reaches(app, id, JobState.FAILED)
            assert job.error is not None and "one result per job" in job.error.message


async def test_cancel_of_one_ends_it_alone_and_cancel_of_all_stops_the_handler(app: App) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @app.task(batch_size=2, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> list[Any]:
        begun.set()
        try:
            if jobs[0].payload["all"]:
                await asyncio.Event().wait()
            await asyncio.wait([asyncio.ensure_future(c.wait_cancelled()) for c in jobs], return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:
            stopped.set()
            raise
        return [Cancel("asked to") if ctx.cancelled else "done" for ctx in jobs]

    engine = await app.connect()
    for everyone in (False, True):
        begun.clear()
        ids = await enqueue(app, "index", [{"all": everyone}] * 2)
        async with testing.worker(app, concurrency=1):
            await asyncio.wait_for(begun.wait(), 60)
            for id in ids[: 2 if everyone else 1]:
                await engine.jobs.cancel(id, caller=SYSTEM)
            states = [(await reaches(app, id, *SETTLED)).state for id in ids]
        assert states == ["cancelled", "cancelled" if everyone else "completed"]
        assert stopped.is_set() is everyone


async def test_timeout_of_the_task_stops_the_handler_for_all(app: App) -> None:
    @app.task(batch_size=3, batch_wait_seconds=60, timeout_seconds=0.2)
    async def slow(jobs: list[JobContext]) -> None:
        await asyncio.sleep(60)

    ids = await enqueue(app, "slow", [{}] * 3, max_attempts=1)
    async with testing.worker(app, concurrency=1):
        for id in ids:
            job = await reaches(app, id, JobState.FAILED)
            assert job.error is not None and job.error.kind == "timeout"


async def test_handler_that_ignores_its_stop_is_left_behind_once(app: App) -> None:
    free = threading.Event()

    @app.task(batch_size=3, batch_wait_seconds=60, timeout_seconds=0.1)
    def stubborn(jobs: list[JobContext]) -> None:
        free.wait(120)

    ids = await enqueue(app, "stubborn", [{}] * 3, max_attempts=1)
    try:
        async with testing.worker(app, concurrency=4, grace_seconds=0.1) as worker:
            for id in ids:
                assert (await reaches(app, id, JobState.FAILED)).error is not None
            await until(lambda: worker.left_behind == 1)
            assert worker.running == []
    finally:
        free.set()


async def test_drain_gives_back_what_is_gathered_and_charges_nothing(app: App) -> None:
    @app.task(batch_size=50, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> None:
        raise AssertionError("it was not to run")

    ids = await enqueue(app, "index", [{}] * 3)
    async with testing.worker(app, concurrency=1):
        for id in ids:
            await reaches(app, id, JobState.ACTIVE)
    for id in ids:
        job = await read(app, id)
        assert (job.state, job.attempt, job.claims, job.attempts) == ("waiting", 0, 0, [])


async def test_drain_gives_back_what_a_claim_under_way_brings_for_a_batch(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(batch_size=50, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> None:
        raise AssertionError("it was not to run")

    claim, claimed = Claims.claim, asyncio.Event()

    async def slow_claim(self: Claims, *args: Any, **options: Any) -> list[ClaimedJob]:
        jobs = await claim(self, *args, **options)
        if jobs:
            claimed.set()
            await asyncio.sleep(0.1)
        return jobs

    monkeypatch.setattr(Claims, "claim", slow_claim)
    (id,) = await enqueue(app, "index", [{}])
    async with testing.worker(app, concurrency=1):
        await claimed.wait()
    job = await read(app, id)
    assert (job.state, job.attempt, job.claims, job.attempts) == ("waiting", 0, 0, [])


async def test_cancel_of_a_gathered_job_leaves_the_rest_to_gather(app: App) -> None:
    @app.task(batch_size=3, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> list[int]:
        return [len(jobs)] * len(jobs)

    engine = await app.connect()
    first, second = await enqueue(app, "index", [{}] * 2)
    async with testing.worker(app, concurrency=1):
        for id in (first, second):
            await reaches(app, id, JobState.ACTIVE)
        await engine.jobs.cancel(first, caller=SYSTEM)
        await reaches(app, first, JobState.CANCELLED)
        more = await enqueue(app, "index", [{}] * 2)
        for id in (second, *more):
            assert (await reaches(app, id, JobState.COMPLETED)).result == 3


async def test_middleware_is_around_each_job_and_may_keep_some_from_the_batch(app: App) -> None:
    seen: list[int] = []
    gate = asyncio.Semaphore(2)

    @app.middleware
    async def around(ctx: JobContext, call_next: Any) -> Any:
        if ctx.payload["n"] == 0:
            return "short"
        async with gate:
            return await call_next()

    @app.task(batch_size=5, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> list[str]:
        seen.append(len(jobs))
        return ["long"] * len(jobs)

    ids = await enqueue(app, "index", [{"n": n} for n in range(5)])
    async with testing.worker(app, concurrency=1):
        results = [(await reaches(app, id, JobState.COMPLETED)).result for id in ids]
    assert results == ["short", "long", "long", "long", "long"]
    assert (sum(seen), max(seen)) == (4, 2)


async def test_jobs_of_other_tasks_run_beside(app: App) -> None:
    @app.task(batch_size=5, batch_wait_seconds=1)
    async def index(jobs: list[JobContext]) -> None: ...

    @app.task
    async def plain(ctx: JobContext) -> str:
        return "ran"

    await enqueue(app, "index", [{}] * 7)
    ids = await enqueue(app, "plain", [None] * 20)
    async with testing.worker(app, concurrency=3) as worker:
        await worker.until_idle()
        for id in ids:
            assert (await read(app, id)).result == "ran"


async def test_worker_that_only_gathers_leaves_other_jobs_to_others(app: App) -> None:
    @app.task(batch_size=5, batch_wait_seconds=60)
    async def index(jobs: list[JobContext]) -> int | None: ...

    @app.task
    async def plain(ctx: JobContext) -> str:
        return "ran"

    (first,) = await enqueue(app, "index", [{}])
    async with testing.worker(app, concurrency=1):
        await reaches(app, first, JobState.ACTIVE)
        (other,) = await enqueue(app, "plain", [None])
        more = await enqueue(app, "index", [{}] * 4)
        for id in (first, *more):
            await reaches(app, id, JobState.COMPLETED)
        job = await reaches(app, other, JobState.COMPLETED)
    assert "release" not in [row.type for row in job.timeline], "it was claimed before it could be run"


async def test_one_job_can_be_tried_without_a_database() -> None:
    app = App()

    @app.task(batch_size=5)
    async def index(jobs: list[JobContext]) -> list[str]:
        return [ctx.payload["word"] for ctx in jobs]

    assert (await testing.run(index, {"word": "a"})).result == "a"


def test_what_cannot_take_batches_is_refused_where_it_is_declared() -> None:
    app = App()
    for size, wait in ((0, 1), (1_001, 1), (True, 1), ("5", 1), (5, -1), (5, 61), (5, float("nan"))):
        with pytest.raises(InvalidInput, match="batch_"):
            app.task(batch_size=size, batch_wait_seconds=wait)(lambda jobs: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cpu_bound"):
        app.task(batch_size=5, cpu_bound=True)(takes_many)
    with pytest.raises(ConfigurationError, match="one parameter"):
        app.task(batch_size=5)(takes_two)


def takes_many(jobs: list[JobContext]) -> None: ...


def takes_two(jobs: list[JobContext], other: int) -> None: ...
