"""Which line does a delivery stand in, and which commands serve the lines in turn?

Jobs that the courier delivers are in no index of the workers'. They stand in lines of their own, one for each queue,
tenant, group and target: what holds one of these back (a pause, a slow endpoint) holds no other line.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switchtower.jobs import Job
from switchtower.store.collections import Store
from switchtower.store.expressions import literal, when
from switchtower.store.indexes import DELIVERIES
from switchtower.webhooks import COURIER, Delivery, Target

__all__ = ["Line", "delivered", "heads", "in_line", "line_from", "line_of", "next_line", "oldest"]

Document = dict[str, Any]

SEPARATOR = "\x1f"
BEHIND = "\x20"
"""The character behind the separator: what is below it is the rest of a queue's name."""
ORDER = [("line", 1), ("rank", 1), ("order", 1), ("seq", 1)]
MAX_SKIPPED = 1_000
KEPT_ANSWERS = 10
"""Of so many of a job's attempts the answers are kept, the last ones: a document holds 16 MB."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: whose jobs stand in it, and where they are delivered."""

    text: str
    queue: str
    org: str
    group: str | None
    app: str
    key_id: str | None

    @classmethod
    def parsed(cls, text: str) -> Line:
        """The line as a job's `line` names it."""
        queue, org, group, app, key_id = text.split(SEPARATOR)
        return cls(text, queue, org, group or None, app, key_id or None)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Whose webhook its jobs go to: the key's, else the project's."""
        project = Target(None, self.org, self.app)
        return (project,) if self.key_id is None else (Target(self.key_id), project)


def line_of(queue: str, org: str, group: str | None, app: str, key_id: str | None) -> str:
    """The line of a job. No name has control characters (`payloads.check_text`)."""
    return SEPARATOR.join((queue, org, group or "", app, key_id or ""))


def line_from(job: Job) -> Line:
    """The line in which a job that was read stands."""
    return Line.parsed(line_of(job.queue, job.org, job.group, job.app, job.webhook_key))


def in_line(line: str) -> Document:
    """The jobs that may be delivered now in a line; fits the partial index `deliveries` exactly."""
    return {"line": line, "state": "waiting", "parked": None, "executor": COURIER}


async def next_line(store: Store, *, after: str, skipped: Collection[str] = ()) -> Line | None:
    """The first line behind this one in which jobs wait, without those in `skipped`."""
    bounds: Document = {"$gt": after} | ({"$nin": sorted(skipped)[:MAX_SKIPPED]} if skipped else {})
    match = {**in_line(""), "line": bounds}
    row = await store.jobs.find_one(match, {"line": 1}, sort=ORDER, hint=DELIVERIES)
    return None if row is None else Line.parsed(row["line"])


async def heads(store: Store, line: str, limit: int, *, without_names: Collection[str] = ()) -> list[Document]:
    """The first jobs of a line, with what their limits depend on."""
    match = in_line(line) | ({"name": {"$nin": sorted(without_names)}} if without_names else {})
    fields = {"name": 1, "org": 1, "group": 1}
    cursor = store.jobs.find(match, fields, sort=ORDER, limit=limit).hint(DELIVERIES)
    found: list[Document] = await cursor.to_list(limit)
    return found


async def oldest(store: Store, queue: str, limit: int) -> list[datetime]:
    """Since when the first job of each of the first `limit` lines of a queue could have been delivered."""
    found: list[datetime] = []
    after = f"{queue}{SEPARATOR}"
    while len(found) < limit:
        match = {**in_line(""), "line": {"$gt": after, "$lt": f"{queue}{BEHIND}"}}
        row = await store.jobs.find_one(match, {"run_at": 1, "line": 1}, sort=ORDER, hint=DELIVERIES)
        if row is None:
            break
        found.append(row["run_at"])
        after = row["line"]
    return found


def delivered(delivery: Delivery) -> list[Document]:
    """What the report of a delivery adds to the attempt that it ends: a stage behind the transition's own."""
    row: Document = {"status_code": delivery.status_code, "latency_ms": delivery.latency_ms}
    if delivery.answer is not None:
        row |= {"answer": literal(delivery.answer)}
    if delivery.truncated:
        row["truncated"] = True
    rows = {"$ifNull": ["$attempts", []]}
    size = {"$size": rows}
    spare = {"$max": [0, {"$subtract": [size, KEPT_ANSWERS]}]}
    older = {
        "$map": {
            "input": {"$slice": [rows, spare]},
            "as": "row",
            "in": {"$unsetField": {"field": "answer", "input": "$$row"}},
        }
    }
    # Of a job that was removed at once there is nothing to add to.
    between = {"$slice": [rows, spare, {"$max": [1, {"$subtract": [size, {"$add": [spare, 1]}]}]}]}
    kept = {"$concatArrays": [when({"$gt": [spare, 0]}, older, []), when({"$gt": [size, 1]}, between, [])]}
    last = {"$mergeObjects": [{"$last": rows}, row]}
    return [{"$set": {"attempts": when({"$gt": [size, 0]}, {"$concatArrays": [kept, [last]]}, "$attempts")}}]
