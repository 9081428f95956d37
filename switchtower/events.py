"""What happened, and who wants to know?

An `Event` is one thing that happened in the database, as the change stream told it. The `EventHub` reads one stream for
the whole process, keeps a ring of recent events, and serves any number of bounded subscribers from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from switchtower.errors import StoreUnavailable

__all__ = ["Event", "EventHub", "Gap", "HistoryLost", "Subscription", "Topic"]

log = logging.getLogger(__name__)


class Topic(StrEnum):
    """Which noun an event is about; `resync` says that history was lost and everything must be read again."""

    JOB = "job"
    QUEUE = "queue"
    DEAD_LETTER = "dead_letter"
    WORKER = "worker"
    BULK = "bulk"
    CRON = "cron"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `cursor` resumes behind it and orders like time does; `clock` is its cluster time as one integer.

    For jobs, `type` is the transition's name (`switchtower.states`); `progress` has its value in `data["progress"]`,
    `log` its lines in `data["lines"]`. `from_state` and `to_state` differ only when the state changed; `to_state` is
    `removed` for a removal. `data` holds what only some types have: `ms` (run time), `wait_ms` (time spent waiting),
    `worker`, `error`, `removed`.
    """

    cursor: str
    topic: Topic
    type: str
    id: str
    at: datetime
    queue: str = ""
    name: str = ""
    from_state: str | None = None
    to_state: str | None = None
    attempt: int = 0
    actor: str | None = None
    org: str = ""
    app: str = ""
    group: str | None = None
    parent_id: str | None = None
    flow_id: str | None = None
    tags: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    clock: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Events between the subscriber's last cursor and `cursor` are lost to it; it must read the state again."""

    cursor: str
    at: datetime
    reason: str


class HistoryLost(Exception):
    """The cursor lies before the oplog, or behind an event that cannot be read: go on from now and read the state."""


Source = Callable[[str | None], AsyncIterator[tuple[list[Event], str]]]
"""Batches of events behind a cursor (None: from now on), each with the cursor to go on from; some are empty."""

RING_EVENTS = 20_000
BUFFER_EVENTS = 1_000
BUFFER_BYTES = 1024 * 1024
CATCH_UPS = 8


def _everything(event: Event) -> bool:
    return True


def _weight(event: Event) -> int:
    """Roughly how many bytes an event holds: log lines and progress values are what can be large."""
    lines = event.data.get("lines")
    extra = sum(len(line.get("line", "")) for line in lines) if lines else 0
    progress = event.data.get("progress")
    return 400 + extra + (len(str(progress)) if progress is not None else 0)


