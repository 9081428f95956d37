"""What is a REST dialect?

A dialect is a table: each `Route` says how a request is parsed into the arguments of a resolver, which resolver it is,
and how what that answers is rendered. A dialect decides nothing about jobs: what may happen to one is decided in the
resolver's single write. `app.rest.serving` serves a table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from app import forms
from app.limits import Refused
from app.rest.streams import Encoded, Position, ServerEvent
from app.visit import Problem, Visit
from switchtower.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidTransition,
    LeaseLost,
    NotFound,
    RateLimited,
    StoreUnavailable,
    SwitchtowerError,
    Unauthorized,
)
from switchtower.payloads import INT64

__all__ = [
    "FAULT",
    "PARAMETER",
    "READS",
    "Dialect",
    "Given",
    "Parameter",
    "Route",
    "problem_of",
    "refusal_of",
    "whole_number",
]

READS: Final = frozenset({"GET", "HEAD"})
RETRY_AFTER: Final = {"Retry-After": "2"}
FAULT: Final = Refused(500, "INTERNAL", "Something failed on our side; it was logged under this request id.")
FORM_FIELDS: Final = {
    "delay_ms": "delay",
    "every_ms": "schedule",
    "expires_in_ms": "days",
    "expression": "schedule",
    "per_ms": "per_seconds",
    "run_at": "delay",
    "scopes": "scope",
}
"""Fields of forms that have another name than what they mean."""
STATUSES: Final[Mapping[type[SwitchtowerError], int]] = {
    NotFound: 404,
    InvalidTransition: 409,
    InvalidInput: 400,
    Unauthorized: 401,
    Forbidden: 403,
    Conflict: 409,
    LeaseLost: 409,
    RateLimited: 429,
    StoreUnavailable: 503,
}

PARAMETER: Final = re.compile(r"\{(\w+)\}")
_CAPITAL = re.compile(r"[A-Z]")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Given:
    """What a request says: the parameters of its path and query as texts, its body or form where the route reads one,
    and the session of its browser."""

    path: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: Mapping[str, Any] = field(default_factory=dict)
    form: forms.Form = field(default_factory=forms.Form)
    session: str | None = None

    def text(self, name: str) -> str | None:
        """A parameter of the query, the first where it is repeated; None where it is absent or empty."""
        return next((value for value in self.query.getlist(name)[:1] if value), None)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query: its name, what it means, and its JSON schema."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


def _nothing(given: Given) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row of a dialect's table.

    `parse` gives the resolver's arguments besides the context, and raises InvalidInput. `render` makes what is written
    as JSON, or a Response of its own; without it the answer is empty. `missing` is the kind of thing that does not
    exist when the resolver answers None. A body is read, and is one JSON object, only where `body` gives its schema;
    with `body_optional` an empty one is an empty object, and `unreadable` is what is said of one that is none. With
    `form`, the JSON schema of its fields, it is a form.

    A `public` route asks for no key: its resolver is called for nobody. With `events` the resolver gives an async
    iterator, whose items it makes the events of a stream (None: of this item there is none to send).

    `page` makes what a browser gets of the same answer, which is whoever would not rather have JSON; where there is no
    `render`, it is for everyone. `page_when` tells by the request instead who gets it. `source` is the route's name in
    audit rows, the dialect's unless given, and `action` names there what was asked for by a form that is refused before
    its resolver is called. A form whose content is refused is shown `again`, filled in, on the page of this path: its
    parameters are those of the route's path, or fields of the form.

    `shows` is the JSON schema of the answer, `media` its type, and `refuses` the statuses of refusals besides those of
    every route; all three are for the OpenAPI document.
    """

    method: str
    path: str
    summary: str
    resolver: Callable[..., Any]
    parse: Callable[[Given], dict[str, Any]] = _nothing
    render: Callable[[Any], Any] | None = None
    status: int = 200
    missing: str | None = None
    query: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] | None = None
    body_optional: bool = False
    unreadable: str | None = None
    public: bool = False
    form: Mapping[str, Any] | None = None
    page: Callable[[Any, Visit], Response] | None = None
    page_when: Callable[[Given], bool] | None = None
    source: str | None = None
    action: Callable[[Given], str] | None = None
    again: str | None = None
    events: Callable[[Any], ServerEvent | Position | Encoded | None] | None = None
    shows: Mapping[str, Any] | None = None
    media: str = "application/json"
    refuses: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method not in READS

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return PARAMETER.findall(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A dialect as data.

    `name` is also its prefix (`/name/…`) and the source in audit rows; at the root it answers under `prefixes`.
    `refusal` says an error in the dialect's words and statuses, `envelope` puts any refusal into its shape. `schemas`
    are the JSON schemas that its routes refer to as `#/components/schemas/…`; one is `Error`, the envelope's.

    With `any_media` a body is JSON whatever media type it says it has. With `cors` pages of any origin may read what it
    answers, unless a cookie came with the request. `described_at` is where it serves its own OpenAPI document. With
    `requires_key` it asks for a key even while nobody else does. `body_bytes` bounds a body where the server's own
    limit is wider.

    With `error_page` it is for browsers too: they may be signed in by a cookie, and are shown refusals as that makes
    them. `pages` are routes for people alone, which are no part of what it promises to programs.
    """

    name: str
    title: str
    prefixes: tuple[str, ...]
    routes: tuple[Route, ...]
    refusal: Callable[[SwitchtowerError], Refused]
    envelope: Callable[[Refused], Any]
    schemas: Mapping[str, Any]
    any_media: bool = False
    cors: bool = False
    described_at: str | None = None
    requires_key: bool = False
    body_bytes: int | None = None
    error_page: Callable[[Refused, Visit], Response] | None = None
    pages: tuple[Route, ...] = ()


def refusal_of(error: SwitchtowerError) -> Refused:
    """An error with its usual status and its own message; for what a dialect has no words of its own for."""
    if isinstance(error, InvalidInput) and error.too_large:
        return Refused(413, error.code, error.message)
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), None)
    if status is None:
        return FAULT
    headers: Mapping[str, str] = {}
    if isinstance(error, RateLimited):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_seconds)))}
    elif isinstance(error, StoreUnavailable):
        headers = RETRY_AFTER
    return Refused(status, error.code, error.message, headers)


def problem_of(error: SwitchtowerError, *, page: str) -> Problem:
    """An error as what is wrong with a form: its field by the name that forms have for it."""
    if not isinstance(error, InvalidInput):
        return Problem("", error.message, page)
    plain = _CAPITAL.sub(lambda match: f"_{match[0].lower()}", error.field)
    last = plain.rpartition(".")[2]
    field = "per_group" if "per_group" in plain else FORM_FIELDS.get(last, last)
    return Problem(field, error.reason[:1].upper() + error.reason[1:], page)


def whole_number(field: str, text: str) -> int:
    """A decimal number of 64 bits. Raises InvalidInput."""
    if not _WHOLE.fullmatch(text) or (value := int(text)) not in INT64:
        raise InvalidInput(field, f"must be a whole number, not {text[:100]!r}.")
    return value
