"""The database's clock as a process knows it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.clock import DatabaseClock, from_ms, to_ms


def _off(clock: DatabaseClock, at: datetime) -> float:
    return abs((clock.now() - at).total_seconds())


def test_unobserved_clock_is_the_processs_own() -> None:
    assert _off(DatabaseClock(), datetime.now(UTC)) < 0.1


@pytest.mark.parametrize("hours", [-1, 1])
def test_process_that_is_an_hour_off_follows_the_database(hours: int) -> None:
    clock, server = DatabaseClock(), datetime.now(UTC) + timedelta(hours=hours)
    now = time.monotonic()
    clock.observe(server, sent=now - 0.001, received=now)
    assert _off(clock, server) < 0.1


def test_best_observation_wins_until_it_is_a_minute_old() -> None:
    clock, now = DatabaseClock(), time.monotonic()
    good, bad = datetime.now(UTC), datetime.now(UTC) + timedelta(seconds=9)
    clock.observe(good, sent=now - 0.002, received=now)
    clock.observe(bad, sent=now - 20, received=now)
    assert _off(clock, good) < 0.5
    clock.observe(bad, sent=now + 61, received=now + 81)
    assert _off(clock, bad - timedelta(seconds=71)) < 0.5


def test_new_primarys_clock_counts_at_once() -> None:
    clock, now = DatabaseClock(), time.monotonic()
    clock.observe(datetime.now(UTC), sent=now - 0.001, received=now)
    ahead = datetime.now(UTC) + timedelta(minutes=10)
    clock.forget()
    clock.observe(ahead, sent=now - 0.2, received=now)
    assert _off(clock, ahead) < 0.5


def test_clock_never_jumps_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = DatabaseClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() - before < timedelta(seconds=1)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-12, 12))
def test_milliseconds_round_trip_in_any_zone(at: datetime, hours: int) -> None:
    whole = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert from_ms(to_ms(at)) == whole
    try:
        elsewhere = at.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        return
    assert to_ms(elsewhere) == to_ms(at)