class Subscription:
    """One reader of the hub: an async context manager whose iteration yields events and gaps.

    Its buffer is bounded. When the reader falls behind, the buffer is dropped and one `Gap` says so: never a silent
    loss, never unbounded memory.
    """

    def __init__(self, hub: EventHub, match: Callable[[Event], bool], after: str | None, buffer: int) -> None:
        self._hub = hub
        self._match = match
        self._after = after
        self._limit = buffer
        self._items: deque[Event | Gap] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._closed = False
        self.cursor = after or hub.cursor

    async def __aenter__(self) -> AsyncIterator[Event | Gap]:
        if self._after is None:
            await self._hub.start()
            self._hub._attach(self, None)
            self.cursor = self._hub.cursor
        return self._iterate()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the iteration; harmless when repeated."""
        self._closed = True
        self._hub._detach(self)
        self._ready.set()

    @property
    def caught_up(self) -> bool:
        """Whether everything that the hub has seen was handed to the reader."""
        return not self._items

    def _offer(self, event: Event) -> None:
        if not self._match(event):
            return
        self._bytes += _weight(event)
        if len(self._items) >= self._limit or self._bytes > BUFFER_BYTES:
            self._gap(event.cursor, "The subscriber fell behind; events were dropped. Read the state again.")
        else:
            self._items.append(event)
        self._ready.set()

    def _gap(self, cursor: str, reason: str) -> None:
        self._items.clear()
        self._bytes = 0
        self._items.append(Gap(cursor, datetime.now(UTC), reason))
        self._ready.set()

    async def _iterate(self) -> AsyncIterator[Event | Gap]:
        if self._after is not None:
            async for event in self._hub._catch_up(self, self._after):
                self.cursor = event.cursor
                yield event
        while not self._closed:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, Event):
                    self._bytes -= _weight(item)
                self.cursor = item.cursor
                yield item
            self._ready.clear()
            if not self._closed and not self._items:
                await self._ready.wait()


class EventHub:
    """Reads the process's one change stream and serves it to every subscriber.

    The ring holds the most recent events. A subscriber with an older cursor first reads a stream of its own, bounded in
    number, up to where the ring begins, and is then spliced into the ring in cursor order.
    """

    def __init__(self, source: Source, *, ring_events: int = RING_EVENTS) -> None:
        self._source = source
        self._ring: deque[Event] = deque()
        self._ring_events = ring_events
        self._floor = ""
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._catch_ups = asyncio.Semaphore(CATCH_UPS)
        self._read_at = float("-inf")
        self.cursor = ""
        self.lag_seconds = 0.0
        self.resyncs = 0

    async def start(self) -> None:
        """Opens the stream, if it is not open, and waits until it tells from where on it sees everything."""
        if self._task is None or self._task.done():
            self._opened.clear()
            self._task = asyncio.create_task(self._run(), name="event-hub")
        await self._opened.wait()

    async def close(self) -> None:
        """Ends the stream and every subscription."""
        for subscription in list(self._subscriptions):
            subscription.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def subscribe(
        self, match: Callable[[Event], bool] = _everything, *, after: str | None = None, buffer: int = BUFFER_EVENTS
    ) -> Subscription:
        """A subscription to the events that match, from now on or from behind the cursor `after`."""
        return Subscription(self, match, after, buffer)

    @property
    def subscribers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    @property
    def fresh(self) -> bool:
        """Whether the stream answered within the last five seconds."""
        return time.monotonic() - self._read_at < 5

    async def _run(self) -> None:
        """Keeps one stream open: from the last cursor after a fault, from now with a gap after lost history."""
        failures = 0
        while True:
            try:
                async for batch, cursor in self._source(self.cursor or None):
                    failures = 0
                    self._read_at = time.monotonic()
                    self._publish(batch, cursor)
                    self._opened.set()
            except HistoryLost as error:
                log.warning("change stream history lost, resyncing: %s", error)
                self._resync(str(error))
                failures += 1
            except StoreUnavailable as error:
                failures += 1
                if failures > 1:
                    log.warning("change stream interrupted: %s", error)
            except asyncio.CancelledError:
                raise
            except Exception:
                failures += 1
                log.exception("change stream failed")
            if failures > 1:
                await asyncio.sleep(min(2.0, 0.2 * failures))

    def _publish(self, batch: list[Event], cursor: str) -> None:
        if not self.cursor:
            self._floor = cursor if not batch else self._floor
        for event in batch:
            self._ring.append(event)
            for subscription in list(self._subscriptions):
                subscription._offer(event)
        while len(self._ring) > self._ring_events:
            self._floor = self._ring.popleft().cursor
        self.cursor = cursor
        self.lag_seconds = (
            max(0.0, (datetime.now(UTC) - batch[-1].at.astimezone(UTC)).total_seconds()) if batch else 0.0
        )

    def _resync(self, reason: str) -> None:
        self.resyncs += 1
        self._ring.clear()
        self._floor = ""
        cursor, self.cursor = self.cursor, ""
        for subscription in list(self._subscriptions):
            subscription._gap(cursor, f"The history of changes was lost ({reason[:100]}). Read the state again.")

    def _attach(self, subscription: Subscription, after: str | None) -> None:
        """Joins a subscription to the live events; with `after`, first everything in the ring behind it."""
        if after is not None:
            ring = list(self._ring)
            for event in ring[bisect_right(ring, after, key=lambda event: event.cursor) :]:
                subscription._offer(event)
        self._subscriptions.add(subscription)

    def _detach(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    async def _catch_up(self, subscription: Subscription, after: str) -> AsyncIterator[Event | Gap]:
        """What happened between `after` and the ring; joins the live events when it reaches them."""
        await self.start()
        if self._floor and after >= self._floor:
            self._attach(subscription, after)
            return
        async with self._catch_ups:
            position = after
            while not subscription._closed:
                try:
                    stream = self._source(position)
                    async with contextlib.aclosing(stream) as batches:  # type: ignore[type-var]
                        async for batch, cursor in batches:
                            for event in batch:
                                position = event.cursor
                                if subscription._match(event):
                                    yield event
                            position = max(position, cursor)
                            if self._floor and position >= self._floor:
                                self._attach(subscription, position)
                                return
                except HistoryLost as error:
                    yield Gap(self.cursor, datetime.now(UTC), f"The cursor has left the history ({str(error)[:100]}).")
                    self._attach(subscription, self.cursor)
                    return
                except StoreUnavailable:
                    await asyncio.sleep(0.5)
