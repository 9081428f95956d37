"""What does a client send about jobs?"""

from dataclasses import fields
from datetime import datetime
from typing import Any

import strawberry

from schema.conversion import prepared
from schema.enums import JobEventType
from schema.resolvers.jobs import EventFilter
from schema.scalars import JSON
from switchtower import jobs as records
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.errors import InvalidInput, SwitchtowerError
from switchtower.jobs import ChildFailure
from switchtower.retry import Backoff, BackoffKind
from switchtower.states import JobState

__all__ = [
    "BackoffInput",
    "DeduplicationInput",
    "EnqueueJobInput",
    "JobEventFilter",
    "JobFilter",
    "PayloadMatch",
    "UpdateJobInput",
    "event_filter",
    "job_filter",
    "new_job_or_error",
]


def given(source: Any, *names: str) -> dict[str, Any]:
    """The named attributes that are not null, for the record's own defaults to stand in for the others."""
    return {name: value for name in names if (value := getattr(source, name)) is not None}


@strawberry.input(description="One value that the payload must have.")
class PayloadMatch:
    """`switchtower.jobs.PayloadMatch`."""

    path: str = strawberry.field(description="A dotted path such as `customer.id`; a list matches by any of its items.")
    value: JSON | None = strawberry.field(default=None, description="The value there.")


@strawberry.input(description="Which jobs: every given condition must hold.")
class JobFilter:
    """`switchtower.jobs.JobFilter`."""

    ids: list[strawberry.ID] | None = strawberry.field(default=None, description="Any of these ids, ours or your own.")
    queues: list[str] | None = strawberry.field(default=None, description="In any of these queues.")
    names: list[str] | None = strawberry.field(default=None, description="With any of these names.")
    states: list[JobState] | None = strawberry.field(default=None, description="In any of these states.")
    tags: list[str] | None = strawberry.field(default=None, description="With any of these tags.")
    group: str | None = strawberry.field(default=None, description="Of this group.")
    created_after: datetime | None = strawberry.field(default=None, description="Enqueued after this time.")
    created_before: datetime | None = strawberry.field(default=None, description="Enqueued before this time.")
    text: str | None = strawberry.field(
        default=None,
        description="With this text, whatever its case, in its id, name, payload or error; at most 256 characters.",
    )
    payload: list[PayloadMatch] | None = strawberry.field(
        default=None, description="With all of these values in its payload."
    )
    unique_key: str | None = strawberry.field(default=None, description="Enqueued with this unique key.")
    parent_id: strawberry.ID | None = strawberry.field(default=None, description="With this parent.")
    error_fingerprint: str | None = strawberry.field(
        default=None, description="Whose last failure has this fingerprint."
    )
    flow_id: strawberry.ID | None = strawberry.field(default=None, description="Of this flow; the id of its root.")


_SAME_FIELDS = tuple(field.name for field in fields(JobFilter) if field.name != "payload")


def job_filter(filter: JobFilter | None) -> records.JobFilter:
    """The filter as the engine knows it; none restricts nothing."""
    if filter is None:
        return records.JobFilter()
    matches = tuple(records.PayloadMatch(match.path, match.value) for match in filter.payload or ())
    return records.JobFilter(payload=matches, **given(filter, *_SAME_FIELDS))


@strawberry.input(description="The waits between the attempts of a job.")
class BackoffInput:
    """`switchtower.retry.Backoff`."""

    kind: BackoffKind | None = strawberry.field(default=None, description="Their shape; exponential where not given.")
    base_ms: int | None = strawberry.field(
        default=None, description="The first wait, in milliseconds; 1000 where not given."
    )
    cap_ms: int | None = strawberry.field(
        default=None, description="The longest wait, in milliseconds; 60000 where not given."
    )
    jitter: float | None = strawberry.field(
        default=None, description="The share of each wait that is drawn at random, 0 to 1; 1 where not given."
    )
    waits_ms: list[int] | None = strawberry.field(default=None, description="For a table: its waits, in milliseconds.")

    def record(self) -> Backoff:
        """As the engine knows it. Raises InvalidInput."""
        chosen = given(self, "kind", "base_ms", "cap_ms", "jitter")
        if self.waits_ms is not None:
            chosen["waits_ms"] = tuple(self.waits_ms)
            chosen.setdefault("kind", BackoffKind.TABLE)
        return Backoff(**chosen)


