"""Which jobs match a filter, one page at a time?

Pages are keyset pages: a cursor holds the sort key of a row, so page 10,000 costs what page 1 costs. Texts are matched
literally. Every command is bounded in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any

import orjson
from pymongo.errors import ExecutionTimeout

from switchtower.callers import Reach
from switchtower.clock import from_ms, to_ms
from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.jobs import JobFilter
from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.store.documents import HEAVY
from switchtower.store.driver import time_limit
from switchtower.store.guards import NOT_REMOVED
from switchtower.store.scans import by_any_id
from switchtower.store.texts import contains, text_condition

__all__ = [
    "BY_QUEUE",
    "BY_WORKFLOW",
    "Branches",
    "Found",
    "JobOrder",
    "bounded",
    "branches",
    "count",
    "decode_cursor",
    "encode_cursor",
    "filter_document",
    "keyset_page",
    "names_with",
    "offset_page",
    "payload_path",
    "projection",
    "queue_names",
    "workflow_names",
]

Document = dict[str, Any]

TIME_LIMIT_MS = 2_000
MOST_ORDERED = 50_000
MOST_NAMES = 2_000
BY_QUEUE, BY_NAME, BY_WORKFLOW = "listing", "name", "run"
"""Indexes that hold jobs of a queue and a state, of a name, and runs of a workflow, each in the order of their ids."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Gives what is awaited inside two seconds. Raises: StoreUnavailable, which says so, when they are over."""
    try:
        with time_limit(TIME_LIMIT_MS):
            yield
    except ExecutionTimeout as error:
        raise StoreUnavailable(
            f"This took longer than {TIME_LIMIT_MS // 1000} s, which is all that a list may take: narrow it by queue, "
            "state, name or an indexed payload path, or try again."
        ) from error


class JobOrder(StrEnum):
    """The order of a list of jobs; creation order is the order of our ids."""

    CREATED_DESC = "created_desc"
    CREATED_ASC = "created_asc"
    RUN_AT_ASC = "run_at_asc"
    RUN_AT_DESC = "run_at_desc"
    FINISHED_DESC = "finished_desc"
    FINISHED_ASC = "finished_asc"
    PRIORITY = "priority"


_KEYS: dict[JobOrder, tuple[str | None, int]] = {
    JobOrder.CREATED_DESC: (None, -1),
    JobOrder.CREATED_ASC: (None, 1),
    JobOrder.RUN_AT_ASC: ("run_at", 1),
    JobOrder.RUN_AT_DESC: ("run_at", -1),
    JobOrder.FINISHED_DESC: ("finished_at", -1),
    JobOrder.FINISHED_ASC: ("finished_at", 1),
    JobOrder.PRIORITY: ("rank", 1),
}


@dataclass(slots=True)
class Found:
    """Documents of one page with their cursors, and whether there is more on either side."""

    documents: list[Document]
    cursors: list[str]
    has_next: bool
    has_previous: bool


def projection(with_: frozenset[str] | None) -> dict[str, int] | None:
    """Leaves out the heavy fields that nobody asked for; None reads everything."""
    if with_ is None:
        return None
    out = {field: 0 for field in HEAVY if field not in with_}
    return {**out, "event": 0}


def _any(field: str, values: Sequence[Any]) -> Document:
    return {field: values[0]} if len(values) == 1 else {field: {"$in": list(values)}}


async def queue_names(store: Store) -> list[str]:
    """The queues that have jobs that are not active: one index seek each."""
    return await _distinct(store, "queue", hint=BY_QUEUE)


async def workflow_names(store: Store) -> list[str]:
    """The workflows that have runs: one index seek each."""
    return await _distinct(store, "run.workflow", hint=BY_WORKFLOW)


async def names_with(store: Store, text: str) -> list[str] | None:
    """The job names that have a text in them, whatever its case: one index seek for each name that there is. None when
    there are too many of them to look at."""
    names = await _distinct(store, "name", hint=BY_NAME, limit=MOST_NAMES + 1)
    pattern = re.compile(contains(text)["$regex"], re.IGNORECASE)
    return None if len(names) > MOST_NAMES else [name for name in names if pattern.search(name)]


