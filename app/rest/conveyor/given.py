"""What do the parameters and bodies of Conveyor's requests mean to us?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.limits import Refused
from app.rest.conveyor.errors import BAD_REQUEST
from app.rest.conveyor.options import moment, new_job_fields, rank
from app.rest.conveyor.wire import ALL, STATES
from app.rest.dialect import Given
from schema.resolvers.bounds import MAX_LIMIT, MAX_OFFSET
from switchtower.errors import InvalidInput
from switchtower.job_filters import JobFilter
from switchtower.jobs import JobUpdate, NewJob
from switchtower.metrics import Granularity
from switchtower.states import JobState

__all__ = [
    "NAME_NEEDED",
    "Slice",
    "addition",
    "change",
    "cleaning",
    "job_id",
    "job_search",
    "listing",
    "metrics",
    "name",
    "obliteration",
    "pausing",
    "retrying",
    "search",
    "states",
    "stream",
    "streams",
]

NAME_NEEDED: Final = 'Valid JSON with "name" field is required'
NOTHING_TO_CHANGE: Final = 'Valid JSON with "data" or "opts.priority" is required'
ENDED: Final = ("failed", "completed")
SEARCHES: Final = ("job", "queue", "payload", "name")
DEFAULT_END: Final = 100
SEARCH_END: Final = 50
MOST_GRACE_MS: Final = 100 * 365 * 24 * 3600 * 1000

_NUMBER = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a list: from the item with the number `start` up to, but not with, that with the number `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many items it has."""
        return self.end - self.start


def _part(given: Given, default_end: int) -> Slice:
    """`start` and `end`: what is no number means the default, and what lies outside the nearest bound."""
    start, end = (_number(given.text(name)) for name in ("start", "end"))
    first = min(max(start, 0), MAX_OFFSET)
    part = Slice(first, max(first, min(end or default_end, MAX_OFFSET + MAX_LIMIT)))
    if part.size > MAX_LIMIT:
        raise InvalidInput("end", f"Page size must not exceed {MAX_LIMIT}.")
    return part


def _number(text: str | None) -> int:
    """The number that a text begins with, as JavaScript reads one; 0 where it begins with none."""
    match = _NUMBER.match(text or "")
    return int(match[1][:20]) if match is not None else 0


def name(given: Given) -> dict[str, Any]:
    """The queue."""
    return {"queue": given.path["name"]}


def job_id(given: Given) -> dict[str, Any]:
    """A queue and a job in it, by its id of ours or its caller's own."""
    return {**name(given), "id": given.path["id"]}


def _state(field: str, value: Any) -> tuple[JobState, ...]:
    found = STATES.get(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidInput(field, f"must be one of {', '.join(STATES)}.")
    return found


def _said(message: str) -> Refused:
    """A refusal in the very words of Conveyor's document."""
    return Refused(400, BAD_REQUEST, message)


def listing(given: Given) -> dict[str, Any]:
    """One page of the jobs of a queue in one state, waiting ones unless it says otherwise."""
    states = _state("state", given.text("state") or "waiting")
    return {**name(given), "states": states, "part": _part(given, DEFAULT_END)}


def pausing(given: Given) -> dict[str, Any]:
    """A queue, or one job name in it."""
    job_name = given.body.get("jobName")
    if job_name is not None and not isinstance(job_name, str):
        raise InvalidInput("jobName", "must be a text, or be left out for the whole queue.")
    return {**name(given), "job_name": job_name or ALL}


def cleaning(given: Given) -> dict[str, Any]:
    """A state, and how long a job must have been there, in milliseconds."""
    states, grace = _state("state", given.body.get("state")), given.body.get("grace")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= MOST_GRACE_MS:
        raise InvalidInput("grace", "must be a number of milliseconds, from 0 on.")
    return {**name(given), "states": states, "grace_ms": int(grace)}


def retrying(given: Given) -> dict[str, Any]:
    """All failed jobs of a queue, or all completed ones."""
    state = given.body.get("state")
    if state not in ENDED:
        raise _said('state must be "failed" or "completed"')
    return {**name(given), "states": STATES[state]}


def obliteration(given: Given) -> dict[str, Any]:
    """With `force=true`, spelled just so, active jobs do not stand in its way."""
    return {**name(given), "force": given.text("force") == "true"}


def addition(given: Given) -> dict[str, Any]:
    """A job to add to a queue."""
    called, data, opts = (given.body.get(key) for key in ("name", "data", "opts"))
    if not isinstance(called, str) or not called:
        raise _said(NAME_NEEDED)
    fields = new_job_fields(_object("opts", opts))
    return {"new": NewJob(name=called, queue=given.path["name"], payload={} if data is None else data, **fields)}


def change(given: Given) -> dict[str, Any]:
    """New data for a job, a new priority, or both."""
    opts = _object("opts", given.body.get("opts"))
    chosen: dict[str, Any] = (
        {"rank": rank("opts.priority", opts["priority"])} if opts.get("priority") is not None else {}
    )
    if "data" in given.body:
        chosen["payload"] = given.body["data"]
    if not chosen:
        raise _said(NOTHING_TO_CHANGE)
    return {**job_id(given), "change": JobUpdate(**chosen)}


def _object(field: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInput(field, "must be an object.")
    return value or {}


def states(given: Given) -> dict[str, Any]:
    """One state, or all of them."""
    text = given.text("state")
    return {"states": None if text in (None, "all") else _state("state", text)}


def search(given: Given) -> dict[str, Any]:
    """What is looked for, and where."""
    query, type, queue = (given.text(key) for key in ("q", "type", "queue"))
    if query is None:
        raise _said('Query parameter "q" is required')
    if type is not None and type not in SEARCHES:
        raise InvalidInput("type", f"must be one of {', '.join(SEARCHES)}.")
    if type == "payload" and queue is None:
        raise _said('Query parameter "queue" is required for payload search')
    return {"query": query, "type": type or SEARCHES[0], "queue": queue}


def job_search(given: Given) -> dict[str, Any]:
    """Jobs by name, queue, states and when they were created; of several states the unknown ones are left out."""
    queue, listed = given.text("queue"), given.text("state")
    states = None
    if listed is not None:
        known = [STATES[each] for each in map(str.strip, listed.split(",")) if each in STATES]
        if not known:
            raise InvalidInput("state", f"must be a list of {', '.join(STATES)}.")
        states = sorted({state for each in known for state in each})
    after, before = (None if (text := given.text(key)) is None else moment(key, text) for key in ("after", "before"))
    filter = JobFilter(
        queues=None if queue is None else [queue],
        states=states,
        name_contains=given.text("name"),
        created_after=after,
        created_before=before,
    )
    return {"filter": filter, "part": _part(given, SEARCH_END)}


def metrics(given: Given) -> dict[str, Any]:
    """The last hour in minutes, unless it asks for something else."""
    text = given.text("granularity") or Granularity.MINUTE.value
    if text not in list(Granularity):
        raise _said('granularity must be "minute" or "hour"')
    since, until = (None if (at := given.text(key)) is None else moment(key, at) for key in ("from", "to"))
    return {**name(given), "granularity": Granularity(text), "since": since, "until": until}


def stream(given: Given) -> dict[str, Any]:
    """The events of one queue, behind the last one that the client had."""
    return {**name(given), **streams(given)}


def streams(given: Given) -> dict[str, Any]:
    """The events of all queues, behind the last one that the client had."""
    return {"after": given.headers.get("last-event-id") or None}
