"""How does a client follow what happens?

Every stream is filtered here, on the server, and bounded to the caller's tenant. A stream of events hands out cursors;
a stream of snapshots reads the thing again whenever something happened to it, however much happened in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from schema.context import Context
from switchtower.errors import InvalidInput
from switchtower.events import Event, Gap, Topic

__all__ = ["Changes", "changes", "changes_where", "follow"]


async def follow(
    context: Context, topic: Topic, wanted: Callable[[Event], bool], *, after: str | None = None
) -> AsyncGenerator[Event | Gap, None]:
    """The caller's events of one topic as they happen, or, with `after`, everything behind that cursor first.

    Raises:
        InvalidInput: `after` is not a cursor.
    """
    if after is not None and not context.engine.is_cursor(after):
        raise InvalidInput("after", "is not a cursor of an event; pass one that an event carried, or leave it out.")
    org = context.caller.org

    def match(event: Event) -> bool:
        return event.topic is topic and (org is None or event.org == org) and wanted(event)

    async with context.engine.hub().subscribe(match, after=after) as events:
        async for item in events:
            yield item


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
