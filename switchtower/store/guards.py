"""Which filter lets a transition happen?

Derived from `switchtower.states.TRANSITIONS`: the filter of an update decides, never a read before it.
"""

from __future__ import annotations

from typing import Any

from switchtower.states import REMOVED, TRANSITIONS

__all__ = ["NOT_REMOVED", "by_token", "claimable", "due", "passed", "starts_from"]

Document = dict[str, Any]

NOT_REMOVED: Document = {"$ne": REMOVED}


def starts_from(verb: str) -> Document:
    """The state condition of a verb."""
    sources = sorted(state.value for state in TRANSITIONS[verb].sources)
    return {"state": sources[0]} if len(sources) == 1 else {"state": {"$in": sources}}


def by_token(verb: str, token: str) -> Document:
    """The condition of a verb that a worker reports: its state and the lease token."""
    assert TRANSITIONS[verb].fenced, verb
    return {**starts_from(verb), "token": token}


def claimable(
    queue: str, names: Document | None = None, condition: Document | None = None, *, lane: str | None = ""
) -> Document:
    """What a claimer may take from one lane of a queue (None: any); fits the partial index `hot` exactly."""
    return (
        {"queue": queue, **({} if lane is None else {"lane": lane}), "state": "waiting", "parked": None}
        | ({"name": names} if names else {})
        | (condition or {})
    )


def due(field: str) -> Document:
    """The field lies in the past of the database's own clock (answered from the field's index)."""
    return {"$expr": {"$lte": [f"${field}", "$$NOW"]}, field: {"$exists": True}}


def passed(field: str) -> Document:
    """The same, for a field that every matching document has."""
    return {"$expr": {"$lt": [f"${field}", "$$NOW"]}}
