"""How does one worker live: register, claim and run, renew its lease, drain, say goodbye?"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from switchtower.callers import Caller
from switchtower.calls import Calls, run_hooks
from switchtower.claiming import Claimer, Pace
from switchtower.context import JobContext, Stop
from switchtower.errors import ConfigurationError, LeaseLost, StoreUnavailable, SwitchtowerError
from switchtower.execution import classify
from switchtower.handlers import App
from switchtower.ids import WORKER, new_id
from switchtower.jobs import ClaimedJob, Enqueued, Job
from switchtower.leases import LeaseKeeper
from switchtower.reports import Reporter
from switchtower.scheduling import declare
from switchtower.slots import Slot, Slots
from switchtower.workers import LEASE_SECONDS, Outcome, OutcomeKind, WorkerInfo

if TYPE_CHECKING:
    from switchtower.engine import Engine

__all__ = ["Ending", "Worker"]

logger = logging.getLogger("switchtower.worker")

WATCH_SECONDS = 0.5
HOARD_SECONDS = 1.0
FLUSH_SECONDS = 10.0
LAST_WORDS_SECONDS = 5.0
EXIT_STUCK = 70


class Ending(StrEnum):
    """Why a worker ended: it was told to; its lease was lost; or too many handlers ignored their stop."""

    DRAINED = "drained"
    LEASE_LOST = "lease_lost"
    STUCK = "stuck"


class Worker:
    """One worker: claims jobs that its app has handlers for, runs at most `concurrency` at a time, reports.

    Every worker is registered in the database under its id with a lease of `lease_seconds`; a worker that loses it
    stops its handlers and ends, since others run its jobs by then. `grace_seconds` is how long a handler that was told
    to stop may take to do so. `exit_when_blocked` ends the whole process when a handler blocks the event loop past its
    timeout: nothing else can stop such a handler.
    """

    def __init__(
        self,
        app: App,
        *,
        worker_id: str | None = None,
        queues: Sequence[str] = ("default",),
        concurrency: int = 10,
        processes: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
        drain_seconds: float = 30.0,
        grace_seconds: float = 10.0,
        poll_seconds: float = 1.0,
        exit_when_blocked: bool = False,
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError("A worker needs a concurrency of at least 1.")
        if not app.tasks:
            raise ConfigurationError("The application has no tasks; decorate its handlers with @app.task.")
        self.id = worker_id or new_id(WORKER)
        self.app = app
        self.queues = tuple(queues)
        self.concurrency = concurrency
        self.loop: asyncio.AbstractEventLoop | None = None
        self._processes = processes or os.cpu_count() or 1
        self._lease_seconds = lease_seconds
        self._drain_seconds = drain_seconds
        self._grace_seconds = grace_seconds
        self._poll_seconds = poll_seconds
        self._exit_when_blocked = exit_when_blocked
        self._ending: Ending | None = None
        self._end = asyncio.Event()
        self._at_once = asyncio.Event()
        self._blocked_reported = False

    @property
    def fenced(self) -> int:
        """How many of its outcomes the database refused, since their lease had passed to another run."""
        return self._reporter.fenced

    @property
    def running(self) -> list[str]:
        """The ids of the jobs that run now."""
        return [slot.context.id for slot in self._slots.running if slot.context is not None]

    @property
    def is_connected(self) -> bool:
        """Whether the database took its last report; meanwhile outcomes are kept and nothing is claimed."""
        return self._reporter.reachable

    @property
    def left_behind(self) -> int:
        """How many handlers ignored their stop; they may still run in this process."""
        return self._slots.abandoned

    def drain(self) -> None:
        """Claims no more, finishes what runs (for at most `drain_seconds`), and lets `run` return."""
        self._finish(Ending.DRAINED)

    def stop_now(self) -> None:
        """As `drain`, without waiting: running handlers are told to stop, and their jobs are released."""
        self._at_once.set()
        self._finish(Ending.DRAINED)

    async def until_idle(self) -> None:
        """Waits until no job of its queues is running or claimable, and every outcome is recorded."""
        await self._claimer.until_idle()

    async def run(self, *, ready: Callable[[], None] | None = None) -> Ending:
        """Works until drained, or until the lease is lost; calls `ready` when it has registered and claims.

        Raises:
            ConfigurationError, StoreUnavailable: it could not start.
        """
        self.loop = asyncio.get_running_loop()
        self._engine = engine = await self.app.connect(role="worker")
        await self._run_startup_hooks()
        if self.app.crons:
            await declare(self.app, engine)
        registered_at = time.monotonic()
        await engine.workers.register(self._info(), anew=True)
        self._keeper = self._keep_lease(registered_at)
        self._prepare(engine)
        self._keeper.start()
        tasks = [
            self.loop.create_task(work, name=f"switchtower-{name}")
            for name, work in (
                ("reports", self._reporter.run()),
                ("claims", self._claimer.run()),
                ("lease", self._guard_lease()),
                ("watch", self._watch()),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        try:
            if ready is not None:
                ready()
            await self._end.wait()
            await self._wind_down(engine, claims=tasks[1])
        finally:
            self._end.set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._slots.close()
            await self._keeper.stop()
            await asyncio.to_thread(self._calls.close)
        await run_hooks(self.app.hooks.shutdown)
        return self._ending or Ending.DRAINED

    # The channel of its contexts.

    def touched(self, context: JobContext) -> None:
        """A context has logs or progress to be written."""
        self._reporter.touched(context)

    async def enqueue(self, context: JobContext, task: Any, payload: Any, options: dict[str, Any]) -> Enqueued:
        """Stores a child of a running job. Raises LeaseLost when the job is not this worker's any more."""
        new = self.app.new_job(task, payload, options)
        job = context.job
        _, caller = self.engine_and_caller(context)
        if context.ended or self._keeper.gone:
            raise LeaseLost(job.id)
        return await self._engine.jobs.enqueue(new, caller=caller, lease=job.token)

    async def children(self, context: JobContext) -> list[Job]:
        """The children of a running job, with what they left."""
        job = context.job
        return await self._engine.flows.children(job.id, caller=Caller(f"worker:{self.id}", org=job.org or None))

    def engine_and_caller(self, context: JobContext) -> tuple[Engine, Caller]:
        """The engine, and the caller as whom a running job acts."""
        job = context.job
        trace = (self.app.tracing and self.app.tracing.traceparent()) or job.traceparent
        name = f"worker:{self.id}"
        return self._engine, Caller(name, org=job.org or None, app=job.app, source="worker", traceparent=trace)

    # Beginning.

    def _info(self) -> WorkerInfo:
        return WorkerInfo(
            id=self.id,
            queues=self.queues,
            names=tuple(self.app.tasks),
            concurrency=self.concurrency,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            lease_seconds=self._lease_seconds,
        )

    async def _run_startup_hooks(self) -> None:
        for hook in self.app.hooks.startup:
            answer = hook()
            if asyncio.iscoroutine(answer):
                await answer

    def _keep_lease(self, registered_at: float) -> LeaseKeeper:
        from switchtower.engine.heartbeat import Heartbeat

        url, database, _ = self.app.address()
        loop = asyncio.get_running_loop()

        def lost() -> None:
            loop.call_soon_threadsafe(self._lease_lost)

        return LeaseKeeper(
            Heartbeat(url, database=database, worker_id=self.id, lease_seconds=self._lease_seconds),
            lease_seconds=self._lease_seconds,
            registered_at=registered_at,
            on_lost=lost,
            on_blocked=self._loop_is_blocked,
        )

    def _prepare(self, engine: Engine) -> None:
        self._calls = Calls(self.app, concurrency=self.concurrency, processes=self._processes)
        self._reporter = Reporter(engine, on_lost=self._jobs_lost)
        pace = Pace(self.concurrency)
        self._claimer = Claimer(
            engine,
            self.id,
            self.queues,
            tuple(self.app.tasks),
            pace=pace,
            poll_seconds=self._poll_seconds,
            idle_runners=lambda: self._slots.idle,
            may_claim=lambda: self._reporter.reachable and not self._reporter.is_full,
            is_quiet=self._is_quiet,
            arrived=lambda: self._slots.arrived(),
            wanted=lambda: self._slots.wanted(),
        )
        self._slots = Slots(
            concurrency=self.concurrency,
            calls=self._calls,
            claimer=self._claimer,
            reporter=self._reporter,
            pace=pace,
            clock=engine.clock,
            hooks=self.app.hooks,
            channel=self,
            grace_seconds=self._grace_seconds,
            on_abandoned=self._left_one_behind,
        )

    def _is_quiet(self) -> bool:
        waiting = len(self._claimer.ready) + self._slots.gathered.count + self._reporter.buffered
        return not waiting and not self._slots.running

    # While it works.

    async def _guard_lease(self) -> None:
        """Notices in time that the lease may be in other hands. Asks nobody: the database may be what is missing."""
        tick = min(WATCH_SECONDS, self._lease_seconds / 30)
        while not self._keeper.gone:
            await asyncio.sleep(tick)
            self._blocked_reported = False
        self._lease_lost()

    async def _watch(self) -> None:
        """Twice a second: was a cancel requested, do jobs wait here that others could run?"""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            stock = self._claimer.ready
            if not stock and not self._slots.running and not self._slots.gathered.count:
                continue
            try:
                self._cancel(await self._engine.claims.cancel_requests(self.id))
            except StoreUnavailable:
                continue
            except Exception:
                logger.exception("cancel requests could not be read")
            if stock and not self._slots.idle and time.monotonic() - self._claimer.claimed_at > HOARD_SECONDS:
                self._release(self._claimer.take_back())

    def _cancel(self, ids: set[str]) -> None:
        if not ids:
            return
        unbegun = [job for job in self._claimer.ready if job.id in ids]
        for job in unbegun:
            self._claimer.ready.remove(job)
        for job in [*unbegun, *self._slots.gathered.take_back(ids)]:
            self._reporter.add(Outcome(job.id, job.token, OutcomeKind.ABORT, started=False))
        fresh = [
            slot
            for slot in self._slots.running
            if slot.context is not None and slot.context.id in ids and slot.context.stop_reason is None
        ]
        self._slots.stop(Stop.CANCEL, fresh)

    def _release(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            self._reporter.add(Outcome(job.id, job.token, OutcomeKind.RELEASE, started=False))

    def _jobs_lost(self, ids: Iterable[str]) -> None:
        self._slots.stop_jobs(Stop.LEASE_LOST, ids)

    def _lease_lost(self) -> None:
        if self._ending is Ending.LEASE_LOST:
            return
        logger.error("the lease of worker %s is lost: it stops its handlers and ends", self.id)
        self._ending = Ending.LEASE_LOST
        self._claimer.drain()
        self._slots.gathered.take_back()
        self._slots.stop(Stop.LEASE_LOST)
        self._end.set()

    def _left_one_behind(self) -> None:
        if self._slots.abandoned >= self.concurrency and not self._end.is_set():
            logger.error("%d handlers ignored their stop; worker %s ends", self._slots.abandoned, self.id)
            self._finish(Ending.STUCK)

    def _finish(self, ending: Ending) -> None:
        self._ending = self._ending or ending
        self._end.set()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self._end.is_set():
            logger.error("a part of worker %s failed; it drains", self.id, exc_info=task.exception())
            self._finish(Ending.STUCK)

    # The end.

    async def _wind_down(self, engine: Engine, *, claims: asyncio.Task[None]) -> None:
        """Stops claiming, releases what was not begun, waits for the rest, records everything, says goodbye."""
        self._release([*self._claimer.drain(), *self._slots.gathered.take_back()])
        await asyncio.wait([claims], timeout=FLUSH_SECONDS)
        lost = self._ending is Ending.LEASE_LOST
        # A claim that was under way may have brought more, and a batch may have been opened around it.
        late = [*self._claimer.drain(), *self._slots.gathered.take_back()]
        self._release(late if not lost else ())
        if not lost:
            with suppress(SwitchtowerError):
                await engine.workers.drain(self.id)
            await self._first(self._slots.quiet(), self._at_once.wait(), within=self._drain_seconds)
            self._slots.stop(Stop.DRAIN)
        await self._first(self._slots.quiet(), within=min(self._grace_seconds, 5.0))
        self._slots.abandon_all()
        # Finished outcomes are worth waiting for even after the lease: their tokens decide, and may still be good.
        await self._first(self._reporter.flushed(), within=max(FLUSH_SECONDS, self._drain_seconds))
        with suppress(SwitchtowerError):
            await engine.workers.retire(self.id)

    async def _first(self, *waits: Any, within: float) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # Called from the heartbeat's thread while the event loop does not answer.

    def _loop_is_blocked(self, seconds: float) -> None:
        slot = self._blocking_slot()
        job = f"the handler of job {slot.context.id} ({slot.context.name})" if slot and slot.context else "something"
        if not self._blocked_reported:
            self._blocked_reported = True
            logger.error("%s has blocked the event loop for %.0f s\n%s", job, seconds, _stack_of_main_thread())
        overdue = slot is not None and slot.ends_at is not None and time.monotonic() > slot.ends_at + 1
        if slot is not None and overdue and self._exit_when_blocked:
            logger.error("%s is past its timeout and cannot be interrupted: worker %s ends its process", job, self.id)
            self._end_process(slot)

    def _blocking_slot(self) -> Slot | None:
        assert self.loop is not None
        current = asyncio.current_task(self.loop)
        return next((slot for slot in self._slots.all if slot.task is current and slot.context is not None), None)

    def _end_process(self, slot: Slot) -> None:
        """Records the timeout, so that it is not taken for a crash, then ends the process whatever happens."""
        doomed = threading.Timer(LAST_WORDS_SECONDS, os._exit, [EXIT_STUCK])
        doomed.daemon = True
        doomed.start()
        try:
            asyncio.run(self._last_words(slot))
        except Exception:
            logger.exception("the last report of worker %s failed", self.id)
        finally:
            sys.stderr.flush()
            os._exit(EXIT_STUCK)

    async def _last_words(self, slot: Slot) -> None:
        from switchtower.engine import Engine

        context = slot.context
        if context is None:
            return
        url, database, driver = self.app.address()
        engine = await Engine.connect(url, database=database, driver=driver, role="worker")
        ran_ms = int((time.monotonic() - slot.began) * 1000)
        outcome = classify(
            context.job, result=None, error=TimeoutError(), stop=Stop.TIMEOUT, now=engine.clock.now(), ran_ms=ran_ms
        )
        unbegun = [Outcome(job.id, job.token, OutcomeKind.RELEASE, started=False) for job in self._claimer.take_back()]
        finished = self._reporter.unrecorded()
        await engine.claims.report([*([outcome] if outcome else []), *finished, *unbegun])


def _stack_of_main_thread() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame, limit=12)) if frame else ""
