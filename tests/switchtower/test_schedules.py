"""Schedules of some hours follow real time where they repeat within the hour: clocks that change drop nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from switchtower.crons import Schedule


@pytest.mark.parametrize(
    ("expression", "month", "day", "expected"),
    [
        ("*/30 1-3 * * *", 10, 25, ["23:00", "23:30", "00:00", "00:30", "01:00", "01:30", "02:00", "02:30"]),
        ("*/30 1-3 * * *", 3, 29, ["00:00", "00:30", "01:00", "01:30"]),
        ("30 1-3 * * *", 10, 25, ["23:30", "00:30", "02:30"]),
    ],
)
def test_around_a_change_of_clocks(expression: str, month: int, day: int, expected: list[str]) -> None:
    berlin = Schedule(expression, timezone="Europe/Berlin")
    moment, found = datetime(2026, month, day - 1, 12, tzinfo=UTC), []
    end = moment + timedelta(days=1)
    while (following := berlin.after(moment)) is not None and following < end:
        moment = following
        found.append(f"{moment:%H:%M}")
    assert found == expected
