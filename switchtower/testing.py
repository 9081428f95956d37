"""How does a user's test suite exercise tasks?

`run` runs one task here and now, without a database, and tells what would have been reported. `worker` runs a real
worker on a real database within the test's own process:

    outcome = await testing.run(send_email, {"to": "a@b.c", "subject": "hi"})
    assert outcome.kind == "complete" and outcome.logs == [("info", "sent")]

    async with testing.worker(app) as worker:
        await send_email.enqueue(to="a@b.c", subject="hi")
        await worker.until_idle()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from switchtower.calls import Calls
from switchtower.context import JobContext, Stop
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.execution import classify, misfit
from switchtower.handlers import App
from switchtower.ids import JOB, lease_token, new_id
from switchtower.jobs import ClaimedJob, Enqueued, Job, JobError, NewJob
from switchtower.payloads import check_value
from switchtower.retry import DEFAULT_BACKOFF
from switchtower.runner import queues_of
from switchtower.states import JobState
from switchtower.tasks import Task
from switchtower.worker import Worker
from switchtower.workers import OutcomeKind

if TYPE_CHECKING:
    from switchtower.callers import Caller
    from switchtower.engine import Engine

__all__ = ["RunOutcome", "run", "worker"]


@dataclass(slots=True, kw_only=True)
class RunOutcome:
    """What one run would have reported.

    `progress` holds every value that the handler showed, `enqueued` the children that it asked for. `wait_ms` is how
    long the job would be put aside (retry, snooze).
    """

    kind: OutcomeKind
    result: Any = None
    error: JobError | None = None
    wait_ms: int = 0
    logs: list[tuple[str, str]] = field(default_factory=list)
    progress: list[Any] = field(default_factory=list)
    enqueued: list[NewJob] = field(default_factory=list)


class _Recorder:
    """A channel that keeps what a context reports."""

    def __init__(self, app: App, children: list[Job] | None = None) -> None:
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self.app = app
        self.logs: list[tuple[str, str]] = []
        self.progress: list[Any] = []
        self.enqueued: list[NewJob] = []
        self.children_given = children or []

    def touched(self, context: JobContext) -> None:
        lines, progress = context.drain_reports()
        self.logs += lines
        if progress is not ...:
            self.progress.append(progress)

    async def enqueue(self, context: JobContext, task: Any, payload: Any, options: dict[str, Any]) -> Enqueued:
        new = self.app.new_job(task, payload, options)
        new.check()
        self.enqueued.append(new)
        return Enqueued(_as_job(new))

    async def children(self, context: JobContext) -> list[Job]:
        return self.children_given

    def engine_and_caller(self, context: JobContext) -> tuple[Engine, Caller]:
        raise ConfigurationError("A workflow runs on a database: test it with `testing.worker(app)`.")


async def run(
    task: Task[..., Any],
    payload: Mapping[str, Any] | None = None,
    *,
    attempt: int = 1,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    cancel: asyncio.Event | None = None,
    children: list[Job] | None = None,
) -> RunOutcome:
    """Runs a task as a worker would (arguments checked, middleware around it, the outcome classified), and records.

    `attempt` is the attempt that the handler sees; `timeout_seconds` replaces the task's own; setting `cancel` stops
    the handler as a cancel request does; `children` are what `ctx.children()` answers. A CPU-bound task runs in a real
    process of its own.

    Raises:
        InvalidInput: the payload is not JSON.
    """
    check_value("payload", None if payload is None else dict(payload))
    job = _claimed(task, payload, attempt, max_attempts or task.defaults.get("max_attempts", 4))
    seconds = timeout_seconds if timeout_seconds is not None else (task.timeout_ms or 0) / 1000 or None
    recorder = _Recorder(task.app, children)
    context = JobContext(
        job,
        recorder,
        deadline=datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None,
        ends_at=time.monotonic() + seconds if seconds else None,
    )
    calls = Calls(task.app, concurrency=1, processes=1)
    try:
        return await _run(context, calls, recorder, seconds, cancel)
    finally:
        await asyncio.to_thread(calls.close)


async def _run(
    context: JobContext, calls: Calls, recorder: _Recorder, seconds: float | None, cancel: asyncio.Event | None
) -> RunOutcome:
    call = calls.by_name[context.name]
    try:
        arguments = call.arguments.check(context.job.payload)
    except InvalidInput as error:
        outcome = misfit(context.job, error)
        return RunOutcome(kind=outcome.kind, error=outcome.error)
    began = time.monotonic()

    async def handle() -> Any:
        return await call.run(context, arguments)

    running = asyncio.create_task(handle())
    asked = asyncio.create_task(cancel.wait()) if cancel is not None else None
    await asyncio.wait({running, *([asked] if asked else [])}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        context.stop(Stop.CANCEL if asked is not None and asked.done() else Stop.TIMEOUT)
        if call.interruptible:
            running.cancel()
    if asked is not None:
        asked.cancel()
    result, raised = None, None
    try:
        result = await running
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and not running.cancelled():
            raise
        raised = error
    settled = classify(
        context.job,
        result=result,
        error=raised,
        stop=context.stop_reason,
        now=datetime.now(UTC),
        ran_ms=int((time.monotonic() - began) * 1000),
    )
    assert settled is not None
    return RunOutcome(
        kind=settled.kind,
        result=settled.result,
        error=settled.error,
        wait_ms=settled.wait_ms,
        logs=recorder.logs,
        progress=recorder.progress,
        enqueued=recorder.enqueued,
    )


@asynccontextmanager
async def worker(
    app: App, *, queues: Sequence[str] | None = None, concurrency: int = 10, maintenance: bool = True, **options: Any
) -> AsyncIterator[Worker]:
    """A worker on the app's own database for the length of the block; drained at its end.

    `await worker.until_idle()` waits until nothing is running or claimable. With `maintenance`, due retries and delayed
    jobs come back as they do in production. Other options are those of `Worker`.
    """
    from switchtower.maintenance import Maintenance

    engine = await app.connect()
    built = Worker(app, queues=queues or queues_of(app), concurrency=concurrency, **options)
    registered = asyncio.Event()
    stop = asyncio.Event()
    upkeep = asyncio.create_task(Maintenance(engine).run(stop)) if maintenance else None
    running = asyncio.create_task(built.run(ready=registered.set))
    started = asyncio.create_task(registered.wait())
    await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not registered.is_set():
            await running
        yield built
    finally:
        started.cancel()
        if not running.done():
            built.drain()
            await running
        stop.set()
        if upkeep is not None:
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(upkeep, 10)


def _claimed(task: Task[..., Any], payload: Mapping[str, Any] | None, attempt: int, max_attempts: int) -> ClaimedJob:
    now = datetime.now(UTC)
    return ClaimedJob(
        id=new_id(JOB),
        name=task.name,
        queue=task.defaults.get("queue", "default"),
        payload=None if payload is None else dict(payload),
        token=lease_token(),
        number=attempt,
        generation=1,
        max_attempts=max_attempts,
        backoff=task.defaults.get("backoff", DEFAULT_BACKOFF),
        fence=attempt,
        org="",
        app="",
        timeout_ms=task.timeout_ms,
        expires_at=None,
        created_at=now,
        run_at=now,
    )


def _as_job(new: NewJob) -> Job:
    """A stored job as it would be read back, for handlers that look at what they enqueued."""
    now = datetime.now(UTC)
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
    values |= {field.name: getattr(new, field.name) for field in fields(NewJob) if field.name in values}
    values |= {name: [] for name in ("attempts", "logs", "pending", "timeline")}
    values |= {name: 0 for name in ("attempt", "claims")}
    values |= {
        "id": new_id(JOB),
        "state": JobState.WAITING,
        "org": "",
        "app": "",
        "custom_id": new.job_id,
        "generation": 1,
        "event_seq": 1,
        "retry_pending": False,
        "run_at": new.run_at or now,
        "created_at": now,
        "updated_at": now,
    }
    return Job(**values)