async def _distinct(store: Store, field: str, *, hint: str, limit: int | None = None) -> list[str]:
    stages: list[Document] = [{"$sort": {field: 1}}, {"$group": {"_id": f"${field}"}}]
    if limit is not None:
        stages.append({"$limit": limit})
    with bounded():
        return [row["_id"] for row in await store.database.aggregate(store.jobs.name, stages, hint=hint)]


@dataclass(frozen=True, slots=True)
class Branches:
    """A filter as alternatives that one index each can answer in order: active jobs stand in another index than all
    others, and the planner knows an index by one state at a time (or by all that the index holds)."""

    at_rest: list[Document]
    active: Document | None = None
    hint: str | None = None
    """The index that alternatives at rest are read by; the planner, left alone, may walk all jobs instead."""

    def within(self, clauses: Sequence[Document]) -> Branches:
        """These alternatives, each with more conditions."""
        if not clauses:
            return self
        active = None if self.active is None else {"$and": [self.active, *clauses]}
        return Branches([{"$and": [match, *clauses]} for match in self.at_rest], active, self.hint)

    @property
    def match(self) -> Document:
        """All of them as one filter."""
        return _any_of([*self.at_rest, *([] if self.active is None else [self.active])])


def _any_of(alternatives: Sequence[Document]) -> Document:
    return alternatives[0] if len(alternatives) == 1 else {"$or": list(alternatives)}


def branches(filter: JobFilter, *, reach: Reach, queues: Sequence[str] = ()) -> Branches:
    """The filter as branches; `queues` names the queues that have jobs, which a filter by state alone goes through."""
    filter = replace(filter, queues=reach.among(filter.queues))
    states = set(JobState) if filter.states is None else set(filter.states)
    if filter.ids is not None or not states or (filter.queues is None and filter.states is None):
        return Branches([filter_document(filter, reach=reach)])
    rest = sorted(states - {JobState.ACTIVE})
    narrow = filter.queues is None and 0 < len(queues) * len(rest) <= 100
    at_rest = replace(filter, queues=queues if narrow else filter.queues)
    together = len(rest) == len(JobState) - 1 or at_rest.queues is None
    groups = [group for group in ([rest] if together else [[state] for state in rest]) if group]
    active = None
    if JobState.ACTIVE in states:
        held = filter_document(replace(filter, states=[JobState.ACTIVE]), reach=reach)
        active = {"$and": [held, {"worker_id": {"$gt": ""}}]}
    others = (filter.names, filter.tags, filter.unique_key, filter.parent_id, filter.flow_id, filter.error_fingerprint)
    by_queue = at_rest.queues is not None and all(value is None for value in others) and not filter.retry_pending
    found = [filter_document(replace(at_rest, states=group), reach=reach) for group in groups]
    return Branches(found, active, BY_QUEUE if by_queue else None)


def filter_document(filter: JobFilter, *, reach: Reach) -> Document:
    """The filter as MongoDB takes it; values are compared, never interpreted."""
    clauses: list[Document] = []
    filter = replace(filter, queues=reach.among(filter.queues))
    if reach.org is not None:
        clauses.append({"org": reach.org})
    if filter.ids is not None:
        ids = list(filter.ids)
        clauses.append({"$or": [{"_id": {"$in": ids}}, {"custom_id": {"$in": ids}}]})
    states = [state.value for state in filter.states] if filter.states is not None else None
    if states is None:
        clauses.append({"state": NOT_REMOVED if filter.queues is None else {"$in": [s.value for s in JobState]}})
    else:
        clauses.append(_any("state", states) if states else {"_id": {"$in": []}})
    for field, values in (("queue", filter.queues), ("name", filter.names), ("tags", filter.tags)):
        if values is not None:
            clauses.append(_any(field, list(values)) if values else {"_id": {"$in": []}})
    for field, value in (
        ("group", filter.group),
        ("unique_key", filter.unique_key),
        ("parent_id", filter.parent_id),
        ("flow_id", filter.flow_id),
        ("flow_root", filter.flow_root),
        ("retry_pending", filter.retry_pending or None),
        ("error.fingerprint", filter.error_fingerprint),
    ):
        if value is not None:
            clauses.append({field: value})
    if filter.retry_pending is False:
        clauses.append({"retry_pending": {"$ne": True}})
    if filter.error_fingerprint is not None:
        clauses.append({"error": {"$exists": True}})
    if filter.created_after is not None or filter.created_before is not None:
        bounds = {"$gt": filter.created_after, "$lt": filter.created_before}
        clauses.append({"created_at": {key: at for key, at in bounds.items() if at is not None}})
    for match in filter.payload:
        clauses.append({payload_path(match.path): {"$eq": match.value}})
    if filter.text is not None:
        clauses.append(text_condition(filter.text))
    if filter.name_contains is not None:
        clauses.append(text_condition(filter.name_contains, ("name",)))
    indexed = (filter.ids, filter.queues, filter.names, filter.tags, filter.parent_id, filter.flow_id)
    led = any(value is not None for value in (*indexed, filter.flow_root, filter.error_fingerprint))
    if not led and not filter.retry_pending:
        clauses.append(by_any_id("jobs.filter"))
    return {"$and": clauses} if len(clauses) > 1 else (clauses[0] if clauses else {})


