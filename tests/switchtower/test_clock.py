"""The database's clock as a process knows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.clock import DatabaseClock, from_ms, to_ms

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """This process's two clocks, which stand still: `wall` and `since` say what they show."""
    clocks = SimpleNamespace(wall=BEGAN.timestamp(), since=1_000.0)
    stopped = SimpleNamespace(time=lambda: clocks.wall, monotonic=lambda: clocks.since)
    monkeypatch.setattr("switchtower.clock.time", stopped)
    return clocks


def _off(clock: DatabaseClock, at: datetime) -> float:
    return abs((clock.now() - at).total_seconds())


def test_unobserved_clock_is_the_processs_own(process: SimpleNamespace) -> None:
    clock = DatabaseClock()
    assert _off(clock, BEGAN) < 0.01
    process.since += 5
    assert _off(clock, BEGAN + timedelta(seconds=5)) < 0.01


@pytest.mark.parametrize("hours", [-1, 1])
def test_process_that_is_an_hour_off_follows_the_database(process: SimpleNamespace, hours: int) -> None:
    clock, server, now = DatabaseClock(), BEGAN + timedelta(hours=hours), process.since
    clock.observe(server, sent=now - 0.001, received=now)
    assert _off(clock, server) < 0.1


def test_best_observation_wins_until_it_is_a_minute_old(process: SimpleNamespace) -> None:
    clock, now = DatabaseClock(), process.since
    good, bad = BEGAN, BEGAN + timedelta(seconds=9)
    clock.observe(good, sent=now - 0.002, received=now)
    clock.observe(bad, sent=now - 20, received=now)
    assert _off(clock, good) < 0.5
    clock.observe(bad, sent=now + 61, received=now + 81)
    assert _off(clock, bad - timedelta(seconds=71)) < 0.5


def test_new_primarys_clock_counts_at_once(process: SimpleNamespace) -> None:
    clock, now = DatabaseClock(), process.since
    clock.observe(BEGAN, sent=now - 0.001, received=now)
    ahead = BEGAN + timedelta(minutes=10)
    clock.forget()
    clock.observe(ahead, sent=now - 0.2, received=now)
    assert _off(clock, ahead) < 0.5


def test_clock_never_jumps_with_the_wall_clock(process: SimpleNamespace) -> None:
    clock = DatabaseClock()
    before = clock.now()
    process.wall = 0.0
    assert clock.now() == before


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-12, 12))
def test_milliseconds_round_trip_in_any_zone(at: datetime, hours: int) -> None:
    whole = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert from_ms(to_ms(at)) == whole
    try:
        elsewhere = at.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        return
    assert to_ms(elsewhere) == to_ms(at)
