"""How does Conveyor say no? `{"error": {"code": "…", "message": "…"}}`, with 400 for whatever makes no sense now."""

from __future__ import annotations

from typing import Any, Final

from app.limits import Refused
from app.rest.conveyor.wire import state_name
from app.rest.dialect import refusal_of
from switchtower.errors import InvalidInput, InvalidTransition, NotFound, SwitchtowerError
from switchtower.states import JobState

__all__ = ["BAD_REQUEST", "envelope", "refusal"]

BAD_REQUEST: Final = "BAD_REQUEST"
CODES: Final = {"INTERNAL": "INTERNAL_ERROR"}
MESSAGES: Final = {"UNAUTHORIZED": "Authentication required"}
ACTIVE: Final = {"update": "Cannot edit active jobs"}
"""What is said of an active job."""


def refusal(error: SwitchtowerError) -> Refused:
    """An error in Conveyor's words."""
    if isinstance(error, NotFound):
        shown = error.id if len(error.id) <= 100 else f"{error.id[:100]}…"
        return Refused(404, error.code, f"{error.kind} {shown} not found")
    if isinstance(error, InvalidTransition):
        name = state_name(JobState(error.state))
        message = ACTIVE.get(error.verb, f'Cannot {error.verb} job in state "{name}"')
        return Refused(400, BAD_REQUEST, message)
    if isinstance(error, InvalidInput) and not error.too_large:
        return Refused(400, BAD_REQUEST, error.message)
    return refusal_of(error)


def envelope(refused: Refused) -> dict[str, Any]:
    """`{"error": {"code", "message"}}`."""
    code = CODES.get(refused.code, refused.code)
    return {"error": {"code": code, "message": MESSAGES.get(refused.code, refused.message)}}
