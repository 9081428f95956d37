"""When a repetition goes on, and when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from switchtower.errors import InvalidInput
from switchtower.repeats import Repeat

NOON = datetime(2026, 2, 23, 12, 0, 30, tzinfo=UTC)


def test_an_interval_counts_from_the_end_of_a_run() -> None:
    assert Repeat(every_ms=5_000).following(NOON) == (NOON + timedelta(seconds=5), Repeat(every_ms=5_000))


def test_a_cron_goes_by_its_zone() -> None:
    following = Repeat(expression="0 14 * * *", timezone="Europe/Berlin").following(NOON)
    assert following is not None and following[0] == datetime(2026, 2, 23, 13, 0, tzinfo=UTC)


def test_a_limit_counts_this_run_too() -> None:
    following = Repeat(every_ms=1_000, limit=2).following(NOON)
    assert following is not None and following[1].limit == 1
    assert following[1].following(NOON) is None


def test_nothing_begins_behind_its_end() -> None:
    at_the_end = Repeat(every_ms=1_000, ends_at=NOON + timedelta(seconds=1))
    assert at_the_end.following(NOON) is not None
    assert at_the_end.following(NOON + timedelta(milliseconds=1)) is None


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"expression": "* * * * *", "every_ms": 1_000},
        {"expression": "nonsense"},
        {"every_ms": 0},
        {"every_ms": 10**15},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Repeat(**schedule)  # type: ignore[arg-type]


def test_a_zone_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Repeat(every_ms=1_000, timezone="Mars/Olympus")
