"""When does a job that repeats run again?

Each run that completes is followed by a new job, due at the schedule's next time; a run that fails or is cancelled ends
the repetition. (A cron, by contrast, fires whatever becomes of its jobs.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from switchtower.crons import Schedule

__all__ = ["Repeat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A cron `expression` in a time zone, or `every_ms` from the end of a run; one of the two.

    Attributes:
        limit: how many runs there are, this job's among them (None: no end).
        starts_at: when the first is due, where that is yet to come.
        ends_at: after this time none begins.

    Raises: InvalidInput for a schedule that makes no sense.
    """

    expression: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"
    limit: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        Schedule(self.expression, self.every_ms, self.timezone)

    def following(self, ended_at: datetime) -> tuple[datetime, Repeat] | None:
        """When the run after one that ended at this time is due, and the repetition that is left then; None where there
        is no further one."""
        left = None if self.limit is None else self.limit - 1
        if left == 0:
            return None
        if self.every_ms is not None:
            due: datetime | None = ended_at + timedelta(milliseconds=self.every_ms)
        else:
            due = Schedule(self.expression, timezone=self.timezone).after(ended_at)
        if due is None or (self.ends_at is not None and due > self.ends_at):
            return None
        return due, replace(self, limit=left)
