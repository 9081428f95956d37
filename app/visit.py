"""Who looks at a page, where does it stand, and what was this browser told last?"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app import sessions
from app.forms import Form
from switchtower.access import Scope
from switchtower.callers import Caller

__all__ = ["Flash", "Problem", "Visit", "prefers_json"]

FLASH: Final = "switchtower-flash"
FLASH_SECONDS: Final = 60
FLASH_CHARACTERS: Final = 400
KINDS: Final = ("done", "failed")
HTML: Final = ("text/html", "application/xhtml+xml")
_SAFE: Final = "!$&'()*+,;=:@~"


@dataclass(frozen=True, slots=True)
class Flash:
    """What became of the form that was sent last, said once on the next page: `kind` is done or failed."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the form that was just sent is shown again: the field that is wrong ("" where it is none of them), what is
    wrong with it, and the address of the page that the form stands on."""

    field: str
    message: str
    page: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of a browser.

    `prefix` stands before the path of every address on the page; `token` is what its forms carry, None where the
    browser has no session. `caller` is None where it was not admitted.
    """

    request: Request
    prefix: str
    path: str
    caller: Caller | None
    session: str | None = None
    read_only: bool = False
    flash: Flash | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """The parameters of its path."""
    form: Form = field(default_factory=Form)
    """What was sent with it."""
    problem: Problem | None = None

    @property
    def token(self) -> str | None:
        """What every form of the page carries."""
        return None if self.session is None else sessions.csrf_token(self.session)

    @property
    def request_id(self) -> str:
        """The id under which the request stands in the log."""
        return str(self.request.scope["state"]["request_id"])

    def may(self, scope: str) -> bool:
        """Whether what needs this scope should be offered."""
        if self.caller is None or (self.read_only and scope != Scope.READ):
            return False
        return Scope(scope) in self.caller.scopes

    def filled(self, field: str, value: Any = "") -> Any:
        """What stands in a field of a form: what was sent, where the form is shown again."""
        sent = None if self.problem is None else self.form.raw(field)
        return value if sent is None else sent

    def wrong(self, field: str) -> str | None:
        """What is wrong with a field of a form that is shown again."""
        return self.problem.message if self.problem is not None and self.problem.field == field else None

    def url(self, *segments: str, **query: Any) -> str:
        """An address of this server's pages; segments are escaped, parameters without a value left out."""
        path = "".join(f"/{quote(segment, safe=_SAFE)}" for segment in segments) or "/"
        given = {name: value for name, value in query.items() if value is not None and value != ""}
        return f"{self.prefix}{path}{'?' if given else ''}{urlencode(given, doseq=True, errors='replace')}"

    def redirect(self, url: str, *, status: int = 303, flash: Flash | None = None) -> Response:
        """Sends the browser to an address of ours, where it is told what became of its form."""
        response = RedirectResponse(url, status)
        if flash is not None:
            text = flash.text[:FLASH_CHARACTERS].encode("utf-8", "replace").decode()
            value = base64.urlsafe_b64encode(orjson.dumps([flash.kind, text])).decode().rstrip("=")
            sessions.set_cookie(response, self.request.scope, value, name=FLASH, seconds=FLASH_SECONDS)
        return response

    def told(self, response: Response) -> Response:
        """The page, whose reader has now been told."""
        if self.flash is not None:
            sessions.clear_cookie(response, self.request.scope, name=FLASH)
        return response

    def local(self, target: str) -> str | None:
        """An address that a form names, if it is one of this server's pages; None for anything else."""
        inside = target.startswith(f"{self.prefix}/") and not target.startswith(("//", "/\\"))
        plain = target.isascii() and target.isprintable() and "\\" not in target and len(target) <= 2_000
        return target if inside and plain and not target[len(self.prefix) :].startswith("//") else None


def flash_of(request: Request) -> Flash | None:
    """What the browser is to be told, as its cookie says."""
    text = request.cookies.get(sessions.cookie_name(request.scope, FLASH), "")
    try:
        kind, told = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if kind not in KINDS or not isinstance(told, str):
            return None
    except (ValueError, TypeError):
        return None
    return Flash(kind, told[:FLASH_CHARACTERS])


def prefers_json(accept: str | None) -> bool:
    """Whether an Accept header would rather have JSON than a page; who says nothing, or anything, gets the page."""
    json = html = anything = -1.0
    for position, part in enumerate((accept or "").split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value.strip())
        # Of two that are liked as much, the one that is named first.
        weight = quality - position / 1_000_000 if quality > 0 else 0.0
        if kind in ("application/json", "application/*"):
            json = max(json, weight)
        elif kind in HTML or kind == "text/*":
            html = max(html, weight)
        elif kind == "*/*":
            anything = max(anything, quality)
    return json > 0 and json > html and (html >= 0 or json >= anything)


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0
