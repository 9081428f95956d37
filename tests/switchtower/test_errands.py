"""A courier's errands one by one: how long each may take, and that nothing is sent whose start is not on record."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from switchtower.clock import to_ms
from switchtower.courier import Courier, CourierOptions
from switchtower.engine import Engine
from switchtower.engine.deliveries import Parcel
from switchtower.workers import OutcomeKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def parcel(id: str = "job_1", **fields: Any) -> Parcel:
    job = SimpleNamespace(**{"id": id, "token": "t", "payload": None, "timeout_ms": None, "expires_at": None, **fields})
    return cast(Parcel, SimpleNamespace(job=job, address=SimpleNamespace(url="https://hooks.example/in")))


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 10),
        ({"timeout_ms": 4_000}, 4),
        ({"timeout_ms": 60_000}, 10),
        ({"expires_at": NOW + timedelta(seconds=3)}, 3),
        ({"expires_at": NOW + timedelta(seconds=3), "timeout_ms": 2_000}, 2),
        ({"expires_at": NOW + timedelta(hours=1)}, 10),
        ({"expires_at": NOW - timedelta(seconds=1)}, -1),
    ],
)
def test_an_errand_takes_no_longer_than_any_of_its_bounds(fields: dict[str, Any], seconds: float) -> None:
    engine = SimpleNamespace(clock=SimpleNamespace(now_ms=lambda: to_ms(NOW)))
    courier = Courier(cast(Engine, engine), CourierOptions(timeout_seconds=10))
    assert courier._seconds(parcel(**fields)) == seconds


async def test_what_was_lost_before_it_began_is_not_sent() -> None:
    sent: list[str] = []

    class Sender:
        async def send(self, job: Any, *_: Any, **__: Any) -> Any:
            sent.append(job.id)
            raise asyncio.CancelledError

    async def start(jobs: list[Any]) -> set[str]:
        return {"job_2"}

    courier = Courier(cast(Engine, SimpleNamespace(claims=SimpleNamespace(start=start))), sender=cast(Any, Sender()))
    courier._worker_id = "wkr_1"
    await courier._begin([parcel(f"job_{n}") for n in (1, 2, 3)], cast(Any, SimpleNamespace(add=lambda _: None)))
    await asyncio.wait([errand.task for errand in courier._errands.values() if errand.task is not None])
    assert sent == ["job_1", "job_3"]
    assert courier.under_way == 0


@pytest.mark.parametrize(("lease", "lasts"), [(60, 55), (30, 25), (12, 10), (3, 2.5)])
async def test_a_lease_counts_for_less_here_than_in_the_database(
    monkeypatch: pytest.MonkeyPatch, lease: float, lasts: float
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("switchtower.courier.time", SimpleNamespace(monotonic=lambda: now[0]))
    courier = Courier(cast(Engine, None), CourierOptions(lease_seconds=lease), sender=cast(Any, None))
    courier._worker_id, courier._renewed = "wkr_1", now[0]
    now[0] += lasts
    courier._heed_lease()
    assert courier._worker_id == "wkr_1"
    now[0] += 0.001
    courier._heed_lease()
    assert courier._worker_id is None


async def test_who_lost_the_lease_says_nothing_more_of_its_errands() -> None:
    said: list[Any] = []

    class Sender:
        async def send(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

    async def start(jobs: list[Any]) -> set[str]:
        return set()

    courier = Courier(cast(Engine, SimpleNamespace(claims=SimpleNamespace(start=start))), sender=cast(Any, Sender()))
    courier._worker_id = "wkr_1"
    await courier._begin([parcel("job_1"), parcel("job_2")], cast(Any, SimpleNamespace(add=said.append)))
    first, second = courier._errands.values()
    assert first.task is not None and second.task is not None
    await asyncio.sleep(0)
    courier._cut_off(first, OutcomeKind.RELEASE)
    courier._lose_lease()
    await asyncio.wait([first.task, second.task])
    assert said == [] and courier.under_way == 0


async def test_a_courier_takes_no_more_than_it_may_send_at_once() -> None:
    courier = Courier(cast(Engine, None), CourierOptions(concurrency=3), sender=cast(Any, None))
    reporter = cast(Any, SimpleNamespace(reachable=True, is_full=False))
    assert courier._room(reporter) == 0, "it is not elected"
    courier.elected = True
    assert courier._room(reporter) == 3
    courier._errands = {("job", str(n)): cast(Any, None) for n in range(2)}
    assert courier._room(reporter) == 1
