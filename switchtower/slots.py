"""How does one of a worker's runners run a job, and how is it stopped?

A slot is one persistent coroutine that runs one job after another, without a task per job. Stopping a handler cancels
the slot's task, which then records the outcome and goes on; a handler that does not stop is abandoned with its slot.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from switchtower.batching import Batch, Gatherings, joined
from switchtower.calls import Call, Calls, run_hooks
from switchtower.claiming import Claimer, Pace
from switchtower.context import Channel, JobContext, Signal, Stop
from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.execution import classify, describe_error, misfit, tell_of_failure
from switchtower.failpoints import die_at
from switchtower.handlers import Hooks
from switchtower.jobs import ClaimedJob, ErrorKind, JobError
from switchtower.reports import Afterwards, Reporter
from switchtower.workers import Outcome, OutcomeKind

if TYPE_CHECKING:
    from switchtower.clock import DatabaseClock

__all__ = ["Slot", "Slots"]

logger = logging.getLogger("switchtower.worker")

MARK_SECONDS = 0.005
MARK_RETRY_SECONDS = 0.5
JOBS_PER_TURN = 32


class Slot:
    """One runner: the job that it runs now (`context` is None between jobs), and since when by the monotonic clock.

    One with a `batch` runs a single job of it, and is there beside the runner that gathered them.
    """

    __slots__ = ("abandoned", "batch", "began", "call", "context", "ends_at", "marked", "task", "timer")

    def __init__(self, batch: Batch | None = None) -> None:
        self.batch = batch
        self.task: asyncio.Task[None] | None = None
        self.context: JobContext | None = None
        self.call: Call | None = None
        self.began = 0.0
        self.ends_at: float | None = None
        self.marked = False
        self.abandoned = False
        self.timer: asyncio.TimerHandle | None = None


class Slots:
    """A worker's runners: they take from the claimer's `ready` and leave outcomes with the reporter.

    `abandoned` counts the handlers that ignored their stop for `grace_seconds`; their jobs are settled, they themselves
    may still run. `on_abandoned()` is called for each. `faults` counts the jobs that failed by a fault of ours.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        calls: Calls,
        claimer: Claimer,
        reporter: Reporter,
        pace: Pace,
        clock: DatabaseClock,
        hooks: Hooks,
        channel: Channel,
        grace_seconds: float,
        on_abandoned: Callable[[], None],
    ) -> None:
        self._calls = calls
        self._claimer = claimer
        self._reporter = reporter
        self._pace = pace
        self._clock = clock
        self._hooks = hooks
        self._channel = channel
        self._grace_seconds = grace_seconds
        self._on_abandoned = on_abandoned
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self._marking = False
        self._mark_task: asyncio.Task[None] | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._left_behind: set[asyncio.Task[None]] = set()
        self._owner = asyncio.current_task()
        self._closed = False
        self.all: list[Slot] = []
        self.gathered = Gatherings()
        self.abandoned = 0
        self.faults = 0
        for _ in range(concurrency):
            self._add()

    @property
    def idle(self) -> int:
        """How many jobs could be taken at once: by runners that wait for one, and by batches that are gathered."""
        return len(self._waiting) + self.gathered.missing

    def wanted(self) -> list[str] | None:
        """The names of the jobs that could be begun now; None for any."""
        return None if self._waiting else self.gathered.names or None

    @property
    def running(self) -> list[Slot]:
        """The slots with a job in them."""
        return [slot for slot in self.all if slot.context is not None]

    def arrived(self) -> None:
        """Jobs are ready: fills the batches that are gathered, and wakes as many runners as can take one."""
        self._fill()
        for _ in range(min(len(self._claimer.ready), len(self._waiting))):
            waiter = self._waiting.pop()
            if not waiter.done():
                waiter.set_result(None)

    def stop(self, reason: Stop, slots: Iterable[Slot] | None = None) -> None:
        """Tells the handlers in these slots (all by default) to stop; abandons those that have not after the grace."""
        for slot in self.running if slots is None else slots:
            context = slot.context
            if context is None:
                continue
            context.stop(reason)
            if slot.batch is not None:
                slot.batch.told()
            elif slot.call is not None and (slot.call.interruptible or context.interruptible) and slot.task is not None:
                slot.task.cancel()
            self._loop.call_later(self._grace_seconds, self._abandon, slot, context)

    def stop_jobs(self, reason: Stop, ids: Iterable[str]) -> None:
        """`stop` for the slots that run these jobs."""
        wanted = set(ids)
        self.stop(reason, [slot for slot in self.running if slot.context is not None and slot.context.id in wanted])

    def abandon_all(self) -> None:
        """Settles what still runs without waiting for it any longer."""
        for slot in self.running:
            if slot.context is not None:
                self._abandon(slot, slot.context)

    async def quiet(self) -> None:
        """Waits until no runner has a job."""
        while self.running:
            self._quiet.clear()
            await self._quiet.wait()

    async def close(self) -> None:
        """Ends the runners, which must be quiet."""
        self._closed = True
        tasks = [slot.task for slot in self.all if slot.task is not None]
        if self._mark_task is not None:
            tasks.append(self._mark_task)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _add(self) -> None:
        slot = Slot()
        slot.task = self._loop.create_task(self._run(slot))
        self.all.append(slot)

    async def _run(self, slot: Slot) -> None:
        ready = self._claimer.ready
        done = 0
        while not slot.abandoned:
            if not ready:
                await self._wait_for_job()
                continue
            job = ready.popleft()
            self._claimer.took_one()
            call = self._calls.by_name.get(job.name)
            try:
                if call is not None and call.batch is not None:
                    await self._run_batch(slot, call, job)
                else:
                    await self._run_job(slot, job)
            except BaseException as fault:
                if self._is_end(slot, fault):
                    raise
                self._settle_fault(slot, job, fault)
            if _is_changed(slot.task) and not slot.abandoned:
                # What a handler did to this task, such as cancelling it, must not reach the next job.
                self.all.remove(slot)
                self._add()
                return
            done += 1
            if done % JOBS_PER_TURN == 0:
                await asyncio.sleep(0)

    def _is_end(self, slot: Slot, error: BaseException) -> bool:
        """Whether it ends the runner itself. A handler may raise the same, or cancel the task that it runs in."""
        if isinstance(error, GeneratorExit):
            # A coroutine that is thrown away is not run by its task any more.
            return asyncio.current_task() is not slot.task
        return isinstance(error, asyncio.CancelledError) and (
            self._closed or slot.abandoned or self._owner is None or self._owner.done()
        )

    def _settle_fault(self, slot: Slot, job: ClaimedJob, fault: BaseException) -> None:
        """The last resort, for a fault of ours: the job fails for good, and the runner is as good as before."""
        logger.error("running job %s (%s) went wrong", job.id, job.name, exc_info=fault)
        self.faults += 1
        slot.context = None
        self._clear_timer(slot)
        self._reporter.add(Outcome(job.id, job.token, OutcomeKind.BURY, error=describe_error(fault, ErrorKind.FATAL)))

    async def _wait_for_job(self) -> None:
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        self._claimer.runner_is_idle()
        self._quiet.set()
        await waiter

    def _fill(self) -> None:
        for _ in range(self.gathered.fill(self._claimer.ready)):
            self._claimer.took_one()

    def _gathering(self) -> None:
        self._fill()
        self._claimer.runner_is_idle()

    async def _run_batch(self, slot: Slot, call: Call, job: ClaimedJob) -> None:
        """Gathers a batch around this job and runs it; or leaves the job to the runner that gathers one already."""
        assert call.batch is not None
        jobs = await self.gathered.gather(call.batch, job, self._gathering)
        batch = Batch((job.id for job in jobs), interruptible=call.interruptible)
        members = []
        for each in jobs:
            member = Slot(batch)
            self.all.append(member)
            member.task = self._loop.create_task(self._run_member(member, each, batch))
            members.append(member.task)
        if members:
            await asyncio.wait(members)
        if batch.calls:
            # Its jobs are settled; only a handler that ignores its stop is still there.
            _, busy = await asyncio.wait(batch.calls, timeout=self._grace_seconds)
            if busy:
                self._leave_behind(slot, busy)

    async def _run_member(self, member: Slot, job: ClaimedJob, batch: Batch) -> None:
        joined(batch)
        try:
            await self._run_job(member, job)
        except BaseException as fault:
            if self._is_end(member, fault):
                raise
            self._settle_fault(member, job, fault)
        finally:
            batch.leave(job.id)
            if member in self.all:
                self.all.remove(member)
            self._quiet.set()

    async def _run_job(self, slot: Slot, job: ClaimedJob) -> None:
        call = self._calls.by_name.get(job.name)
        if call is None:
            self._reporter.add(Outcome(job.id, job.token, OutcomeKind.RELEASE, started=False))
            return
        try:
            arguments = call.arguments.check(job.payload)
        except InvalidInput as error:
            self._settle_unfit(job, misfit(job, error))
            return
        except Exception as error:
            self._settle_unfit(
                job, Outcome(job.id, job.token, OutcomeKind.BURY, error=describe_error(error, ErrorKind.FATAL))
            )
            return
        began = time.monotonic()
        context = self._context(slot, job, call, began)
        if context is None:
            return
        slot.call, slot.began, slot.marked = call, began, False
        slot.context = context
        if job.recovered and not await self._marked_before(slot, context):
            if not slot.abandoned:
                slot.context = None
                self._clear_timer(slot)
            return
        if not self._marking:
            self._marking = True
            self._loop.call_later(MARK_SECONDS, self._mark)
        result: Any = None
        raised: BaseException | None = None
        try:
            result = await call.run(context, arguments)
            die_at("after_effect")
        except BaseException as error:
            if self._is_end(slot, error):
                raise
            raised = error
        if slot.abandoned:
            return
        slot.context = None
        context.ended = True
        if slot.timer is not None:
            self._clear_timer(slot)
        ran = time.monotonic() - began
        self._pace.observe(ran if slot.batch is None else ran / slot.batch.size)
        self._settle(context, result, raised, ran, marked=slot.marked)

    def _context(self, slot: Slot, job: ClaimedJob, call: Call, began: float) -> JobContext | None:
        """The context of a run, with its timer set; None when the job has expired and is settled already."""
        timeout_ms = job.timeout_ms or call.timeout_ms
        slot.ends_at = None
        if timeout_ms is None and job.expires_at is None:
            return JobContext(job, self._channel)
        now = self._clock.now()
        seconds, reason = (timeout_ms / 1000, Stop.TIMEOUT) if timeout_ms is not None else (float("inf"), Stop.EXPIRED)
        if job.expires_at is not None:
            left = (job.expires_at - now).total_seconds()
            if left <= 0:
                error = JobError(ErrorKind.EXPIRED, "Expired", "The job's time to live passed before it could run.")
                self._reporter.add(Outcome(job.id, job.token, OutcomeKind.EXPIRE, error=error, started=False))
                return None
            if left < seconds:
                seconds, reason = left, Stop.EXPIRED
        slot.ends_at = began + seconds
        deadline = datetime.fromtimestamp(now.timestamp() + seconds, now.tzinfo)
        context = JobContext(job, self._channel, deadline=deadline, ends_at=slot.ends_at)
        slot.timer = self._loop.call_later(seconds, self._out_of_time, slot, context, reason)
        return context

    def _out_of_time(self, slot: Slot, context: JobContext, reason: Stop) -> None:
        if slot.context is context:
            self.stop(reason, [slot])

    def _clear_timer(self, slot: Slot) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None

    async def _marked_before(self, slot: Slot, context: JobContext) -> bool:
        """Records the start of a job that an earlier claim left without one, before its handler can do harm again."""
        slot.marked = True
        try:
            lost = await self._reporter.mark_started([context])
        except StoreUnavailable:
            self._reporter.add(Outcome(context.id, context.lease_token, OutcomeKind.RELEASE, started=False))
            return False
        except asyncio.CancelledError:
            if context.stop_reason is None:
                raise
            if context.stop_reason is not Stop.LEASE_LOST and not slot.abandoned:
                kind = OutcomeKind.ABORT if context.stop_reason is Stop.CANCEL else OutcomeKind.RELEASE
                self._reporter.add(Outcome(context.id, context.lease_token, kind, started=False))
            return False
        return not lost

    def _settle(
        self, context: JobContext, result: Any, raised: BaseException | None, ran: float, *, marked: bool = True
    ) -> None:
        outcome = classify(
            context.job,
            result=result,
            error=raised,
            stop=context.stop_reason,
            now=self._clock.now(),
            ran_ms=int(ran * 1000),
        )
        if outcome is None:
            return
        if outcome.error is not None:
            tell_of_failure(context.job, outcome, raised)
        lines, outcome.progress = context.drain_reports()
        outcome.logs = [*lines, *outcome.logs]
        if not marked and not context.spoke:
            outcome.claimed = context.job
        recorded = raised.recorded if isinstance(raised, Signal) else None
        self._reporter.add(outcome, recorded or self._afterwards(context, outcome, result))

    def _settle_unfit(self, job: ClaimedJob, outcome: Outcome) -> None:
        tell_of_failure(job, outcome, None)
        self._reporter.add(outcome, self._afterwards(JobContext(job, self._channel), outcome, None))

    def _afterwards(self, context: JobContext, outcome: Outcome, result: Any) -> Afterwards | None:
        hooks = self._hooks
        if outcome.kind is OutcomeKind.COMPLETE:
            return functools.partial(run_hooks, hooks.complete, context, result) if hooks.complete else None
        if outcome.kind is OutcomeKind.ABORT:
            return functools.partial(run_hooks, hooks.cancel, context) if hooks.cancel else None
        if outcome.error is not None and hooks.failure:
            return functools.partial(run_hooks, hooks.failure, context, outcome.error)
        return None

    def _abandon(self, slot: Slot, context: JobContext) -> None:
        if slot.context is not context:
            return
        slot.context = None
        context.ended = True
        self._clear_timer(slot)
        logger.error(
            "the handler of job %s (%s) goes on although it was told to stop (%s); it is left behind",
            context.id,
            context.name,
            context.stop_reason,
        )
        self._settle(context, None, asyncio.CancelledError(), time.monotonic() - slot.began)
        if slot.batch is None:
            self._leave_behind(slot, [slot.task] if slot.task is not None else ())
            return
        # Whether the handler of the batch must be left behind shows when the last of its jobs has gone.
        slot.abandoned = True
        self.all.remove(slot)
        if slot.task is not None:
            slot.task.cancel()
        self._quiet.set()

    def _leave_behind(self, slot: Slot, tasks: Iterable[asyncio.Task[None]]) -> None:
        slot.abandoned = True
        self.all.remove(slot)
        for task in tasks:
            self._left_behind.add(task)
            task.add_done_callback(self._left_behind.discard)
        self.abandoned += 1
        self._add()
        self._quiet.set()
        self._on_abandoned()

    def _mark(self) -> None:
        """Marks as started what has run for some milliseconds; what was quicker is recorded by its outcome alone."""
        before = time.monotonic() - MARK_SECONDS * 0.8
        slots = [slot for slot in self.all if slot.context is not None and not slot.marked]
        due = [slot for slot in slots if slot.began <= before]
        if due and (self._mark_task is None or self._mark_task.done()):
            for slot in due:
                slot.marked = True
            runs = [(slot, slot.context) for slot in due if slot.context is not None]
            self._mark_task = self._loop.create_task(self._write_marks(runs))
            slots = [slot for slot in slots if not slot.marked]
        self._marking = bool(slots)
        if slots:
            self._loop.call_later(MARK_SECONDS, self._mark)

    async def _write_marks(self, runs: list[tuple[Slot, JobContext]]) -> None:
        try:
            lost = await self._reporter.mark_started([context for _, context in runs])
        except Exception as error:
            if not isinstance(error, StoreUnavailable):
                logger.exception("starts could not be recorded")
            await asyncio.sleep(MARK_RETRY_SECONDS)
            for slot, context in runs:
                if slot.context is context:
                    slot.marked = False
            if not self._marking:
                self._marking = True
                self._loop.call_later(MARK_SECONDS, self._mark)
            return
        self.stop(Stop.LEASE_LOST, [slot for slot, context in runs if context.id in lost and slot.context is context])


def _is_changed(task: asyncio.Task[None] | None) -> bool:
    """Whether a handler left something behind in the task that ran it: a cancellation, or a callback for its end."""
    return task is not None and (task.cancelling() > 0 or bool(task._callbacks))
