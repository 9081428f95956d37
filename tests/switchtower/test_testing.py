"""The testing module: what a user's suite sees of one run, without a database."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from switchtower import App, Cancel, Fail, InvalidInput, JobContext, Snooze, testing
from tests.switchtower import heavy_tasks


@pytest.fixture
def app() -> App:
    return App()


async def test_a_run_is_recorded(app: App) -> None:
    @app.task
    async def child(n: int) -> None: ...

    @app.task(queue="email", max_attempts=5, timeout_seconds=30)
    async def send(ctx: JobContext, to: str, at: datetime) -> dict[str, Any]:
        await ctx.progress(50, "half")
        await ctx.progress(100)
        ctx.log("sent")
        made = await ctx.enqueue(child, {"n": 1}, priority=2)
        return {
            "year": at.year,
            "attempt": ctx.attempt,
            "of": ctx.max_attempts,
            "child": made.job.id.startswith("job_"),
        }

    outcome = await testing.run(send, {"to": "a@b.c", "at": "2026-01-01T00:00:00Z"}, attempt=2)
    assert outcome.kind == "complete" and outcome.error is None
    assert outcome.result == {"year": 2026, "attempt": 2, "of": 5, "child": True}
    assert outcome.logs == [("info", "sent")] and outcome.progress == [{"percent": 50, "message": "half"}, 100]
    (new,) = outcome.enqueued
    assert (new.name, new.payload, new.priority) == ("child", {"n": 1}, 2) and new.parent_id is not None


async def test_endings(app: App) -> None:
    @app.task
    def end(how: str) -> None:
        raise {"fail": Fail("no"), "snooze": Snooze(5), "cancel": Cancel(), "break": ValueError("x")}[how]

    outcomes = {how: await testing.run(end, {"how": how}) for how in ("fail", "snooze", "cancel", "break")}
    assert {how: outcome.kind.value for how, outcome in outcomes.items()} == {
        "fail": "bury",
        "snooze": "snooze",
        "cancel": "abort",
        "break": "fail",
    }
    assert outcomes["snooze"].wait_ms == 5_000
    assert outcomes["break"].error is not None and outcomes["break"].error.type == "ValueError"
    unfit = await testing.run(end, {"how": "x", "more": 1})
    assert (unfit.kind, unfit.error and unfit.error.message[:12]) == ("bury", "payload.more")
    with pytest.raises(InvalidInput):
        await testing.run(end, {"how": object()})


async def test_stops(app: App) -> None:
    begun = asyncio.Event()

    @app.task(timeout_seconds=0.02)
    async def endless(ctx: JobContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    timed = await testing.run(endless)
    assert (timed.kind, timed.error and timed.error.kind) == ("fail", "timeout")
    begun.clear()
    cancelled = await testing.run(endless, timeout_seconds=30, cancel=begun)
    assert cancelled.kind == "abort"


async def test_a_cpu_bound_task_runs_in_its_process() -> None:
    outcome = await testing.run(heavy_tasks.square, {"n": 7})
    assert outcome.result["square"] == 49 and len(outcome.logs) == 5
