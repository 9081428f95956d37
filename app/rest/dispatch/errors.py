"""How does Dispatch say no? `{"error": "…"}`, with 404 for what is not there and 400 for what makes no sense."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from app.limits import Refused
from app.rest.dialect import refusal_of
from app.rest.dispatch.wire import state_name
from switchtower.errors import InvalidInput, InvalidTransition, NotFound, SwitchtowerError
from switchtower.states import JobState

__all__ = ["envelope", "refusal"]


class Thing(NamedTuple):
    """What Dispatch calls a kind of thing, and what the ids of its kind look like."""

    name: str
    prefix: str


THINGS: Final = {
    "Job": Thing("job", "job"),
    "Workflow run": Thing("run", "run|wfrun"),
    "Dead letter": Thing("dlq entry", "dlq"),
    "Cron": Thing("cron entry", "cron"),
}
_SUFFIX: Final = "_[0-7][0-9a-hjkmnp-tv-z]{25}"


def refusal(error: SwitchtowerError) -> Refused:
    """An error in Dispatch's words. An id under which nothing is found is invalid where it cannot be one of ours: a
    caller's own id may be any text, so that it is looked up first."""
    if isinstance(error, NotFound) and (thing := THINGS.get(error.kind)) is not None:
        if re.fullmatch(f"(?:{thing.prefix}){_SUFFIX}", error.id):
            return Refused(404, error.code, f"{thing.name} not found")
        shown = error.id if len(error.id) <= 100 else f"{error.id[:100]}…"
        return Refused(400, error.code, f"invalid {thing.name} ID: {shown!r}")
    if isinstance(error, InvalidTransition):
        state = state_name(JobState(error.state), retry_pending=error.retry_pending)
        return Refused(400, error.code, f"cannot {error.verb} job in state {state}")
    if isinstance(error, InvalidInput) and not error.too_large:
        return Refused(400, error.code, f"invalid request: {error.message}")
    return refusal_of(error)


def envelope(refused: Refused) -> dict[str, Any]:
    """`{"error": "…"}`."""
    return {"error": refused.message}
