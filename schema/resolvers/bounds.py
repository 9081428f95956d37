"""How much may one request ask for?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from schema.context import Context
from switchtower.errors import InvalidInput
from switchtower.jobs import JobFilter
from switchtower.pages import Count, Page
from switchtower.payloads import check_text, check_value

__all__ = [
    "DEFAULT_PAGE",
    "MAX_LIMIT",
    "MAX_OFFSET",
    "Listing",
    "PageArguments",
    "Window",
    "bounded",
    "check_filter",
    "check_horizon",
    "check_ids",
    "check_offset",
    "window",
    "within",
]

DEFAULT_PAGE = 50
MAX_IDS = 1_000
MAX_VALUES = 100
MAX_TEXT = 256
MAX_CURSOR = 1_024
MAX_OFFSET = 2**31 - 1
MAX_LIMIT = 1_000
"""Of a page by offset, which only the REST dialects ask for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list: exactly one of `first` and `last` is set."""

    first: int | None
    last: int | None
    after: str | None
    before: str | None

    @property
    def arguments(self) -> PageArguments:
        """As keyword arguments of the engine's `page` verbs."""
        return {"first": self.first, "last": self.last, "after": self.after, "before": self.before}


PageArguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page of a list, and how to count the whole list if somebody wants to know."""

    page: Page[T]
    count: Callable[[], Awaitable[Count]]


def window(
    context: Context,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> Window:
    """The part of a list that Relay's four arguments ask for; 50 items from the start where they ask for nothing.

    Raises:
        InvalidInput: both ends, a size out of bounds, or a cursor that cannot be one.
    """
    if first is not None and last is not None:
        raise InvalidInput("last", "give first or last, not both.")
    if last is not None:
        bounded("last", last, 1, context.max_page)
    else:
        first = bounded("first", min(DEFAULT_PAGE, context.max_page) if first is None else first, 1, context.max_page)
    for field, cursor in (("after", after), ("before", before)):
        if cursor is not None and not 0 < len(cursor) <= MAX_CURSOR:
            raise InvalidInput(field, "is not a cursor of this list.")
    return Window(first, last, after, before)


def bounded(field: str, value: int, low: int, high: int) -> int:
    """The value, if it is between `low` and `high`.

    Raises:
        InvalidInput: it is not.
    """
    if not low <= value <= high:
        raise InvalidInput(field, f"must be between {low:,} and {high:,}.")
    return value


def check_offset(offset: int, limit: int) -> None:
    """Raises InvalidInput for a page by offset out of bounds."""
    bounded("offset", offset, 0, MAX_OFFSET)
    bounded("limit", limit, 1, MAX_LIMIT)


def check_horizon(context: Context, field: str, run_at: datetime | None, horizon_ms: int) -> None:
    """Raises InvalidInput for a time that is further ahead, by the database's clock."""
    if run_at is not None and run_at - context.engine.clock.now() > timedelta(milliseconds=horizon_ms):
        raise InvalidInput(field, f"must be at most {horizon_ms // (24 * 3600 * 1000)} days ahead.")


def check_ids(field: str, ids: Sequence[str]) -> None:
    """Raises InvalidInput for more ids than one request may name."""
    if len(ids) > MAX_IDS:
        raise InvalidInput(field, f"at most {MAX_IDS:,} ids at once.")


def check_filter(filter: JobFilter) -> JobFilter:
    """The filter, if the database can answer it at a bounded price.

    Raises:
        InvalidInput: too many values, or a text too long.
    """
    if filter.ids is not None:
        check_ids("filter.ids", filter.ids)
    for field, values in (("queues", filter.queues), ("names", filter.names), ("tags", filter.tags)):
        check_values(f"filter.{field}", values)
    for field, text in (("text", filter.text), ("nameContains", filter.name_contains)):
        if text is not None:
            check_text(f"filter.{field}", text, limit=MAX_TEXT)
    if len(filter.payload) > 10:
        raise InvalidInput("filter.payload", "at most 10 matches.")
    for match in filter.payload:
        check_text("filter.payload.path", match.path, limit=MAX_TEXT)
        check_value("filter.payload.value", match.value, limit=4_096)
    return filter


def check_values(field: str, values: Sequence[str] | None) -> None:
    """Raises InvalidInput for more values than an index can be asked for at once."""
    if values is not None and len(values) > MAX_VALUES:
        raise InvalidInput(field, f"at most {MAX_VALUES} values.")


def within(context: Context, seconds: float) -> AbstractContextManager[None]:
    """What is asked of the database inside is answered by then, or raises StoreUnavailable."""
    return context.engine.within(seconds)
