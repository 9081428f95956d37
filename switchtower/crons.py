"""When does a schedule fire?

A schedule is a cron expression in a time zone, or an interval. Each moment at which it fires is a *slot*; a slot makes
at most one job, whoever schedules. Cron maths is croniter's; what happens when clocks change is ours:

- a schedule with a fixed hour fires once when clocks go back (at the first of the two equal times), and once, right
  after the gap, when clocks skip its time;
- a schedule that repeats within the day (its hour or minute is a wildcard or a step of one) follows real time: it fires
  in both of the equal hours and not in the hour that does not exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

from switchtower.errors import InvalidInput
from switchtower.jobs import NewJob
from switchtower.payloads import PAYLOAD_LIMIT, check_text

__all__ = ["CatchUp", "Cron", "CronUpdate", "Fire", "NewCron", "Overlap", "Schedule", "duration_ms"]

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MIN_EVERY_MS = 100
MAX_EVERY_MS = 366 * 24 * 3600 * 1000
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NAMES = re.compile(r"(?i)jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat")
_DRAWN = re.compile(r"(?i)[rh]")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Overlap(StrEnum):
    """What happens to a slot while the job of the slot before is still open."""

    ALLOW = "allow"
    SKIP = "skip"
    REPLACE = "replace"


class CatchUp(StrEnum):
    """What happens to slots that passed while nobody scheduled: none fires, the last one, or all (up to 1,000)."""

    SKIP = "skip"
    ONE = "one"
    ALL = "all"


def duration_ms(text: str) -> int:
    """A duration such as `90s`, `1h30m` or `250ms` in milliseconds. Raises InvalidInput."""
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        raise InvalidInput("expression", f"{text[:50]!r} is not a duration such as 90s or 1h30m.")
    return int(sum(float(part.group(1)) * _UNITS_MS[part.group(2)] for part in parts))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression (5 fields; 6 with seconds in front; 7 with a year at the end; `@daily` and its like; `@every
    90s`) in a time zone, or an interval in milliseconds counted from `anchor`."""

    expression: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"
    anchor: datetime | None = None

    def __post_init__(self) -> None:
        if self.expression is not None and self.expression.startswith("@every "):
            every_ms = duration_ms(self.expression.removeprefix("@every ").strip())
            if self.every_ms not in (None, every_ms):
                raise InvalidInput("schedule", "give a cron expression or everyMs, one of the two.")
            object.__setattr__(self, "every_ms", every_ms)
        elif (self.expression is None) == (self.every_ms is None):
            raise InvalidInput("schedule", "give a cron expression or everyMs, one of the two.")
        _zone(self.timezone)
        if self.every_ms is not None:
            if not MIN_EVERY_MS <= self.every_ms <= MAX_EVERY_MS:
                raise InvalidInput("everyMs", f"must be between {MIN_EVERY_MS} and {MAX_EVERY_MS:,}.")
            return
        fields = self._fields()
        try:
            # `R` would draw other times in every process, and `H` needs a seed that no schedule has.
            drawn = _DRAWN.search(_NAMES.sub("", fields)) is not None
            valid = not drawn and croniter.is_valid(fields, second_at_beginning=True)
            first = next(_wall_times(fields, datetime(2024, 1, 1)), None) if valid else None
        except (CroniterError, ValueError, KeyError, IndexError, OverflowError):
            valid = False
        if not valid:
            raise InvalidInput(
                "expression", f"{(self.expression or '')[:100]!r} is not a cron expression of 5 to 7 fields."
            )
        if first is None:
            raise InvalidInput("expression", "never fires: no such date exists.")

    def _fields(self) -> str:
        text = (self.expression or "").strip()
        if len(text) > 200:
            raise InvalidInput("expression", "is longer than 200 characters.")
        return ALIASES.get(text.lower(), text)

    @property
    def follows_real_time(self) -> bool:
        """Whether it repeats within the day, so that a change of clocks neither doubles nor drops anything."""
        if self.every_ms is not None:
            return True
        fields = self._fields().split()
        minute, hour = fields[1:3] if len(fields) >= 6 else fields[:2]
        return hour.startswith("*") or (minute.startswith("*") and "," not in hour and "-" in hour)

    def after(self, moment: datetime) -> datetime | None:
        """The first slot strictly after a moment (UTC); None when there is none any more."""
        if self.every_ms is not None:
            anchor = self.anchor or datetime(1970, 1, 1, tzinfo=UTC)
            step = timedelta(milliseconds=self.every_ms)
            return anchor if moment < anchor else anchor + ((moment - anchor) // step + 1) * step
        zone = _zone(self.timezone)
        return self._real(moment, zone) if self.follows_real_time else self._fixed(moment, zone)

    def latest(self, moment: datetime, *, behind: datetime) -> datetime | None:
        """The last slot at or before a moment that lies behind another; None when there is none between them."""
        reach = timedelta(milliseconds=self.every_ms or 1_000)
        while True:
            start = max(behind, moment - reach)
            slot = self.after(start)
            if slot is not None and slot <= moment:
                break
            if start <= behind:
                return None
            reach *= 2
        while (following := self.after(slot)) is not None and following <= moment:
            slot = following
        return slot

    def _fixed(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """By wall time: the first of two equal times, and the end of the gap for a time that does not exist."""
        start = moment.astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)
        for wall in _wall_times(self._fields(), start):
            slot = _instant(wall, zone)
            if slot > moment:
                return slot
        return None

    def _real(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """By real time: wall times under the offset in force, changing offset where the zone does."""
        while True:
            offset = moment.astimezone(zone).utcoffset() or timedelta()
            wall = next(_wall_times(self._fields(), (moment + offset).replace(tzinfo=None)), None)
            if wall is None:
                return None
            slot = (wall - offset).replace(tzinfo=UTC)
            change = _offset_change(moment, slot, zone, offset)
            if change is None:
                return slot
            moment = change - timedelta(milliseconds=1)
            after = change.astimezone(zone).utcoffset() or timedelta()
            wall = next(_wall_times(self._fields(), (moment + after).replace(tzinfo=None)), None)
            if wall is not None and (wall - after).replace(tzinfo=UTC) == change:
                return change
            moment = change


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidInput("timezone", f"{name[:64]!r} is not a time zone such as Europe/Berlin.") from None


def _wall_times(fields: str, start: datetime) -> Iterator[datetime]:
    """The wall times that an expression names, strictly after a start, without any zone."""
    times = croniter(fields, start, second_at_beginning=True, max_years_between_matches=30)
    while True:
        try:
            yield times.get_next(datetime)
        except CroniterError:
            return


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment of a wall time; for one that does not exist, the moment at which the clocks skip it."""
    slot = wall.replace(tzinfo=zone).astimezone(UTC)
    back = slot.astimezone(zone).replace(tzinfo=None)
    if back == wall:
        return slot
    before = slot - timedelta(hours=6)
    offset = before.astimezone(zone).utcoffset() or timedelta()
    return _offset_change(before, slot + timedelta(hours=6), zone, offset) or slot


def _offset_change(start: datetime, end: datetime, zone: ZoneInfo, offset: timedelta) -> datetime | None:
    """The first moment in (start, end] at which the zone's offset is not `offset`; looks every 12 hours at most a
    year."""
    moment = start
    while moment < end:
        probe = min(end, moment + timedelta(hours=12))
        if (probe.astimezone(zone).utcoffset() or timedelta()) != offset:
            low, high = moment, probe
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                if (middle.astimezone(zone).utcoffset() or timedelta()) == offset:
                    low = middle
                else:
                    high = middle
            return high.replace(microsecond=0)
        moment = probe
    return None


@dataclass(slots=True, kw_only=True)
class NewCron:
    """A schedule and the job that each of its slots makes.

    Attributes:
        name: unique per tenant; creating it again with the same definition is harmless.
        job: what every slot enqueues; its delay, due time, ids and keys are the slot's own.
        starts_at, ends_at: no slot before or after.
        limit: how many slots fire in all.
        jitter_ms: each job is delayed by up to this, the same for a slot whoever schedules it.
    """

    name: str
    schedule: Schedule
    job: NewJob
    enabled: bool = True
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    limit: int | None = None
    overlap: Overlap = Overlap.ALLOW
    catch_up: CatchUp = CatchUp.ONE
    jitter_ms: int = 0
    idempotency_key: str | None = None

    def check(self, *, payload_limit: int = PAYLOAD_LIMIT) -> None:
        """Raises InvalidInput for the first thing that cannot be stored or makes no sense."""
        check_text("name", self.name, limit=256)
        self.job.check(payload_limit=payload_limit)
        job = self.job
        for name, given in (
            ("delayMs", job.delay_ms),
            ("runAt", job.run_at),
            ("jobId", job.job_id),
            ("idempotencyKey", job.idempotency_key),
            ("parentId", job.parent_id),
        ):
            if given is not None:
                raise InvalidInput(f"job.{name}", "is the slot's own; leave it out.")
        if job.deduplication is not None:
            raise InvalidInput("job.deduplication", "a slot is one job by itself; leave it out.")
        if job.depends_on:
            raise InvalidInput("job.dependsOn", "a scheduled job cannot wait for others.")
        if self.limit is not None and (type(self.limit) is not int or not 1 <= self.limit <= 2**31 - 1):
            raise InvalidInput("limit", "must be a whole number of at least 1.")
        if not 0 <= self.jitter_ms <= 24 * 3600 * 1000:
            raise InvalidInput("jitterMs", "must be between 0 and a day.")
        for name, at in (("startsAt", self.starts_at), ("endsAt", self.ends_at)):
            if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
                raise InvalidInput(name, "must be a time with a zone.")
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise InvalidInput("endsAt", "must be after startsAt.")


@dataclass(frozen=True, slots=True)
class Fire:
    """One slot that was dealt with: `outcome` is fired, or skipped with the reason in words."""

    slot: datetime
    at: datetime
    outcome: str
    job_id: str | None
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class Cron:
    """A cron as it was read."""

    id: str
    name: str
    org: str
    app: str
    schedule: Schedule
    job: NewJob
    enabled: bool
    starts_at: datetime | None
    ends_at: datetime | None
    limit: int | None
    overlap: Overlap
    catch_up: CatchUp
    jitter_ms: int
    next_at: datetime | None
    last_fired_at: datetime | None
    fired: int
    fires: list[Fire]
    created_at: datetime
    updated_at: datetime

    def following(self, moment: datetime) -> datetime | None:
        """The first slot after a moment that its dates and its limit still allow."""
        if self.limit is not None and self.fired >= self.limit:
            return None
        if self.starts_at is not None and moment < self.starts_at:
            moment = self.starts_at - timedelta(milliseconds=1)
        slot = self.schedule.after(moment)
        return None if slot is None or (self.ends_at is not None and slot > self.ends_at) else slot

    def next_slots(self, count: int, *, moment: datetime) -> list[datetime]:
        """The next slots that would fire, at most `count`; none while it is disabled."""
        if not self.enabled:
            return []
        left = count if self.limit is None else min(count, self.limit - self.fired)
        slots: list[datetime] = []
        while len(slots) < left and (slot := self.following(slots[-1] if slots else moment)) is not None:
            slots.append(slot)
        return slots

    def delay_of(self, slot: datetime) -> timedelta:
        """The jitter of one slot: the same for whoever schedules it."""
        if not self.jitter_ms:
            return timedelta()
        draw = hashlib.sha256(f"{self.id} {slot.isoformat()}".encode()).digest()
        return timedelta(milliseconds=int.from_bytes(draw[:6], "big") % (self.jitter_ms + 1))


@dataclass(slots=True, kw_only=True)
class CronUpdate:
    """What may be changed of a cron; a field that is not in `given` stays. Values are those of `NewCron`."""

    given: Mapping[str, Any] = field(default_factory=dict)
