"""Runs outlive crashes anywhere: what was checkpointed never runs again, and the result is that of a quiet run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchtower import App, Backoff, BackoffKind, JobContext, WorkflowContext, journal
from switchtower.callers import SYSTEM, Caller
from switchtower.context import Signal
from switchtower.engine import Engine
from switchtower.execution import classify
from switchtower.jobs import ClaimedJob
from switchtower.workers import Outcome, OutcomeKind
from switchtower.workflows import RunState
from tests.nightly.scale import FULL
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = Backoff(BackoffKind.NONE)


class Crash(BaseException):
    """The process is gone at this point."""


class Life:
    """Plays a worker's part in one process, whose lives end at the given visits of the points where it may die."""

    def __init__(self, app: App, engine: Engine, crashes: set[int]) -> None:
        self.app = app
        self.engine = engine
        self.crashes = crashes
        self.visits = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def die_at(self, point: str) -> None:
        self.visits += 1
        if self.visits in self.crashes:
            raise Crash

    def touched(self, context: JobContext) -> None:
        context.drain_reports()

    async def enqueue(self, *arguments: Any) -> Any:
        raise NotImplementedError

    async def children(self, context: JobContext) -> Any:
        raise NotImplementedError

    def engine_and_caller(self, context: JobContext) -> tuple[Engine, Caller]:
        return self.engine, SYSTEM

    async def drive(self, id: str) -> None:
        """Runs whatever is claimable until the run has ended."""
        for turn in range(500):
            for job in await self.engine.claims.claim(f"w{turn}", ["default"], limit=5):
                await self.run(job)
            await self.engine.effects.relay()
            await self.engine.upkeep.stage()
            run = await self.engine.workflows.get(id, caller=SYSTEM)
            assert run is not None
            if run.state in (RunState.COMPLETED, RunState.FAILED):
                return
        raise AssertionError("the run does not end")

    async def run(self, job: ClaimedJob) -> None:
        await self.engine.claims.start([job])
        context = JobContext(job, self)
        result, raised = None, None
        try:
            function: Any = self.app.tasks[job.name].function
            result = await function(context, **(job.payload or {}))
        except Crash:
            # What rescue does: the job is claimable again, under no token that the dead one knew.
            await self.engine.claims.report([Outcome(job.id, job.token, OutcomeKind.RELEASE)])
            return
        except Exception as error:
            raised = error
        outcome = classify(
            job, result=result, error=raised, stop=context.stop_reason, now=self.engine.clock.now(), ran_ms=1
        )
        assert outcome is not None
        assert await self.engine.claims.report([outcome]) == set()
        if isinstance(raised, Signal) and raised.recorded is not None:
            await raised.recorded()


def declare(app: App, effects: Counter[str], *, fails: bool) -> Any:
    def effect(name: str, result: Any = None) -> Any:
        effects[name] += 1
        return result

    def broken() -> None:
        effects["broken"] += 1
        raise ValueError("broken")

    @app.workflow
    async def sub(ctx: WorkflowContext, n: int) -> int:
        return await ctx.step(f"sub-{n}", effect, f"sub-{n}", n * 2)

    @app.workflow
    async def main(ctx: WorkflowContext) -> dict[str, Any]:
        a = await ctx.step("a", effect, "a", 1, compensate=lambda result: effect("undo-a"))
        await ctx.sleep(0.001)
        event = await ctx.wait_for_event("go")
        p = await ctx.parallel({"p": ctx.step("p", effect, "p", 3), "q": ctx.step("q", effect, "q", 4)})
        child = await ctx.child(sub, {"n": 1})
        fan = await ctx.fan_out(sub, [{"n": 2}, {"n": 3}])
        handle = await ctx.spawn(sub, {"n": 4})
        spawned = await handle.result()
        await ctx.step("b", effect, "b", compensate=lambda result: effect("undo-b"))
        if fails:
            await ctx.step("broken", broken, max_attempts=2, backoff=AT_ONCE)
        return {"a": a, "event": event, "p": p, "child": child, "fan": fan, "spawned": spawned}

    return main


