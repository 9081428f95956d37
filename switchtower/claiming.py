"""When does a worker ask for jobs, and for how many?

One claimer feeds all of a worker's runners. Idle, it waits for the change stream, with a jittered poll as the net, and
asks for one job; after a hit for more and more. Under a backlog it keeps a stock ahead of the runners, measured by how
fast they are, and closes the change stream, whose events would only cost time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from switchtower.errors import StoreUnavailable
from switchtower.failpoints import die_at
from switchtower.jobs import ClaimedJob

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from switchtower.engine import Engine

__all__ = ["Claimer", "Pace"]

logger = logging.getLogger("switchtower.worker")

STOCK_SECONDS = 0.1
MAX_STOCK = 1_000
MAX_CLAIM = 500
FULL_CLAIMS_TO_CLOSE = 5
CROWDED_TO_CLOSE = 20
CROWDED_SECONDS = 1.0
UNQUIET_SECONDS = 0.02
RETRY_SECONDS = (0.2, 2.0)


class Pace:
    """How many jobs to hold ready for runners that take `mean_seconds` a job: a tenth of a second's work, none for slow
    ones, so that no worker sits on jobs that another could run."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.mean_seconds: float | None = None

    def observe(self, seconds: float) -> None:
        """Takes in how long one run took."""
        mean = self.mean_seconds
        self.mean_seconds = seconds if mean is None else mean + (seconds - mean) * 0.05

    @property
    def stock(self) -> int:
        """How many jobs to hold beyond those that run; 0 until something was measured."""
        if self.mean_seconds is None:
            return 0
        return min(MAX_STOCK, int(self.concurrency * STOCK_SECONDS / max(self.mean_seconds, 1e-6)))


class Claimer:
    """Claims jobs for one worker and holds them in `ready` until a runner takes them.

    `idle_runners()` counts them; `wanted()` says of which names jobs could be begun now, None for any; `may_claim()` is
    false while outcomes pile up; `is_quiet()` says that nothing runs and nothing waits to be recorded; `arrived()` is
    called when `ready` has grown.
    """

    def __init__(
        self,
        engine: Engine,
        worker_id: str,
        queues: Sequence[str],
        names: Sequence[str],
        *,
        pace: Pace,
        poll_seconds: float,
        idle_runners: Callable[[], int],
        may_claim: Callable[[], bool],
        is_quiet: Callable[[], bool],
        arrived: Callable[[], None],
        wanted: Callable[[], Sequence[str] | None] = lambda: None,
    ) -> None:
        self._claims = engine.claims
        self._worker_id = worker_id
        self._queues = tuple(queues)
        self._names = tuple(names)
        self._pace = pace
        self._poll_seconds = poll_seconds
        self._idle_runners = idle_runners
        self._may_claim = may_claim
        self._is_quiet = is_quiet
        self._arrived = arrived
        self._wanted = wanted
        self.ready: deque[ClaimedJob] = deque()
        self.claimed_at = 0.0
        self._wake = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._draining = False
        self._hungry = False
        self._refill_below = 0
        self._idle_waiters: list[asyncio.Future[None]] = []

    def took_one(self) -> None:
        """A runner has taken a job from `ready`."""
        if self._hungry and len(self.ready) <= self._refill_below:
            self._wake.set()

    def runner_is_idle(self) -> None:
        """A runner found `ready` empty."""
        if self._hungry:
            self._wake.set()

    def drain(self) -> list[ClaimedJob]:
        """Claims no more; returns the jobs that nobody has begun."""
        self._draining = True
        self._wake.set()
        return self.take_back()

    def take_back(self) -> list[ClaimedJob]:
        """Empties the stock and returns it."""
        jobs = list(self.ready)
        self.ready.clear()
        return jobs

    async def until_idle(self) -> None:
        """Waits until nothing runs, every outcome is recorded, and a claim made after that found nothing."""
        waiter = asyncio.get_running_loop().create_future()
        self._idle_waiters.append(waiter)
        self._wake.set()
        await waiter

    async def run(self) -> None:
        """Claims until drained. A claim that is under way then hands its jobs to `ready` as any other."""
        burst, full, crowded, wait = 1, 0, 0, RETRY_SECONDS[0]
        try:
            while not self._draining:
                limit = min(self._room(), burst)
                if limit <= 0:
                    crowded += 1
                    if crowded == CROWDED_TO_CLOSE:
                        await self._stop_listening()
                    self._hungry = True
                    await self._pause(min(self._poll_seconds, CROWDED_SECONDS))
                    self._hungry = False
                    continue
                crowded = 0
                waiters, quiet = list(self._idle_waiters), self._is_quiet()
                wanted = self._wanted()
                names = self._names if wanted is None else wanted
                try:
                    jobs = await self._claims.claim(self._worker_id, self._queues, names=names, limit=limit)
                except StoreUnavailable:
                    await self._pause(wait * random.uniform(0.5, 1.5), deaf=True)
                    wait = min(wait * 2, RETRY_SECONDS[1])
                    continue
                except Exception:
                    logger.exception("a claim failed")
                    await self._pause(RETRY_SECONDS[1], deaf=True)
                    continue
                wait = RETRY_SECONDS[0]
                if jobs:
                    die_at("after_claim")
                    burst = min(burst * 8, MAX_CLAIM)
                    full = full + 1 if len(jobs) == limit and limit > 1 else 0
                    if full >= FULL_CLAIMS_TO_CLOSE:
                        await self._stop_listening()
                    self.claimed_at = time.monotonic()
                    self.ready.extend(jobs)
                    self._arrived()
                    continue
                burst, full = 1, 0
                if quiet:
                    self._resolve(waiters)
                self._listen()
                asked = self._idle_waiters and not quiet
                # A runner that becomes free could run jobs that were not asked for now.
                self._hungry = wanted is not None
                await self._pause(UNQUIET_SECONDS if asked else self._poll_seconds * random.uniform(0.75, 1.25))
                self._hungry = False
        finally:
            await self._stop_listening()

    def _room(self) -> int:
        if not self._may_claim():
            return 0
        stock = self._pace.stock
        self._refill_below = stock // 2
        have, idle = len(self.ready), self._idle_runners()
        if have > self._refill_below and have >= idle:
            return 0
        return min(MAX_CLAIM, stock + idle - have)

    async def _pause(self, seconds: float, *, deaf: bool = False) -> None:
        if deaf:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _resolve(self, waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            self._idle_waiters.remove(waiter)
            if not waiter.done():
                waiter.set_result(None)

    def _listen(self) -> None:
        if self._listener is None and not self._draining:
            self._listener = asyncio.get_running_loop().create_task(self._hear())

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])

    async def _hear(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(cast("AsyncGenerator[str]", self._claims.wakes(self._queues))) as wakes:
                    async for _ in wakes:
                        self._wake.set()
            except StoreUnavailable:
                pass
            except Exception:
                logger.warning("the stream that wakes this worker ended; it polls meanwhile", exc_info=True)
            await asyncio.sleep(RETRY_SECONDS[1] * random.uniform(0.5, 1.5))
