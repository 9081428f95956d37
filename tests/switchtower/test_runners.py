"""A worker's parts at their edges: an outage, a stock that is full, a second word to stop, a time that is over."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from switchtower.calls import Call
from switchtower.claiming import Claimer, Pace
from switchtower.context import JobContext, Stop
from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.leases import LeaseKeeper, Renewal
from switchtower.reports import Reporter
from switchtower.slots import Slot, Slots
from switchtower.worker import Worker
from switchtower.workers import Outcome, OutcomeKind, WorkerState
from tests.switchtower.test_execution import claimed
from tests.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_what_a_handler_says_during_an_outage_is_written_after_it() -> None:
    written: list[Any] = []
    down = True

    async def log(id: str, token: str, lines: Any) -> None:
        if down:
            raise StoreUnavailable
        written.extend(lines)

    async def progress(id: str, token: str, value: Any) -> None:
        if down:
            raise StoreUnavailable
        written.append(value)

    claims = SimpleNamespace(log=log, progress=progress)
    reporter = Reporter(cast(Engine, SimpleNamespace(claims=claims)), on_lost=lambda ids: None)
    context = JobContext(claimed(), reporter)
    context.log("one")
    context.log("two")
    context.progress(0.5)
    await until(lambda: reporter._side_task is not None)
    await until(lambda: reporter._side_task is None)
    assert written == []
    down = False
    await until(lambda: len(written) == 3)
    assert sorted(map(str, written)) == sorted(["0.5", "('info', 'one')", "('info', 'two')"])


@pytest.mark.parametrize(
    ("have", "idle", "room"), [(0, 2, 12), (5, 2, 7), (6, 2, 0), (6, 8, 12), (10, 0, 0), (5, 0, 5), (6, 0, 0)]
)
async def test_a_stock_is_filled_up_when_half_of_it_is_gone(have: int, idle: int, room: int) -> None:
    pace = Pace(concurrency=1)
    pace.mean_seconds = 0.01
    assert pace.stock == 10
    claimer = Claimer(
        cast(Engine, SimpleNamespace(claims=None)),
        "wkr_1",
        ["q"],
        ["t"],
        pace=pace,
        poll_seconds=1,
        idle_runners=lambda: idle,
        may_claim=lambda: True,
        is_quiet=lambda: False,
        arrived=lambda: None,
    )
    claimer.ready = deque(claimed(id=f"job_{n}") for n in range(have))
    assert claimer._room() == room


@pytest.mark.parametrize(("left", "called"), [(-1, False), (0, False), (5, True)])
@pytest.mark.parametrize("timeout_ms", [None, 60_000])
async def test_no_handler_is_called_for_a_job_whose_time_is_over(
    left: int, called: bool, timeout_ms: int | None
) -> None:
    said: list[Outcome] = []
    parts: Any = SimpleNamespace(add=said.append, now=lambda: NOW, touched=lambda context: None)
    slots = Slots(
        concurrency=0,
        calls=parts,
        claimer=parts,
        reporter=parts,
        pace=parts,
        clock=parts,
        hooks=parts,
        channel=parts,
        grace_seconds=1,
        on_abandoned=lambda: None,
    )
    slot = Slot()
    job = claimed(expires_at=NOW + timedelta(seconds=left), timeout_ms=timeout_ms)
    context = slots._context(slot, job, cast(Call, SimpleNamespace(timeout_ms=None)), 100.0)
    slots._clear_timer(slot)
    assert (context is not None) is called
    assert [outcome.kind for outcome in said] == ([] if called else [OutcomeKind.EXPIRE])
    if called:
        assert slot.ends_at == 105.0, "the nearer of its two ends"


async def test_a_handler_is_told_once_that_its_job_is_cancelled() -> None:
    told: list[Any] = []
    context = SimpleNamespace(id="job_1", stop_reason=None)
    others = SimpleNamespace(id="job_2", stop_reason=None)
    running = [SimpleNamespace(context=context), SimpleNamespace(context=others), SimpleNamespace(context=None)]

    def stop(reason: Stop, slots: list[Any]) -> None:
        for slot in slots:
            slot.context.stop_reason = reason
            told.append(slot.context.id)

    gathered = SimpleNamespace(take_back=lambda ids: [])
    slots = SimpleNamespace(running=running, gathered=gathered, stop=stop)
    worker = SimpleNamespace(_claimer=SimpleNamespace(ready=deque()), _slots=slots, _reporter=None)
    for _ in range(3):
        Worker._cancel(cast(Worker, worker), {"job_1"})
    assert told == ["job_1"]


async def test_outcomes_are_recorded_in_the_order_in_which_runs_ended() -> None:
    recorded: list[str] = []
    tries = 0

    async def report(outcomes: list[Outcome]) -> set[str]:
        nonlocal tries
        tries += 1
        if tries == 1:
            reporter.add(Outcome("job_2", "t", OutcomeKind.COMPLETE))
            raise StoreUnavailable
        recorded.extend(outcome.job_id for outcome in outcomes)
        return set()

    claims = SimpleNamespace(report=report)
    reporter = Reporter(cast(Engine, SimpleNamespace(claims=claims)), on_lost=lambda ids: None)
    running = asyncio.create_task(reporter.run())
    reporter.add(Outcome("job_1", "t", OutcomeKind.COMPLETE))
    await reporter.flushed()
    running.cancel()
    assert recorded == ["job_1", "job_2"]


async def test_a_lease_counts_from_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, renewed = [100.0], threading.Event()
    monkeypatch.setattr("switchtower.leases.time", SimpleNamespace(monotonic=lambda: now[0]))

    def renew() -> WorkerState:
        now[0] += 0.1
        renewed.set()
        return WorkerState.LIVE

    keeper = LeaseKeeper(
        cast(Renewal, SimpleNamespace(renew=renew, close=lambda: None)),
        lease_seconds=0.6,
        registered_at=100.0,
        on_lost=lambda: None,
        on_blocked=lambda seconds: None,
    )
    now[0] = 100.3
    keeper.start()
    assert await asyncio.to_thread(renewed.wait, 10)
    await keeper.stop()
    now[0] = 100.79
    assert not keeper.gone
    now[0] = 100.81
    assert keeper.gone