async def story(url: str, crashes: set[int], *, fails: bool) -> tuple[Any, Any, Counter[str], dict[str, int], int]:
    """The end of one run: output, error, effects, recorded steps with their results' order, jobs."""
    effects: Counter[str] = Counter()
    app = App(mongodb_url=url, database=f"test_{uuid.uuid4().hex[:16]}")
    main = declare(app, effects, fails=fails)
    engine = await app.connect()
    life = Life(app, engine, crashes)
    original = journal.die_at
    journal.die_at = life.die_at  # type: ignore[assignment]
    try:
        id = (await main.start()).job.id
        await engine.workflows.publish("go", {"x": 1}, caller=SYSTEM)
        await engine.workflows.publish("go", {"x": 2}, caller=SYSTEM)
        await asyncio.wait_for(life.drive(id), 60)
        run = await engine.workflows.get(id, caller=SYSTEM)
        assert run is not None
        names = [step.name for step in run.steps]
        assert len(names) == len(set(names))
        jobs = await engine._store.jobs.count_documents({})
        error = None if run.error is None else run.error.message
        return run.output, error, effects, Counter(names), jobs
    finally:
        journal.die_at = original
        await engine._store.jobs.database.client.drop_database(engine.database_name)
        await app.close()


@pytest.fixture(scope="module", params=[False, True], ids=["completes", "fails"])
def quiet(request: pytest.FixtureRequest, mongodb_url: str) -> Any:
    """The story without a crash."""
    fails = bool(request.param)
    return fails, asyncio.run(story(mongodb_url, set(), fails=fails))


def test_quiet_run(quiet: Any) -> None:
    fails, (output, error, effects, _, jobs) = quiet
    assert jobs == 5
    assert set(effects.values()) <= {1, 2} and effects["sub-4"] == 1
    if fails:
        assert (output, error) == (None, "Step 'broken' failed: broken")
        assert (effects["broken"], effects["undo-a"], effects["undo-b"]) == (2, 1, 1)
    else:
        assert output["event"] == {"x": 1} and output["fan"] == [4, 6]


@pytest.mark.slow
@settings(
    max_examples=100 if FULL else 6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(crashes=st.sets(st.integers(1, 60), max_size=12))
def test_crashes_change_nothing_but_the_step_that_was_reached(quiet: Any, mongodb_url: str, crashes: set[int]) -> None:
    fails, (output, error, effects, names, jobs) = quiet
    after = asyncio.run(story(mongodb_url, crashes, fails=fails))
    assert (after[0], after[1], after[3], after[4]) == (output, error, names, jobs)
    again = sum((after[2] - effects).values())
    assert set(after[2]) == set(effects)
    # Each crash before a checkpoint repeats one step at most; a crash behind one repeats none.
    assert again <= len(crashes)


TASKS = """
import os
from pathlib import Path
from switchtower import App, WorkflowContext
app = App()

def effect(path: str, name: str) -> str:
    with open(path, "a") as out:
        out.write(name + "\\n")
    return name

@app.workflow
async def flow(ctx: WorkflowContext, path: str) -> list:
    one = await ctx.step("one", effect, path, "one")
    await ctx.wait_for_event("go")
    return [one, await ctx.step("two", effect, path, "two")]
"""


def worker(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "switchtower.runner", "tasks:app"]
    return subprocess.Popen(command, cwd=folder, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "ones"), [("before_checkpoint", 2), pytest.param("after_checkpoint", 1, marks=pytest.mark.nightly)]
)
async def test_killed_process(mongodb_url: str, database_name: str, tmp_path: Path, point: str, ones: int) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    path = tmp_path / "effects"
    environment = {
        **os.environ,
        "SWITCHTOWER_MONGODB_URL": mongodb_url,
        "SWITCHTOWER_DATABASE": database_name,
        "PYTHONPATH": str(ROOT),
    }
    async with App(mongodb_url=mongodb_url, database=database_name) as app:
        id = (await app.enqueue("flow#1", {"path": str(path)})).job.id
        engine = await app.connect()
        dying = worker(tmp_path, {**environment, "SWITCHTOWER_DIE_AT": point})
        assert await asyncio.to_thread(dying.wait, 120) == 137
        # The lease passes, without waiting for it here.
        await engine._store.workers.update_many({}, [{"$set": {"expires_at": "$started_at"}}])
        engine.upkeep._healthy_since = float("-inf")
        living = worker(tmp_path, environment)
        try:

            async def ended() -> bool:
                await engine.upkeep.rescue()
                await engine.workflows.wake()
                run = await engine.workflows.get(id, caller=SYSTEM)
                assert run is not None
                if run.state is RunState.WAITING:
                    await engine.workflows.publish("go", None, caller=SYSTEM, idempotency_key="go")
                return run.state is RunState.COMPLETED and run.output == ["one", "two"]

            await until(ended, timeout_seconds=60)
        finally:
            living.terminate()
            await asyncio.to_thread(living.wait, 120)
    assert Counter(path.read_text().split()) == {"one": ones, "two": 1}
