"""Which options can a job be given from Python, and do they fit?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypedDict

from switchtower.deduplication import DeduplicationOptions
from switchtower.errors import InvalidInput
from switchtower.jobs import ChildFailure, NewJob
from switchtower.retry import Backoff

__all__ = ["EnqueueOptions", "job_fields"]


class EnqueueOptions(TypedDict, total=False):
    """What can be asked of one job beside its payload: the fields of `NewJob`; durations also in seconds."""

    queue: str
    priority: int
    delay_ms: int
    delay_seconds: float
    run_at: datetime
    max_attempts: int
    backoff: Backoff
    timeout_ms: int
    timeout_seconds: float
    ttl_ms: int
    ttl_seconds: float
    group: str
    unique_key: str
    unique_for_ms: int
    unique_for_seconds: float
    deduplication: DeduplicationOptions
    tags: Sequence[str]
    lifo: bool
    parent_id: str
    on_child_failure: ChildFailure
    depends_on: Sequence[str]
    remove_on_complete: bool
    remove_on_fail: bool
    webhook: bool
    job_id: str
    idempotency_key: str
    traceparent: str | None


_FIELDS = frozenset(f.name for f in fields(NewJob)) - {"name", "payload", "workflow", "cron_id", "webhook_key"}
_TYPES: dict[str, type] = {
    **{name: int for name in _FIELDS if name.endswith("_ms") or name in ("priority", "max_attempts")},
    **dict.fromkeys(("lifo", "remove_on_complete", "remove_on_fail", "webhook"), bool),
    "backoff": Backoff,
    "deduplication": DeduplicationOptions,
    "on_child_failure": ChildFailure,
    "run_at": datetime,
}
_TYPE_NAMES = {int: "whole number", str: "text", bool: "boolean"}
_REQUIRED = frozenset(f.name for f in fields(NewJob) if f.default is not None)
_SECONDS = {f"{name[:-3]}_seconds": name for name in _FIELDS if name.endswith("_ms")}


def job_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as fields of NewJob, seconds made milliseconds."""
    chosen = {}
    for name, value in options.items():
        if name in _SECONDS:
            field = _SECONDS[name]
            if field in options:
                raise InvalidInput(name, f"give {name} or {field}, not both.")
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
                    raise InvalidInput(name, "must be a number of seconds.")
                # A duration too long for the clock is refused later, by the bound of its field.
                value = round(max(-1e15, min(value, 1e15)) * 1000)
            name = field
        elif name not in _FIELDS:
            close = difflib.get_close_matches(name, [*_FIELDS, *_SECONDS], n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InvalidInput(name, f"is not an option of a job.{hint}")
        _require_type(name, value)
        chosen[name] = value
    return chosen


def _require_type(name: str, value: Any) -> None:
    if name in ("tags", "depends_on"):
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or not all(isinstance(item, str) for item in value)
        ):
            raise InvalidInput(name, "must be a list of texts.")
        return
    kind = _TYPES.get(name, str)
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if wrong and not (value is None and name not in _REQUIRED):
        raise InvalidInput(name, f"must be a {_TYPE_NAMES.get(kind, kind.__name__)}, not a {type(value).__name__}.")
