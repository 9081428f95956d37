"""What does a WebSocket accept, frame by frame?

Strawberry speaks the protocols; this module stands before it: strict JSON, checked message shapes, bounded reasons and
numbers of operations, so that whatever arrives is answered with a close code of the protocol and never with a lost
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
import structlog
from graphql import GraphQLError
from starlette.websockets import WebSocketDisconnect, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived, WebSocketDisconnected
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_ws.handlers import BaseGraphQLWSHandler

from app.auth import Gate, Session, bearer
from app.limits import Refused
from app.sessions import session_of_socket
from app.strict import MalformedJson, parse_object
from switchtower.errors import StoreUnavailable

__all__ = ["LegacyHandler", "StrictWebSocket", "TransportHandler"]

BAD_REQUEST: Final = 4400
UNAUTHORIZED: Final = 4401
TOO_MANY: Final = 4429
TRY_AGAIN: Final = 1013
TOO_BIG: Final = 1009
MAX_ID: Final = 128
# The protocol allows 123 bytes; a longer reason would fail the connection instead of closing it.
MAX_REASON: Final = 120

log = structlog.get_logger("switchtower.graphql")


class StrictWebSocket(ASGIWebSocketAdapter):
    """Reads frames through the strict parser and writes text frames."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        limits = self.view.request_limits  # type: ignore[attr-defined]
        while self.ws.application_state != WebSocketState.DISCONNECTED:
            try:
                message = await self.ws.receive()
            except (WebSocketDisconnect, RuntimeError):
                return
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                raise NonTextMessageReceived
            if len(text) > limits.frame_bytes or len(text.encode("utf-8", "replace")) > limits.frame_bytes:
                await self.close(TOO_BIG, f"A message is larger than {limits.frame_bytes} bytes.")
                return
            try:
                parsed = parse_object(text, max_depth=self.view.json_depth, max_keys=self.view.json_keys)  # type: ignore[attr-defined]
            except MalformedJson as error:
                if not ignore_parsing_errors:
                    raise NonJsonMessageReceived from error
                await self.close(BAD_REQUEST, str(error))
                return
            yield parsed

    async def send_json(self, message: Mapping[str, object]) -> None:
        # A str: bytes would become a binary frame, which JavaScript clients refuse.
        await self.send_text(orjson.dumps(message).decode())

    async def send_text(self, text: str) -> None:
        if self.ws.application_state == WebSocketState.DISCONNECTED:
            raise WebSocketDisconnected
        try:
            await self.ws.send_text(text)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        if self.ws.application_state == WebSocketState.DISCONNECTED:
            return
        short = reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
        try:
            await self.ws.close(code=code, reason=short)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise WebSocketDisconnected from error


class Admission:
    """The part of both protocols that asks whose connection it is; a handler's own `operations_running` is counted."""

    view: Any
    websocket: Any
    context: Any
    operations_running: Any
    _closer: asyncio.Task[None] | None = None

    async def admitted(self, payload: Mapping[str, Any]) -> bool:
        """Admits the caller once and binds the connection to its key; where it is refused, closes the connection."""
        gate: Gate | None = self.view.gate
        scope = self.websocket.ws.scope
        if gate is None or "session" in scope["state"]:
            return True
        try:
            caller = await gate.admit(bearer(self.websocket.ws, payload) or session_of_socket(self.websocket.ws))
            session = gate.open(caller, self.operations_running)
        except Refused as refused:
            await self.websocket.close(UNAUTHORIZED if refused.status == 401 else TOO_MANY, refused.message)
            return False
        except StoreUnavailable as error:
            await self.websocket.close(TRY_AGAIN, error.message)
            return False
        scope["state"]["session"] = session
        self.context.caller = caller
        self._closer = asyncio.create_task(self._close_when_ended(session))
        return True

    async def _close_when_ended(self, session: Session) -> None:
        await session.ended.wait()
        with suppress(WebSocketDisconnected):
            await self.websocket.close(UNAUTHORIZED, "The API key was revoked or has expired.")

    def leave(self) -> None:
        """Nobody closes the connection any more."""
        if self._closer is not None:
            self._closer.cancel()

    async def refusal(self, query: str) -> GraphQLError | None:
        """Why this caller may not run one more operation now, if so."""
        gate: Gate | None = self.view.gate
        session: Session | None = self.websocket.ws.scope["state"].get("session")
        if gate is None or session is None:
            return None
        try:
            gate.check_subscriptions(session.caller)
            await gate.charge(session.caller, writes="mutation" in query)
        except Refused as refused:
            extensions: dict[str, Any] = {"code": refused.code}
            if (seconds := refused.headers.get("Retry-After")) is not None:
                extensions["retryAfterMs"] = int(seconds) * 1000
            return GraphQLError(refused.message, extensions=extensions)
        except StoreUnavailable as error:
            return GraphQLError(error.message, extensions={"code": error.code})
        return None


