"""When schedules fire: clocks that change, dates that do not exist, and what no schedule may say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from switchtower.crons import Cron, NewCron, Schedule, duration_ms
from switchtower.errors import InvalidInput
from switchtower.jobs import NewJob

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata", "UTC"]
CHANGES = {
    "Europe/Berlin": (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 10, 3, tzinfo=UTC), datetime(2026, 4, 4, tzinfo=UTC)),
    "America/Havana": (datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)),
}


def slots(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    found = []
    slot = schedule.after(begin)
    while slot is not None and slot <= end:
        found.append(slot)
        slot = schedule.after(slot)
    return found


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def by_oracle(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    found = []
    for moment in CronSim(expression, begin.astimezone(ZoneInfo(zone))):
        at = moment.astimezone(UTC)
        if at > end:
            return found
        found.append(at)
    return found


def test_fixed_time_fires_once_when_clocks_go_back_and_right_behind_the_gap() -> None:
    berlin = Schedule("30 2 * * *", timezone="Europe/Berlin")
    assert slots(berlin, utc("2026-10-24T12:00"), utc("2026-10-26T12:00")) == [
        utc("2026-10-25T00:30"),
        utc("2026-10-26T01:30"),
    ]
    assert slots(berlin, utc("2026-03-28T12:00"), utc("2026-03-30T12:00")) == [
        utc("2026-03-29T01:00"),
        utc("2026-03-30T00:30"),
    ]


def test_schedule_that_repeats_follows_real_time() -> None:
    berlin = Schedule("*/30 * * * *", timezone="Europe/Berlin")
    for change in CHANGES["Europe/Berlin"]:
        found = slots(berlin, change, change + timedelta(hours=6))
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=30)}


def test_half_hour_change_of_lord_howe() -> None:
    schedule = Schedule("45 1 * * *", timezone="Australia/Lord_Howe")
    back = slots(schedule, utc("2026-04-03T20:00"), utc("2026-04-05T20:00"))
    assert back == [utc("2026-04-04T14:45"), utc("2026-04-05T15:15")]
    gap = Schedule("15 2 * * *", timezone="Australia/Lord_Howe")
    assert slots(gap, utc("2026-10-03T00:00"), utc("2026-10-03T20:00")) == [utc("2026-10-03T15:30")]


def test_midnight_that_does_not_exist_fires_at_the_first_moment_of_its_day() -> None:
    schedule = Schedule("0 0 * * *", timezone="America/Havana")
    assert slots(schedule, utc("2026-03-07T12:00"), utc("2026-03-09T12:00")) == [
        utc("2026-03-08T05:00"),
        utc("2026-03-09T04:00"),
    ]


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "0 0 * * *", "15 1 * * *", "*/5 * * * *", "0 * * * *", "7 3 * * *"]
)
def test_changes_of_clocks_as_the_oracle_has_them(zone: str, expression: str) -> None:
    for change in CHANGES[zone]:
        begin, end = change - timedelta(days=1), change + timedelta(days=3)
        assert slots(Schedule(expression, timezone=zone), begin, end) == by_oracle(expression, zone, begin, end)


_minutes = st.one_of(st.just("*"), st.integers(2, 29).map("*/{}".format), st.integers(0, 59).map(str))
_hours = st.one_of(st.just("*"), st.integers(2, 11).map("*/{}".format), st.integers(4, 22).map(str))
_days = st.one_of(st.just("*"), st.integers(1, 28).map(str), st.just("L"), st.just("1-10/3"))
_months = st.one_of(st.just("*"), st.integers(1, 12).map(str), st.just("3,10"))
_weekdays = st.one_of(st.just("*"), st.integers(0, 7).map(str), st.just("1-5"), st.just("MON"), st.just("5#2"))
_moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(_minutes, _hours, _days, _months, _weekdays, _moments, st.sampled_from(ZONES))
@settings(max_examples=250, deadline=None)
def test_expressions_fire_as_the_oracle_says(
    minute: str, hour: str, day: str, month: str, weekday: str, moment: datetime, zone: str
) -> None:
    if day != "*" and weekday != "*":
        weekday = "*"
    expression = f"{minute} {hour} {day} {month} {weekday}"
    moment = moment.replace(microsecond=0)
    theirs = iter(CronSim(expression, moment.astimezone(ZoneInfo(zone))))
    slot: datetime | None = moment
    schedule = Schedule(expression, timezone=zone)
    for _ in range(5):
        assert slot is not None
        slot = schedule.after(slot)
        assert slot == next(theirs).astimezone(UTC), expression


@given(_moments, st.sampled_from(["* * * * *", "0 */6 * * *", "30 2 * * *", "15 3 1 * *"]), st.sampled_from(ZONES))
@settings(max_examples=60, deadline=None)
def test_slots_do_not_depend_on_where_one_asks_from(moment: datetime, expression: str, zone: str) -> None:
    schedule = Schedule(expression, timezone=zone)
    first = schedule.after(moment)
    assert first is not None and first > moment
    between = moment + (first - moment) / 2
    assert schedule.after(between) == first
    assert schedule.latest(first, behind=moment - timedelta(days=1)) == first
    assert schedule.latest(first - timedelta(milliseconds=1), behind=moment) is None


def test_latest_slot_is_found_without_walking_there() -> None:
    year_ago, now = utc("2025-01-01T00:00"), utc("2026-01-01T00:00:00.350")
    assert Schedule(every_ms=100, anchor=year_ago).latest(now, behind=year_ago) == utc("2026-01-01T00:00:00.300")
    assert Schedule("* * * * * *").latest(now, behind=year_ago) == utc("2026-01-01T00:00")
    assert Schedule("0 0 29 2 *").latest(now, behind=utc("2020-01-01T00:00")) == utc("2024-02-29T00:00")


def test_leap_days_seconds_and_years() -> None:
    assert slots(Schedule("0 12 29 2 *"), utc("2024-03-01T00:00"), utc("2033-01-01T00:00")) == [
        utc("2028-02-29T12:00"),
        utc("2032-02-29T12:00"),
    ]
    begin = utc("2026-01-01T00:00")
    assert slots(Schedule("*/20 * * * * *"), begin, begin + timedelta(minutes=1)) == [
        begin + timedelta(seconds=20 * n) for n in (1, 2, 3)
    ]
    yearly = Schedule("0 0 0 1 1 * 2028-2029")
    assert slots(yearly, begin, utc("2040-01-01T00:00")) == [utc("2028-01-01T00:00"), utc("2029-01-01T00:00")]


@pytest.mark.parametrize(
    ("alias", "meaning"), [("@daily", "0 0 * * *"), ("@Hourly", "0 * * * *"), ("@weekly", "0 0 * * 0")]
)
def test_aliases(alias: str, meaning: str) -> None:
    moment = utc("2026-05-05T05:05")
    assert Schedule(alias).after(moment) == Schedule(meaning).after(moment)


def test_interval_counts_from_its_anchor() -> None:
    anchor = utc("2026-01-01T00:00:00.250")
    every = Schedule(every_ms=700, anchor=anchor)
    assert every.after(anchor - timedelta(days=1)) == anchor
    assert every.after(anchor) == anchor + timedelta(milliseconds=700)
    assert every.after(anchor + timedelta(milliseconds=2_000)) == anchor + timedelta(milliseconds=2_100)
    assert Schedule("@every 1m30s", anchor=anchor).after(anchor) == anchor + timedelta(seconds=90)
    assert duration_ms("1h30m") == 5_400_000 and duration_ms("1.5s") == 1_500


REFUSED = {
    "30th of February": ("0 0 30 2 *", "no such date"),
    "31st of April": ("0 0 31 4 *", "no such date"),
    "a year that is over": ("0 0 0 1 1 * 2020", "no such date"),
    "too few fields": ("* * * *", "not a cron expression"),
    "too many fields": ("* * * * * * * *", "not a cron expression"),
    "minute 60": ("60 * * * *", "not a cron expression"),
    "a step of nothing": ("*/0 * * * *", "not a cron expression"),
    "words": ("every day", "not a cron expression"),
    "nothing": ("", "not a cron expression"),
    "an unknown alias": ("@reboot", "not a cron expression"),
    "times drawn anew in every process": ("R R * * *", "not a cron expression"),
    "times drawn from a range": ("r(0-5) * * * *", "not a cron expression"),
    "hashed times": ("H * * * *", "not a cron expression"),
    "an interval that is none": ("@every soon", "duration"),
    "an interval too short": ("@every 1ms", "everyMs"),
    "too long": ("1," * 150 + "1 * * * *", "200 characters"),
}


@pytest.mark.parametrize(("expression", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_schedule_is_refused(expression: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Schedule(expression)


def test_schedule_is_one_thing_in_a_real_zone() -> None:
    for arguments in ({}, {"expression": "@daily", "every_ms": 1000}, {"expression": "@every 90s", "every_ms": 1000}):
        with pytest.raises(InvalidInput, match="one of the two"):
            Schedule(**arguments)  # type: ignore[arg-type]
    for every_ms in (0, -5, 99, 400 * 24 * 3_600_000):
        with pytest.raises(InvalidInput, match="everyMs"):
            Schedule(every_ms=every_ms)
    for zone in ("Mars/Olympus", "", "../../etc/passwd", "Europe/Berlin\0", "x" * 5_000):
        with pytest.raises(InvalidInput, match="time zone"):
            Schedule("@daily", timezone=zone)


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_schedule_or_refused(expression: str, zone: str) -> None:
    for arguments in ((expression, None, "UTC"), ("@daily", None, zone)):
        try:
            schedule = Schedule(*arguments)
        except InvalidInput:
            continue
        schedule.after(utc("2026-01-01T00:00"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"job": NewJob(name="")}, "name"),
        ({"job": NewJob(name="a", delay_ms=5)}, "job.delayMs"),
        ({"job": NewJob(name="a", job_id="mine")}, "job.jobId"),
        ({"job": NewJob(name="a", idempotency_key="k")}, "job.idempotencyKey"),
        ({"job": NewJob(name="a", depends_on=["x"])}, "job.dependsOn"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"jitter_ms": -1}, "jitterMs"),
        ({"starts_at": datetime(2026, 1, 1)}, "startsAt"),
        ({"ends_at": "tomorrow"}, "endsAt"),
        ({"starts_at": utc("2026-01-02T00:00"), "ends_at": utc("2026-01-01T00:00")}, "endsAt"),
    ],
)
def test_what_is_no_cron_is_refused(fields: dict[str, object], field: str) -> None:
    given = {"name": "c", "schedule": Schedule("@daily"), "job": NewJob(name="a"), **fields}
    with pytest.raises(InvalidInput) as refused:
        NewCron(**given).check()  # type: ignore[arg-type]
    assert refused.value.field == field


def _cron(id: str, jitter_ms: int) -> Cron:
    names = {name: None for name in Cron.__dataclass_fields__}
    return Cron(**names | {"id": id, "jitter_ms": jitter_ms})  # type: ignore[arg-type]


def test_jitter_is_the_slots_own_and_the_same_for_every_scheduler() -> None:
    begin = utc("2026-01-01T00:00")
    moments = [begin + timedelta(minutes=n) for n in range(200)]
    delays = [_cron("cron_1", 5_000).delay_of(slot) for slot in moments]
    assert delays == [_cron("cron_1", 5_000).delay_of(slot) for slot in moments]
    assert delays != [_cron("cron_2", 5_000).delay_of(slot) for slot in moments]
    assert min(delays) >= timedelta() and max(delays) <= timedelta(seconds=5) and len(set(delays)) > 150
    assert _cron("cron_1", 0).delay_of(begin) == timedelta()
