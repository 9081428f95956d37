"""How are times, durations, sizes and schedules said to people?"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from app.dashboard.redaction import redacted
from switchtower.crons import Schedule

__all__ = ["FILTERS", "duration", "moment", "pretty", "schedule"]

UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
SHOWN_CHARACTERS: Final = 100_000


def moment(at: datetime) -> str:
    """A time to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def occasion(at: datetime, zone: str) -> str:
    """A time as people say it, where the clocks of a zone hang: `Friday, 27 November 2026, 03:00 Europe/Berlin`."""
    there = at.astimezone(ZoneInfo(zone))
    seconds = f":{there.second:02}" if there.second else ""
    return (
        f"{DAYS[there.isoweekday()]}, {there.day} {MONTHS[there.month - 1]} {there.year}, {there:%H:%M}{seconds} {zone}"
    )


def iso(at: datetime) -> str:
    """A time for programs: RFC 3339 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(ms: float | None) -> str:
    """A length of time in its two largest units: `3 min 20 s`, `250 ms`."""
    if ms is None:
        return "–"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 10_000:
        return f"{ms / 1000:.1f} s"
    parts, left = [], int(ms)
    for size, unit in UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def length_of_time(ms: int) -> str:
    """A length of time as a schedule takes it, in the largest unit that it is a whole number of: `90s`, `2h`."""
    sizes = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
    return next(f"{ms // size}{unit}" for unit, size in sizes.items() if ms % size == 0)


def number(value: float | None) -> str:
    """A number with its thousands apart."""
    return "–" if value is None else f"{value:,}"


def pretty(value: Any) -> str:
    """A JSON value on lines of its own, secrets hidden; of a very large one the beginning."""
    text = json.dumps(redacted(value), indent=2, ensure_ascii=False, default=str)
    cut = f"{text[:SHOWN_CHARACTERS]}\n… {len(text) - SHOWN_CHARACTERS:,} more characters"
    return text if len(text) <= SHOWN_CHARACTERS else cut


def editable(value: Any) -> str:
    """A whole JSON value on lines of its own, to be changed; secrets hidden."""
    return json.dumps(redacted(value), indent=2, ensure_ascii=False, default=str)


def brief(value: Any) -> str:
    """A JSON value on one short line, secrets hidden."""
    text = json.dumps(redacted(value), ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:119]}…"


def schedule(found: Schedule) -> str:
    """A schedule in words where it is a common one, else as it was written."""
    if found.every_ms is not None:
        return f"every {duration(found.every_ms)}"
    zone = "" if found.timezone == "UTC" else f" ({found.timezone})"
    return f"{_cron(found.expression or '')}{zone}"


def _cron(expression: str) -> str:
    fields = expression.split()
    if len(fields) != 5:
        return expression
    minute, hour, day, month, weekday = fields
    if day == month == "*" and weekday == "*":
        if minute == hour == "*":
            return "every minute"
        if minute.startswith("*/") and hour == "*":
            return f"every {minute[2:]} minutes"
        if minute.isdigit() and hour == "*":
            return f"at minute {int(minute)} of every hour"
        if minute.isdigit() and hour.startswith("*/"):
            return f"at minute {int(minute)} of every {hour[2:]} hours"
    if not (minute.isdigit() and hour.isdigit() and month == "*"):
        return expression
    at = f"at {int(hour):02}:{int(minute):02}"
    if day == "*" and weekday == "*":
        return f"every day {at}"
    if day == "*" and weekday.isdigit() and int(weekday) < len(DAYS):
        return f"every {DAYS[int(weekday)]} {at}"
    if day == "*" and weekday in ("1-5", "MON-FRI"):
        return f"Monday to Friday {at}"
    if day.isdigit() and weekday == "*":
        return f"on day {int(day)} of every month {at}"
    return expression


def clock(at: datetime) -> str:
    """The time of day to the millisecond, in UTC."""
    return at.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


FILTERS: Final = {
    "brief": brief,
    "clock": clock,
    "duration": duration,
    "editable": editable,
    "iso": iso,
    "length_of_time": length_of_time,
    "moment": moment,
    "number": number,
    "occasion": occasion,
    "pretty": pretty,
    "schedule": schedule,
}
"""What templates can do to a value."""
