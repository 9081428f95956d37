"""Whose path is this? One dispatcher hands each request to the dialect that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.limits import Refused
from app.rest.serving import DialectApp, path_of

__all__ = ["Dialects", "Dispatcher"]


class Dialects:
    """The dialects that are served, each at the root under its own paths, and with all of them under `/<name>`.

    `bases` puts the paths of a dialect, by its name, behind a path of the server's own (`/admin`) instead of its root.
    What begins with one of `others` is no dialect's, not even of one that answers under every path.
    """

    def __init__(
        self, apps: Sequence[DialectApp], *, bases: Mapping[str, str] | None = None, others: Sequence[str] = ()
    ) -> None:
        self._mounts = {f"/{app.dialect.name}": app for app in apps}
        based = [(app, (bases or {}).get(app.dialect.name, "")) for app in apps]
        roots: list[tuple[str, int, DialectApp | None]] = [(other, 0, None) for other in others]
        roots += [(base + prefix, len(base), app) for app, base in based for prefix in app.dialect.prefixes]
        # The longest prefix wins: where two dialects share one, the one with the longer literal path has it.
        self._roots = sorted(roots, key=lambda root: len(root[0]), reverse=True)

    def find(self, path: str) -> tuple[DialectApp, str] | None:
        """The dialect that a path (`path_of`) belongs to, and the path as the dialect knows it."""
        head, mark, rest = path[1:].partition("/")
        if (app := self._mounts.get(f"/{head}")) is not None:
            return app, mark + rest
        for prefix, base, app in self._roots:
            if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
                return None if app is None else (app, path[base:])
        return None

    def refusal(self, refused: Refused, scope: Scope) -> Response | None:
        """A refusal in the shape of the dialect that the request is for; None where it is for none."""
        found = self.find(path_of(scope))
        return None if found is None else found[0].refuse(refused, found[1], scope)


class Dispatcher:
    """ASGI middleware: what is no dialect's goes on to the application inside."""

    def __init__(self, app: ASGIApp, *, dialects: Dialects) -> None:
        self._app = app
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._dialects.find(path_of(scope)) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
        else:
            dialect, path = found
            await dialect.serve(path, scope, receive, send)
