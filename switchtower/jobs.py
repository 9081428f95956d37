"""What is a job, before it is stored and as it is read?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from switchtower.attempts import Attempt, ErrorKind, JobError, LogLine, TimelineEntry, fingerprint
from switchtower.deduplication import DeduplicationOptions
from switchtower.dialects import Dialect
from switchtower.errors import InvalidInput
from switchtower.ids import attempt_id
from switchtower.job_filters import JobFilter, PayloadMatch
from switchtower.payloads import PAYLOAD_LIMIT, check_text, check_value
from switchtower.retry import DEFAULT_BACKOFF, Backoff
from switchtower.states import JobState
from switchtower.webhooks import WEBHOOK_BACKOFF

if TYPE_CHECKING:
    from switchtower.repeats import Repeat

__all__ = [
    "Attempt",
    "ChildFailure",
    "ClaimedJob",
    "Deduplication",
    "Enqueued",
    "ErrorKind",
    "Job",
    "JobError",
    "JobFilter",
    "JobUpdate",
    "LogLine",
    "NewJob",
    "PayloadMatch",
    "TimelineEntry",
    "check_rank",
    "fingerprint",
]

MAX_ATTEMPTS = 10_000
YEAR_MS = 366 * 24 * 3600 * 1000
HUNDRED_YEARS_MS = 100 * YEAR_MS
OPTS_LIMIT = 64 * 1024


@dataclass(slots=True, kw_only=True)
class NewJob:
    """What a caller asks for. Durations are milliseconds; `priority` runs lower numbers first.

    Attributes:
        delay_ms, run_at: at most one; a time in the past means now.
        max_attempts: how often it may start before it is failed, crashes included.
        ttl_ms: if it is not finished this long after enqueue, it fails with the kind `expired`.
        unique_key: while an open job of the tenant holds it, an equal enqueue answers with that job; `unique_for_ms`
            keeps the key held for that long from enqueue even when the job is finished.
        deduplication: what equal enqueues do, by a key of the tenant and queue; instead of a `unique_key`.
        lifo: it goes before the jobs of its priority instead of behind them.
        parent_id: the parent waits for this job (or, if active, sees it as its child).
        depends_on: it stays blocked until all of these are completed.
        job_id: the caller's own id, unique per queue and tenant.
        on_child_failure: what becomes of it when a job that it waits for does not complete (None: fail).
        workflow: the workflow and version that this job is a run of.
        cron_id: the cron whose slot or trigger made it.
        webhook: it is delivered by the courier, and given to no worker; without a backoff of its own it waits 30 s, 2
            min and 5 min between its attempts.
        webhook_key: the API key whose webhook it is delivered to (None: that of the caller).
        idempotency_key: the same key gives the same job for 24 h, whatever happened to the first answer.
        dialect: the REST dialect that it comes through (None: ours).
        rank: its place in the order of claims, lower first, where a whole `priority` cannot say it; may be fractional.
        group_max: it is refused when so many jobs of its group wait already.
        repeat: after each of its runs that completes another follows.
        opts: what that dialect shows as the options that it was given, word by word; nothing here obeys them.
    """

    name: str
    payload: Any = None
    queue: str = "default"
    priority: int = 0
    delay_ms: int | None = None
    run_at: datetime | None = None
    max_attempts: int = 4
    backoff: Backoff = DEFAULT_BACKOFF
    timeout_ms: int | None = None
    ttl_ms: int | None = None
    group: str | None = None
    unique_key: str | None = None
    unique_for_ms: int | None = None
    deduplication: DeduplicationOptions | None = None
    tags: Sequence[str] = ()
    lifo: bool = False
    parent_id: str | None = None
    depends_on: Sequence[str] = ()
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    webhook: bool = False
    webhook_key: str | None = None
    job_id: str | None = None
    idempotency_key: str | None = None
    on_child_failure: ChildFailure | None = None
    workflow: tuple[str, int] | None = None
    cron_id: str | None = None
    traceparent: str | None = None
    dialect: Dialect | None = None
    rank: float | None = None
    opts: Mapping[str, Any] | None = None
    group_max: int | None = None
    repeat: Repeat | None = None

    def __post_init__(self) -> None:
        if self.webhook and self.backoff is DEFAULT_BACKOFF:
            self.backoff = WEBHOOK_BACKOFF

    def check(self, *, payload_limit: int = PAYLOAD_LIMIT) -> None:
        """Raises InvalidInput, naming the GraphQL field, for the first thing that cannot be stored."""
        check_text("name", self.name, limit=256)
        check_text("queue", self.queue, limit=256)
        if self.queue == "__all__" or "/" in self.queue:
            raise InvalidInput("queue", "must not contain '/' nor be the reserved name '__all__'.")
        check_value("payload", self.payload, limit=payload_limit)
        _bounded("priority", self.priority, -(2**31), 2**31 - 1, needed=True)
        check_rank(self.rank)
        _bounded("groupMax", self.group_max, 1, 2**31 - 1)
        _bounded("delayMs", self.delay_ms, 0, HUNDRED_YEARS_MS)
        _bounded("maxAttempts", self.max_attempts, 1, MAX_ATTEMPTS, needed=True)
        _bounded("timeoutMs", self.timeout_ms, 1, YEAR_MS)
        _bounded("ttlMs", self.ttl_ms, 1, HUNDRED_YEARS_MS)
        _bounded("uniqueForMs", self.unique_for_ms, 1, YEAR_MS)
        if self.delay_ms is not None and self.run_at is not None:
            raise InvalidInput("runAt", "give delayMs or runAt, not both.")
        if self.run_at is not None and (not isinstance(self.run_at, datetime) or self.run_at.tzinfo is None):
            raise InvalidInput("runAt", "must be a time with a zone.")
        if not isinstance(self.backoff, Backoff):
            raise InvalidInput("backoff", "must be a Backoff.")
        if self.unique_for_ms is not None and self.unique_key is None:
            raise InvalidInput("uniqueForMs", "needs a uniqueKey.")
        if self.deduplication is not None:
            self._check_deduplication(self.deduplication)
        for name, text in (
            ("group", self.group),
            ("uniqueKey", self.unique_key),
            ("idempotencyKey", self.idempotency_key),
            ("parentId", self.parent_id),
            ("traceparent", self.traceparent),
        ):
            if text is not None:
                check_text(name, text, limit=512)
        if self.job_id is not None:
            check_text("jobId", self.job_id, limit=256)
            if _OUR_ID.fullmatch(self.job_id):
                raise InvalidInput("jobId", "must not look like an id of ours (job_…); look-ups accept either.")
        for name, texts, most in (("tags", self.tags, 50), ("dependsOn", self.depends_on, 1_000)):
            if isinstance(texts, str):
                raise InvalidInput(name, "must be a list.")
            if len(texts) > most:
                raise InvalidInput(name, f"at most {most:,}.")
            for text in texts:
                check_text(name, text, limit=256)
        if self.dialect is not None:
            self._check_dialect()
        if self.webhook and self.workflow is not None:
            raise InvalidInput("webhook", "a workflow's run is a worker's; let one of its steps enqueue the delivery.")

    def _check_dialect(self) -> None:
        if not isinstance(self.dialect, Dialect):
            raise InvalidInput("dialect", "must be a Dialect.")
        if self.opts is not None:
            check_value("opts", dict(self.opts), limit=OPTS_LIMIT)

    def _check_deduplication(self, options: DeduplicationOptions) -> None:
        if not isinstance(options, DeduplicationOptions):
            raise InvalidInput("deduplication", "must be DeduplicationOptions.")
        options.check(delayed=self.run_at is not None or bool(self.delay_ms))
        if self.unique_key is not None:
            raise InvalidInput("deduplication", "has a key of its own; give a uniqueKey or this, not both.")
        if not options.replaces:
            return
        if self.job_id is not None:
            raise InvalidInput("jobId", "a job that is replaced keeps its id; leave it out.")
        if self.parent_id is not None or self.depends_on or self.workflow is not None:
            raise InvalidInput("deduplication", "a job of a flow or workflow cannot be replaced by a later one.")


_OUR_ID = re.compile(r"job_[0-7][0-9a-hjkmnp-tv-z]{25}")


def _bounded(name: str, value: int | None, low: int, high: int, *, needed: bool = False) -> None:
    if value is None and not needed:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(name, f"must be a whole number between {low:,} and {high:,}.")


def check_rank(rank: float | None) -> None:
    """Raises InvalidInput for a rank that does not order."""
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int | float) or not math.isfinite(rank)):
        raise InvalidInput("priority", "must be a finite number.")


class ChildFailure(StrEnum):
    """What becomes of a parent when a job that it waits for fails, is cancelled or removed: it fails too; it runs all
    the same; or it runs, and the failed child is removed."""

    FAIL = "fail"
    IGNORE = "ignore"
    REMOVE = "remove"


class Deduplication(StrEnum):
    """Why an enqueue answered with a job that was already there: one of its keys, or the deduplication that stands for
    it; `REPLACED` says that the job is now what this enqueue asked for."""

    JOB_ID = "job_id"
    IDEMPOTENCY_KEY = "idempotency_key"
    UNIQUE_KEY = "unique_key"
    SIMPLE = "simple"
    THROTTLE = "throttle"
    DEBOUNCE = "debounce"
    REPLACED = "replaced"


@dataclass(slots=True, kw_only=True)
class Job:
    """A job as it was read from the database; a snapshot that never changes by itself."""

    id: str
    name: str
    queue: str
    state: JobState
    org: str
    app: str
    custom_id: str | None
    priority: int
    payload: Any
    result: Any
    error: JobError | None
    attempt: int
    claims: int
    max_attempts: int
    generation: int
    attempts: list[Attempt]
    progress: Any
    logs: list[LogLine]
    tags: list[str]
    group: str | None
    unique_key: str | None
    unique_for_ms: int | None
    deduplication: DeduplicationOptions | None
    run_at: datetime
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    timeout_ms: int | None
    ttl_ms: int | None
    backoff: Backoff
    lifo: bool
    worker_id: str | None
    cancel_requested_at: datetime | None
    parked: str | None
    retry_pending: bool
    parent_id: str | None
    pending: list[str]
    depends_on: list[str]
    remove_on_complete: bool
    remove_on_fail: bool
    event_seq: int
    cron_id: str | None
    flow_id: str | None
    on_child_failure: ChildFailure
    timeline: list[TimelineEntry]
    traceparent: str | None = None
    dialect: Dialect | None = None
    rank: float = 0
    opts: Any = None
    webhook: bool = False
    webhook_key: str | None = None
    scheduled_for: datetime | None = None
    repeats: bool = False

    @property
    def failures(self) -> int:
        """How many attempts of this generation did not succeed; one that is running is not among them."""
        running = bool(self.attempts) and self.attempts[-1].ended_at is None
        return self.attempt - (running or self.state is JobState.COMPLETED)


class Enqueued:
    """The answer to an enqueue: the job, and why it is an earlier one where it is.

    `job` may be given as what makes it: who enqueues thousands rarely looks at them all.
    """

    __slots__ = ("_job", "deduplication")

    def __init__(self, job: Job | Callable[[], Job], deduplication: Deduplication | None = None) -> None:
        self._job = job
        self.deduplication = deduplication

    @property
    def job(self) -> Job:
        """The job as it was stored."""
        if not isinstance(self._job, Job):
            self._job = self._job()
        return self._job

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Enqueued):
            return NotImplemented
        return (self.job, self.deduplication) == (other.job, other.deduplication)

    __hash__ = None  # type: ignore[assignment]


@dataclass(slots=True)
class ClaimedJob:
    """A job under lease: what a worker needs to run it, and the token that every report must carry.

    `fence` increases with every claim of the job: outside systems can refuse a smaller one than they have seen.
    `number` is the attempt that this run will be charged as. `recovered` says that an earlier claim ended without a
    start being recorded, so that this start must be recorded before the handler runs. `plain` says that nobody waits
    for the job and that it holds nothing: its completion is known beforehand.
    """

    id: str
    name: str
    queue: str
    payload: Any
    token: str
    number: int
    generation: int
    max_attempts: int
    backoff: Backoff
    fence: int
    org: str
    app: str
    timeout_ms: int | None
    expires_at: datetime | None
    created_at: datetime
    run_at: datetime
    custom_id: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    parent_id: str | None = None
    priority: int = 0
    traceparent: str | None = None
    on_child_failure: ChildFailure = ChildFailure.FAIL
    recovered: bool = False
    worker_id: str = ""
    plain: bool = False

    @property
    def attempt_id(self) -> str:
        """The id under which this attempt will stand in the job's history."""
        return attempt_id(self.id, self.generation, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUpdate:
    """What an operator may change of a job that is not active; a field left out stays. `rank` is the priority where a
    whole number cannot say it."""

    payload: Any = ...
    priority: int | None = None
    rank: float | None = None
    tags: Sequence[str] | None = None
    max_attempts: int | None = None
    timeout_ms: int | None = None
    run_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        others: Mapping[str, Any] = {
            "priority": self.priority,
            "rank": self.rank,
            "tags": self.tags,
            "max_attempts": self.max_attempts,
            "timeout_ms": self.timeout_ms,
            "run_at": self.run_at,
        }
        return self.payload is ... and all(value is None for value in others.values())
