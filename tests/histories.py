"""What a stored job says of its runs and steps: those too that a plain completion left to be made of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchtower.jobs import Attempt, TimelineEntry
from switchtower.store.documents import job_from

__all__ = ["runs_of", "steps_of"]


def runs_of(document: Mapping[str, Any]) -> list[Attempt]:
    """The runs that ended, oldest first."""
    return [attempt for attempt in job_from(document).attempts if attempt.outcome != "running"]


def steps_of(document: Mapping[str, Any]) -> list[TimelineEntry]:
    """The transitions, oldest first."""
    return job_from(document).timeline
