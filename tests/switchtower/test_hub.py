"""A hub that is behind the one that gave the cursor."""

from __future__ import annotations

import asyncio

from switchtower.events import EventHub
from tests.switchtower.test_events import Tape, cursor, hub, numbers, take, tape
from tests.waiting import until

__all__ = ["hub", "tape"]


async def test_a_reader_that_is_ahead_of_the_hub_is_told_nothing_twice(tape: Tape, hub: EventHub) -> None:
    tape.write(5)
    async with hub.subscribe() as first:
        tape.write(1)
        assert numbers(await take(first, 1)) == [6]
        async with hub.subscribe(after=cursor(7)) as ahead:
            taken = asyncio.create_task(take(ahead, 3))
            await until(lambda: len(hub._live) == 2)
            tape.write(5)
            assert numbers(await taken) == [8, 9, 10]
