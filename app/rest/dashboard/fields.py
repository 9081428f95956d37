"""What do the fields of our forms and filters mean?"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from app.rest.dialect import Given
from app.strict import MalformedJson, parse_object
from schema.context import Context
from schema.resolvers.bounds import Window, window
from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.jobs import JobFilter, PayloadMatch
from switchtower.states import JobState

__all__ = [
    "FILTER_FIELDS",
    "Asked",
    "cursors",
    "export_filter",
    "filter_of",
    "in_time",
    "json_of",
    "moment_of",
    "part",
    "whole_of",
]

PAGE_SIZE: Final = 50
MAX_TEXT: Final = 256
FILTER_FIELDS: Final = (
    *("queue", "name", "state", "tag", "group", "text", "path", "value"),
    *("after_time", "before_time", "fingerprint", "parent", "flow", "job_id"),
)
"""The fields by which pages and forms name jobs."""

_WHOLE = re.compile(r"-?[0-9]{1,15}", re.ASCII)
T = TypeVar("T")
Texts = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A filter, and the fields that stand for it in a form or an address."""

    filter: JobFilter
    fields: tuple[tuple[str, str], ...]

    def first(self, name: str) -> str:
        """The first value of a field; empty where there is none."""
        return next((value for field, value in self.fields if field == name), "")

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for field, value in self.fields if field == name]

    @property
    def query(self) -> dict[str, list[str]]:
        """The fields as parameters of an address."""
        found: dict[str, list[str]] = {}
        for name, value in self.fields:
            found.setdefault(name, []).append(value)
        return found


def export_filter(asked: Asked) -> str:
    """The same filter as the export takes it: a `JobFilter` of the schema as JSON."""
    filter = asked.filter
    found: dict[str, Any] = {
        "ids": filter.ids,
        "queues": filter.queues,
        "names": filter.names,
        "states": None if filter.states is None else [state.name for state in filter.states],
        "tags": filter.tags,
        "group": filter.group,
        "text": filter.text,
        "payload": [{"path": match.path, "value": match.value} for match in filter.payload] or None,
        "createdAfter": None if filter.created_after is None else filter.created_after.isoformat(),
        "createdBefore": None if filter.created_before is None else filter.created_before.isoformat(),
        "errorFingerprint": filter.error_fingerprint,
        "parentId": filter.parent_id,
        "flowId": filter.flow_id,
    }
    return json.dumps({name: value for name, value in found.items() if value is not None})


def in_query(given: Given) -> Texts:
    """The values of a parameter of the query."""
    return given.query.getlist


def in_form(given: Given) -> Texts:
    """The values of a field of the form."""
    return given.form.texts


def filter_of(texts: Texts) -> Asked:
    """The filter that these fields mean; empty ones restrict nothing. Raises InvalidInput."""
    fields = [(name, value.strip()) for name in FILTER_FIELDS for value in texts(name) if value.strip()]
    for name, value in fields:
        if len(value) > MAX_TEXT and name != "value":
            raise InvalidInput(name, f"is {len(value):,} characters; at most {MAX_TEXT} are looked for.")
    asked = Asked(JobFilter(), tuple(fields))
    match: tuple[PayloadMatch, ...] = ()
    if path := asked.first("path"):
        match = (PayloadMatch(path, _value(asked.first("value"))),)
    filter = JobFilter(
        ids=asked.all("job_id") or None,
        queues=asked.all("queue") or None,
        names=asked.all("name") or None,
        states=[_state(text) for text in asked.all("state")] or None,
        tags=asked.all("tag") or None,
        group=asked.first("group") or None,
        text=asked.first("text") or None,
        payload=match,
        created_after=moment_of("after_time", asked.first("after_time")),
        created_before=moment_of("before_time", asked.first("before_time")),
        error_fingerprint=asked.first("fingerprint") or None,
        parent_id=asked.first("parent") or None,
        flow_id=asked.first("flow") or None,
    )
    return Asked(filter, tuple(fields))


def _state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError:
        raise InvalidInput("state", f"must be one of {', '.join(JobState)}, not {text[:40]!r}.") from None


def _value(text: str) -> Any:
    """A JSON value where the text is one, else the text itself."""
    try:
        return json_of("value", text)
    except InvalidInput:
        return text


def json_of(field: str, text: str) -> Any:
    """The JSON value that a text is. Raises InvalidInput."""
    try:
        # The strict parser takes objects alone.
        found = parse_object(f'{{"value": {text}}}')
    except MalformedJson as error:
        raise InvalidInput(field, f"is not JSON: {error}") from None
    if list(found) != ["value"]:
        raise InvalidInput(field, "is not one JSON value.")
    return found["value"]


def moment_of(field: str, text: str) -> datetime | None:
    """A time as browsers write one, in UTC unless it names a zone; None for none. Raises InvalidInput."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(field, f"must be a time such as 2026-01-31T12:00, not {text[:40]!r}.") from None


def whole_of(field: str, text: str) -> int | None:
    """A whole number; None for none. Raises InvalidInput."""
    if not text:
        return None
    if not _WHOLE.fullmatch(text):
        raise InvalidInput(field, f"must be a whole number, not {text[:40]!r}.")
    return int(text)


async def in_time(answer: Awaitable[T]) -> T | None:
    """The answer, or None where the database did not give it in time: the rest of the page stands without it."""
    try:
        return await answer
    except StoreUnavailable:
        return None


def cursors(given: Given) -> dict[str, str | None]:
    """Where a page of a list begins or ends."""
    return {"after": given.text("after"), "before": given.text("before")}


def part(context: Context, after: str | None, before: str | None, *, size: int = PAGE_SIZE) -> Window:
    """The part of a list that cursors ask for. Raises InvalidInput."""
    size = min(size, context.max_page)
    first, last = (None, size) if before is not None and after is None else (size, None)
    return window(context, first, after, last, before if after is None else None)
