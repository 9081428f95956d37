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
from itertools import islice
from typing import Any

from switchtower.errors import InvalidInput, StoreUnavailable

__all__ = ["Event", "EventHub", "Gap", "HistoryLost", "Subscription", "Topic"]

log = logging.getLogger(__name__)


class Topic(StrEnum):
    """Which noun an event is about; `resync` says that history was lost and everything must be read again."""

    JOB = "job"
    QUEUE = "queue"
    DEAD_LETTER = "dead_letter"
    WORKER = "worker"
    BULK = "bulk"
    AUDIT = "audit"
    CRON = "cron"
    KEY = "key"


@dataclass(slots=True)
class Event:
    """One event, shared by all who read it: not to be changed.

    `cursor` resumes behind it and orders like time does; `clock` is its cluster time as one integer.

    For jobs, `type` is the transition's name (`switchtower.states`); `progress` has its value in `data["progress"]`,
    `log` its lines in `data["lines"]`. `from_state` and `to_state` differ only when the state changed; `to_state` is
    `removed` for a removal. `source` is there where somebody asked for it: the surface that they used.
    `custom_id` is the caller's own id of the job, where it has one. `data` holds
    what only some types have: `ms` (run time), `wait_ms` (time spent waiting), `worker`, `error`, `removed`.
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
    source: str | None = None
    tags: tuple[str, ...] = ()
    custom_id: str | None = None
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
RING_BYTES = 32 * 1024 * 1024
BUFFER_EVENTS = 1_000
BUFFER_BYTES = 1024 * 1024
CATCH_UPS = 8
PORTION_EVENTS = 1_000


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
        self._limit_bytes = max(BUFFER_BYTES, 1024 * buffer)
        self._items: deque[Event | Gap] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._closed = False
        self._seen = ""
        self.cursor = after or hub.cursor

    async def __aenter__(self) -> AsyncIterator[Event | Gap]:
        self._hub._open.add(self)
        if self._after is None:
            try:
                await self._hub.start()
            except BaseException:
                # Left while the stream was being opened: nobody will call `__aexit__`.
                self.close()
                raise
            self._hub._live.add(self)
            self.cursor = self._hub.cursor
        return self._iterate()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the iteration; harmless when repeated."""
        self._closed = True
        self._hub._open.discard(self)
        self._hub._live.discard(self)
        self._ready.set()

    @property
    def caught_up(self) -> bool:
        """Whether everything that the hub has seen was handed to the reader."""
        return self in self._hub._live and not self._items

    def take(self) -> list[Event | Gap]:
        """What waits to be read now, without waiting; a reader of many events saves a turn of the loop for each."""
        items = list(self._items)
        self._items.clear()
        self._bytes = 0
        if items:
            self.cursor = items[-1].cursor
        return items

    def _offer(self, event: Event) -> None:
        if event.cursor <= self._seen or not self._match(event):
            return
        self._bytes += _weight(event)
        if len(self._items) >= self._limit or self._bytes > self._limit_bytes:
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

    The ring holds the most recent events. A subscriber with an older cursor reads what it missed at its own pace, from
    streams of its own up to where the ring begins and then from the ring, and joins the live events where that ends.
    """

    def __init__(
        self, source: Source, *, is_cursor: Callable[[str], bool] = bool, ring_events: int = RING_EVENTS
    ) -> None:
        self._source = source
        self._is_cursor = is_cursor
        self._ring: deque[Event] = deque()
        self._ring_events = ring_events
        self._ring_bytes = 0
        self._floor = ""
        self._open: set[Subscription] = set()
        self._live: set[Subscription] = set()
        self._lost: str | None = None
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
        for subscription in list(self._open):
            subscription.close()
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1)

    def subscribe(
        self, match: Callable[[Event], bool] = _everything, *, after: str | None = None, buffer: int = BUFFER_EVENTS
    ) -> Subscription:
        """A subscription to the events that match, from now on or from behind the cursor `after`.

        Raises: InvalidInput when `after` is no cursor.
        """
        if after is not None and not self._is_cursor(after):
            raise InvalidInput("after", "is not a cursor of an event; pass one that an event carried, or leave it out.")
        return Subscription(self, match, after, buffer)

    def recent(self, match: Callable[[Event], bool] = _everything, *, limit: int) -> list[Event]:
        """The last events that match of those that the ring still has, the newest first."""
        return list(islice(filter(match, reversed(self._ring)), limit))

    @property
    def subscribers(self) -> int:
        """How many subscriptions are open."""
        return len(self._open)

    @property
    def fresh(self) -> bool:
        """Whether the stream answered within the last five seconds."""
        return time.monotonic() - self._read_at < 5

    async def _run(self) -> None:
        """Keeps one stream open: from the last cursor after a fault, from now with a gap after lost history."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._source(self.cursor or None)) as batches:  # type: ignore[type-var]
                    async for batch, cursor in batches:
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
        if self._lost is not None:
            for subscription in self._live:
                subscription._gap(
                    cursor, f"The history of changes was lost ({self._lost[:100]}). Read the state again."
                )
            self._lost = None
        if not self.cursor:
            self._floor = batch[0].cursor if batch else cursor
        for event in batch:
            self._ring.append(event)
            self._ring_bytes += _weight(event)
            for subscription in self._live:
                subscription._offer(event)
        while len(self._ring) > self._ring_events or self._ring_bytes > RING_BYTES:
            oldest = self._ring.popleft()
            self._ring_bytes -= _weight(oldest)
            self._floor = oldest.cursor
        self.cursor = cursor
        self.lag_seconds = (
            max(0.0, (datetime.now(UTC) - batch[-1].at.astimezone(UTC)).total_seconds()) if batch else 0.0
        )

    def _resync(self, reason: str) -> None:
        """Forgets what was; the next stream begins now, and its first cursor is where the gap ends."""
        self.resyncs += 1
        self._ring.clear()
        self._ring_bytes = 0
        self._floor = self.cursor = ""
        self._lost = reason
        self._opened.clear()

    async def _catch_up(self, subscription: Subscription, after: str) -> AsyncIterator[Event]:
        """What happened behind `after`, in portions that the reader takes at its own pace; joins the live events when
        nothing is left between."""
        position = after
        while not subscription._closed:
            await self.start()
            if position >= self._floor:
                missed = self._behind(position)
                if not missed:
                    # A hub that is behind the one that gave the cursor must not tell twice.
                    subscription._seen = position
                    self._live.add(subscription)
                    return
            else:
                try:
                    missed, position = await self._portion(position)
                except HistoryLost as error:
                    self._live.add(subscription)
                    subscription._gap(self.cursor, f"The cursor has left the history ({str(error)[:100]}).")
                    return
                except StoreUnavailable:
                    await asyncio.sleep(0.5)
                    continue
            for event in missed:
                position = max(position, event.cursor)
                if subscription._match(event):
                    yield event

    def _behind(self, position: str) -> list[Event]:
        """The next events of the ring behind a cursor."""
        ring = list(self._ring)
        start = bisect_right(ring, position, key=lambda event: event.cursor)
        return ring[start : start + PORTION_EVENTS]

    async def _portion(self, position: str) -> tuple[list[Event], str]:
        """The next events behind a cursor that is older than the ring, and the cursor behind them.

        A reader that is slow holds no stream while it reads: few of them at a time serve any number of readers.
        """
        async with (
            self._catch_ups,
            contextlib.aclosing(self._source(position)) as batches,  # type: ignore[type-var]
        ):
            async for batch, cursor in batches:
                position = max(position, cursor)
                if batch or position >= self._floor:
                    return batch, position
        return [], position
