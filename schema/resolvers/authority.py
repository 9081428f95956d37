"""May this caller do this?

Every verb of every resolver says which scope it needs; a house test holds that none forgets. The engine is told who
asks, never whether they may.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from schema.context import Context
from switchtower.access import Scope
from switchtower.errors import Forbidden

__all__ = ["authorise", "needs"]

P = ParamSpec("P")
R = TypeVar("R")


def authorise(context: Context, scope: Scope) -> None:
    """Raises Forbidden when the caller lacks the scope, or this server only reads."""
    if scope not in context.caller.scopes:
        raise Forbidden(f"This needs a key with the scope {scope.value}; yours has {_listed(context.caller.scopes)}.")
    if context.read_only and scope is not Scope.READ:
        raise Forbidden("This server is read-only; send what changes anything to another one.")


def needs(scope: Scope) -> Callable[[Callable[Concatenate[Context, P], R]], Callable[Concatenate[Context, P], R]]:
    """Lets only callers with this scope call a resolver; anyone else gets Forbidden before anything is done."""

    def decorate(resolver: Callable[Concatenate[Context, P], R]) -> Callable[Concatenate[Context, P], R]:
        @wraps(resolver)
        def checked(context: Context, *args: P.args, **kwargs: P.kwargs) -> R:
            authorise(context, scope)
            return resolver(context, *args, **kwargs)

        checked.scope = scope  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[Context, P], R]", checked)

    return decorate


def _listed(scopes: Any) -> str:
    return ", ".join(sorted(scope.value for scope in scopes)) or "none"
