"""How does a request in a dialect become a call of a resolver, and its answer one in it?

Whatever goes wrong under the paths of a dialect is answered in its own shape.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

import orjson
import structlog
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app import forms
from app.auth import Gate, bearer, traced, unauthorized
from app.limits import Refused, RequestLimits, check_length, media_type, read_body
from app.rest.dialect import FAULT, PARAMETER, READS, Dialect, Given, Route, problem_of
from app.rest.streams import EventStreams
from app.sessions import comes_from_here, has_token, session_of
from app.strict import MalformedJson, parse_object
from app.visit import Visit, flash_of, prefers_json
from schema.context import Context
from schema.resolvers import actions
from schema.resolvers.authority import authorise
from switchtower.access import Scope as Permission
from switchtower.callers import Caller
from switchtower.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    SwitchtowerError,
    Unauthorized,
)

__all__ = ["DialectApp", "path_of"]

JSON: Final = "application/json"
CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
}
PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-Request-ID",
    "Access-Control-Max-Age": "600",
}
# What needs no escaping in a segment of a path; everything else is compared in its escaped form.
_PLAIN = "!$&'()*+,;=:@~"
log = structlog.get_logger("switchtower.rest")


def path_of(scope: Scope) -> str:
    """The path of a request with its segments escaped in one way, so that a `/` inside one does not divide it."""
    raw: bytes = scope["raw_path"]
    if b"%" not in raw and raw.isascii():
        return raw.decode("ascii")
    return "/".join(quote_from_bytes(unquote_to_bytes(segment), safe=_PLAIN) for segment in raw.split(b"/"))


@dataclass(slots=True)
class _Asked:
    """One request, as far as it is known what it asks for, and who asks."""

    request: Request
    path: str
    route: Route | None = None
    given: Given | None = None
    caller: Caller | None = None
    session: str | None = None
    read_only: bool = False

    @property
    def visit(self) -> Visit:
        """The same, for a page."""
        return Visit(
            request=self.request,
            prefix=path_of(self.request.scope).removesuffix(self.path),
            path=self.path,
            caller=self.caller,
            session=self.session,
            read_only=self.read_only,
            flash=flash_of(self.request),
            names={} if self.given is None else self.given.path,
            form=forms.Form() if self.given is None else self.given.form,
        )

    @property
    def wants_page(self) -> bool:
        """Whether a page is the answer that is wanted, where there are two."""
        if self.route is not None and (self.route.page is None or self.route.page_when is not None):
            when = self.route.page_when
            return when is not None and self.given is not None and when(self.given)
        return not prefers_json(self.request.headers.get("accept"))


class DialectApp:
    """The ASGI application of one dialect, for HTTP. Its path is what `path_of` gives, without the dialect's prefix.

    `description` makes the dialect's OpenAPI document for where it is mounted; without it there is none to be had.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        gate: Gate,
        context: Callable[[Request], Context],
        limits: RequestLimits,
        streams: EventStreams,
        allowed_origins: tuple[str, ...] = (),
        description: Callable[[str], bytes] | None = None,
    ) -> None:
        self.dialect = dialect
        self._gate = gate
        self._streams = streams
        self._description = description
        self._context = context
        if dialect.body_bytes is not None:
            limits = replace(limits, body_bytes=min(dialect.body_bytes, limits.body_bytes))
        self._limits = limits
        self._origins = allowed_origins
        # By the number of segments; literal segments before parameters.
        self._table: dict[int, list[tuple[list[str], dict[str, Route]]]] = defaultdict(list)
        templates: dict[str, dict[str, Route]] = defaultdict(dict)
        for route in (*dialect.routes, *dialect.pages):
            templates[route.path][route.method] = route
        for path in sorted(templates, key=lambda path: [part.startswith("{") for part in path.split("/")]):
            segments = path.split("/")
            self._table[len(segments)].append((segments, templates[path]))

    async def serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request for this path of the dialect."""
        asked = _Asked(request := Request(scope, receive), path)
        try:
            response = await self._answer(asked)
        except Refused as refused:
            response = self._refuse(refused, asked)
        except SwitchtowerError as error:
            described = self.dialect.refusal(error)
            if described.status >= 500:
                self._log(request, error)
            response = await self._form_again(error, described, asked) or self._refuse(described, asked)
        except Exception as error:
            self._log(request, error)
            response = self._refuse(FAULT, asked)
        if self.dialect.cors and "cookie" not in request.headers:
            self._let_read(asked, response)
        await response(scope, receive, send)

    def _let_read(self, asked: _Asked, response: Response) -> None:
        """Says which pages may read the answer: those that had a key to ask with; of what needs no key, those of this
        server and of the allowed origins, since any page on the web can ask the machine that it is looked at on."""
        if asked.caller is None or asked.caller.key_id is not None:
            response.headers.update(CORS)
        elif (origin := asked.request.headers.get("origin")) in self._origins and origin is not None:
            response.headers.update(CORS | {"Access-Control-Allow-Origin": origin})
            response.headers.add_vary_header("Origin")

    def refuse(self, refused: Refused, path: str, scope: Scope) -> Response:
        """A refusal of a request for this path, in the dialect's shape."""
        return self._refuse(refused, _Asked(Request(scope), path))

    def _refuse(self, refused: Refused, asked: _Asked) -> Response:
        if self.dialect.error_page is not None and asked.wants_page:
            return self.dialect.error_page(refused, asked.visit)
        body = orjson.dumps(self.dialect.envelope(refused))
        return Response(body, refused.status, refused.headers, media_type=JSON)

    async def _form_again(self, error: SwitchtowerError, refused: Refused, asked: _Asked) -> Response | None:
        """The page with the form whose content was refused, as it was filled in; None where there is no such page."""
        route, given = asked.route, asked.given
        if route is None or route.again is None or given is None or not asked.wants_page:
            return None
        if not isinstance(error, (InvalidInput, Conflict)):
            return None
        known = {name: given.path.get(name) or given.form.text(name) for name in PARAMETER.findall(route.again)}
        path = PARAMETER.sub(lambda match: quote(known[match[1]], safe=_PLAIN), route.again)
        try:
            shown, parameters = self._route("GET", path)
            there = Given(parameters, QueryParams(), given.headers, session=given.session)
            found = await shown.resolver(self._context(asked.request), **shown.parse(there))
        except (Refused, SwitchtowerError):
            return None
        if (found is None and shown.missing is not None) or shown.page is None:
            return None
        visit = replace(asked.visit, problem=problem_of(error, page=path), names=parameters)
        response = shown.page(found, visit)
        response.status_code = refused.status
        return response

    async def _answer(self, asked: _Asked) -> Response:
        request, path = asked.request, asked.path
        if self.dialect.cors and request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT)
        if path == self.dialect.described_at and request.method in READS and self._description is not None:
            return Response(self._description(path_of(request.scope).removesuffix(path)), media_type=JSON)
        if not path and self.dialect.error_page is not None:
            # Addresses on its pages begin behind the slash.
            return RedirectResponse(f"{path_of(request.scope)}/", 303)
        asked.route, parameters = route, _ = self._route(request.method, path)
        asked.caller = caller = await self._admit(asked, route)
        context = self._context(request)
        asked.read_only = context.read_only
        if route.writes and not route.public and context.read_only:
            raise Refused(403, Forbidden.code, "This server is read-only; send what changes anything to another one.")
        if route.form is None:
            self._check_origin(asked, route)
            body, form = await self._body(request, route), forms.Form()
        else:
            body, form = {}, await self._form(request)
        asked.given = given = Given(parameters, request.query_params, request.headers, body, form, asked.session)
        if route.form is not None:
            await self._check_form(asked, route, context)
        arguments = route.parse(given)
        if route.events is not None:
            return await self._streams.open(caller, route.resolver(context, **arguments), route.events)
        found = await route.resolver(context, **arguments)
        if found is None and route.missing is not None:
            raise NotFound(route.missing, next(iter(parameters.values()), ""))
        if route.page is not None and (route.render is None or asked.wants_page):
            return route.page(found, asked.visit)
        if route.render is None:
            return Response(status_code=route.status)
        shown = route.render(found)
        if isinstance(shown, Response):
            return shown
        return Response(orjson.dumps(shown, option=orjson.OPT_UTC_Z), route.status, media_type=JSON)

    async def _admit(self, asked: _Asked, route: Route) -> Caller:
        request, source = asked.request, route.source or self.dialect.name
        token = bearer(request)
        session = session_of(request) if token is None and self.dialect.error_page is not None else None
        if route.public:
            caller = Caller("anonymous", source=source, scopes=frozenset())
            asked.session = session
        else:
            caller = traced(replace(await self._gate.admit(token or session), source=source), request)
            if self.dialect.requires_key and caller.key_id is None:
                raise unauthorized(Unauthorized().message)
            # Before the first key is created nobody is signed in, whatever cookie is left of an earlier time.
            asked.session = session if caller.key_id is not None else None
            await self._gate.charge(caller, writes=route.writes)
        request.scope["state"]["caller"] = caller
        return caller

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

    def _check_origin(self, asked: _Asked, route: Route) -> None:
        """Whoever has a key has said so in a header, which a foreign page cannot; a cookie is sent without asking."""
        assert asked.caller is not None
        by_key = asked.caller.key_id is not None and asked.session is None
        if not route.writes or by_key:
            return
        if not comes_from_here(asked.request.headers, self._origins, known=asked.session is not None):
            raise Refused(
                403, "FORBIDDEN", "This came from a page of another origin; without an API key, nothing is changed."
            )

    async def _check_form(self, asked: _Asked, route: Route, context: Context) -> None:
        """Who may not act is refused before it is looked at what the form says; a form of a browser that is signed in
        carries the token of its session. What is refused is written down."""
        given = asked.given
        assert given is not None
        try:
            self._check_origin(asked, route)
            token = given.form.text("csrf_token") or given.headers.get("x-csrf-token", "")
            if asked.session is not None and not has_token(asked.session, token):
                raise Refused(403, "FORBIDDEN", "The form is not of this session: reload the page, and send it again.")
            if not route.public:
                authorise(context, Permission.OPERATE)
        except (Refused, Forbidden) as refused:
            if route.action is not None:
                named = {"queue": given.path.get("name"), "job_id": given.path.get("job_id")}
                await actions.refuse(context, route.action(given), Forbidden(refused.message), **named)
            raise

    async def _form(self, request: Request) -> forms.Form:
        kind, parameters = media_type(request.headers)
        limits = replace(self._limits, body_bytes=min(self._limits.body_bytes, forms.FORM_BYTES))
        known = kind in (forms.URLENCODED, forms.MULTIPART)
        if not (known or not kind) or parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
            raise Refused(
                415, "UNSUPPORTED_MEDIA_TYPE", "Send the form as browsers do, in UTF-8.", {"Accept": forms.URLENCODED}
            )
        data = await read_body(request.headers, request.receive, limits)
        if not kind and data:
            raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", "A form needs a Content-Type.", {"Accept": forms.URLENCODED})
        try:
            return forms.parse(data, kind or forms.URLENCODED, request.headers.get("content-type", ""))
        except forms.MalformedForm as error:
            raise Refused(400, "BAD_REQUEST", str(error)) from None

    async def _body(self, request: Request, route: Route) -> Mapping[str, Any]:
        if route.body is None:
            check_length(request.headers, self._limits)
            return {}
        kind, parameters = media_type(request.headers)
        strict = not self.dialect.any_media
        if strict and (kind != JSON or parameters.get("charset", "utf-8") not in ("utf-8", "utf8")):
            raise Refused(
                415, "UNSUPPORTED_MEDIA_TYPE", "Send the body as application/json in UTF-8.", {"Accept": JSON}
            )
        data = await read_body(request.headers, request.receive, self._limits)
        if not data and route.body_optional:
            return {}
        try:
            return parse_object(data)
        except MalformedJson as error:
            raise Refused(400, "BAD_REQUEST", route.unreadable or str(error)) from None

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
