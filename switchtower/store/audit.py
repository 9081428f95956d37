"""Which commands keep and read the audit trail?

Rows are relayed from the change stream by the folder, before it moves its cursor: a folder that dies in between relays
the same rows again, under the same ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from switchtower.audit import AuditFilter, AuditRow, AuditStatus
from switchtower.callers import Reach
from switchtower.clock import to_ms
from switchtower.errors import InvalidInput
from switchtower.ids import AUDIT, settled_id
from switchtower.store.collections import Store
from switchtower.store.driver import time_limit
from switchtower.store.guards import within
from switchtower.store.listing import TIME_LIMIT_MS
from switchtower.store.scans import scan
from switchtower.store.texts import holds

__all__ = ["count", "find", "page", "put", "settle"]

Document = dict[str, Any]

CHUNK = 1_000
_INDEXED = {"_id", "org", "queue", "job_id", "actor", "action"}
TEXTS = ("action", "source", "actor", "job_id", "target", "queue", "error")


def _document(row: AuditRow, keep_seconds: int | None, *, live: bool) -> Document:
    document: Document = {
        "at": row.at,
        "action": row.action,
        "source": row.source,
        "status": row.status.value,
        "org": row.org,
        "details": dict(row.details),
    }
    for field in ("actor", "queue", "job_id", "target", "error"):
        if (value := getattr(row, field)) is not None:
            document[field] = value
    if keep_seconds is not None:
        document["gone_at"] = row.at + timedelta(seconds=keep_seconds)
    if live:
        document["event"] = {"1": _event(row)}
    return document


def _event(row: AuditRow) -> Document:
    event: Document = {"type": row.action, "at": row.at, "org": row.org, "actor": row.actor}
    return event | ({"queue": row.queue} if row.queue is not None else {})


def _row_from(d: Mapping[str, Any]) -> AuditRow:
    get = d.get
    return AuditRow(
        id=d["_id"],
        at=d["at"],
        action=d["action"],
        source=d["source"],
        status=AuditStatus(d["status"]),
        actor=get("actor"),
        org=d["org"],
        queue=get("queue"),
        job_id=get("job_id"),
        target=get("target"),
        details=d["details"],
        error=get("error"),
    )


async def put(store: Store, rows: Sequence[AuditRow], *, keep_seconds: int | None, live: bool = True) -> None:
    """Writes rows that are not there yet. `live` ones are told to subscribers."""
    unique = {row.id: row for row in rows}
    updates = [
        UpdateOne({"_id": id}, {"$setOnInsert": _document(row, keep_seconds, live=live)}, upsert=True)
        for id, row in unique.items()
    ]
    for start in range(0, len(updates), CHUNK):
        try:
            await store.audit.bulk_write(updates[start : start + CHUNK], ordered=False)
        except BulkWriteError as error:
            # Another folder wrote the same rows at the same moment.
            refused = [row for row in error.details["writeErrors"] if row["code"] != 11000]
            if refused or error.details.get("writeConcernErrors"):
                raise


async def settle(store: Store, row: AuditRow, *, details: Mapping[str, Any], error: str | None = None) -> None:
    """Says how an action ended that was written down before it began, and tells it to subscribers."""
    status = AuditStatus.SUCCESS if error is None else AuditStatus.FAILED
    sets: Document = {"details": {**row.details, **details}, "status": status.value, "event": {"1": _event(row)}}
    await store.audit.update_one({"_id": row.id}, {"$set": sets | ({} if error is None else {"error": error})})


def _match(filter: AuditFilter, reach: Reach) -> Document:
    clauses: list[Document] = [bounds] if (bounds := within(reach)) else []
    for field, values in (
        ("action", filter.actions),
        ("status", filter.statuses),
        ("source", filter.sources),
        ("actor", filter.actors),
    ):
        if values is not None:
            clauses.append({field: {"$in": [str(value) for value in values]}})
    for field, value in (("queue", filter.queue), ("job_id", filter.job_id)):
        if value is not None:
            clauses.append({field: value})
    if filter.after is not None:
        # Ids sort by the same time: an index reads no further back.
        clauses.append({"at": {"$gt": filter.after}, "_id": {"$gte": _edge(filter.after, -1)}})
    if filter.before is not None:
        clauses.append({"at": {"$lt": filter.before}, "_id": {"$lte": _edge(filter.before, 1)}})
    if filter.text is not None:
        pattern = {"$regex": re.escape(filter.text), "$options": "i"}
        texts: list[Document] = [{field: pattern} for field in TEXTS]
        clauses.append({"$or": [*texts, {"$expr": holds("$details", filter.text)}]})
    return {"$and": clauses} if clauses else {}


def _edge(at: datetime, sign: int) -> str:
    try:
        return settled_id(AUDIT, max(0, to_ms(at) + sign * 1_000), "")
    except (OverflowError, ValueError):
        raise InvalidInput("filter", "holds a time that is out of range.") from None


async def page(store: Store, filter: AuditFilter, *, reach: Reach, after: str | None, limit: int) -> list[AuditRow]:
    """Rows, the newest first, behind an id."""
    match = _match(filter, reach)
    if after is not None:
        match = {"$and": [match, {"_id": {"$lt": after}}]} if match else {"_id": {"$lt": after}}
    with time_limit(TIME_LIMIT_MS):
        rows = await store.audit.find(match, {"event": 0}, sort=[("_id", -1)], limit=limit).to_list(None)
    return [_row_from(row) for row in rows]


async def count(store: Store, filter: AuditFilter, *, reach: Reach, cap: int) -> tuple[int, bool]:
    """How many match, counted up to `cap`: (value, whether it is exact)."""
    match = _match(filter, reach)
    fields = {field for clause in match.get("$and", ()) for field in clause}
    options = {} if not match or fields & _INDEXED else {"hint": scan("audit.count")}
    with time_limit(TIME_LIMIT_MS):
        value = await store.audit.count_documents(match, limit=cap + 1, **options)
    return min(value, cap), value <= cap


async def find(store: Store, id: str, *, reach: Reach) -> AuditRow | None:
    """The row with this id."""
    row = await store.audit.find_one({"_id": id, **within(reach)})
    return None if row is None else _row_from(row)
