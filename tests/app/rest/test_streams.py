"""What every event stream has from the adapter: its form, its pings, its ends, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pymongo import MongoClient

from app import rest
from app.main import create_app
from app.rest import streams
from app.rest.dialect import Dialect, Given, Route, refusal_of
from app.rest.streams import Position, ServerEvent
from app.settings import ServerSettings
from schema.context import Context
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.errors import InvalidInput
from tests.app.rest.conftest import Server
from tests.app.rest.streaming import opened
from tests.waiting import until


@dataclass
class Source:
    """Where the tests' stream gets its items from, and how many read it."""

    items: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    open: int = 0


SOURCE = Source()


async def follow(context: Context, kind: str) -> AsyncGenerator[Any, None]:
    if kind == "refused":
        raise InvalidInput("kind", "is refused.")
    if kind == "empty":
        return
    SOURCE.open += 1
    try:
        yield 0
        while (item := await SOURCE.items.get()) != "over":
            if item == "broken":
                raise RuntimeError("mongodb://user:hunter2@db")
            yield item
    finally:
        SOURCE.open -= 1


def kind(given: Given) -> dict[str, Any]:
    return {"kind": given.path["kind"]}


def event(item: Any) -> ServerEvent | Position | None:
    if isinstance(item, str):
        return Position(item)
    return None if item is ... else ServerEvent("number", {"n": item, "text": "a\nb"}, f"id-{item}")


LIVE = Dialect(
    name="live",
    title="Live",
    prefixes=("/l",),
    routes=(Route(method="GET", path="/l/{kind}", summary="", resolver=follow, parse=kind, events=event),),
    refusal=refusal_of,
    envelope=lambda refused: {"no": refused.code},
    schemas={"Error": {}},
    cors=True,
)


@pytest.fixture
async def live(
    mongodb_url: str, database_name: str, mongo: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    monkeypatch.setattr("app.main.DIALECTS", (*rest.DIALECTS, LIVE))
    SOURCE.items = asyncio.Queue()
    engine = await Engine.connect(mongodb_url, database=database_name, role="server")
    settings = ServerSettings(
        mongodb_url=mongodb_url, database=database_name, maintenance=False, max_key_subscriptions=2
    )
    app = create_app(settings, engine=engine)
    async with app.router.lifespan_context(app):
        yield Server(app, engine)
    assert SOURCE.open == 0


async def test_the_form_of_a_stream(live: Server) -> None:
    async with opened(live.app, "/l/x") as reader:
        for item in (1, ..., "further", 2):
            SOURCE.items.put_nowait(item)
        await reader.until(3)
        assert reader.status == 200 and not reader.ended
        assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.headers["cache-control"] == "no-cache, no-transform"
        assert "access-control-allow-origin" not in reader.headers
        assert "content-length" not in reader.headers and reader.headers["x-request-id"]
        assert reader.text.decode() == (
            "retry: 2000\n\n"
            'event: number\nid: id-0\ndata: {"n":0,"text":"a\\nb"}\n\n'
            'event: number\nid: id-1\ndata: {"n":1,"text":"a\\nb"}\n\n'
            "id: further\n\n"
            'event: number\nid: id-2\ndata: {"n":2,"text":"a\\nb"}\n\n'
        )


async def test_silence_is_filled_with_comments(live: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.01)
    async with opened(live.app, "/l/x") as reader:
        await until(lambda: reader.text.count(b"\n\n: ping\n\n") >= 2)
        SOURCE.items.put_nowait(7)
        assert (await reader.until(2))[-1] == ("number", {"n": 7, "text": "a\nb"})


async def test_a_client_that_leaves_leaves_nothing(live: Server) -> None:
    async with opened(live.app, "/l/x") as reader:
        assert SOURCE.open == 1
        reader.gone.set()
        await until(lambda: SOURCE.open == 0)


async def test_a_stream_that_is_over_ends(live: Server) -> None:
    async with opened(live.app, "/l/x") as reader:
        SOURCE.items.put_nowait("over")
        await until(lambda: reader.ended)
    async with opened(live.app, "/l/empty") as reader:
        assert (reader.ended, reader.text) == (True, b"retry: 2000\n\n")


async def test_streams_end_with_the_server_also_for_readers_that_stand_still(
    live: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FAREWELL_SECONDS", 0.01)
    async with opened(live.app, "/l/x") as reading, opened(live.app, "/l/x") as still:
        still.reading.clear()
        SOURCE.items.put_nowait(1)
        SOURCE.items.put_nowait(2)
        await until(lambda: len(reading.events) == 2)
        live.app.state.closing.set()  # type: ignore[attr-defined]
        await until(lambda: reading.ended and SOURCE.open == 0)
        assert not still.ended, "its connection is cut"
        still.reading.set()


async def test_a_stream_that_breaks_is_cut_and_does_not_look_complete(live: Server) -> None:
    with pytest.raises(RuntimeError):
        async with opened(live.app, "/l/x") as reader:
            SOURCE.items.put_nowait("broken")
            await until(lambda: SOURCE.open == 0)
    assert not reader.ended and b"hunter2" not in reader.text


async def test_what_is_refused_before_the_first_event_has_a_status(live: Server) -> None:
    answer = await live.ask("GET", "/l/refused")
    assert (answer.status, answer.json) == (400, {"no": "VALIDATION"})


async def test_head_asks_without_opening(live: Server) -> None:
    answer = await live.ask("HEAD", "/l/x")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_a_stream_ends_with_its_key_and_counts_among_what_it_has_open(live: Server) -> None:
    created = await live.engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
    assert (await live.ask("GET", "/l/x")).status == 401
    async with opened(live.app, "/l/x", key=created.secret) as first:
        async with opened(live.app, "/l/x", key=created.secret):
            refused = await live.ask("GET", "/l/x", key=created.secret)
            assert (refused.status, refused.json) == (429, {"no": "TOO_MANY_SUBSCRIPTIONS"})
        async with opened(live.app, "/l/x", key=created.secret) as second:
            assert second.status == 200, "what was left counts no more"
            await live.engine.keys.revoke(created.key.id, caller=SYSTEM)
            await until(lambda: first.ended and second.ended)
