"""How are webhooks delivered?

Every server and supervisor runs this loop; a lease document elects the one that delivers. It works as any worker does:
registered, its jobs under lease, each start on record before anything is sent, every end reported under its token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from switchtower.addresses import AddressPolicy, networks_from
from switchtower.attempts import ErrorKind, JobError, fingerprint
from switchtower.clock import to_ms
from switchtower.endpoints import Endpoints
from switchtower.engine import Engine
from switchtower.engine.deliveries import Parcel
from switchtower.errors import NotFound, StoreUnavailable, SwitchtowerError
from switchtower.ids import WORKER, new_id
from switchtower.reports import Reporter
from switchtower.sending import Sender
from switchtower.webhooks import COURIER
from switchtower.workers import LEASE_SECONDS, Outcome, OutcomeKind, WorkerInfo

__all__ = ["Courier", "CourierOptions"]

log = logging.getLogger("switchtower.courier")

TERM_MS = 5_000
BEAT_SECONDS = TERM_MS / 3000
QUIET_SECONDS = 0.02
"""How long it looks for nothing after it found nothing: what wakes it is mostly about other jobs."""
POLL_SECONDS = 1.0
WATCH_SECONDS = 0.5
PORTION = 50
"""How many are claimed at once: so many payloads may be read beyond `MAX_BYTES`."""
MAX_BYTES = 64 * 1024 * 1024
RETRY_SECONDS = 2.0
FLUSH_SECONDS = 5.0
RELEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class CourierOptions:
    """How to deliver: `timeout_seconds` for each delivery as a whole; how many at once, and to one host; networks that
    may be sent to although they are not public; how long deliveries may take to end at a stop."""

    timeout_seconds: float = 30.0
    concurrency: int = 1_000
    host_concurrency: int = 50
    allowed_networks: tuple[str, ...] = ()
    drain_seconds: float = 5.0
    lease_seconds: float = LEASE_SECONDS


@dataclass(slots=True)
class _Errand:
    """A delivery under way. `stop` is what to report when it is cut off: ABORT, RELEASE, or None for nothing."""

    parcel: Parcel
    task: asyncio.Task[None] | None = None
    stop: OutcomeKind | None = None
    size: int = field(default=0)


class Courier:
    """The elected loop: claims what is to be delivered, sends it, reports.

    Raises: ConfigurationError for networks that are none.
    """

    def __init__(self, engine: Engine, options: CourierOptions | None = None, *, sender: Sender | None = None) -> None:
        self._engine = engine
        self._options = options or CourierOptions()
        self._sender = sender or Sender(AddressPolicy(networks_from(self._options.allowed_networks)))
        self._endpoints = Endpoints(self._options.host_concurrency)
        self._errands: dict[tuple[str, str], _Errand] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self._worker_id: str | None = None
        self._renewed = 0.0
        self.elected = False

    @property
    def under_way(self) -> int:
        """How many deliveries are being sent."""
        return len(self._errands)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set, whatever goes wrong meanwhile; then lets deliveries end, and gives others back."""
        reporter = Reporter(self._engine, on_lost=lambda ids: None)
        parts = [
            asyncio.create_task(part, name=f"courier-{name}")
            for name, part in (
                ("reports", reporter.run()),
                ("election", self._stand()),
                ("wakes", self._listen()),
                ("watch", self._watch()),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        working = asyncio.create_task(self._work(reporter), name="courier")
        try:
            await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, working):
                await _end(task)
            await self._wind_down(reporter)
            for task in parts:
                await _end(task)
            self._sender.close()

    async def _stand(self) -> None:
        """Stands for election, again and again, and keeps the lease on what it has claimed."""
        while True:
            wait = min(BEAT_SECONDS, self._options.lease_seconds / 6)
            try:
                term = await self._engine.upkeep.elect(COURIER, self._engine.holder, TERM_MS)
                if term is not None and not self.elected:
                    self._wake.set()
                self.elected = term is not None
                await self._renew()
            except StoreUnavailable:
                # Nobody else may deliver before the term has passed; what is under way goes on.
                self.elected = False
            except Exception:
                log.exception("the courier could not stand for election; it tries on")
                self.elected = False
            self._heed_lease()
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))

    @property
    def _lasts(self) -> float:
        """How long a lease counts here: it ends sooner than in the database, which counts from a later moment."""
        seconds = self._options.lease_seconds
        return seconds - min(5.0, seconds / 6)

    def _heed_lease(self) -> None:
        """Asks nobody: after a freeze, what it claims under a lease that has passed would be taken back at once."""
        if self._worker_id is not None and time.monotonic() > self._renewed + self._lasts:
            self._lose_lease()

    async def _renew(self) -> None:
        if self._worker_id is None or time.monotonic() < self._renewed + self._options.lease_seconds / 3:
            return
        asked = time.monotonic()
        try:
            await self._engine.workers.renew(self._worker_id)
        except NotFound:
            self._lose_lease()
        else:
            self._renewed = asked

    def _lose_lease(self) -> None:
        log.error("the lease of courier %s is lost: it stops what it sends, which others deliver", self._worker_id)
        self._worker_id = None
        for errand in self._errands.values():
            errand.stop = None
            if errand.task is not None:
                errand.task.cancel()

    async def _registered(self) -> str:
        """The id under which it claims; registered when there is first something to deliver."""
        if self._worker_id is None:
            asked, id = time.monotonic(), new_id(WORKER)
            info = WorkerInfo(
                id=id,
                queues=(),
                concurrency=self._options.concurrency,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                kind=COURIER,
                lease_seconds=self._options.lease_seconds,
            )
            await self._engine.workers.register(info, anew=True)
            self._worker_id, self._renewed = id, asked
        return self._worker_id

    async def _listen(self) -> None:
        """Wakes it when something may have become claimable; while it is not elected nobody listens."""
        while True:
            if not self.elected:
                await asyncio.sleep(BEAT_SECONDS / 4)
                continue
            try:
                wakes = cast("AsyncGenerator[None]", self._engine.deliveries.wakes())
                async with contextlib.aclosing(wakes):
                    async for _ in wakes:
                        self._wake.set()
                        if not self.elected:
                            break
            except StoreUnavailable:
                pass
            except Exception:
                log.warning("the stream that wakes the courier ended; it polls meanwhile", exc_info=True)
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))

    async def _watch(self) -> None:
        """Ends deliveries whose job somebody asked to cancel."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._worker_id is None or not self._errands:
                continue
            try:
                asked = await self._engine.claims.cancel_requests(self._worker_id)
            except StoreUnavailable:
                continue
            except Exception:
                log.exception("cancel requests could not be read")
                continue
            for errand in list(self._errands.values()):
                if errand.parcel.job.id in asked:
                    self._cut_off(errand, OutcomeKind.ABORT)

    async def _work(self, reporter: Reporter) -> None:
        while True:
            try:
                limit = self._room(reporter)
                parcels = await self._claim(limit) if limit > 0 else []
                if parcels:
                    await self._begin(parcels, reporter)
                    continue
                await asyncio.sleep(QUIET_SECONDS)
            except StoreUnavailable:
                await asyncio.sleep(BEAT_SECONDS * random.uniform(0.5, 1.0))
            except Exception:
                log.exception("the courier could not claim; it tries on")
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS * random.uniform(0.75, 1.25)):
                    await self._wake.wait()
            self._wake.clear()

    def _room(self, reporter: Reporter) -> int:
        if not self.elected or not reporter.reachable or reporter.is_full or self._bytes >= MAX_BYTES:
            return 0
        return min(PORTION, self._options.concurrency - len(self._errands))

    async def _claim(self, limit: int) -> list[Parcel]:
        self._heed_lease()
        if self._worker_id is None and not await self._engine.deliveries.any_waiting():
            return []
        worker_id = await self._registered()
        return await self._engine.deliveries.claim(worker_id, limit, room=self._endpoints.room)

    async def _begin(self, parcels: list[Parcel], reporter: Reporter) -> None:
        """Records that these deliveries begin, then begins them: nothing is sent that is not on record."""
        for parcel in parcels:
            errand = _Errand(parcel, size=_size(parcel))
            self._errands[_key(parcel)] = errand
            self._bytes += errand.size
            self._endpoints.begin(parcel.address.url)
        try:
            lost = await self._started(parcels)
        except BaseException:
            # Whether they count as begun is not known: they go back, and are refunded if they do.
            for parcel in parcels:
                self._ended(parcel, answered=None)
                reporter.add(Outcome(parcel.job.id, parcel.job.token, OutcomeKind.RELEASE))
            raise
        for parcel in parcels:
            errand = self._errands[_key(parcel)]
            if parcel.job.id in lost or self._worker_id is None:
                self._ended(parcel, answered=None)
            else:
                errand.task = asyncio.create_task(self._deliver(errand, reporter))

    async def _started(self, parcels: list[Parcel]) -> set[str]:
        while True:
            try:
                return await self._engine.claims.start([parcel.job for parcel in parcels])
            except StoreUnavailable:
                if self._worker_id is None:
                    return {parcel.job.id for parcel in parcels}
                await asyncio.sleep(BEAT_SECONDS * random.uniform(0.25, 0.5))

    async def _deliver(self, errand: _Errand, reporter: Reporter) -> None:
        """Sends one delivery and reports how it ended."""
        job = errand.parcel.job
        answered: bool | None = None
        try:
            seconds = self._seconds(errand.parcel)
            if seconds <= 0:
                reporter.add(_expired(errand.parcel))
                return
            sent = await self._sender.send(job, errand.parcel.address, seconds=seconds)
            answered = sent.answered
            outcome = Outcome(job.id, job.token, OutcomeKind.COMPLETE)
            if sent.error is not None:
                outcome.kind, outcome.error = OutcomeKind.FAIL, sent.error
                outcome.wait_ms = job.backoff.wait_ms(job.number)
            outcome.ran_ms, outcome.delivery = sent.delivery.latency_ms, sent.delivery
            reporter.add(outcome)
        except asyncio.CancelledError:
            if errand.stop is not None:
                reporter.add(Outcome(job.id, job.token, errand.stop))
        except Exception as error:
            log.exception("the delivery of job %s failed here", job.id)
            described = JobError(
                ErrorKind.EXCEPTION,
                "courier",
                f"The delivery failed on our side: {type(error).__name__}.",
                None,
                fingerprint("courier", type(error).__name__),
            )
            wait_ms = job.backoff.wait_ms(job.number)
            reporter.add(Outcome(job.id, job.token, OutcomeKind.FAIL, error=described, wait_ms=wait_ms))
        finally:
            self._ended(errand.parcel, answered=answered)

    def _seconds(self, parcel: Parcel) -> float:
        """How long it may take: as deliveries do, or its own timeout or what is left of its time to live."""
        job, seconds = parcel.job, self._options.timeout_seconds
        if job.timeout_ms is not None:
            seconds = min(seconds, job.timeout_ms / 1000)
        if job.expires_at is not None:
            seconds = min(seconds, (to_ms(job.expires_at) - self._engine.clock.now_ms()) / 1000)
        return seconds

    def _ended(self, parcel: Parcel, *, answered: bool | None) -> None:
        errand = self._errands.pop(_key(parcel))
        self._bytes -= errand.size
        self._endpoints.end(parcel.address.url, answered=answered)
        self._wake.set()

    def _cut_off(self, errand: _Errand, kind: OutcomeKind) -> None:
        if errand.task is not None and errand.stop is None:
            errand.stop = kind
            errand.task.cancel()

    async def _wind_down(self, reporter: Reporter) -> None:
        """Lets what is under way end for a while, gives back the rest, records everything, says goodbye."""
        await _all(self._tasks(), self._options.drain_seconds)
        for errand in list(self._errands.values()):
            self._cut_off(errand, OutcomeKind.RELEASE)
        await _all(self._tasks(), RELEASE_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reporter.flushed(), FLUSH_SECONDS)
        with contextlib.suppress(SwitchtowerError, TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                if self._worker_id is not None:
                    await self._engine.workers.retire(self._worker_id)
                if self.elected:
                    await self._engine.upkeep.resign(COURIER, self._engine.holder)
        self.elected, self._worker_id = False, None

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [errand.task for errand in self._errands.values() if errand.task is not None]


def _key(parcel: Parcel) -> tuple[str, str]:
    """A job whose lease was lost may be won again before its first delivery has ended."""
    return parcel.job.id, parcel.job.token


def _size(parcel: Parcel) -> int:
    """About how much memory a delivery takes: its payload, as it was read and as it is sent."""
    return 2 * len(orjson.dumps(parcel.job.payload)) + 4_000


def _expired(parcel: Parcel) -> Outcome:
    message = "Its time to live passed before it was delivered."
    error = JobError(ErrorKind.EXPIRED, "Expired", message, None, fingerprint("Expired", ""))
    return Outcome(parcel.job.id, parcel.job.token, OutcomeKind.EXPIRE, error=error)


async def _all(tasks: Iterable[asyncio.Task[None]], seconds: float) -> None:
    if waiting := list(tasks):
        await asyncio.wait(waiting, timeout=seconds)


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancels until it has ended: a cancel that meets a result in `asyncio.wait_for` is lost (Python 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1)