@strawberry.input(
    description="What equal enqueues do: one job stands for all, per tenant, queue and key, for as long as `mode` says."
)
class DeduplicationInput:
    """`switchtower.deduplication.DeduplicationOptions`."""

    mode: DeduplicationMode | None = strawberry.field(
        default=DeduplicationMode.SIMPLE, description="How long the job stands for later enqueues."
    )
    key: str | None = strawberry.field(
        default=None, description="What makes enqueues equal; their name and payload where not given."
    )
    ttl_ms: int | None = strawberry.field(
        default=None,
        description="The longest that it stands for them from the first, in milliseconds; `THROTTLE` needs it.",
    )
    replace: bool | None = strawberry.field(
        default=None, description="A later one replaces the job while it is scheduled; always so for `DEBOUNCE`."
    )
    extend: bool | None = strawberry.field(default=None, description="Each later one begins the time of `ttlMs` anew.")

    def record(self) -> DeduplicationOptions:
        """As the engine knows it."""
        return DeduplicationOptions(**given(self, "mode", "key", "ttl_ms", "replace", "extend"))


@prepared
@strawberry.input(description="A job to enqueue.")
class EnqueueJobInput:
    """`switchtower.jobs.NewJob`."""

    name: str = strawberry.field(description="The name of its handler, at most 256 characters.")
    payload: JSON | None = strawberry.field(
        default=None, description="What its handler is given; 1 MiB unless configured otherwise."
    )
    queue: str | None = strawberry.field(
        default=None, description="Its queue; where not given that of your key, or else `default`."
    )
    priority: int | None = strawberry.field(default=0, description="Lower numbers run first.")
    delay_ms: int | None = strawberry.field(
        default=None,
        description="How long it waits before it is due, in milliseconds; for more than 24.8 days use `runAt`.",
    )
    run_at: datetime | None = strawberry.field(default=None, description="When it is due; not together with `delayMs`.")
    max_attempts: int | None = strawberry.field(
        default=None, description="How often it may start before it fails, crashes included; 4 where not given."
    )
    backoff: BackoffInput | None = strawberry.field(
        default=None,
        description=(
            "How long it waits between attempts; where not given exponentially with jitter, from a second to a minute, "
            "and a webhook 30 seconds, 2 and 5 minutes."
        ),
    )
    timeout_ms: int | None = strawberry.field(
        default=None, description="How long one attempt may run, in milliseconds."
    )
    ttl_ms: int | None = strawberry.field(
        default=None, description="It fails if it is not finished so long after enqueue, in milliseconds."
    )
    group: str | None = strawberry.field(default=None, description="Its group.")
    unique_key: str | None = strawberry.field(
        default=None, description="While a job that is not finished holds this key, the answer is that job."
    )
    unique_for_ms: int | None = strawberry.field(
        default=None,
        description="Holds the unique key for so long from enqueue even when the job has ended, in milliseconds.",
    )
    deduplication: DeduplicationInput | None = strawberry.field(
        default=None, description="What equal enqueues do; instead of a `uniqueKey`."
    )
    tags: list[str] | None = strawberry.field(default=None, description="At most 50 tags.")
    lifo: bool | None = strawberry.field(
        default=None, description="Goes before the jobs of its priority instead of behind them."
    )
    parent_id: strawberry.ID | None = strawberry.field(default=None, description="The job that waits for it.")
    depends_on: list[strawberry.ID] | None = strawberry.field(
        default=None, description="The jobs that must complete before it runs; at most 1,000."
    )
    on_child_failure: ChildFailure | None = strawberry.field(
        default=None,
        description="What becomes of it when a job that it waits for does not complete; `FAIL` where not given.",
    )
    remove_on_complete: bool | None = strawberry.field(default=None, description="Removes it when it completes.")
    remove_on_fail: bool | None = strawberry.field(default=None, description="Removes it when it fails.")
    webhook: bool | None = strawberry.field(
        default=None,
        description="Delivered to the webhook of your key or project instead of a worker: see `setWebhook`.",
    )
    job_id: strawberry.ID | None = strawberry.field(
        default=None, description="Your own id for it, unique per queue: an equal enqueue answers with the same job."
    )
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key gives the same job for 24 hours, whatever happened to the first answer."
    )

    def record(self, queue: str | None = None) -> records.NewJob:
        """As the engine knows it, in `queue` where it names none. Raises InvalidInput."""
        chosen = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        if queue is not None:
            chosen.setdefault("queue", queue)
        if self.backoff is not None:
            chosen["backoff"] = self.backoff.record()
        if self.deduplication is not None:
            chosen["deduplication"] = self.deduplication.record()
        return records.NewJob(**chosen)


