"""Who did what to the queue, and how did it end?

An action that somebody took leaves its source in the event of what it changed; `row_of` makes the audit row of such an
event. What workers, schedulers and maintenance do by themselves carries no source, and has no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from switchtower.clock import to_ms
from switchtower.events import Event, Topic
from switchtower.ids import AUDIT, settled_id

__all__ = ["AuditFilter", "AuditRow", "AuditStatus", "row_of"]


class AuditStatus(StrEnum):
    """How an action ended: `failed` is one that was refused, and changed nothing."""

    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One action. `action` is `noun.verb`; `target` is the id of what it was done to where that is no job or queue.

    `details` holds what the action changed: `before` and `after` where they are small, counts, names of fields.
    """

    id: str
    at: datetime
    action: str
    source: str
    status: AuditStatus = AuditStatus.SUCCESS
    actor: str | None = None
    org: str = ""
    queue: str | None = None
    job_id: str | None = None
    target: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which rows: every given condition must hold. `text` is a literal, case-insensitive; `after` and `before` are
    times."""

    actions: Sequence[str] | None = None
    statuses: Sequence[AuditStatus] | None = None
    sources: Sequence[str] | None = None
    actors: Sequence[str] | None = None
    queue: str | None = None
    job_id: str | None = None
    text: str | None = None
    after: datetime | None = None
    before: datetime | None = None


_NOUNS = {
    Topic.JOB: "job",
    Topic.QUEUE: "queue",
    Topic.DEAD_LETTER: "dead_letter",
    Topic.CRON: "cron",
    Topic.BULK: "bulk",
    Topic.KEY: "key",
}
_TOLD_ALREADY = {"seq", "error"}


def row_of(event: Event) -> AuditRow | None:
    """The audit row of an event, with the same id however often it is made; None for what nobody asked for.

    Events with the same `action.id` are one action and give rows with one id.
    """
    if event.source is None or event.topic not in _NOUNS:
        return None
    named: Mapping[str, Any] = event.data.get("action") or {}
    details = {key: value for key, value in event.data.items() if key not in _TOLD_ALREADY and key != "action"}
    action = named.get("name") or f"{_NOUNS[event.topic]}.{event.type}"
    job_id, target = (event.id, None) if event.topic is Topic.JOB else (None, event.id)
    if event.topic is Topic.JOB:
        if event.from_state != event.to_state:
            details = {"before": {"state": event.from_state}, "after": {"state": event.to_state}} | details
        if event.type == "enqueue":
            action, target = "cron.trigger", details.pop("cron", None)
        elif action.startswith("flow."):
            # Any job's event may be the one that is kept of the many of this action.
            job_id, target, details = event.flow_id, event.flow_id, {}
    elif event.topic is Topic.DEAD_LETTER:
        job_id = details.pop("job", None)
    elif event.topic is Topic.QUEUE:
        target = None
        if event.name:
            details["job_name"] = event.name
    elif event.topic is Topic.BULK:
        verb = details.pop("verb", "")
        action = f"flow.{verb}" if event.flow_id else f"bulk.{verb}"
        details = (
            {"phase": event.type, "flow": event.flow_id} | details if event.flow_id else {"phase": event.type} | details
        )
    if event.name and event.topic is not Topic.QUEUE:
        details["name"] = event.name
    cause = f"{named['id']}" if "id" in named else event.cursor
    at_ms = named.get("at_ms") or to_ms(event.at)
    return AuditRow(
        id=settled_id(AUDIT, at_ms, cause),
        at=event.at,
        action=action,
        source=event.source,
        actor=event.actor,
        org=event.org,
        queue=event.queue or None,
        job_id=job_id,
        target=target,
        details=details,
    )
