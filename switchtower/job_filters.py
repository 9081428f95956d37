"""Which jobs does somebody ask for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switchtower.states import JobState

__all__ = ["JobFilter", "PayloadMatch"]


@dataclass(frozen=True, slots=True)
class PayloadMatch:
    """Matches jobs whose payload has `value` at the dotted `path` (literally; a list matches by any of its items)."""

    path: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: every given condition must hold; `None` does not restrict. `text` and
    `name_contains` are literals, case-insensitive; `retry_pending` is set from a failed attempt until the next claim,
    whether the job is retrying or waiting again."""

    ids: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    names: Sequence[str] | None = None
    states: Sequence[JobState] | None = None
    tags: Sequence[str] | None = None
    group: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None
    payload: Sequence[PayloadMatch] = ()
    unique_key: str | None = None
    parent_id: str | None = None
    error_fingerprint: str | None = None
    flow_id: str | None = None
    flow_root: bool | None = None
    retry_pending: bool | None = None
    name_contains: str | None = None
