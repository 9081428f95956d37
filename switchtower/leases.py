"""How does a worker keep its lease, and how does it know that it has lost it?

A thread with a database client of its own renews the lease, so that a blocked event loop does not lose it. The same
thread notices that the loop is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from switchtower.workers import WorkerState

__all__ = ["LeaseKeeper", "Renewal"]

logger = logging.getLogger("switchtower.worker")

RETRY_SECONDS = 1.0


class Renewal(Protocol):
    """One synchronous renewal of a worker's lease."""

    def renew(self) -> WorkerState:
        """Extends the lease; LOST or STOPPED say that there is none any more."""

    def close(self) -> None:
        """Closes its connection."""


class LeaseKeeper:
    """Renews one worker's lease every third of it, from its own thread.

    `on_lost` is called once, from that thread, when the database says that the lease is lost. By this process's
    monotonic clock the lease counts as `gone` some seconds before the database can give the jobs to others, measured
    from the moment the last successful renewal was sent. `on_blocked(seconds)` is called from the thread, again and
    again, while the event loop has not answered for `blocked_seconds` or longer.
    """

    def __init__(
        self,
        renewal: Renewal,
        *,
        lease_seconds: float,
        registered_at: float,
        on_lost: Callable[[], None],
        on_blocked: Callable[[float], None],
        blocked_seconds: float = 5.0,
    ) -> None:
        self._renewal = renewal
        self._interval = lease_seconds / 3
        self._lasts = lease_seconds - min(5.0, lease_seconds / 6)
        self._renewed_at = registered_at
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self._blocked_seconds = blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._asked_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switchtower-heartbeat", daemon=True)

    @property
    def gone(self) -> bool:
        """Whether the lease may be in other hands by now, as far as this process can tell by itself."""
        return time.monotonic() >= self._renewed_at + self._lasts

    def start(self) -> None:
        """Begins to renew."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the renewals; waits for one under way."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, 10)

    def _run(self) -> None:
        tick = min(0.5, self._interval / 4)
        due = self._renewed_at + self._interval
        failing = False
        while not self._stopping.wait(tick):
            self._watch_loop()
            now = time.monotonic()
            if now < due:
                continue
            try:
                state = self._renewal.renew()
            except Exception as error:
                if not failing:
                    logger.warning("the lease could not be renewed (%s: %s); trying on", type(error).__name__, error)
                failing = True
                due = time.monotonic() + min(RETRY_SECONDS, self._interval / 4)
                continue
            if state in (WorkerState.LOST, WorkerState.STOPPED):
                self._on_lost()
                break
            # Counted from before the request: the database's lease cannot have begun earlier.
            self._renewed_at = now
            due = now + self._interval
            failing = False
        self._renewal.close()

    def _watch_loop(self) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            try:
                self._loop.call_soon_threadsafe(self._answered)
            except RuntimeError:
                self._stopping.set()
        elif now - self._asked_at >= self._blocked_seconds:
            self._on_blocked(now - self._asked_at)

    def _answered(self) -> None:
        self._asked_at = None
