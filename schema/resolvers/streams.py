"""How does a client follow what happens?

Every stream is filtered here, on the server, and bounded to the caller's tenant. A stream of events hands out cursors;
a stream of snapshots reads the thing again whenever something happened to it, however much happened in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from schema.context import Context
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.errors import InvalidInput
from switchtower.events import Event, Gap, Topic

__all__ = ["Changes", "Reached", "activity", "changes", "changes_where", "follow", "recent"]

REST_SECONDS = 15.0


async def follow(
    context: Context, topic: Topic, wanted: Callable[[Event], bool], *, after: str | None = None
) -> AsyncGenerator[Event | Gap, None]:
    """The caller's events of one topic as they happen, or, with `after`, everything behind that cursor first.

    Raises:
        InvalidInput: `after` is not a cursor.
    """
    if after is not None and not context.engine.is_cursor(after):
        raise InvalidInput("after", "is not a cursor of an event; pass one that an event carried, or leave it out.")
    org, queues = context.caller.org, context.caller.queues

    def match(event: Event) -> bool:
        return (
            event.topic is topic
            and (org is None or event.org == org)
            and (queues is None or event.queue in queues)
            and wanted(event)
        )

    async with context.engine.hub().subscribe(match, after=after) as events:
        async for item in events:
            yield item


@needs(Scope.READ)
async def recent(context: Context, wanted: Callable[[Event], bool], *, limit: int) -> list[Event]:
    """The last events of jobs that the caller sees, the newest first: of those that this server still remembers."""
    reach = context.caller.reach

    def match(event: Event) -> bool:
        return (
            event.topic is Topic.JOB
            and (reach.org is None or event.org == reach.org)
            and reach.sees(event.queue)
            and wanted(event)
        )

    return context.engine.hub().recent(match, limit=limit)


@dataclass(frozen=True, slots=True)
class Reached:
    """Everything that happened up to `cursor` was told; what comes is behind it."""

    cursor: str


@needs(Scope.READ)
async def activity(
    context: Context, queue: str | None, *, after: str | None = None, rest_seconds: float = REST_SECONDS
) -> AsyncGenerator[Event | Gap | Reached, None]:
    """What happens to the jobs and in the queues (in one of them) that the caller sees, from now on or behind `after`.

    It begins with where it stands, and says so again whenever nothing was told for `rest_seconds`, so that whoever
    comes back does so from there. With an `after` that is no cursor it begins now, with a gap.
    Raises NotFound for a queue that the caller does not see.
    """
    if queue is not None:
        context.caller.check_queue(queue)
    reach, hub = context.caller.reach, context.engine.hub()
    unknown = after is not None and not context.engine.is_cursor(after)

    def match(event: Event) -> bool:
        return (
            (event.topic is Topic.JOB or event.topic is Topic.QUEUE)
            and (queue is None or event.queue == queue)
            and (reach.org is None or event.org == reach.org)
            and reach.sees(event.queue)
        )

    subscription = hub.subscribe(match, after=None if unknown else after)
    async with subscription as events:
        yield Reached(subscription.cursor)
        if unknown:
            reason = "The id of the last event is not one of this server's. Read the state again."
            yield Gap(subscription.cursor, context.engine.clock.now(), reason)
        items = aiter(events)
        following = asyncio.ensure_future(anext(items, None))
        try:
            while True:
                seen = hub.cursor
                if (await asyncio.wait({following}, timeout=rest_seconds))[0]:
                    item = following.result()
                    if item is None:
                        return
                    yield item
                    following = asyncio.ensure_future(anext(items, None))
                elif seen and subscription.caught_up:
                    # Where the hub stood before the rest: everything behind it would have come since.
                    yield Reached(seen)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


class Changes:
    """Says that something happened, once for any number of events that happened since it was last asked."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()
        self._error: Exception | None = None
        self.ended = False

    async def wait(self, seconds: float | None = None) -> bool:
        """True as soon as something happened since the last call, or all ended; False when nothing did for so long.

        Raises:
            StoreUnavailable: the stream of events broke.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._happened.wait(), seconds)
        if self._error is not None:
            raise self._error
        happened = self._happened.is_set()
        if not self.ended:
            self._happened.clear()
        return happened

    async def pause(self, seconds: float) -> None:
        """Lets this much time pass, so that what happens in it is one change."""
        await asyncio.sleep(seconds)

    async def listen(self, events: AsyncIterator[Event | Gap]) -> None:
        """Takes in events until they end."""
        try:
            async for _ in events:
                self._happened.set()
        except Exception as error:
            self._error = error
        finally:
            self.ended = True
            self._happened.set()


@asynccontextmanager
async def changes(context: Context, topic: Topic, id: str | None = None) -> AsyncIterator[Changes]:
    """What happens from now on (to the thing with this id), as a signal to read again; subscribed before the body runs.

    It carries nothing, so that whoever reads again has to ask as the caller.
    """
    async with changes_where(context, lambda event: event.topic is topic and (id is None or event.id == id)) as noticed:
        yield noticed


@asynccontextmanager
async def changes_where(context: Context, match: Callable[[Event], bool]) -> AsyncIterator[Changes]:
    """`changes`, of the events that match."""
    noticed = Changes()
    async with context.engine.hub().subscribe(match) as events:
        listening = asyncio.create_task(noticed.listen(aiter(events)))
        try:
            yield noticed
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
