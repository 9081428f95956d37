"""How does an action that was refused to a program get into the audit trail?

What succeeds carries its row in the event of what it changed. A refused action changes nothing: the engine writes its
row, unless a surface with more to say (who came with which key, for which field) does so itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

from switchtower.callers import Caller
from switchtower.errors import StoreUnavailable, SwitchtowerError

if TYPE_CHECKING:
    from switchtower.engine import Engine

__all__ = ["told_elsewhere", "write_down"]

Verb = Callable[..., Any]

_TOLD: ContextVar[bool] = ContextVar("switchtower_refusals_told", default=False)

ACTIONS: Mapping[str, Mapping[str, tuple[str, str | None]]] = {
    "jobs": {verb: (f"job.{verb}", "job_id") for verb in ("cancel", "retry", "promote", "remove", "update")},
    "bulk": {"start": ("bulk", None)},
    "flows": {verb: (f"flow.{verb}", "job_id") for verb in ("cancel", "retry")},
    "workflows": {verb: (f"workflow.{verb}", "target") for verb in ("cancel", "replay")},
    "queues": {
        "set_limits": ("queue.limit", "queue"),
        **{verb: (f"queue.{verb}", "queue") for verb in ("pause", "resume", "drain", "clean", "obliterate")},
    },
    "dead_letters": {
        "replay": ("dead_letter.replay", "target"),
        "replay_all": ("dead_letter.replay", None),
        "remove": ("dead_letter.remove", None),
        "purge": ("dead_letter.purge", None),
    },
    "crons": {
        "create": ("cron.create", None),
        **{verb: (f"cron.{verb}", "target") for verb in ("update", "enable", "disable", "delete", "trigger")},
    },
    "keys": {
        "create": ("key.create", None),
        "revoke": ("key.revoke", "target"),
        "set_tenant_limits": ("tenant.limits", None),
    },
}
"""The verbs of each noun that are somebody's action, its name in the trail, and the field that their first argument
fills."""


@contextmanager
def told_elsewhere() -> Iterator[None]:
    """Within the block the engine writes no rows of refusals: whoever opened it does."""
    token = _TOLD.set(True)
    try:
        yield
    finally:
        _TOLD.reset(token)


def write_down(engine: Engine) -> None:
    """From here on, each of the engine's actions that is refused to somebody leaves a row."""
    for noun, verbs in ACTIONS.items():
        holder = getattr(engine, noun)
        for verb, (action, field) in verbs.items():
            setattr(holder, verb, _written_down(engine, holder, verb, action, field))


def _written_down(engine: Engine, holder: Any, name: str, action: str, field: str | None) -> Verb:
    declared: Verb = getattr(holder, name)
    first = next(iter(inspect.signature(declared).parameters))

    @wraps(declared)
    async def call(*args: Any, **kwargs: Any) -> Any:
        # Looked up now: what replaces it in its class is what is called.
        verb = getattr(type(holder), name).__get__(holder)
        caller = kwargs.get("caller")
        if _TOLD.get() or not isinstance(caller, Caller) or caller.surface is None:
            return await verb(*args, **kwargs)
        try:
            with told_elsewhere():
                return await verb(*args, **kwargs)
        except StoreUnavailable:
            # Nobody knows whether it happened; if it did, its event tells.
            raise
        except SwitchtowerError as error:
            given = args[0] if args else kwargs.get(first)
            named = {field: given} if field is not None and isinstance(given, str) else {}
            row = f"bulk.{given}" if action == "bulk" and isinstance(given, str) else action
            await engine.audit.refused(row[:100], error, caller=caller, **named)
            raise

    return call
