"""The hub on a tape that the test writes: what a subscriber sees, and what it is told when it cannot see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.events import Event, EventHub, Gap, HistoryLost, Subscription, Topic
from tests.waiting import until


def cursor(position: float) -> str:
    return f"1.{position:020.1f}"


class Tape:
    """A history of numbered events; `begin` is the oldest position that can still be resumed from."""

    def __init__(self, *, chunk: int = 7) -> None:
        self.events: list[Event] = []
        self.begin = 0
        self.chunk = chunk
        self.fault: Exception | None = None
        self.opened = 0
        self.open = 0
        self._more = asyncio.Event()

    def write(self, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            number = len(self.events) + 1
            self.events.append(Event(cursor(number), Topic.JOB, "update", f"{number}", datetime.now(UTC), **fields))
        self.wake()

    def wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    def fail(self, error: Exception) -> None:
        self.fault = error
        self.wake()

    async def source(self, after: str | None) -> AsyncIterator[tuple[list[Event], str]]:
        self.opened += 1
        self.open += 1
        try:
            position = len(self.events) if after is None else int(float(after[2:]))
            if position < self.begin:
                raise HistoryLost("too old")
            if after is None:
                yield [], cursor(position + 0.5)
            while True:
                if self.fault is not None:
                    fault, self.fault = self.fault, None
                    raise fault
                batch = self.events[position : position + self.chunk]
                position += len(batch)
                waiting = self._more
                yield batch, batch[-1].cursor if batch else cursor(position + 0.5)
                if not batch:
                    await waiting.wait()
                else:
                    await asyncio.sleep(0)
        finally:
            self.open -= 1


@pytest.fixture
async def tape() -> Tape:
    return Tape()


@pytest.fixture
async def hub(tape: Tape) -> AsyncIterator[EventHub]:
    made = EventHub(tape.source, is_cursor=lambda text: text.startswith("1."), ring_events=50)
    yield made
    await made.close()
    assert tape.open == 0


async def take(items: AsyncIterator[Event | Gap], count: int) -> list[Event | Gap]:
    async with asyncio.timeout(60):
        return [await anext(items) for _ in range(count)]


def numbers(items: Iterable[Event | Gap]) -> list[int]:
    assert not any(isinstance(item, Gap) for item in items), items
    return [int(item.id) for item in items if isinstance(item, Event)]


async def test_subscriber_sees_what_happens_from_now_on(tape: Tape, hub: EventHub) -> None:
    tape.write(5)
    async with hub.subscribe() as items:
        tape.write(30)
        assert numbers(await take(items, 30)) == list(range(6, 36))


async def test_subscriber_sees_only_what_matches(tape: Tape, hub: EventHub) -> None:
    async with hub.subscribe(lambda event: int(event.id) % 10 == 0) as items:
        tape.write(50)
        assert numbers(await take(items, 5)) == [10, 20, 30, 40, 50]


async def test_subscriber_that_leaves_while_the_stream_opens_is_gone(tape: Tape) -> None:
    opening, go = asyncio.Event(), asyncio.Event()

    async def slow(after: str | None) -> AsyncIterator[tuple[list[Event], str]]:
        opening.set()
        await go.wait()
        async for batch in tape.source(after):
            yield batch

    hub = EventHub(slow)
    joining = asyncio.create_task(hub.subscribe().__aenter__())
    await opening.wait()
    assert hub.subscribers == 1
    joining.cancel()
    await asyncio.wait({joining})
    assert joining.cancelled() and hub.subscribers == 0
    go.set()
    async with hub.subscribe() as items:
        tape.write()
        assert numbers(await take(items, 1)) == [1]
    await hub.close()


async def test_ring_holds_a_bounded_number_of_bytes(tape: Tape) -> None:
    hub = EventHub(tape.source)
    async with hub.subscribe() as items:
        tape.write(100, data={"progress": "x" * 1_000_000})
        tape.write()
        async with asyncio.timeout(60):
            async for item in items:
                if item.cursor == cursor(101):
                    break
    assert sum(len(event.data.get("progress", "")) for event in hub._ring) < 40_000_000
    # What the ring does not hold is read from the history.
    async with hub.subscribe(after=cursor(1)) as items:
        assert numbers(await take(items, 50)) == list(range(2, 52))
    await hub.close()


async def test_a_hundred_subscribers_share_one_stream(tape: Tape, hub: EventHub) -> None:
    async def follow() -> list[int]:
        async with hub.subscribe() as items:
            joined.append(1)
            return numbers(await take(items, 20))

    joined: list[int] = []
    following = [asyncio.create_task(follow()) for _ in range(100)]
    await until(lambda: len(joined) == 100)
    tape.write(20)
    assert await asyncio.gather(*following) == [list(range(1, 21))] * 100
    assert tape.opened == 1


@pytest.mark.parametrize("after", [0, 3, 200, 249, 250, 499, 500])
async def test_cursor_resumes_behind_its_event_without_loss_or_repeat(tape: Tape, hub: EventHub, after: int) -> None:
    await hub.start()
    tape.write(500)
    await until(lambda: hub.cursor >= cursor(500))
    async with hub.subscribe(after=cursor(after)) as items:
        reading = asyncio.create_task(take(items, 600 - after))
        await asyncio.sleep(0)
        tape.write(100)
        assert numbers(await reading) == list(range(after + 1, 601))


async def test_resumed_subscriber_needs_no_buffer_for_what_it_missed(tape: Tape) -> None:
    hub = EventHub(tape.source, ring_events=10_000)
    await hub.start()
    tape.write(3_000)
    await until(lambda: hub.cursor >= cursor(3_000))
    async with hub.subscribe(after=cursor(1), buffer=10) as items:
        assert numbers(await take(items, 2_999)) == list(range(2, 3_001))
    await hub.close()


async def test_slow_resumed_readers_hold_no_stream_and_keep_nobody_out(tape: Tape, hub: EventHub) -> None:
    await hub.start()
    tape.write(5_000)
    await until(lambda: hub.cursor >= cursor(5_000))
    stalled: list[Subscription] = []
    for _ in range(20):
        subscription = hub.subscribe(after=cursor(0))
        items = await subscription.__aenter__()
        await take(items, 1)
        stalled.append(subscription)
    assert tape.open == 1
    async with hub.subscribe(after=cursor(0)) as items:
        assert numbers(await take(items, 5_000)) == list(range(1, 5_001))
    for subscription in stalled:
        subscription.close()


async def test_events_of_the_first_read_can_be_resumed_from(tape: Tape) -> None:
    async def begins_with_events(after: str | None) -> AsyncIterator[tuple[list[Event], str]]:
        first = True
        async for batch, at in tape.source(after):
            if not (first and after is None and not batch):
                yield batch, at
            first = False
            if after is None and len(tape.events) == 3:
                tape.write(2)

    tape.write(3)
    hub = EventHub(begins_with_events)
    starting = asyncio.create_task(hub.start())
    await asyncio.sleep(0)
    tape.write(4)
    await starting
    async with hub.subscribe(after=cursor(len(tape.events) - 1)) as items:
        assert numbers(await take(items, 1)) == [len(tape.events)]
    await hub.close()


async def test_reader_that_falls_behind_gets_one_gap_and_goes_on(tape: Tape, hub: EventHub) -> None:
    subscription = hub.subscribe(buffer=10)
    async with subscription as items:
        tape.write(35)
        await until(lambda: hub.cursor >= cursor(35))
        (gap,) = await take(items, 1)
        assert isinstance(gap, Gap)
        assert "fell behind" in gap.reason
        seen = numbers(await take(items, 35 - int(float(gap.cursor[2:]))))
        assert seen == list(range(35 - len(seen) + 1, 36))


async def test_buffer_is_bounded_in_bytes_too(tape: Tape, hub: EventHub) -> None:
    async with hub.subscribe() as items:
        tape.write(30, data={"lines": [{"line": "x" * 100_000}]})
        await until(lambda: hub.cursor >= cursor(30))
        (gap,) = await take(items, 1)
        assert isinstance(gap, Gap)


async def test_large_buffer_holds_as_many_events_as_it_says(tape: Tape, hub: EventHub) -> None:
    async with hub.subscribe(buffer=20_000) as items:
        tape.write(10_000)
        await until(lambda: hub.cursor >= cursor(10_000))
        assert numbers(await take(items, 10_000)) == list(range(1, 10_001))


async def test_interrupted_stream_goes_on_where_it_was(tape: Tape, hub: EventHub) -> None:
    async with hub.subscribe() as items:
        for _ in range(3):
            tape.write(10)
            tape.fail(StoreUnavailable())
            tape.write(10)
            await until(lambda: hub.cursor >= cursor(len(tape.events)))
        assert numbers(await take(items, 60)) == list(range(1, 61))


async def test_lost_history_is_a_gap_that_ends_where_the_hub_sees_again(tape: Tape, hub: EventHub) -> None:
    async with hub.subscribe() as items:
        tape.write(5)
        assert numbers(await take(items, 5)) == [1, 2, 3, 4, 5]
        tape.begin = 1_000
        tape.events += tape.events * 200
        tape.fail(HistoryLost("rolled over"))
        (gap,) = await take(items, 1)
        assert isinstance(gap, Gap)
        assert gap.cursor == cursor(len(tape.events) + 0.5)
        assert hub.resyncs == 1
        tape.write(2)
        assert len(numbers(await take(items, 2))) == 2
    async with hub.subscribe(after=gap.cursor) as items:
        assert len(numbers(await take(items, 2))) == 2


async def test_cursor_that_left_the_history_is_a_gap_and_nothing_behind_it_is_missed(tape: Tape, hub: EventHub) -> None:
    tape.write(100)
    await hub.start()
    tape.begin = 50
    async with hub.subscribe(after=cursor(10)) as items:
        (gap,) = await take(items, 1)
        assert isinstance(gap, Gap) and "left the history" in gap.reason
        tape.write(5)
        assert numbers(await take(items, 5)) == [101, 102, 103, 104, 105]


async def test_catch_up_outlives_an_interruption(tape: Tape, hub: EventHub) -> None:
    await hub.start()
    tape.write(300)
    await until(lambda: hub.cursor >= cursor(300))
    async with hub.subscribe(after=cursor(0)) as items:
        tape.fail(StoreUnavailable())
        assert numbers(await take(items, 300)) == list(range(1, 301))


@pytest.mark.parametrize("text", ["", "x", "3.abc", "📎"])
async def test_malformed_cursor_is_refused(hub: EventHub, text: str) -> None:
    with pytest.raises(InvalidInput, match="after"):
        hub.subscribe(after=text)


async def test_nobody_is_caught_up_before_it_has_joined(tape: Tape, hub: EventHub) -> None:
    await hub.start()
    tape.write(500)
    await until(lambda: hub.cursor >= cursor(500))
    subscription = hub.subscribe(after=cursor(0))
    async with subscription as items:
        assert not subscription.caught_up
        await take(items, 499)
        assert not subscription.caught_up
        await take(items, 1)
        reading = asyncio.create_task(anext(items))  # type: ignore[arg-type]
        await until(lambda: subscription.caught_up)
        reading.cancel()


async def test_closed_hub_ends_every_iteration(tape: Tape, hub: EventHub) -> None:
    async def follow(after: str | None) -> int:
        async with hub.subscribe(after=after) as items:
            return len([item async for item in items])

    await hub.start()
    tape.write(10)
    following = [asyncio.create_task(follow(after)) for after in (None, cursor(2), cursor(0))]
    await until(lambda: hub.subscribers == 3 and len(hub._live) == 3)
    await hub.close()
    async with asyncio.timeout(60):
        assert sorted(await asyncio.gather(*following))[1:] == [8, 10]
    assert hub.subscribers == 0


async def test_hub_says_whether_its_stream_answers(tape: Tape, hub: EventHub) -> None:
    assert not hub.fresh
    await hub.start()
    assert hub.fresh
