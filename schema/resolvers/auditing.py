"""How does a refused action get into the audit trail?

What succeeds carries its row in the event of what it changed. What is refused changes nothing: its row is written here,
at the one place that every surface's mutations go through.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from schema.context import Context
from switchtower.engine.refusals import told_elsewhere
from switchtower.errors import StoreUnavailable, SwitchtowerError

__all__ = ["audited"]

P = ParamSpec("P")
R = TypeVar("R")
Resolver = Callable[Concatenate[Context, P], Awaitable[R]]


def audited(
    action: str | Callable[[Mapping[str, Any]], str],
    *,
    job_id: str | None = None,
    queue: str | None = None,
    target: str | None = None,
    leaves_event: bool = True,
) -> Callable[[Resolver[P, R]], Resolver[P, R]]:
    """Writes down every call of a mutation that is refused, for whatever reason.

    `action` is `noun.verb`, or makes it from the call's arguments; `job_id`, `queue` and `target` name the arguments
    that say what it was to be done to. With `leaves_event=False` calls that succeed are written down too, before they
    begin: for what is kept where no event tells of it.
    """

    def decorate(resolver: Resolver[P, R]) -> Resolver[P, R]:
        signature = inspect.signature(resolver)

        @wraps(resolver)
        async def call(context: Context, *args: P.args, **kwargs: P.kwargs) -> R:
            def described() -> tuple[str, dict[str, str | None]]:
                given = signature.bind(context, *args, **kwargs).arguments
                return action if isinstance(action, str) else action(given), {
                    field: _text(given.get(argument))
                    for field, argument in (("job_id", job_id), ("queue", queue), ("target", target))
                    if argument is not None
                }

            row = None
            if not leaves_event:
                name, named = described()
                row = await context.engine.audit.begin(name, caller=context.caller, details={}, **named)
            try:
                with told_elsewhere():
                    answer = await resolver(context, *args, **kwargs)
            except StoreUnavailable:
                # Nobody knows whether it happened; if it did, its event tells.
                raise
            except SwitchtowerError as error:
                if row is not None:
                    await context.engine.audit.end(row, error=error.message)
                else:
                    name, named = described()
                    await context.engine.audit.refused(name, error, caller=context.caller, **named)
                raise
            if row is not None:
                await context.engine.audit.end(row)
            return answer

        return cast("Resolver[P, R]", call)

    return decorate


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
