"""What is a limit on running jobs, to a GraphQL client?"""

from collections.abc import Mapping, Sequence

import strawberry

from switchtower import limits as records
from switchtower.errors import InvalidInput

__all__ = ["JobLimit", "JobLimitInput", "QueueLimits", "QueueLimitsInput", "limit_of", "limits_of"]

CONCURRENCY = "How many jobs may run at once, over all workers; null for any number, 0 for none."
RATE = "How many jobs may start in an interval, over all workers; null for any number."


@strawberry.type(description="At most so many starts of jobs in any interval of this length.")
class JobRate:
    """`switchtower.limits.Rate`."""

    starts: int = strawberry.field(description="How many jobs.")
    per_ms: int = strawberry.field(description="The interval in milliseconds; it slides.")


@strawberry.type(description="A limit on running jobs.")
class JobLimit:
    """`switchtower.limits.Limit`."""

    concurrency: int | None = strawberry.field(description=CONCURRENCY)
    rate: JobRate | None = strawberry.field(description=RATE)


@strawberry.type(description="A limit on the running jobs of one job name or one group.")
class NamedLimit:
    """One entry of `switchtower.limits.QueueLimits`."""

    name: str = strawberry.field(description="The job name, or the group.")
    concurrency: int | None = strawberry.field(description=CONCURRENCY)
    rate: JobRate | None = strawberry.field(description=RATE)


@strawberry.type(description="The limits of a queue. Each one that a job falls under must have room for it.")
class QueueLimits:
    """`switchtower.limits.QueueLimits`."""

    concurrency: int | None = strawberry.field(description=f"Of all of its jobs together. {CONCURRENCY}")
    rate: JobRate | None = strawberry.field(description=f"Of all of its jobs together. {RATE}")
    names: list[NamedLimit] = strawberry.field(description="The limits of single job names.")
    per_group: JobLimit = strawberry.field(description="The limit of each of its groups.")
    groups: list[NamedLimit] = strawberry.field(description="The limits of single groups, in the place of `perGroup`.")


def _rate_of(rate: records.Rate | None) -> JobRate | None:
    return None if rate is None else JobRate(starts=rate.starts, per_ms=rate.per_ms)


def limit_of(limit: records.Limit) -> JobLimit:
    """The limit as GraphQL shows it."""
    return JobLimit(concurrency=limit.concurrency, rate=_rate_of(limit.rate))


def _named(limits: Mapping[str, records.Limit]) -> list[NamedLimit]:
    return [
        NamedLimit(name=name, concurrency=limit.concurrency, rate=_rate_of(limit.rate))
        for name, limit in sorted(limits.items())
    ]


def limits_of(limits: records.QueueLimits) -> QueueLimits:
    """The limits of a queue as GraphQL shows them."""
    return QueueLimits(
        concurrency=limits.queue.concurrency,
        rate=_rate_of(limits.queue.rate),
        names=_named(limits.names),
        per_group=limit_of(limits.per_group),
        groups=_named(limits.groups),
    )


@strawberry.input(description="At most so many starts of jobs in any interval of this length.")
class JobRateInput:
    """`switchtower.limits.Rate`."""

    starts: int = strawberry.field(description="How many jobs, 0 to 1,000,000.")
    per_ms: int = strawberry.field(description="The interval in milliseconds, from 100 to one day; it slides.")

    def record(self) -> records.Rate:
        """As the engine knows it."""
        return records.Rate(self.starts, self.per_ms)


@strawberry.input(description="A limit on running jobs; what is left out has none.")
class JobLimitInput:
    """`switchtower.limits.Limit`."""

    concurrency: int | None = strawberry.field(default=None, description=f"{CONCURRENCY} At most 100,000.")
    rate: JobRateInput | None = strawberry.field(default=None, description=RATE)

    def record(self) -> records.Limit:
        """As the engine knows it."""
        return records.Limit(self.concurrency, self.rate.record() if self.rate else None)


@strawberry.input(description="A limit on the running jobs of one job name or one group.")
class NamedLimitInput:
    """One entry of `switchtower.limits.QueueLimits`."""

    name: str = strawberry.field(description="The job name, or the group.")
    concurrency: int | None = strawberry.field(default=None, description=f"{CONCURRENCY} At most 100,000.")
    rate: JobRateInput | None = strawberry.field(default=None, description=RATE)

    def record(self) -> records.Limit:
        """As the engine knows it."""
        return records.Limit(self.concurrency, self.rate.record() if self.rate else None)


def _by_name(field: str, given: Sequence[NamedLimitInput] | None) -> dict[str, records.Limit]:
    found = {one.name: one.record() for one in given or ()}
    if len(found) != len(given or ()):
        raise InvalidInput(field, "names one of them twice.")
    return found


@strawberry.input(description="All limits of a queue, in the place of those that it has; what is left out has none.")
class QueueLimitsInput:
    """`switchtower.limits.QueueLimits`."""

    concurrency: int | None = strawberry.field(
        default=None, description=f"Of all of its jobs together. {CONCURRENCY} At most 100,000."
    )
    rate: JobRateInput | None = strawberry.field(default=None, description=f"Of all of its jobs together. {RATE}")
    names: list[NamedLimitInput] | None = strawberry.field(
        default=None, description="The limits of single job names, at most 200."
    )
    per_group: JobLimitInput | None = strawberry.field(default=None, description="The limit of each of its groups.")
    groups: list[NamedLimitInput] | None = strawberry.field(
        default=None, description="The limits of single groups, in the place of `perGroup`, at most 200."
    )

    def record(self) -> records.QueueLimits:
        """As the engine knows it. Raises: InvalidInput."""
        return records.QueueLimits(
            records.Limit(self.concurrency, self.rate.record() if self.rate else None),
            _by_name("names", self.names),
            self.per_group.record() if self.per_group else records.UNLIMITED,
            _by_name("groups", self.groups),
        )
