"""Any sequence of frames on a WebSocket of the product: closed by the protocol or not at all, and nothing is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.server import Server, bind, configure
from switchtower.engine import Engine
from tests.fuzz import arguments
from tests.nightly.counting import count
from tests.nightly.scale import FULL
from tests.waiting import until

EXAMPLES = 5_000 if FULL else 100
SUBSCRIPTIONS = sorted(arguments.fields("subscription"))
IDS = ("1", "2", "", "x" * 300, 1, None)

operations = st.sampled_from(SUBSCRIPTIONS).flatmap(
    lambda name: st.fixed_dictionaries(
        {
            "id": st.sampled_from(("1", "2", "3")),
            "type": st.just("subscribe"),
            "payload": st.fixed_dictionaries(
                {
                    "query": st.just(arguments.document("subscription", name)),
                    "variables": arguments.variables("subscription", name),
                }
            ),
        }
    )
)
messages = st.one_of(
    operations,
    operations,
    st.fixed_dictionaries({"type": st.just("complete"), "id": st.sampled_from(("1", "2", "3"))}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(("connection_init", "ping", "pong", "subscribe", "complete", "next", "x", "", 5))},
        optional={"id": st.sampled_from(IDS), "payload": arguments.anything},
    ),
)
frames = st.one_of(
    messages.map(json.dumps),
    messages.map(json.dumps),
    messages.map(json.dumps),
    st.builds(lambda text, at: text[:at], messages.map(json.dumps), st.integers(0, 60)),
    st.sampled_from(("null", "[]", "NaN", "{", '{"type":' + "[" * 2_000, "9" * 400, "\ufeff{}")),
    st.text(max_size=20),
    st.binary(max_size=20),
)


@pytest.fixture
async def address(app: Starlette) -> AsyncIterator[str]:
    """Where the product is served, in the test's own loop."""
    with bind("127.0.0.1", 0) as sock:
        ready = asyncio.Event()
        config = configure(app, frame_bytes=2 * 1024 * 1024, grace_seconds=30)
        config.lifespan = "off"
        server = Server(config, on_ready=ready.set, on_closing=app.state.closing.set)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await asyncio.wait_for(ready.wait(), 60)
        yield f"ws://127.0.0.1:{sock.getsockname()[1]}/graphql"
        server.should_exit = True
        await asyncio.wait_for(serving, 60)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@given(sent=st.lists(frames, max_size=6), admitted=st.integers(0, 9))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    # What was left of a server that has failed once says nothing of a smaller example.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_any_frames_are_answered(address: str, engine: Engine, sent: list[str | bytes], admitted: int) -> None:
    protocol = Subprotocol("graphql-transport-ws")
    async with asyncio.timeout(60), connect(address, subprotocols=[protocol], max_size=None, close_timeout=5) as socket:
        try:
            if admitted:
                await socket.send('{"type":"connection_init"}')
                assert json.loads(await socket.recv()) == {"type": "connection_ack"}
            for frame in sent:
                await socket.send(frame)
            await (await socket.ping())
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "lost without a close frame"
            assert closed.rcvd.code in range(4400, 4500), closed.rcvd
    await until(lambda: not strangers(engine))
    count("G8", "requests", 1)


def strangers(engine: Engine) -> list[str]:
    """Whose subscriptions are open that are not the server's own."""
    modules = [one._match.__module__ for one in engine.hub()._open]
    return [module for module in modules if not module.startswith("app.")]
