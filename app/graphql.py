"""How does an operation reach the schema, and in which form does its answer leave?

`/graphql` answers queries by GET and operations by POST (GraphQL over HTTP), subscriptions by WebSocket
(graphql-transport-ws), by event stream (graphql-sse, distinct connections) and by multipart/mixed. Negotiation, the
strict parser and the status codes are here; the transports and the execution are Strawberry's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import orjson
from graphql import GraphQLSyntaxError, OperationType
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry import Schema
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLRequestData, process_result
from strawberry.http.streaming import HTTPStreamTransport, SSETransport
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    GRAPHQL_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)
from strawberry.types.execution import ExecutionResult, PreExecutionError, SubscriptionExecutionResult

from app.auth import Gate, Session, bearer, traced
from app.errors import INTERNAL, UNAVAILABLE, render
from app.limits import Refused, RequestLimits, media_type, read_body
from app.strict import MAX_DEPTH, MalformedJson, parse_object
from app.websocket import LegacyHandler, StrictWebSocket, TransportHandler
from schema.limits import Document, Documents
from switchtower.callers import Caller
from switchtower.errors import StoreUnavailable

__all__ = ["GRAPHQL_RESPONSE", "JSON", "GraphQLEndpoint", "refusal_response"]

JSON: Final = "application/json"
GRAPHQL_RESPONSE: Final = "application/graphql-response+json"
EVENT_STREAM: Final = "text/event-stream"
MULTIPART: Final = "multipart/mixed"
ALLOWED: Final = "GET, POST"
RETRY_AFTER: Final = "2"
# Which JSON media type is chosen among those that a client accepts equally well.
PREFERENCE: Final = {GRAPHQL_RESPONSE: 3, JSON: 2, "application/*": 1, "*/*": 0}
# A payload may be as deep as the strict parser's rule says; around it stand variables, input and its fields.
ENVELOPE_DEPTH: Final = 8
ENVELOPE_KEYS: Final = 200_000
INIT_TIMEOUT: Final = timedelta(seconds=5)


class _Events(SSETransport):
    """Event streams whose lines end with a line feed alone: urql and others divide the events at two of them."""

    def encode_event(self, event: str, data: str | None = None) -> str:
        return super().encode_event(event, data).replace("\r\n", "\n")

    def encode_comment(self, comment: str) -> str:
        return f": {comment}\n\n"


EVENTS: Final = _Events()


class Accepted(NamedTuple):
    """What a client can read: the JSON media type it prefers, and which streams."""

    json: str | None
    event_stream: bool
    multipart: bool


class GraphQLEndpoint(GraphQL[Any, None]):
    """The ASGI application behind `/graphql`.

    `context` makes the context of a request or connection. `page` answers a browser that comes without a query. When
    `closing` is set, open streams end, so that clients reconnect elsewhere; WebSockets are closed by the server (1012).
    """

    websocket_adapter_class = StrictWebSocket
    graphql_transport_ws_handler_class = TransportHandler
    graphql_ws_handler_class = LegacyHandler
    json_depth: Final = MAX_DEPTH + ENVELOPE_DEPTH
    json_keys: Final = ENVELOPE_KEYS

    def __init__(
        self,
        schema: Schema,
        documents: Documents,
        *,
        context: Callable[[HTTPConnection], object],
        gate: Gate | None = None,
        limits: RequestLimits | None = None,
        max_subscriptions: int = 50,
        max_connections: int = 1_000,
        allowed_origins: tuple[str, ...] = (),
        legacy_websocket: bool = False,
        init_timeout: timedelta = INIT_TIMEOUT,
        closing: asyncio.Event | None = None,
        page: Callable[[Request], Awaitable[Response]] | None = None,
    ) -> None:
        super().__init__(
            schema,
            graphql_ide=None,
            subscription_protocols=(
                GRAPHQL_TRANSPORT_WS_PROTOCOL,
                *((GRAPHQL_WS_PROTOCOL,) if legacy_websocket else ()),
                GRAPHQL_SSE_PROTOCOL,
                MULTIPART_SUBSCRIPTION_PROTOCOL,
            ),
            connection_init_wait_timeout=init_timeout,
            max_subscriptions_per_connection=max_subscriptions,
            allowed_origins=allowed_origins,
        )
        self.documents = documents
        self.request_limits = limits or RequestLimits()
        self._context = context
        self.gate = gate
        self._max_connections = max_connections
        self._connections: Counter[str] = Counter()
        self._page = page
        self._closing = closing or asyncio.Event()
        self._endings: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connected(WebSocket(scope, receive=receive, send=send))
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = refusal_response(refused, request.headers.get("accept"), _request_id(scope))
        try:
            await response(scope, receive, send)
        finally:
            self._leave(scope)

    def _leave(self, scope: Scope) -> None:
        if self.gate is not None and (session := scope["state"].pop("session", None)) is not None:
            self.gate.close(session)

    async def _connected(self, websocket: WebSocket) -> None:
        client = websocket.client.host if websocket.client else ""
        if self._connections[client] >= self._max_connections:
            await websocket.receive()
            refused = Response(status_code=503, headers={"Retry-After": RETRY_AFTER})
            await websocket.send_denial_response(refused)
            return
        self._connections[client] += 1
        try:
            await self.run(websocket)
        finally:
            self._leave(websocket.scope)
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]

    async def get_context(self, request: Any, response: Any) -> Any:
        return self._context(request)

    def encode_json(self, data: object) -> str:
        return orjson.dumps(data).decode()

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "POST"):
            raise Refused(405, "METHOD_NOT_ALLOWED", "GraphQL is served by GET (queries) and POST.", {"Allow": ALLOWED})
        if self._page and request.method == "GET" and "query" not in request.query_params and _is_browser(request):
            return await self._page(request)
        accepted = negotiate(request.headers.get("accept"))
        caller = await self._admit(request)
        data = await self._request_data(request)
        assert data.query is not None
        try:
            document = self.documents.parse(data.query)
        except GraphQLSyntaxError as error:
            result: ExecutionResult = PreExecutionError(data=None, errors=[error])
            return self._json(result, accepted.json or GRAPHQL_RESPONSE, _request_id(request.scope))
        kinds = _kinds(document, data.operation_name)
        if request.method == "GET" and OperationType.MUTATION in kinds:
            raise Refused(
                405,
                "METHOD_NOT_ALLOWED",
                "Mutations are accepted by POST only; nothing was executed.",
                {"Allow": "POST"},
            )
        if caller is not None:
            await self._charge(caller, writes=OperationType.MUTATION in kinds)
        context = self._context(request)
        if transport := self._transport(accepted, subscription=OperationType.SUBSCRIPTION in kinds):
            return await self._stream(request, data, transport, context)
        result = await self.schema.execute(
            data.query,
            variable_values=data.variables,
            context_value=context,
            operation_name=data.operation_name,
            operation_extensions=data.extensions,
        )
        return self._json(result, accepted.json or GRAPHQL_RESPONSE, _request_id(request.scope))

    async def _request_data(self, request: Request) -> GraphQLRequestData:
        if request.method == "GET":
            return self._from_query(request)
        kind, parameters = media_type(request.headers)
        if kind != JSON or parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
            raise Refused(
                415,
                "UNSUPPORTED_MEDIA_TYPE",
                "Send the operation as application/json in UTF-8.",
                {"Accept": JSON, "Accept-Post": JSON},
            )
        return self._checked(self._parsed(await read_body(request.headers, request.receive, self.request_limits)))

    def _from_query(self, request: Request) -> GraphQLRequestData:
        found: dict[str, Any] = {}
        for name, value in request.query_params.multi_items():
            if name not in ("query", "variables", "operationName", "extensions"):
                continue
            if name in found:
                raise Refused(400, "BAD_REQUEST", f"The parameter {name} occurs twice.")
            found[name] = self._parsed(value) if name in ("variables", "extensions") and value else value or None
        return self._checked(found)

    def _parsed(self, text: bytes | str) -> dict[str, Any]:
        try:
            return parse_object(text, max_depth=self.json_depth, max_keys=self.json_keys)
        except MalformedJson as error:
            raise Refused(400, "BAD_REQUEST", str(error)) from None

    def _checked(self, data: Mapping[str, Any]) -> GraphQLRequestData:
        query = data.get("query")
        if not isinstance(query, str) or not query:
            raise Refused(400, "BAD_REQUEST", "The request needs a query, which must be text.")
        limit = self.documents.limits.query_characters
        if len(query) > limit:
            raise Refused(413, "QUERY_TOO_LARGE", f"The query is longer than {limit:,} characters.")
        name = data.get("operationName")
        if not isinstance(name, str | None):
            raise Refused(400, "BAD_REQUEST", "operationName must be text, or absent.")
        for key in ("variables", "extensions"):
            if not isinstance(data.get(key), dict | None):
                raise Refused(400, "BAD_REQUEST", f"{key} must be an object, or absent.")
        return GraphQLRequestData(query, data.get("variables"), name, data.get("extensions"))

    def _transport(self, accepted: Accepted, *, subscription: bool) -> HTTPStreamTransport | None:
        """The stream that answers this operation; None for plain JSON, which everything but a subscription prefers."""
        if accepted.json is not None and not subscription:
            return None
        if accepted.event_stream:
            return EVENTS
        if accepted.multipart and subscription:
            return self._get_stream_transport("multipart-subscription")
        raise Refused(
            406,
            "NOT_ACCEPTABLE",
            f"A subscription is answered as {EVENT_STREAM}, as {MULTIPART};subscriptionSpec=1.0, or over WebSocket."
            if subscription
            else f"Answers are {GRAPHQL_RESPONSE}, {JSON} or {EVENT_STREAM}; the Accept header allows none of them.",
        )

    async def _stream(
        self, request: Request, data: GraphQLRequestData, transport: HTTPStreamTransport, context: object
    ) -> Response:
        session = self._opened(request)
        result = await self.schema.stream(
            data.query,
            variable_values=data.variables,
            context_value=context,
            operation_name=data.operation_name,
            operation_extensions=data.extensions,
        )
        chunks = self._stream_result(request, cast(SubscriptionExecutionResult, result), transport)
        return _Stream(self._until_closing(chunks, session), headers=dict(transport.headers))

    async def _admit(self, request: Request) -> Caller | None:
        """Establishes whose request it is, before anything of it is read. None: there is no gate."""
        if self.gate is None:
            return None
        try:
            caller = traced(await self.gate.admit(bearer(request)), request)
            request.scope["state"]["caller"] = caller
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        return caller

    async def _charge(self, caller: Caller, *, writes: bool) -> None:
        assert self.gate is not None
        try:
            await self.gate.charge(caller, writes=writes)
        except StoreUnavailable as error:
            raise _unavailable(error) from None

    def _opened(self, request: Request) -> Session | None:
        caller = request.scope["state"].get("caller")
        if self.gate is None or caller is None:
            return None
        self.gate.check_subscriptions(caller)
        session = request.scope["state"]["session"] = self.gate.open(caller, lambda: 1)
        return session

    async def _until_closing(
        self, chunks: Callable[[], AsyncGenerator[str, None]], session: Session | None
    ) -> AsyncGenerator[str, None]:
        stream = chunks()
        closing = asyncio.ensure_future(self._closing.wait())
        ended = asyncio.ensure_future((session.ended if session else self._closing).wait())
        following = asyncio.ensure_future(anext(stream))
        try:
            while True:
                await asyncio.wait(
                    cast(set[asyncio.Future[Any]], {following, closing, ended}), return_when=asyncio.FIRST_COMPLETED
                )
                if not following.done() or (session is not None and session.ended.is_set()):
                    return
                try:
                    chunk = following.result()
                except StopAsyncIteration:
                    return
                yield chunk
                following = asyncio.ensure_future(anext(stream))
        finally:
            closing.cancel()
            ended.cancel()
            # In a task of its own: a client's leaving cancels this one again at every await.
            ending = asyncio.ensure_future(_end(following, stream))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    def _json(self, result: ExecutionResult, media: str, request_id: str) -> Response:
        early = isinstance(result, PreExecutionError)
        if result.errors:
            # Faults in the machinery around an operation do not pass the schema's own rendering.
            result.errors = list(render(result.errors, request_id, early=early))
        body: dict[str, Any] = dict(process_result(result))
        status, headers = _status(result, media, early=early)
        if result.errors and _is_of_request(result, early):
            del body["data"]
        return Response(orjson.dumps(body), status, headers, media_type=f"{media}; charset=utf-8")


def _unavailable(error: StoreUnavailable) -> Refused:
    return Refused(503, UNAVAILABLE, error.message, {"Retry-After": RETRY_AFTER})


class _Stream(StreamingResponse):
    """A response whose generator ends with it: cancelled while the client does not read, it would be left to the
    garbage collector."""

    body_iterator: AsyncGenerator[str, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def _end(following: asyncio.Future[str], stream: AsyncGenerator[str, None]) -> None:
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await stream.aclose()


def _kinds(document: Document, name: str | None) -> set[OperationType]:
    """The kinds of operation that a document could run under this name."""
    if name is None and document.operations:
        return {each.operation for each in document.operations}
    operation = document.operation(name)
    if operation is None:
        raise Refused(400, "BAD_REQUEST", "The query has no operation of that name." if name else "No operation given.")
    return {operation.operation}


def _is_of_request(result: ExecutionResult, early: bool) -> bool:
    return early or (result.data is None and all(error.path is None for error in result.errors or ()))


def _status(result: ExecutionResult, media: str, *, early: bool) -> tuple[int, dict[str, str]]:
    if not result.errors:
        return 200, {}
    codes = {(error.extensions or {}).get("code") for error in result.errors}
    nothing = result.data is None or all(value is None for value in result.data.values())
    if codes == {UNAVAILABLE} and nothing:
        return 503, {"Retry-After": RETRY_AFTER}
    if not _is_of_request(result, early):
        return 200, {}
    if INTERNAL in codes:
        return 500, {}
    if "OPERATION_NAME_REQUIRED" in codes:
        return 400, {}
    # Older clients take any other status for a failure of the connection and never read the errors.
    return (400 if media == GRAPHQL_RESPONSE else 200), {}


@lru_cache(256)
def negotiate(accept: str | None) -> Accepted:
    """Reads an Accept header; without one, JSON is accepted."""
    if accept is None or not accept.strip():
        return Accepted(JSON, False, False)
    json: tuple[float, int, str] | None = None
    event_stream = multipart = False
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        values = dict(piece.partition("=")[::2] for piece in parameters)
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 0.0
        if not 0 < quality <= 1:
            continue
        if kind == EVENT_STREAM:
            event_stream = True
        elif kind == MULTIPART:
            spec = values.get("subscriptionspec", "").strip("\"'")
            multipart = multipart or spec.startswith("1.0")
        else:
            match = {
                GRAPHQL_RESPONSE: (3, GRAPHQL_RESPONSE),
                JSON: (2, JSON),
                "application/*": (1, JSON),
                "*/*": (0, JSON),
            }
            if kind in match and (json is None or (quality, match[kind][0]) > json[:2]):
                json = (quality, *match[kind])
    return Accepted(json[2] if json else None, event_stream, multipart)


def refusal_response(refused: Refused, accept: str | None, request_id: str) -> Response:
    """A refusal as a GraphQL answer without data, in the media type that the client reads."""
    extensions = {"code": refused.code} | ({"requestId": request_id} if request_id else {})
    media = negotiate(accept).json or JSON
    return Response(
        orjson.dumps({"errors": [{"message": refused.message, "extensions": extensions}]}),
        refused.status,
        refused.headers,
        media_type=f"{media}; charset=utf-8",
    )


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))