_PLAIN = tuple(field.name for field in fields(EnqueueJobInput) if field.name not in ("backoff", "deduplication"))


def new_job_or_error(input: EnqueueJobInput, queue: str | None) -> records.NewJob | SwitchtowerError:
    """The job to enqueue, in `queue` where it names none; or what is wrong with it, to be answered among many."""
    try:
        return input.record(queue)
    except InvalidInput as error:
        return error


@strawberry.input(description="What to change of a job that is not active; what is left out stays.")
class UpdateJobInput:
    """`switchtower.jobs.JobUpdate`."""

    payload: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="A new payload; null is a payload too."
    )
    priority: int | None = strawberry.field(default=None, description="A new priority; lower numbers run first.")
    tags: list[str] | None = strawberry.field(default=None, description="New tags, in place of all that it has.")
    max_attempts: int | None = strawberry.field(default=None, description="How many attempts it may have.")
    timeout_ms: int | None = strawberry.field(
        default=None, description="How long one attempt may run, in milliseconds."
    )
    run_at: datetime | None = strawberry.field(default=None, description="When it is due.")

    def record(self) -> records.JobUpdate:
        """As the engine knows it."""
        chosen = given(self, "priority", "tags", "max_attempts", "timeout_ms", "run_at")
        if self.payload is not strawberry.UNSET:
            chosen["payload"] = self.payload
        return records.JobUpdate(**chosen)


@strawberry.input(description="Which events of jobs: every given condition must hold.")
class JobEventFilter:
    """`schema.resolvers.jobs.EventFilter`."""

    job_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description="Of any of these jobs; our ids, not your own."
    )
    queues: list[str] | None = strawberry.field(default=None, description="In any of these queues.")
    names: list[str] | None = strawberry.field(default=None, description="Of jobs with any of these names.")
    to: list[JobState] | None = strawberry.field(
        default=None, description="That brought a job into any of these states."
    )
    types: list[JobEventType] | None = strawberry.field(default=None, description="Of any of these types.")
    tags: list[str] | None = strawberry.field(default=None, description="Of jobs with any of these tags.")
    group: str | None = strawberry.field(default=None, description="Of jobs of this group.")
    parent_id: strawberry.ID | None = strawberry.field(
        default=None, description="Of the children of this job; its id of ours."
    )


_SETS = ("job_ids", "queues", "names", "to", "types", "tags")
_SCALARS = ("group", "parent_id")


def event_filter(filter: JobEventFilter | None) -> EventFilter:
    """The filter as the resolvers know it; none wants everything."""
    if filter is None:
        return EventFilter()
    chosen = {name: frozenset(values) for name, values in given(filter, *_SETS).items()} | given(filter, *_SCALARS)
    return EventFilter(**chosen)