def payload_path(path: str) -> str:
    """The field of a payload path such as `user.email`; empty steps, `$` and NUL are refused."""
    steps = path.split(".")
    if not path or len(path) > 512 or any(not step or step.startswith("$") or "\0" in step for step in steps):
        raise InvalidInput("payload.path", "must be dotted names such as user.email, without empty steps or '$'.")
    return f"payload.{path}"


def encode_cursor(order: JobOrder, document: Mapping[str, Any]) -> str:
    """An opaque cursor: the order and the sort key of a row."""
    field, _ = _KEYS[order]
    value = None if field is None else document.get(field)
    if isinstance(value, datetime):
        value = ["t", to_ms(value)]
    return base64.urlsafe_b64encode(orjson.dumps([order.value, value, document["_id"]])).decode().rstrip("=")


def decode_cursor(order: JobOrder, cursor: str) -> tuple[Any, str]:
    """The sort key that `encode_cursor` wrote. Raises InvalidInput for anything else."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        name, value, id = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if name != order.value or not isinstance(id, str) or isinstance(value, dict):
            raise ValueError
        if isinstance(value, list):
            kind, ms = value
            if kind != "t" or not isinstance(ms, int):
                raise ValueError
            value = from_ms(ms)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise InvalidInput("after/before", "is not a cursor of this list and order.") from None
    return value, id


async def keyset_page(
    store: Store,
    match: Document | Branches,
    *,
    order: JobOrder,
    first: int | None,
    last: int | None,
    after: str | None,
    before: str | None,
    fields: Mapping[str, int] | None,
) -> Found:
    """One page: `first` rows behind `after`, or `last` rows before `before`."""
    field, direction = _KEYS[order]
    backwards = last is not None
    size = last if backwards else first
    assert size is not None
    clauses = []
    for cursor, sign in ((after, 1), (before, -1)):
        if cursor is not None:
            value, id = decode_cursor(order, cursor)
            clauses.append(_beyond(field, value, id, ">" if direction * sign > 0 else "<"))
    alternatives = Branches([match]) if isinstance(match, dict) else match
    step = -direction if backwards else direction
    rows = await _rows(
        store,
        alternatives.within(clauses),
        sort={**({field: step} if field else {}), "_id": step},
        limit=size + 1,
        fields=fields,
    )
    more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()
    return Found(
        rows,
        [encode_cursor(order, row) for row in rows],
        has_next=before is not None if backwards else more,
        has_previous=more if backwards else after is not None,
    )


def _beyond(field: str | None, value: Any, id: str, sign: str) -> Document:
    """Rows strictly behind a sort key; rows without the field sort as null, first ascending and last descending."""
    operator = "$gt" if sign == ">" else "$lt"
    if field is None:
        return {"_id": {operator: id}}
    tie = {field: value, "_id": {operator: id}}
    if value is None:
        return {"$or": [tie, {field: {"$ne": None}}]} if sign == ">" else tie
    rest: list[Document] = [tie, {field: {operator: value}}]
    if sign == "<":
        rest.append({field: None})
    return {"$or": rest}


async def offset_page(
    store: Store, match: Branches, *, order: JobOrder, offset: int, limit: int, fields: Mapping[str, int] | None
) -> list[Document]:
    """A page by offset, for the REST dialects. What lies before it is skipped in the database, but for the keys of
    active jobs, which stand in another index. Behind the first 50,000 rows, jobs are in the order of their creation
    where they would be in that of their ends."""
    field, step = _KEYS[order]
    if field == "finished_at" and offset + limit > MOST_ORDERED:
        field = None
    sort = {**({field: step} if field else {}), "_id": step}
    if field == "finished_at" and match.active is None:
        return await _ended(store, match, sort, fields, offset=offset, limit=limit)
    if not offset:
        return await _rows(store, match, sort=sort, limit=limit, fields=fields)
    with bounded():
        if match.active is None:
            return await _read(store, match.at_rest, match.hint, sort, fields, skip=offset, limit=limit)
        if not match.at_rest:
            return await _read(store, [match.active], "active", sort, fields, skip=offset, limit=limit)
        held = await _read(store, [match.active], "active", sort, dict.fromkeys(sort, 1), limit=offset + limit)
        # Whatever lies that far back lies behind all that is skipped here, wherever the active ones fall.
        skip = max(0, offset - len(held))
        count = offset + limit - skip
        rest = await _read(store, match.at_rest, match.hint, sort, dict.fromkeys(sort, 1), skip=skip, limit=count)
        ids = [row["_id"] for row in _merged([held, rest], sort)[offset - skip : count]]
        found = {row["_id"]: row for row in await store.jobs.find({"_id": {"$in": ids}}, fields).to_list(None)}
    return [found[id] for id in ids if id in found]


async def _ended(
    store: Store, match: Branches, sort: Mapping[str, int], fields: Mapping[str, int] | None, *, offset: int, limit: int
) -> list[Document]:
    """A page by when jobs ended, which no index knows: of a queue with more than 50,000 of them, the newest so many are
    put in order."""
    with bounded():
        keys = await store.database.aggregate(
            store.jobs.name,
            [
                {"$match": _any_of(match.at_rest)},
                {"$sort": {"_id": -1}},
                {"$limit": MOST_ORDERED},
                {"$project": {"finished_at": 1}},
                {"$sort": dict(sort)},
                {"$skip": offset},
                {"$limit": limit},
            ],
            hint=match.hint,
        )
        ids = [row["_id"] for row in keys]
        found = {row["_id"]: row for row in await store.jobs.find({"_id": {"$in": ids}}, fields).to_list(None)}
    return [found[id] for id in ids if id in found]


async def _rows(
    store: Store, match: Branches, *, sort: Mapping[str, int], limit: int, fields: Mapping[str, int] | None
) -> list[Document]:
    """The first rows of all branches together."""
    with bounded():
        parts = []
        if match.active is not None:
            parts.append(_read(store, [match.active], "active", sort, fields, limit=limit))
        if match.at_rest:
            parts.append(_read(store, match.at_rest, match.hint, sort, fields, limit=limit))
        return _merged(await asyncio.gather(*parts), sort)[:limit]


async def _read(
    store: Store,
    alternatives: Sequence[Document],
    hint: str | None,
    sort: Mapping[str, int],
    fields: Mapping[str, int] | None,
    *,
    skip: int = 0,
    limit: int,
) -> list[Document]:
    cursor = store.jobs.find(
        _any_of(alternatives), fields, sort=list(sort.items()), skip=skip, limit=limit, allow_disk_use=True
    )
    rows: list[Document] = await (cursor if hint is None else cursor.hint(hint)).to_list(limit)
    return rows


def _merged(parts: Sequence[list[Document]], sort: Mapping[str, int]) -> list[Document]:
    if len(parts) == 1:
        return parts[0]
    *first, (_, step) = sort.items()
    # As the database sorts: rows without the field before all others.
    return sorted(
        chain(*parts),
        key=lambda row: (*((f in row, row.get(f)) for f, _ in first), row["_id"]),
        reverse=step < 0,
    )


async def count(store: Store, match: Document, *, cap: int, hint: str | None = None) -> tuple[int, bool]:
    """How many match, counted up to `cap`: (value, whether it is exact)."""
    options = {} if hint is None else {"hint": hint}
    with bounded():
        value = await store.jobs.count_documents(match, limit=cap + 1, **options)
    return (cap, False) if value > cap else (value, True)
