"""Who keeps the house, and how often?

Every server and supervisor runs this loop; a lease document elects the one that acts. Duties are idempotent, so the
moment between two holders does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.events import Event, Gap

__all__ = ["Maintenance"]

log = logging.getLogger(__name__)

DUTY = "maintenance"
TERM_MS = 5_000
BEAT_SECONDS = 0.25
FOLD_SECONDS = 0.1
FOLD_EVENTS = 5_000
FOLD_BUFFER = 100_000


@dataclass(slots=True)
class _Duty:
    every_seconds: float
    run: Callable[[], Awaitable[object]]
    due: float = 0.0


class Maintenance:
    """The elected loop: stages, rescues, expires, relays, repairs, prunes, and folds the counters."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        upkeep = engine.upkeep
        self._duties = [
            _Duty(0.25, upkeep.stage),
            _Duty(0.25, engine.crons.tick),
            _Duty(0.5, upkeep.rescue),
            _Duty(1, upkeep.expire),
            _Duty(1, upkeep.relay),
            _Duty(2, engine.workflows.wake),
            _Duty(5, upkeep.let_go),
            _Duty(2, engine.metrics.snapshot),
            _Duty(5, upkeep.resume_bulk),
            _Duty(5, upkeep.unpark),
            _Duty(5, engine.deliveries.unpark_addressed),
            _Duty(10, upkeep.repair_blocked),
            _Duty(30, upkeep.prune),
        ]
        self.elected = False

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set; database faults are logged and outlived."""
        folder: asyncio.Task[None] | None = None
        renewed = float("-inf")
        try:
            while not stop.is_set():
                try:
                    if time.monotonic() - renewed > TERM_MS / 3000:
                        await self._engine.upkeep.observe()
                        term = await self._engine.upkeep.elect(DUTY, self._engine.holder, TERM_MS)
                        self.elected, renewed = term is not None, time.monotonic()
                    if self.elected:
                        if folder is None or folder.done():
                            folder = asyncio.create_task(self._fold(), name="folder")
                        await self._beat()
                    elif folder is not None:
                        folder.cancel()
                        folder = None
                except StoreUnavailable as error:
                    log.warning("maintenance waits for the database: %s", error)
                    self.elected, renewed = False, float("-inf")
                except Exception:
                    log.exception("maintenance failed; it goes on")
                await _sleep(stop, BEAT_SECONDS * random.uniform(0.8, 1.2))
        finally:
            if folder is not None:
                await _end(folder)
            if self.elected:
                try:
                    await asyncio.wait_for(self._engine.upkeep.resign(DUTY, self._engine.holder), 2)
                except (TimeoutError, StoreUnavailable):
                    log.info("the term passes by itself")

    async def _beat(self) -> None:
        for duty in self._duties:
            now = time.monotonic()
            if now >= duty.due:
                duty.due = now + duty.every_seconds
                try:
                    await duty.run()
                except StoreUnavailable:
                    raise
                except Exception:
                    # One duty that fails each time must not keep the others from their turn.
                    log.exception("a duty of maintenance failed; the others go on")

    async def _fold(self) -> None:
        """Folds events into the counters while elected; starts over from a recount after lost history."""
        while True:
            try:
                await self._fold_once()
            except StoreUnavailable as error:
                log.warning("the folder waits for the database: %s", error)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("the folder failed; it starts again from its last commit")
            await asyncio.sleep(1)

    async def _fold_once(self) -> None:
        upkeep, hub = self._engine.upkeep, self._engine.hub()
        await hub.start()
        seen, counted = await upkeep.fold_position()
        subscription = hub.subscribe(after=seen, buffer=FOLD_BUFFER)
        async with subscription as items:
            if seen is None:
                seen = subscription.cursor
                counted = await upkeep.recount(reached=seen)
            pending: list[Event] = []
            committed = time.monotonic()
            stream = aiter(items)
            following: asyncio.Future[Event | Gap] | None = None
            try:
                while True:
                    following = following or asyncio.ensure_future(anext(stream))
                    done, _ = await asyncio.wait({following}, timeout=FOLD_SECONDS)
                    if done:
                        # A task an event would hold the folder to some 10,000 events a second.
                        arrived = [following.result(), *subscription.take()]
                        following = None
                        gap = next((item for item in arrived if isinstance(item, Gap)), None)
                        if gap is not None:
                            log.warning("recounting: %s", gap.reason)
                            await hub.start()
                            await upkeep.relay_unseen(after=seen, until=hub.cursor)
                            pending, seen = [], hub.cursor
                            counted = await upkeep.recount(reached=seen)
                            continue
                        pending += [item for item in arrived if isinstance(item, Event)]
                        if len(pending) < FOLD_EVENTS and time.monotonic() - committed < FOLD_SECONDS:
                            continue
                    reached = pending[-1].cursor if pending else (hub.cursor if subscription.caught_up else seen)
                    idle = not pending and time.monotonic() - committed < 30
                    if reached == seen or idle:
                        continue
                    if not await upkeep.fold(pending, reached=reached, seen=seen, counted=counted):
                        log.info("another process folds now")
                        return
                    pending, seen, committed = [], reached, time.monotonic()
            finally:
                if following is not None:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels until it has ended: a cancel that meets a result in `asyncio.wait_for` is lost (Python 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
