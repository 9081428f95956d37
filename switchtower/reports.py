"""How does what happened in a worker reach the database: outcomes, start marks, logs and progress?

Many small reports travel together. Outcomes are kept until the database has answered: each is fenced by its token, so
repeating one is harmless, and a late one is refused.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from switchtower.context import JobContext
from switchtower.errors import LeaseLost, StoreUnavailable
from switchtower.execution import describe_error
from switchtower.failpoints import die_at
from switchtower.jobs import ErrorKind
from switchtower.workers import Outcome, OutcomeKind

if TYPE_CHECKING:
    from switchtower.engine import Engine

__all__ = ["Reporter"]

logger = logging.getLogger("switchtower.worker")

FLUSH_SECONDS = 0.002
SIDE_FLUSH_SECONDS = 0.1
BATCH = 500
MAX_BUFFERED = 5_000
RETRY_SECONDS = (0.1, 2.0)

Afterwards = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Report:
    """One outcome, and what is to be called once it is recorded."""

    outcome: Outcome
    afterwards: Afterwards | None = None


class Reporter:
    """Collects one worker's reports and writes them; `on_lost` learns which running jobs are not its own any more.

    `fenced` counts the outcomes that the database refused because the lease had passed to another run.
    """

    def __init__(self, engine: Engine, *, on_lost: Callable[[Iterable[str]], None]) -> None:
        self._claims = engine.claims
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._pending: list[Report] = []
        self._batch: list[Report] = []
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._touched: set[JobContext] = set()
        self._side_timer: asyncio.TimerHandle | None = None
        self._side_task: asyncio.Task[None] | None = None
        self._afterwards: set[asyncio.Task[None]] = set()
        self.fenced = 0
        self.reachable = True

    @property
    def buffered(self) -> int:
        """How many outcomes wait to be recorded."""
        return len(self._pending) + len(self._batch)

    def unrecorded(self) -> list[Outcome]:
        """The outcomes that are not known to be recorded; for a last attempt by other means."""
        return [report.outcome for report in [*self._batch, *self._pending]]

    @property
    def is_full(self) -> bool:
        """Whether so many outcomes wait that no further job should be claimed."""
        return len(self._pending) >= MAX_BUFFERED

    def add(self, outcome: Outcome, afterwards: Afterwards | None = None) -> None:
        """Takes one outcome; it is written within a few milliseconds."""
        self._pending.append(Report(outcome, afterwards))
        if len(self._pending) == 1:
            self._wanted.set()
            self._settled.clear()

    async def run(self) -> None:
        """Writes outcomes until cancelled; an unreachable database is waited for."""
        wait = RETRY_SECONDS[0]
        while True:
            if not self._pending:
                self._wanted.clear()
                self._settled.set()
                await self._wanted.wait()
            if self.reachable and len(self._pending) < BATCH:
                await asyncio.sleep(FLUSH_SECONDS)
            batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
            self._batch = batch
            try:
                lost = await self._write(batch)
            except StoreUnavailable:
                self._pending = batch + self._pending
                self._noticed(reachable=False)
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                wait = min(wait * 2, RETRY_SECONDS[1])
                continue
            except asyncio.CancelledError:
                self._pending = batch + self._pending
                raise
            finally:
                self._batch = []
            wait = RETRY_SECONDS[0]
            self._noticed(reachable=True)
            self._recorded(batch, lost)

    async def flushed(self) -> None:
        """Waits until every outcome so far is recorded, and what follows the records was called."""
        await self._settled.wait()
        if self._afterwards:
            await asyncio.wait(list(self._afterwards))

    async def mark_started(self, contexts: Iterable[JobContext]) -> set[str]:
        """Records that these jobs began; returns the ids of those that are not this worker's any more.

        Raises:
            StoreUnavailable: not known; to be asked again.
        """
        return await self._claims.start([context.job for context in contexts])

    def touched(self, context: JobContext) -> None:
        """A context has logs or progress; they go out within a tenth of a second. Called from any thread."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._note(context)
        else:
            self._loop.call_soon_threadsafe(self._note, context)

    async def _write(self, batch: list[Report]) -> set[str]:
        try:
            lost = await self._claims.report([report.outcome for report in batch])
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("a batch of %d outcomes was refused; writing them one by one", len(batch))
            lost = set()
            for report in batch:
                lost |= await self._write_one(report)
        if any(report.outcome.kind is OutcomeKind.COMPLETE for report in batch):
            die_at("after_complete")
        return lost

    async def _write_one(self, report: Report) -> set[str]:
        try:
            return await self._claims.report([report.outcome])
        except StoreUnavailable:
            raise
        except Exception as error:
            logger.exception("the outcome of job %s cannot be stored", report.outcome.job_id)
            replacement = describe_error(error, ErrorKind.FATAL)
        old = report.outcome
        report.outcome = Outcome(old.job_id, old.token, OutcomeKind.BURY, error=replacement, ran_ms=old.ran_ms)
        report.afterwards = None
        try:
            return await self._claims.report([report.outcome])
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("job %s is left to its lease", old.job_id)
            return {old.job_id}

    def _recorded(self, batch: list[Report], lost: set[str]) -> None:
        if lost:
            self.fenced += len(lost)
            logger.warning("%d outcomes were refused: their leases had passed to other runs", len(lost))
        for report in batch:
            if report.afterwards is not None and report.outcome.job_id not in lost:
                task = self._loop.create_task(report.afterwards())
                self._afterwards.add(task)
                task.add_done_callback(self._afterwards.discard)

    def _noticed(self, *, reachable: bool) -> None:
        if reachable is not self.reachable:
            self.reachable = reachable
            if reachable:
                logger.info("the database answers again; %d outcomes were kept", self.buffered)
            else:
                logger.warning("the database does not answer; outcomes are kept and handlers go on")

    def _note(self, context: JobContext) -> None:
        self._touched.add(context)
        if self._side_timer is None and self._side_task is None:
            self._side_timer = self._loop.call_later(SIDE_FLUSH_SECONDS, self._begin_side_flush)

    def _begin_side_flush(self) -> None:
        self._side_timer = None
        self._side_task = self._loop.create_task(self._side_flush())

    async def _side_flush(self) -> None:
        contexts, self._touched = self._touched, set()
        try:
            await asyncio.gather(*(self._write_side(context) for context in contexts))
        finally:
            self._side_task = None
            if self._touched:
                self._side_timer = self._loop.call_later(SIDE_FLUSH_SECONDS, self._begin_side_flush)

    async def _write_side(self, context: JobContext) -> None:
        if context.ended:
            return
        lines, progress = context.drain_reports()
        try:
            if progress is not ...:
                await self._claims.progress(context.id, context.lease_token, progress)
            if lines:
                await self._claims.log(context.id, context.lease_token, lines)
        except LeaseLost:
            if not context.ended:
                self._on_lost([context.id])
        except StoreUnavailable:
            context.put_back(lines, progress)
        except Exception:
            logger.exception("a report of job %s was refused", context.id)
