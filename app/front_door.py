"""What does every request meet first, and every response carry?

The outermost layer: a request id, the limits on headers and addresses, the check of the Host header, the security
headers, and the last net under a fault of ours, which answers 500 with the id under which the fault was logged.
"""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.graphql import refusal_response
from app.limits import Refused, RequestLimits, check_head, host_name
from app.sessions import is_plain

__all__ = ["PAGE_POLICY", "FrontDoor"]

TOOL_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# On pages whose scripts are all our own, text becomes markup in one place alone, which has this name.
PAGE_POLICY: Final = f"{TOOL_POLICY}; require-trusted-types-for 'script'; trusted-types switchtower"
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CSP: Final = b"content-security-policy"
TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
"""Sent wherever the cookie is one for TLS, which may end in front of this server; browsers do not hear it without."""
API_POLICY: Final = (_CSP, b"default-src 'none'; frame-ancestors 'none'")
FAULT: Final = Refused(500, "INTERNAL", "Something failed on our side; it was logged under this request id.")
NOT_CACHED: Final = (b"cache-control", b"no-store")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger("switchtower.http")


def _policy(headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return (_CSP, PAGE_POLICY.encode()) if kind.startswith(b"text/html") else API_POLICY


def _log(scope: Scope, error: Exception) -> None:
    log.error(
        "request failed",
        request_id=scope["state"]["request_id"],
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"][:200],
        error=f"{type(error).__name__}: {error}"[:400],
        trace="".join(traceback.format_exception(error))[-1_200:],
    )


class FrontDoor:
    """ASGI middleware around every route.

    `hosts` are the names under which the server may be addressed, without ports; None accepts any. On a loopback
    address the check keeps foreign pages out that have pointed a name of theirs at 127.0.0.1 (DNS rebinding).
    `refusals` makes the answer to a refused HTTP request where its address speaks something else than GraphQL.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: RequestLimits,
        hosts: Collection[str] | None = None,
        refusals: Callable[[Refused, Scope], Response | None] = lambda refused, scope: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._hosts = hosts
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        try:
            check_head(scope, self._limits)
            self._check_host(headers)
        except Refused as refused:
            await self._refuse(refused, scope, receive, self._with_headers(send, scope))
            return
        if scope["type"] == "websocket":
            try:
                await self._app(scope, receive, send)
            except Exception as error:
                _log(scope, error)
                with suppress(Exception):  # without it the client would see a lost connection
                    await send({"type": "websocket.close", "code": 1011, "reason": f"Logged as {request_id}."})
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, self._with_headers(sending, scope))
        except Exception as error:
            _log(scope, error)
            if started:
                raise  # the server cuts the connection: an answer that breaks off must not look complete
            await self._refuse(FAULT, scope, receive, self._with_headers(send, scope))

    def _check_host(self, headers: Headers) -> None:
        if self._hosts is None:
            return
        if host_name(headers) not in self._hosts:
            raise Refused(
                421,
                "UNKNOWN_HOST",
                "This server is not known under the name that the Host header gives; "
                "use localhost, or name it in SWITCHTOWER_ALLOWED_HOSTS.",
            )

    async def _refuse(self, refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
            return
        response = self._refusals(refused, scope) or refusal_response(
            refused, Headers(scope=scope).get("accept"), scope["state"]["request_id"]
        )
        await response(scope, receive, send)

    @staticmethod
    def _with_headers(send: Send, scope: Scope) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
                names: set[Any] = {name.lower() for name, _ in headers}
                headers.extend(SECURITY_HEADERS)
                headers.extend(each for each in (_policy(headers), NOT_CACHED) if each[0] not in names)
                headers.append((b"x-request-id", scope["state"]["request_id"].encode()))
                if not is_plain(scope):
                    headers.append(TRANSPORT)
                message["headers"] = headers
            await send(message)

        return sending