class TransportHandler(Admission, BaseGraphQLTransportWSHandler[Any, None]):
    """graphql-transport-ws, with every message checked before it is acted on."""

    def operations_running(self) -> int:
        return len(self.operations)

    async def handle_connection_init(self, message: Any) -> None:
        if self.connection_init_received or await self.admitted(message.get("payload") or {}):
            await super().handle_connection_init(message)

    async def shutdown(self) -> None:
        self.leave()
        await super().shutdown()

    async def handle_message(self, message: Any) -> None:
        if problem := _malformed(message, operation_type="subscribe"):
            await self.handle_invalid_message(problem)
            return
        if message["type"] == "connection_init" and message.get("payload") is None:
            message = {"type": "connection_init"}
        await super().handle_message(message)

    async def handle_subscribe(self, message: Any) -> None:
        limit = self.max_subscriptions_per_connection
        if (
            limit is not None
            and self.connection_acknowledged
            and len(self.operations) >= limit
            and message["id"] not in self.operations
        ):
            error = GraphQLError(
                f"This connection already runs {limit} operations, which is the limit; complete one or open another.",
                extensions={"code": "TOO_MANY_SUBSCRIPTIONS"},
            )
            await self.send_message({"id": message["id"], "type": "error", "payload": [error.formatted]})
            return
        if self.connection_acknowledged and message["id"] not in self.operations:
            refused = await self.refusal(message["payload"]["query"])
            if refused is not None:
                await self.send_message({"id": message["id"], "type": "error", "payload": [refused.formatted]})
                return
        await super().handle_subscribe(message)

    def forget_id(self, id: str) -> None:
        # A client's `complete` may cross the operation's own end; the protocol has it ignored then.
        self.operations.pop(id, None)

    @staticmethod
    def _get_pre_execution_close_reason(error: GraphQLError) -> str | None:
        # One malformed query is its operation's error; it must not take the connection's other operations with it.
        return None

    async def handle_task_exception(self, error: Exception) -> None:
        if not isinstance(error, WebSocketDisconnected):
            log.error("websocket operation failed", error=f"{type(error).__name__}: {error}"[:400])


class LegacyHandler(Admission, BaseGraphQLWSHandler[Any, None]):
    """The legacy graphql-ws protocol, with the same checks."""

    def operations_running(self) -> int:
        return len(self.tasks)

    async def handle_connection_init(self, message: Any) -> None:
        if await self.admitted(message.get("payload") or {}):
            await super().handle_connection_init(message)

    async def handle_start(self, message: Any) -> None:
        if self.connection_acknowledged:
            refused = await self.refusal(message["payload"]["query"])
            if refused is not None:
                await self.send_message({"id": message["id"], "type": "error", "payload": refused.formatted})
                return
        await super().handle_start(message)

    async def cleanup(self) -> None:
        self.leave()
        await super().cleanup()

    async def handle_message(self, message: Any) -> None:
        if problem := _malformed(message, operation_type="start"):
            await self.websocket.close(BAD_REQUEST, problem)
            return
        await super().handle_message(message)


def _malformed(message: Any, *, operation_type: str) -> str | None:
    """What is wrong with the shape of a message, if anything."""
    kind = message.get("type")
    if not isinstance(kind, str):
        return "A message needs a type."
    payload = message.get("payload")
    if kind == operation_type:
        if not _is_id(message.get("id")):
            return f"{kind} needs an id of 1 to {MAX_ID} characters."
        if not isinstance(payload, dict):
            return f"{kind} needs a payload."
        if not isinstance(payload.get("query"), str):
            return "The payload needs a query."
        if not isinstance(payload.get("operationName"), str | None):
            return "operationName must be text."
        for name in ("variables", "extensions"):
            if not isinstance(payload.get(name), dict | None):
                return f"{name} must be an object."
    elif kind in ("complete", "stop"):
        if not _is_id(message.get("id")):
            return f"{kind} needs an id of 1 to {MAX_ID} characters."
    elif not isinstance(payload, dict | None):
        return "The payload must be an object."
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID
