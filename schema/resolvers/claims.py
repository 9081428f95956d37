"""How does a worker in any language take jobs and report on them?

It registers by claiming, keeps its lease by extending it, and carries the lease token of a job in every report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import bounded, check_values
from switchtower.access import Scope
from switchtower.callers import EVERYTHING
from switchtower.errors import InvalidInput, LeaseLost, NotFound
from switchtower.ids import WORKER, new_id
from switchtower.jobs import ClaimedJob, ErrorKind, Job, JobError, fingerprint
from switchtower.payloads import check_text, check_value
from switchtower.workers import LEASE_SECONDS, Outcome, OutcomeKind, Worker, WorkerInfo, WorkerState

__all__ = [
    "ClaimRequest",
    "Claimed",
    "Extended",
    "Failure",
    "Leased",
    "append_log",
    "claim",
    "complete",
    "extend",
    "fail",
    "release",
    "report_progress",
]

MAX_CLAIM = 500
DAY_MS = 24 * 3600 * 1000
LARGEST_RESULT = 16 * 1024 * 1024
"""A result over the payload limit is cut when it is stored; only what cannot be stored at all is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """What a worker says of itself and asks for. Without `names` it takes any; without `worker_id` it is given one."""

    worker_id: str | None
    queues: Sequence[str]
    names: Sequence[str] | None
    limit: int
    lease_ms: int | None
    hostname: str | None

    def check(self) -> None:
        """Raises InvalidInput, naming the field."""
        if not self.queues:
            raise InvalidInput("queues", "name at least one queue.")
        for field, values in (("queues", self.queues), ("names", self.names)):
            check_values(field, values)
            for value in values or ():
                check_text(field, value, limit=256)
        for field, text in (("workerId", self.worker_id), ("hostname", self.hostname)):
            if text is not None:
                check_text(field, text, limit=256)
        bounded("limit", self.limit, 1, MAX_CLAIM)
        _check_lease(self.lease_ms)


@dataclass(frozen=True, slots=True)
class Leased:
    """A job under lease: what to run, and the token that every report must carry."""

    job: Job
    claim: ClaimedJob


@dataclass(frozen=True, slots=True)
class Claimed:
    """The jobs that a claim won, and when their worker must have renewed its lease."""

    worker_id: str
    lease_expires_at: datetime
    jobs: list[Leased]


@needs(Scope.WORK)
async def claim(context: Context, request: ClaimRequest, *, with_: frozenset[str] | None = None) -> Claimed:
    """Registers the worker or renews its lease, and moves up to `limit` waiting jobs to it; they count as started.

    A worker that is draining is given none.

    Raises:
        InvalidInput; NotFound: a queue; the worker is another tenant's.
    """
    request.check()
    for queue in request.queues:
        context.caller.check_queue(queue)
    if request.worker_id is not None:
        await _own_worker(context, request.worker_id, may_be_new=True)
    worker = await _present(context, request)
    won: list[ClaimedJob] = []
    if worker.state is WorkerState.LIVE:
        claims = context.engine.claims
        names = request.names or None
        won = await claims.claim(worker.id, request.queues, names=names, limit=request.limit, org=context.caller.org)
        if won:
            # Nothing more is heard of them before their handlers run: the start is recorded with the claim.
            lost = await claims.start(won)
            won = [job for job in won if job.id not in lost]
    found = (
        await context.engine.jobs.get_many([job.id for job in won], caller=context.caller, with_=with_) if won else {}
    )
    return Claimed(worker.id, worker.expires_at, [Leased(found[job.id], job) for job in won if job.id in found])


async def _present(context: Context, request: ClaimRequest) -> Worker:
    """The worker with a renewed lease; registered where it is new, gone or now says something else of itself."""
    seconds = LEASE_SECONDS if request.lease_ms is None else request.lease_ms / 1000
    info = WorkerInfo(
        id=new_id(WORKER) if request.worker_id is None else request.worker_id,
        queues=list(request.queues),
        names=list(request.names or ()),
        concurrency=request.limit,
        hostname=request.hostname or "",
        kind="graphql",
        lease_seconds=seconds,
        org=context.caller.org,
    )
    if request.worker_id is not None:
        try:
            worker = await context.engine.workers.renew(info.id)
        except NotFound:
            pass
        else:
            said = (worker.queues, worker.names, worker.lease_seconds, worker.kind)
            if worker.state is not WorkerState.LIVE or said == (info.queues, info.names, info.lease_seconds, info.kind):
                return worker
    return await context.engine.workers.register(info)


@dataclass(frozen=True, slots=True)
class Extended:
    """A renewed lease, and which of the worker's jobs should be stopped."""

    worker_id: str
    lease_expires_at: datetime
    cancel_requested: list[str]


@needs(Scope.WORK)
async def extend(context: Context, worker_id: str, *, lease_ms: int | None = None) -> Extended:
    """Renews the lease on all jobs of a worker, for `lease_ms` from now where given.

    Raises:
        InvalidInput; NotFound: unknown, or silent for so long that its jobs went to others.
    """
    _check_lease(lease_ms)
    await _own_worker(context, worker_id)
    seconds = None if lease_ms is None else lease_ms / 1000
    worker = await context.engine.workers.renew(worker_id, lease_seconds=seconds)
    return Extended(worker.id, worker.expires_at, sorted(await context.engine.claims.cancel_requests(worker.id)))


@needs(Scope.WORK)
async def complete(context: Context, id: str, token: str, result: Any) -> Job:
    """Ends a run well. A repeat with the same token answers the same. Raises InvalidInput, LeaseLost."""
    check_value("result", result, limit=LARGEST_RESULT)
    leased = await _leased(context, id, token)
    return await _report(
        context, Outcome(id, token, OutcomeKind.COMPLETE, result=result, ran_ms=_ran_ms(context, leased))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a worker says of a run that failed."""

    type: str
    message: str
    stack: str | None = None
    retryable: bool = True
    retry_after_ms: int | None = None


@needs(Scope.WORK)
async def fail(context: Context, id: str, token: str, failure: Failure) -> Job:
    """Ends a run badly: another attempt after the job's backoff or `retry_after_ms`, while there are attempts left.

    Raises:
        InvalidInput, LeaseLost.
    """
    if failure.retry_after_ms is not None:
        bounded("error.retryAfterMs", failure.retry_after_ms, 0, 366 * DAY_MS)
        if not failure.retryable:
            raise InvalidInput("error.retryAfterMs", "contradicts retryable: false.")
    leased = await _leased(context, id, token)
    kind = ErrorKind.EXCEPTION if failure.retryable else ErrorKind.FATAL
    error = JobError(
        kind, failure.type or "Error", failure.message, failure.stack, fingerprint(failure.type, failure.message)
    )
    outcome = Outcome(id, token, OutcomeKind.BURY, error=error, ran_ms=_ran_ms(context, leased))
    if failure.retry_after_ms is not None:
        outcome.kind, outcome.wait_ms = OutcomeKind.RETRY_AT, failure.retry_after_ms
    elif failure.retryable:
        outcome.kind = OutcomeKind.FAIL
        outcome.wait_ms = 0 if leased is None else leased.backoff.wait_ms(leased.attempt)
    return await _report(context, outcome)


@needs(Scope.WORK)
async def release(context: Context, id: str, token: str) -> Job:
    """Gives a job back to the front of its queue, its attempt not charged. Raises LeaseLost."""
    return await _report(context, Outcome(id, token, OutcomeKind.RELEASE))


@needs(Scope.WORK)
async def report_progress(
    context: Context, id: str, token: str, progress: Any, *, with_: frozenset[str] | None = None
) -> Job:
    """Sets the progress of a running job. Raises InvalidInput, LeaseLost."""
    await _held(context, id)
    await context.engine.claims.progress(id, token, progress)
    return await _after(context, id, with_)


@needs(Scope.WORK)
async def append_log(
    context: Context, id: str, token: str, line: str, *, level: str = "info", with_: frozenset[str] | None = None
) -> Job:
    """Adds a line to the log of a running job; the last 1,000 are kept. Raises InvalidInput, LeaseLost."""
    check_text("level", level, limit=16)
    await _held(context, id)
    await context.engine.claims.log(id, token, [(level, line)])
    return await _after(context, id, with_)


async def _own_worker(context: Context, id: str, *, may_be_new: bool = False) -> None:
    """A tenant's caller speaks only for workers of its tenant, one with a list only for those of its queues. Raises
    NotFound."""
    reach = context.caller.reach
    if reach == EVERYTHING:
        return
    worker = (await context.engine.workers.get_many([id])).get(id)
    if worker is None and may_be_new:
        return
    own = worker is not None and reach.org in (None, worker.org) and all(map(reach.sees, worker.queues))
    if not own:
        raise NotFound("Worker", id)


def _check_lease(lease_ms: int | None) -> None:
    if lease_ms is not None:
        bounded("leaseMs", lease_ms, 1_000, DAY_MS)


async def _held(context: Context, id: str) -> None:
    """A tenant's caller can report only on its own jobs, whatever token it has."""
    if (
        context.caller.reach != EVERYTHING
        and await context.engine.jobs.get(id, caller=context.caller, with_=frozenset()) is None
    ):
        raise LeaseLost(id)


async def _leased(context: Context, id: str, token: str) -> Job | None:
    """The job as this token holds it; None when it does not (any more: a repeated report still gets its answer)."""
    try:
        return await context.engine.claims.leased(id, token)
    except LeaseLost:
        return None


def _ran_ms(context: Context, job: Job | None) -> int:
    if job is None or job.started_at is None:
        return 0
    return max(0, (context.engine.clock.now() - job.started_at) // timedelta(milliseconds=1))


async def _report(context: Context, outcome: Outcome) -> Job:
    return await context.engine.claims.report_one(outcome, reach=context.caller.reach)


async def _after(context: Context, id: str, with_: frozenset[str] | None) -> Job:
    job = await context.engine.jobs.get(id, caller=context.caller, with_=with_)
    if job is None:
        raise LeaseLost(id)
    return job
