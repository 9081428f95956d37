"""How does a browser stay signed in, and how do we know that a form is one of our own pages'?

A session is a cookie that only the server reads. It is worth nothing on another site: the browser does not send it
along from there, and every form carries a token that is made from it, which no other page can know.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from app.limits import LOOPBACK_HOSTS, host_name

__all__ = [
    "clear_cookie",
    "comes_from_here",
    "csrf_token",
    "has_token",
    "is_plain",
    "session_of",
    "session_of_socket",
    "set_cookie",
]

NAME: Final = "switchtower"
MAX_AGE_SECONDS: Final = 12 * 3600
MAX_LENGTH: Final = 256


def is_plain(scope: Scope) -> bool:
    """Whether this is a browser on the server's own machine that speaks HTTP without TLS, which not every browser takes
    for secure."""
    return scope["scheme"] in ("http", "ws") and host_name(Headers(scope=scope)) in LOOPBACK_HOSTS


def cookie_name(scope: Scope, name: str = NAME) -> str:
    """A cookie's name here: with the prefix that binds it to this host and to TLS, except on plain loopback."""
    return name if is_plain(scope) else f"__Host-{name}"


def session_of(connection: HTTPConnection) -> str | None:
    """The session that a browser has, as it says; None where it has none."""
    session = connection.cookies.get(cookie_name(connection.scope), "")
    return session if 0 < len(session) <= MAX_LENGTH else None


def session_of_socket(connection: HTTPConnection) -> str | None:
    """The session of the browser that opened a WebSocket from a page of ours; None for anyone else, since a browser
    sends its cookies along whoever asks it to."""
    return session_of(connection) if comes_from_here(connection.headers, known=True) else None


def set_cookie(
    response: Response, scope: Scope, value: str, *, name: str = NAME, seconds: int = MAX_AGE_SECONDS
) -> None:
    """Makes the browser keep a value that its pages cannot read, and send it back here alone."""
    response.set_cookie(
        cookie_name(scope, name),
        value,
        max_age=seconds,
        path="/",
        secure=not is_plain(scope),
        httponly=True,
        samesite="lax",
    )


def clear_cookie(response: Response, scope: Scope, *, name: str = NAME) -> None:
    """Makes the browser forget it."""
    set_cookie(response, scope, "", name=name, seconds=0)


def csrf_token(session: str) -> str:
    """What every form of this session carries."""
    return hmac.new(session.encode("utf-8", "replace"), b"form", hashlib.sha256).hexdigest()


def has_token(session: str, given: str) -> bool:
    """Whether this is the session's token."""
    return hmac.compare_digest(csrf_token(session).encode(), given.encode("utf-8", "replace"))


def comes_from_here(headers: Headers, allowed: tuple[str, ...] = (), *, known: bool = False) -> bool:
    """Whether a request is one of our own pages', of an allowed origin's, or of a program that is no browser; with
    `known`, of a browser for certain.

    A page that sends no referrer has the origin `null`; which site it is of, its browser says besides.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None and origin in allowed:
        return True
    if origin is not None and origin != "null":
        return origin.partition("://")[2].lower() == headers.get("host", "").lower() and site != "cross-site"
    if site is not None:
        return site == "same-origin" or (site == "none" and origin is None)
    return origin is None and not known
