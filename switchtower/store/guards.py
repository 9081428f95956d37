"""Which filter lets a transition happen?

Derived from `switchtower.states.TRANSITIONS`: the filter of an update decides, never a read before it.
"""

from __future__ import annotations

from typing import Any

from switchtower.callers import Reach
from switchtower.dialects import Dialect
from switchtower.states import REMOVED, TRANSITIONS, JobState

__all__ = [
    "NOT_REMOVED",
    "RESTARTED",
    "by_token",
    "claimable",
    "due",
    "listed",
    "parked",
    "passed",
    "starts_from",
    "within",
]

Document = dict[str, Any]

NOT_REMOVED: Document = {"$ne": REMOVED}


RESTARTED: Document = {"$nor": [{"dialect": Dialect.DISPATCHED.value, "state": JobState.CANCELLED.value}]}
"""What may be retried: Dispatched promises that a cancelled job is never restarted."""


def starts_from(verb: str) -> Document:
    """The state condition of a verb."""
    sources = sorted(state.value for state in TRANSITIONS[verb].sources)
    states: Document = {"state": sources[0]} if len(sources) == 1 else {"state": {"$in": sources}}
    return states | (RESTARTED if verb == "retry" else {})


def by_token(verb: str, token: str) -> Document:
    """The condition of a verb that a worker reports: its state and the lease token."""
    assert TRANSITIONS[verb].fenced, verb
    return {**starts_from(verb), "token": token}


def claimable(
    queue: str, names: Document | None = None, condition: Document | None = None, *, lane: str | None = ""
) -> Document:
    """What a claimer may take from one lane of a queue (None: any); fits the partial index `claims` exactly."""
    return (
        {"queue": queue, **({} if lane is None else {"lane": lane})}
        | {"state": "waiting", "parked": None, "executor": None}
        | ({"name": names} if names else {})
        | (condition or {})
    )


def parked(*reasons: str) -> Document:
    """The jobs that are parked for one of these reasons; fits the partial index `parked`."""
    return {"parked": {"$in": list(reasons), "$type": "string"}, "state": "waiting"}


def within(reach: Reach, *, queue: str = "queue") -> Document:
    """The condition of every look-up: what a caller does not see is not there for it. `queue` is the field's name."""
    return ({} if reach.org is None else {"org": reach.org}) | (
        {} if reach.queues is None else {queue: {"$in": sorted(reach.queues)}}
    )


def listed(reach: Reach) -> Document:
    """The condition of what has a list of queues of its own: that a caller sees all of them."""
    if reach.queues is None:
        return {}
    return {"queues": {"$type": "array", "$not": {"$elemMatch": {"$nin": sorted(reach.queues)}}}}


def due(field: str) -> Document:
    """The field lies in the past of the database's own clock (answered from the field's index)."""
    return {"$expr": {"$lte": [f"${field}", "$$NOW"]}, field: {"$exists": True}}


def passed(field: str) -> Document:
    """The same, for a field that every matching document has."""
    return {"$expr": {"$lt": [f"${field}", "$$NOW"]}}
