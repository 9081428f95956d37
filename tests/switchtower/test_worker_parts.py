"""The parts of a worker by themselves, with an engine that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from switchtower.claiming import MAX_CLAIM, MAX_STOCK, Claimer, Pace
from switchtower.errors import StoreUnavailable
from switchtower.jobs import ClaimedJob
from switchtower.leases import LeaseKeeper
from switchtower.reports import BATCH, Reporter
from switchtower.workers import Outcome, OutcomeKind, WorkerState
from tests.switchtower.test_execution import claimed
from tests.waiting import until


class Engine:
    """Stands in for `Engine`: its claims are this object's own methods."""

    def __init__(self) -> None:
        self.claims = self
        self.batches: list[list[Outcome]] = []
        self.fence: set[str] = set()
        self.fault: Callable[[list[Outcome]], None] = lambda batch: None
        self.waiting = 0
        self.limits: list[int] = []
        self.down = False
        self.open_streams = 0
        self.opened = 0
        self.wake = asyncio.Event()

    async def report(self, outcomes: Sequence[Outcome]) -> set[str]:
        await asyncio.sleep(0)
        self.fault(list(outcomes))
        self.batches.append(list(outcomes))
        return {o.job_id for o in outcomes if o.job_id in self.fence}

    async def claim(self, worker: str, queues: Sequence[str], *, names: Sequence[str], limit: int) -> list[ClaimedJob]:
        await asyncio.sleep(0)
        self.limits.append(limit)
        if self.down:
            raise StoreUnavailable
        taken = min(limit, self.waiting)
        self.waiting -= taken
        return [claimed(id=f"job_{self.waiting + n}") for n in range(taken)]

    async def wakes(self, queues: Sequence[str]) -> AsyncIterator[str]:
        self.open_streams += 1
        self.opened += 1
        try:
            yield ""
            while True:
                await self.wake.wait()
                self.wake.clear()
                yield "default"
        finally:
            self.open_streams -= 1


def outcome(number: int, kind: OutcomeKind = OutcomeKind.COMPLETE) -> Outcome:
    return Outcome(f"job_{number}", "tok", kind)


@asynccontextmanager
async def reporting(engine: Engine) -> AsyncIterator[Reporter]:
    reporter = Reporter(engine, on_lost=lambda ids: None)  # type: ignore[arg-type]
    task = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_outcomes_travel_together_in_order() -> None:
    engine = Engine()
    async with reporting(engine) as reporter:
        for number in range(BATCH + 10):
            reporter.add(outcome(number))
        await reporter.flushed()
    assert [len(batch) for batch in engine.batches] == [BATCH, 10]
    assert [o.job_id for batch in engine.batches for o in batch] == [f"job_{n}" for n in range(BATCH + 10)]
    assert reporter.buffered == 0


async def test_what_follows_a_record_follows_it_only_when_it_was_not_refused() -> None:
    engine = Engine()
    engine.fence = {"job_2"}
    called: list[int] = []

    def after(number: int) -> Callable[[], Any]:
        async def call() -> None:
            called.append(number)

        return call

    async with reporting(engine) as reporter:
        for number in range(4):
            reporter.add(outcome(number), after(number))
        await reporter.flushed()
    assert called == [0, 1, 3] and reporter.fenced == 1


async def test_an_unreachable_database_is_waited_for_and_nothing_is_lost_or_reordered() -> None:
    engine = Engine()
    left = 2

    def fault(batch: list[Outcome]) -> None:
        nonlocal left
        if left:
            left -= 1
            raise StoreUnavailable

    engine.fault = fault
    async with reporting(engine) as reporter:
        reporter.add(outcome(0))
        await until(lambda: not reporter.reachable)
        reporter.add(outcome(1))
        await reporter.flushed()
        assert reporter.reachable
    assert [o.job_id for batch in engine.batches for o in batch] == ["job_0", "job_1"]


async def test_one_outcome_that_cannot_be_stored_fails_its_job_and_no_other() -> None:
    engine = Engine()

    def fault(batch: list[Outcome]) -> None:
        if any(o.job_id == "job_1" and o.kind is OutcomeKind.COMPLETE for o in batch):
            raise ValueError("cannot encode")

    engine.fault = fault
    async with reporting(engine) as reporter:
        for number in range(3):
            reporter.add(outcome(number))
        await reporter.flushed()
    recorded = {o.job_id: o for batch in engine.batches for o in batch}
    assert {id: o.kind.value for id, o in recorded.items()} == {
        "job_0": "complete",
        "job_1": "bury",
        "job_2": "complete",
    }
    error = recorded["job_1"].error
    assert error is not None and (error.kind, error.message) == ("fatal", "cannot encode")


def test_the_stock_follows_how_fast_jobs_are() -> None:
    pace = Pace(10)
    assert pace.stock == 0
    pace.observe(0.00001)
    assert pace.stock == MAX_STOCK
    for seconds, stock in ((0.01, 100), (0.1, 10), (1.0, 1), (3.0, 0)):
        pace.mean_seconds = seconds
        assert pace.stock == stock


