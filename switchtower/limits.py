"""How many jobs may run at once, and how many may start in an interval?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from switchtower.errors import InvalidInput
from switchtower.payloads import check_text

__all__ = ["UNLIMITED", "Limit", "QueueLimits", "Rate"]

MAX_CONCURRENCY = 100_000
MAX_STARTS = 1_000_000
MAX_NAMED = 200
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `starts` jobs are handed to workers in any `per_ms` milliseconds, over all workers; 0 holds all back."""

    starts: int
    per_ms: int

    def check(self, field: str = "rate") -> None:
        """Raises InvalidInput."""
        if not 0 <= self.starts <= MAX_STARTS:
            raise InvalidInput(f"{field}.starts", f"must be between 0 and {MAX_STARTS:,}.")
        if not 100 <= self.per_ms <= DAY_MS:
            raise InvalidInput(f"{field}.perMs", "must be between 100 milliseconds and one day.")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `concurrency` jobs active at once over all workers, and a rate; None is without bound."""

    concurrency: int | None = None
    rate: Rate | None = None

    def __bool__(self) -> bool:
        """Whether it bounds anything."""
        return self.concurrency is not None or self.rate is not None

    def check(self, field: str = "") -> None:
        """Raises InvalidInput, naming the part under `field`."""
        at = f"{field}." if field else ""
        if self.concurrency is not None and not 0 <= self.concurrency <= MAX_CONCURRENCY:
            raise InvalidInput(f"{at}concurrency", f"must be between 0 and {MAX_CONCURRENCY:,}.")
        if self.rate is not None:
            self.rate.check(f"{at}rate")


UNLIMITED = Limit()


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of a queue: of all its jobs together, of single job names, of each group, and of single groups (in
    the place of what every group has)."""

    queue: Limit = UNLIMITED
    names: Mapping[str, Limit] = field(default_factory=dict)
    per_group: Limit = UNLIMITED
    groups: Mapping[str, Limit] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether it bounds anything."""
        return any((self.queue, self.per_group, *self.names.values(), *self.groups.values()))

    def of_group(self, group: str) -> Limit:
        """The limit of one group."""
        return self.groups.get(group, self.per_group)

    def check(self) -> None:
        """Raises InvalidInput, naming the part."""
        self.queue.check()
        self.per_group.check("perGroup")
        for part, limits in (("names", self.names), ("groups", self.groups)):
            if len(limits) > MAX_NAMED:
                raise InvalidInput(part, f"takes at most {MAX_NAMED} entries.")
            for name, limit in limits.items():
                check_text(f"{part}.name", name, limit=256)
                limit.check(part)
