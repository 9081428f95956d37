"""What is a REST dialect, and how does a request in one become a call of a resolver, and its answer one in it?

A dialect is a table: each `Route` says how a request is parsed into the arguments of a resolver, which resolver it is,
and how what that answers is rendered. A dialect decides nothing about jobs: what may happen to one is decided in the
resolver's single write. `DialectApp` serves a table; whatever goes wrong under its paths is answered in its own shape.
"""

from __future__ import annotations

import math
import re
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

import orjson
import structlog
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.auth import Gate, bearer
from app.limits import Refused, RequestLimits, check_length, media_type, read_body
from app.strict import MalformedJson, parse_object
from schema.context import Context
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

__all__ = ["Dialect", "DialectApp", "Given", "Parameter", "Route", "path_of", "refusal_of", "whole_number"]

JSON: Final = "application/json"
READS: Final = frozenset({"GET", "HEAD"})
RETRY_AFTER: Final = {"Retry-After": "2"}
FAULT: Final = Refused(500, "INTERNAL", "Something failed on our side; it was logged under this request id.")
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

_PARAMETER = re.compile(r"\{(\w+)\}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
# What needs no escaping in a segment of a path; everything else is compared in its escaped form.
_PLAIN = "!$&'()*+,;=:@~"
log = structlog.get_logger("switchtower.rest")


@dataclass(frozen=True, slots=True)
class Given:
    """What a request says: the parameters of its path and query as texts, and its body where the route reads one."""

    path: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: Mapping[str, Any] = field(default_factory=dict)

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
    exist when the resolver answers None. A body is read, and is one JSON object, only where `body` gives its schema.

    `shows` is the JSON schema of the answer and `refuses` the statuses of refusals besides those of every route; both
    are for the OpenAPI document.
    """

    method: str
    path: str
    summary: str
    resolver: Callable[..., Awaitable[Any]]
    parse: Callable[[Given], dict[str, Any]] = _nothing
    render: Callable[[Any], Any] | None = None
    status: int = 200
    missing: str | None = None
    query: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] | None = None
    shows: Mapping[str, Any] | None = None
    refuses: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method not in READS

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return _PARAMETER.findall(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A dialect as data.

    `name` is also its prefix (`/name/…`) and the source in audit rows; at the root it answers under `prefixes`.
    `refusal` says an error in the dialect's words and statuses, `envelope` puts any refusal into its shape. `schemas`
    are the JSON schemas that its routes refer to as `#/components/schemas/…`; one is `Error`, the envelope's.
    """

    name: str
    title: str
    prefixes: tuple[str, ...]
    routes: tuple[Route, ...]
    refusal: Callable[[SwitchtowerError], Refused]
    envelope: Callable[[Refused], Any]
    schemas: Mapping[str, Any]


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


def whole_number(field: str, text: str) -> int:
    """A decimal number of 64 bits. Raises InvalidInput."""
    if not _WHOLE.fullmatch(text) or (value := int(text)) not in INT64:
        raise InvalidInput(field, f"must be a whole number, not {text[:100]!r}.")
    return value


def path_of(scope: Scope) -> str:
    """The path of a request with its segments escaped in one way, so that a `/` inside one does not divide it."""
    raw: bytes = scope["raw_path"]
    if b"%" not in raw and raw.isascii():
        return raw.decode("ascii")
    return "/".join(quote_from_bytes(unquote_to_bytes(segment), safe=_PLAIN) for segment in raw.split(b"/"))


class DialectApp:
    """The ASGI application of one dialect, for HTTP. Its path is what `path_of` gives, without the dialect's prefix."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        gate: Gate,
        context: Callable[[Request], Context],
        limits: RequestLimits,
        allowed_origins: tuple[str, ...] = (),
    ) -> None:
        self.dialect = dialect
        self._gate = gate
        self._context = context
        self._limits = limits
        self._origins = allowed_origins
        # By the number of segments; literal segments before parameters.
        self._table: dict[int, list[tuple[list[str], dict[str, Route]]]] = defaultdict(list)
        templates: dict[str, dict[str, Route]] = defaultdict(dict)
        for route in dialect.routes:
            templates[route.path][route.method] = route
        for path in sorted(templates, key=lambda path: [part.startswith("{") for part in path.split("/")]):
            segments = path.split("/")
            self._table[len(segments)].append((segments, templates[path]))

    async def serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request for this path of the dialect."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request, path)
        except Refused as refused:
            response = self.refuse(refused)
        except SwitchtowerError as error:
            described = self.dialect.refusal(error)
            if described.status >= 500:
                self._log(request, error)
            response = self.refuse(described)
        except Exception as error:
            self._log(request, error)
            response = self.refuse(FAULT)
        await response(scope, receive, send)

    def refuse(self, refused: Refused) -> Response:
        """A refusal in the dialect's shape."""
        body = orjson.dumps(self.dialect.envelope(refused))
        return Response(body, refused.status, refused.headers, media_type=JSON)

    async def _answer(self, request: Request, path: str) -> Response:
        route, parameters = self._route(request.method, path)
        caller = await self._gate.admit(bearer(request))
        if route.writes and caller.key_id is None:
            # Whoever has a key has said so in a header, which a foreign page cannot.
            self._check_origin(request.headers)
        request.scope["state"]["caller"] = caller = replace(caller, source=self.dialect.name)
        await self._gate.charge(caller, writes=route.writes)
        body = await self._body(request, route)
        given = Given(parameters, request.query_params, request.headers, body)
        found = await route.resolver(self._context(request), **route.parse(given))
        if found is None and route.missing is not None:
            raise NotFound(route.missing, next(iter(parameters.values()), ""))
        if route.render is None:
            return Response(status_code=route.status)
        shown = route.render(found)
        if isinstance(shown, Response):
            return shown
        return Response(orjson.dumps(shown, option=orjson.OPT_UTC_Z), route.status, media_type=JSON)

    def _route(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        segments = path.split("/")
        for template, routes in self._table.get(len(segments), ()):
            parameters: dict[str, str] = {}
            for part, segment in zip(template, segments, strict=True):
                if part.startswith("{") and segment:
                    parameters[part[1:-1]] = unquote(segment)
                elif part != segment:
                    break
            else:
                route = routes.get("GET" if method == "HEAD" else method)
                if route is None:
                    allowed = ", ".join([*routes, *(["HEAD"] if "GET" in routes else [])])
                    raise Refused(405, "METHOD_NOT_ALLOWED", f"Use {allowed} here.", {"Allow": allowed})
                return route, parameters
        raise Refused(404, "NOT_FOUND", "There is nothing at this address.")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            own = headers.get("sec-fetch-site") != "cross-site"
        else:
            own = origin in self._origins or origin.partition("://")[2].lower() == headers.get("host", "").lower()
        if not own:
            raise Refused(
                403, "FORBIDDEN", "This came from a page of another origin; without an API key, nothing is changed."
            )

    async def _body(self, request: Request, route: Route) -> Mapping[str, Any]:
        if route.body is None:
            check_length(request.headers, self._limits)
            return {}
        kind, parameters = media_type(request.headers)
        if kind != JSON or parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
            raise Refused(
                415, "UNSUPPORTED_MEDIA_TYPE", "Send the body as application/json in UTF-8.", {"Accept": JSON}
            )
        try:
            return parse_object(await read_body(request.headers, request.receive, self._limits))
        except MalformedJson as error:
            raise Refused(400, "BAD_REQUEST", str(error)) from None

    def _log(self, request: Request, error: Exception) -> None:
        frames = "".join(traceback.format_exception(error)) if not isinstance(error, StoreUnavailable) else ""
        log.error(
            "request failed",
            dialect=self.dialect.name,
            request_id=request.scope["state"]["request_id"],
            method=request.method,
            path=request.scope["path"][:200],
            error=f"{type(error).__name__}: {error}"[:400],
            trace=frames[-1_200:],
        )