class Runners:
    """Takes jobs from a claimer as idle runners would."""

    def __init__(self, engine: Engine, *, concurrency: int, poll_seconds: float = 30) -> None:
        self.idle = concurrency
        self.done = 0
        self.listened: list[tuple[int, int]] = []
        self.pace = Pace(concurrency)
        self.pace.mean_seconds = 0.0001
        self.consume = True
        self.claimer = Claimer(
            engine,  # type: ignore[arg-type]
            "wkr_1",
            ["default"],
            ["t"],
            pace=self.pace,
            poll_seconds=poll_seconds,
            idle_runners=lambda: self.idle,
            may_claim=lambda: True,
            is_quiet=lambda: not self.claimer.ready,
            arrived=self.arrived,
        )
        self._engine = engine

    def arrived(self) -> None:
        self.listened.append((self.done, self._engine.open_streams))
        while self.consume and self.claimer.ready:
            self.claimer.ready.popleft()
            self.done += 1
            self.claimer.took_one()


async def test_claims_grow_under_a_backlog_and_the_stream_is_closed_meanwhile() -> None:
    engine = Engine()
    runners = Runners(engine, concurrency=10)
    task = asyncio.create_task(runners.claimer.run())
    await runners.claimer.until_idle()
    assert await until(lambda: engine.open_streams) == 1
    engine.waiting = 5_000
    engine.limits.clear()
    engine.wake.set()
    await until(lambda: runners.done == 5_000)
    assert engine.limits[:4] == [1, 8, 64, MAX_CLAIM]
    assert {streams for done, streams in runners.listened if done >= 3_000} == {0}
    await until(lambda: engine.open_streams == 1)
    engine.waiting = 1
    engine.wake.set()
    await until(lambda: runners.done == 5_001)
    assert engine.opened == 2
    runners.claimer.drain()
    await asyncio.wait_for(task, 60)
    assert engine.open_streams == 0


async def test_a_full_stock_claims_nothing_until_half_of_it_is_gone() -> None:
    engine = Engine()
    engine.waiting = 10_000
    runners = Runners(engine, concurrency=1)
    runners.pace.mean_seconds = 0.001
    runners.consume, runners.idle = False, 0
    claimer = runners.claimer
    task = asyncio.create_task(claimer.run())
    await until(lambda: len(claimer.ready) > 50)
    asked = len(engine.limits)
    while len(claimer.ready) > 51:
        claimer.ready.popleft()
        claimer.took_one()
    await asyncio.sleep(0.02)
    assert len(engine.limits) == asked
    claimer.ready.popleft()
    claimer.took_one()
    await until(lambda: len(claimer.ready) == 100)
    assert len(engine.limits) == asked + 1
    assert len(claimer.drain()) == 100
    await asyncio.wait_for(task, 60)


async def test_claims_survive_an_unreachable_database() -> None:
    engine = Engine()
    runners = Runners(engine, concurrency=2)
    engine.down = True
    task = asyncio.create_task(runners.claimer.run())
    await until(lambda: len(engine.limits) >= 2)
    engine.down, engine.waiting = False, 20
    await until(lambda: runners.done == 20)
    runners.claimer.drain()
    await asyncio.wait_for(task, 60)


class Renewals:
    """A renewal that answers from a list, its last entry for ever."""

    def __init__(self, *answers: WorkerState | Exception) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.closed = threading.Event()

    def renew(self) -> WorkerState:
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed.set()


def keeper(
    renewals: Renewals,
    *,
    lease_seconds: float = 2,
    blocked_seconds: float = 300,
    registered_at: float | None = None,
) -> tuple[LeaseKeeper, list[Any]]:
    seen: list[Any] = []
    built = LeaseKeeper(
        renewals,
        lease_seconds=lease_seconds,
        registered_at=time.monotonic() if registered_at is None else registered_at,
        on_lost=lambda: seen.append("lost"),
        on_blocked=seen.append,
        blocked_seconds=blocked_seconds,
    )
    built.start()
    return built, seen


async def test_a_lease_is_renewed_through_failures() -> None:
    renewals = Renewals(StoreUnavailable(), WorkerState.LIVE)
    built, seen = keeper(renewals, lease_seconds=4)
    await until(lambda: renewals.calls >= 5)
    assert not built.gone and seen == []
    await built.stop()
    assert renewals.closed.is_set()


async def test_a_lost_lease_is_told_once() -> None:
    renewals = Renewals(WorkerState.LIVE, WorkerState.LOST)
    built, seen = keeper(renewals)
    await until(renewals.closed.is_set)
    assert seen == ["lost"] and renewals.calls == 2
    await built.stop()


async def test_without_renewals_the_lease_is_gone_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    built, _ = keeper(Renewals(StoreUnavailable()), lease_seconds=30, registered_at=now)
    await built.stop()
    for later, gone in ((0, False), (24, False), (25.5, True), (30, True)):
        monkeypatch.setattr("switchtower.leases.time.monotonic", lambda at=now + later: at)
        assert built.gone is gone


@pytest.mark.parametrize("blocked", [True, False])
async def test_a_blocked_loop_is_noticed_and_the_lease_kept(blocked: bool) -> None:
    renewals = Renewals(WorkerState.LIVE)
    built, seen = keeper(renewals, lease_seconds=4.5, blocked_seconds=0.5 if blocked else 300)
    await until(lambda: renewals.calls >= 1)
    before = renewals.calls
    if blocked:
        end = time.monotonic() + 60
        while not (seen and renewals.calls > before) and time.monotonic() < end:
            pass
        assert seen and max(seen) >= 0.5 and renewals.calls > before and not built.gone
    else:
        await until(lambda: renewals.calls >= before + 2)
        assert seen == []
    await built.stop()
