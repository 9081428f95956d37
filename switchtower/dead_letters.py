"""What is kept of a job that failed for good?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switchtower.jobs import JobError

__all__ = ["DeadLetter", "DeadLetterFilter"]


@dataclass(slots=True, kw_only=True)
class DeadLetter:
    """What is kept of a job that failed for good; a replay makes a new job and leaves the entry."""

    id: str
    job_id: str
    generation: int
    name: str
    queue: str
    payload: Any
    error: JobError | None
    attempt: int
    max_attempts: int
    priority: int
    failed_at: datetime
    created_at: datetime
    replayed_at: datetime | None
    replay_job_ids: list[str]
    org: str
    app: str
    group: str | None
    tags: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters: every given condition must hold."""

    ids: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    names: Sequence[str] | None = None
    job_id: str | None = None
    replayed: bool | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None
    text: str | None = None
    fingerprint: str | None = None
