"""How does AsyncMQ say no? `{"ok": false, "error": "…"}` to programs, a page to people."""

from __future__ import annotations

from typing import Any

from app.limits import Refused
from app.rest.dialect import refusal_of
from switchtower.errors import InvalidInput, SwitchtowerError

__all__ = ["envelope", "refusal"]


def refusal(error: SwitchtowerError) -> Refused:
    """An error with its own message; an action that there is not in AsyncMQ's words."""
    if isinstance(error, InvalidInput) and error.field == "action":
        return Refused(400, error.code, "Unknown action")
    return refusal_of(error)


def envelope(refused: Refused) -> dict[str, Any]:
    """`{"ok": false, "error": "…"}`."""
    return {"ok": False, "error": refused.message}
