"""What do the options of a Conveyor job mean to us?

Every option is checked before anything is stored; those that are not known here are kept with the others, and change
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from switchtower.deduplication import DeduplicationOptions
from switchtower.dialects import Dialect, rank_of
from switchtower.errors import InvalidInput
from switchtower.jobs import ChildFailure
from switchtower.repeats import Repeat
from switchtower.retry import Backoff, BackoffKind

__all__ = ["duration_ms", "moment", "new_job_fields", "rank"]

DAY_MS: Final = 24 * 3600 * 1000
CAP_MS: Final = DAY_MS
JITTER: Final = 0.25
NO_BACKOFF: Final = Backoff(BackoffKind.NONE, jitter=0.0)
BACKOFFS: Final = {"fixed": BackoffKind.FIXED, "exponential": BackoffKind.EXPONENTIAL}
UNITS: Final = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1_000),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600_000),
    **dict.fromkeys(("d", "day", "days"), DAY_MS),
    **dict.fromkeys(("w", "week", "weeks"), 7 * DAY_MS),
}
POLICIES: Final = {
    True: ChildFailure.FAIL,
    False: ChildFailure.IGNORE,
    "fail": ChildFailure.FAIL,
    "ignore": ChildFailure.IGNORE,
    "remove": ChildFailure.REMOVE,
}
MOST_MS: Final = 100 * 366 * DAY_MS

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *([a-z]{0,12})", re.IGNORECASE)
_SPACED_OFFSET = re.compile(r" (\d\d:?\d\d)$")


def duration_ms(field: str, value: Any) -> int:
    """Milliseconds as a number, or as a text such as `5s`, `10 minutes` or `2h`. Raises InvalidInput."""
    ms: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        ms = value
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())) is not None:
        unit = UNITS.get(match[2].lower() or "ms")
        ms = None if unit is None else float(match[1]) * unit
    if ms is None or not 0 <= ms <= MOST_MS:
        raise InvalidInput(
            field, 'must be milliseconds, or a text such as "5s", "10 minutes" or "2h"; a hundred years at most.'
        )
    return round(ms)


def moment(field: str, value: Any) -> datetime:
    """A time in ISO 8601, in UTC where it names no zone. Raises InvalidInput."""
    try:
        # In a query, a plus that nobody escaped arrives as a space.
        parsed = datetime.fromisoformat(_SPACED_OFFSET.sub(r"+\1", value.strip()))
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InvalidInput(field, "must be an ISO 8601 date, such as 2026-02-23T09:46:43.000Z.") from None


def rank(field: str, value: Any) -> float:
    """A priority: any finite number, lower ones first. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field, "must be a number; lower numbers run first.")
    return rank_of(Dialect.CONVEYOR, value)


def new_job_fields(opts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `NewJob` that these options ask for, with Conveyor's defaults: one attempt, no backoff, no timeout.

    Raises: InvalidInput, naming the option.
    """
    fields: dict[str, Any] = {"dialect": Dialect.CONVEYOR, "opts": opts, "max_attempts": 1, "backoff": NO_BACKOFF}
    for name, read in _OPTIONS.items():
        if (value := opts.get(name)) is not None:
            try:
                fields |= read(f"opts.{name}", value)
            except InvalidInput as error:
                # What a part of it means to us has a name of ours.
                own = error.field.startswith("opts.")
                raise error if own else InvalidInput(f"opts.{name}", error.message) from None
    if (repeat := fields.get("repeat")) is not None and "delay_ms" not in fields and repeat.starts_at is not None:
        fields["run_at"] = repeat.starts_at
    return fields


def _attempts(field: str, value: Any) -> dict[str, Any]:
    return {"max_attempts": _whole(field, value, 1)}


def _delay(field: str, value: Any) -> dict[str, Any]:
    return {"delay_ms": duration_ms(field, value)}


def _rank(field: str, value: Any) -> dict[str, Any]:
    return {"rank": rank(field, value)}


def _job_id(field: str, value: Any) -> dict[str, Any]:
    return {"job_id": _text(field, value)}


def _timeout(field: str, value: Any) -> dict[str, Any]:
    return {"timeout_ms": duration_ms(field, value)}


def _backoff(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"backoff": Backoff(BackoffKind.FIXED, duration_ms(field, value), jitter=0.0)}
    type = value.get("type")
    kind = BACKOFFS.get(type) if isinstance(type, str) else None
    if kind is None:
        raise InvalidInput(f"{field}.type", 'must be "fixed" or "exponential".')
    delay = duration_ms(f"{field}.delay", value.get("delay", 0))
    jitter = JITTER if kind is BackoffKind.EXPONENTIAL else 0.0
    return {"backoff": Backoff(kind, delay, CAP_MS, jitter)}


def _group(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(field, 'must be an object with an "id".')
    found: dict[str, Any] = {"group": _text(f"{field}.id", value.get("id"))}
    if (most := value.get("maxSize")) is not None:
        found["group_max"] = _whole(f"{field}.maxSize", most, 1)
    return found


def _repeat(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(field, 'must be an object with "cron" or "every".')
    times = {
        name: None if value.get(key) is None else moment(f"{field}.{key}", value[key])
        for name, key in (("starts_at", "startDate"), ("ends_at", "endDate"))
    }
    limit = value.get("limit")
    cron, zone = (None if value.get(key) is None else _text(f"{field}.{key}", value[key]) for key in ("cron", "tz"))
    every = value.get("every")
    return {
        "repeat": Repeat(
            expression=cron,
            every_ms=None if every is None else duration_ms(f"{field}.every", every),
            timezone=zone or "UTC",
            limit=None if limit is None else _whole(f"{field}.limit", limit, 1),
            **times,
        )
    }


def _deduplication(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(field, 'must be an object with "hash" or "key".')
    key, ttl = value.get("key"), value.get("ttl")
    by_content = _flag(f"{field}.hash", value.get("hash", False))
    if key is None and not by_content:
        raise InvalidInput(field, 'needs "hash": true or a "key".')
    return {
        "deduplication": DeduplicationOptions(
            key=None if key is None else _text(f"{field}.key", key),
            ttl_ms=None if ttl is None else duration_ms(f"{field}.ttl", ttl),
        )
    }


def _removal(name: str) -> Callable[[str, Any], dict[str, Any]]:
    def read(field: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, bool | int | Mapping):
            raise InvalidInput(field, "must be true or false, or how many to keep, which is stored and does nothing.")
        return {name: value is True}

    return read


def _lifo(field: str, value: Any) -> dict[str, Any]:
    return {"lifo": _flag(field, value)}


def _policy(field: str, value: Any) -> dict[str, Any]:
    policy = POLICIES.get(value) if isinstance(value, str | bool) else None
    if policy is None:
        raise InvalidInput(field, 'must be "fail", "ignore" or "remove".')
    return {"on_child_failure": policy}


_OPTIONS: Final[Mapping[str, Callable[[str, Any], dict[str, Any]]]] = {
    "attempts": _attempts,
    "backoff": _backoff,
    "deduplication": _deduplication,
    "delay": _delay,
    "failParentOnChildFailure": _policy,
    "group": _group,
    "jobId": _job_id,
    "lifo": _lifo,
    "priority": _rank,
    "removeOnComplete": _removal("remove_on_complete"),
    "removeOnFail": _removal("remove_on_fail"),
    "repeat": _repeat,
    "timeout": _timeout,
}


def _whole(field: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise InvalidInput(field, f"must be a whole number from {least} on.")
    return int(value)


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(field, "must be true or false.")
    return value


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(field, "must be a text that is not empty.")
    return value
