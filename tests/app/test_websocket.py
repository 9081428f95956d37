"""WebSockets, frame by frame: whatever arrives is answered by the protocol, never by a lost connection."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from app.limits import RequestLimits
from tests.app.conftest import Door, build_door
from tests.app.serving import Served, serving
from tests.waiting import until

TRANSPORT = Subprotocol("graphql-transport-ws")
LEGACY = Subprotocol("graphql-ws")
SUBSCRIBE = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { forever }"}}


@asynccontextmanager
async def opened(served: Served, *, init: bool = True, **options: Any) -> AsyncIterator[ClientConnection]:
    options.setdefault("subprotocols", [TRANSPORT])
    async with connect(served.websocket, open_timeout=60, close_timeout=1, max_size=None, **options) as socket:
        if init:
            await socket.send('{"type":"connection_init"}')
            assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        yield socket


async def close_code(socket: ClientConnection, *, timeout_seconds: float = 60) -> int:
    """The code with which the server closes; messages before it are passed over."""
    async with asyncio.timeout(timeout_seconds):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "the connection was lost without a close frame"
            return closed.rcvd.code


async def receive(socket: ClientConnection) -> Any:
    message = await asyncio.wait_for(socket.recv(), 60)
    assert isinstance(message, str)
    return json.loads(message)


async def test_subscribe_and_complete(served: Served, door: Door) -> None:
    async with opened(served) as socket:
        await socket.send(json.dumps(SUBSCRIBE))
        assert await receive(socket) == {
            "id": "1",
            "type": "next",
            "payload": {"data": {"forever": 0}, "extensions": {"cost": 1}},
        }
        assert door.calls.open_streams == 1
        await socket.send('{"type":"ping","payload":{"a":1}}')
        assert await receive(socket) == {"type": "pong"}
        await socket.send('{"id":"1","type":"complete"}')
        await until(lambda: door.calls.open_streams == 0)


async def test_a_lost_connection_ends_its_subscriptions(served: Served, door: Door) -> None:
    async with opened(served) as socket:
        for i in range(10):
            await socket.send(json.dumps({**SUBSCRIBE, "id": str(i)}))
            await receive(socket)
        assert door.calls.open_streams == 10
        socket.transport.abort()
    await until(lambda: door.calls.open_streams == 0)


FRAMES: dict[str, tuple[str | bytes, int]] = {
    "null": ("null", 4400),
    "number": ("5", 4400),
    "text": ('"x"', 4400),
    "list": ("[]", 4400),
    "not JSON": ("{", 4400),
    "empty": ("", 4400),
    "binary": (b'{"type":"ping"}', 4400),
    "5000-digit int": ('{"type":"ping","payload":{"a":' + "9" * 5000 + "}}", 4400),
    "depth 100,000": ("[" * 100_000, 4400),
    "depth 100,000 within": ('{"type":"ping","payload":{"a":' + "[" * 100_000 + "]" * 100_000 + "}}", 4400),
    "NaN": ('{"type":"ping","payload":{"a":NaN}}', 4400),
    "duplicate key": ('{"type":"ping","type":"pong"}', 4400),
    "no type": ("{}", 4400),
    "type is a number": ('{"type":1}', 4400),
    "unknown type": ('{"type":"start"}', 4400),
    "unknown type of 100 kB": ('{"type":"' + "é" * 50_000 + '"}', 4400),
    "ping with a list": ('{"type":"ping","payload":[]}', 4400),
    "subscribe without an id": ('{"type":"subscribe","payload":{"query":"{ hello }"}}', 4400),
    "subscribe with an empty id": ('{"id":"","type":"subscribe","payload":{"query":"{ hello }"}}', 4400),
    "subscribe with a numeric id": ('{"id":1,"type":"subscribe","payload":{"query":"{ hello }"}}', 4400),
    "subscribe with a long id": (
        '{"id":"' + "x" * 5000 + '","type":"subscribe","payload":{"query":"{ hello }"}}',
        4400,
    ),
    "subscribe without a payload": ('{"id":"1","type":"subscribe"}', 4400),
    "subscribe without a query": ('{"id":"1","type":"subscribe","payload":{}}', 4400),
    "subscribe with a numeric query": ('{"id":"1","type":"subscribe","payload":{"query":1}}', 4400),
    "subscribe with a list of variables": (
        '{"id":"1","type":"subscribe","payload":{"query":"{ hello }","variables":[]}}',
        4400,
    ),
    "subscribe with a numeric operation name": (
        '{"id":"1","type":"subscribe","payload":{"query":"{ hello }","operationName":1}}',
        4400,
    ),
    "complete without an id": ('{"type":"complete"}', 4400),
    "double init": ('{"type":"connection_init"}', 4429),
    "init with a list": ('{"type":"connection_init","payload":[]}', 4400),
    "2 MiB and a byte": ('{"type":"ping","payload":{"a":"' + "x" * (2 * 1024 * 1024 - 33) + '"}}', 1009),
    "20 MB": ("x" * 20_000_000, 1009),
}


@pytest.mark.parametrize(("frame", "code"), FRAMES.values(), ids=FRAMES.keys())
async def test_malformed_frames_close_with_a_code(served: Served, frame: str | bytes, code: int) -> None:
    async with opened(served) as socket:
        with suppress(ConnectionClosed):  # a large frame is refused while it is still being sent
            await socket.send(frame)
        assert await close_code(socket) == code


async def test_a_frame_of_two_mebibytes_is_read(served: Served) -> None:
    async with opened(served) as socket:
        await socket.send('{"type":"ping","payload":{"a":"' + "x" * (2 * 1024 * 1024 - 34) + '"}}')
        assert await receive(socket) == {"type": "pong"}


async def test_fragments_are_one_message(served: Served) -> None:
    async with opened(served) as socket:
        await socket.send(iter(['{"type"', ':"pi', 'ng"}']))
        assert await receive(socket) == {"type": "pong"}


async def test_a_duplicate_id_closes(served: Served) -> None:
    async with opened(served) as socket:
        await socket.send(json.dumps(SUBSCRIBE))
        await receive(socket)
        await socket.send(json.dumps(SUBSCRIBE))
        assert await close_code(socket) == 4409


async def test_an_id_is_free_again_after_complete(served: Served) -> None:
    async with opened(served) as socket:
        for _ in range(3):
            await socket.send('{"id":"1","type":"subscribe","payload":{"query":"{ hello }"}}')
            assert (await receive(socket))["payload"]["data"] == {"hello": "world"}
            assert await receive(socket) == {"id": "1", "type": "complete"}


async def test_subscribe_before_init(served: Served) -> None:
    async with opened(served, init=False) as socket:
        await socket.send(json.dumps(SUBSCRIBE))
        assert await close_code(socket) == 4401


async def test_init_may_carry_null(served: Served) -> None:
    async with opened(served, init=False) as socket:
        await socket.send('{"type":"connection_init","payload":null}')
        assert await receive(socket) == {"type": "connection_ack"}


async def test_no_init_within_five_seconds() -> None:
    with serving(build_door(init_timeout=timedelta(seconds=5)).app) as served:
        started = time.monotonic()
        async with opened(served, init=False) as socket:
            assert await close_code(socket) == 4408
            assert time.monotonic() - started > 4.9


async def test_at_most_fifty_operations_on_one_connection(served: Served, door: Door) -> None:
    async with opened(served) as socket:
        for i in range(60):
            await socket.send(json.dumps({**SUBSCRIBE, "id": str(i)}))
        messages = [await receive(socket) for _ in range(60)]
        assert [message["type"] for message in messages].count("next") == 50
        refused = [message for message in messages if message["type"] == "error"]
        assert [message["id"] for message in refused] == [str(i) for i in range(50, 60)]
        assert refused[0]["payload"][0]["extensions"] == {"code": "TOO_MANY_SUBSCRIPTIONS"}
        await socket.send('{"id":"0","type":"complete"}')
        await until(lambda: door.calls.open_streams == 49)
        await socket.send(json.dumps({**SUBSCRIBE, "id": "60"}))
        assert (await receive(socket))["type"] == "next"


@pytest.mark.parametrize("subprotocols", [None, [LEGACY], [Subprotocol("soap")]])
async def test_other_subprotocols_are_refused(served: Served, subprotocols: list[Subprotocol] | None) -> None:
    async with opened(served, init=False, subprotocols=subprotocols) as socket:
        assert await close_code(socket) == 4406


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://["])
async def test_foreign_origins_are_refused(served: Served, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(served, origin=origin):
            pass
    assert caught.value.response.status_code == 403


async def test_own_and_allowed_origins() -> None:
    door = build_door(allowed_origins=("https://ui.example",))
    with serving(door.app) as served:
        for origin in (served.url, "https://ui.example", "https://UI.example:443"):
            async with opened(served, origin=origin):
                pass


async def test_the_limits_hold_for_operations_over_a_socket(served: Served, door: Door) -> None:
    before = door.calls.mutations
    operations = {
        "mutation A { increment } mutation B { increment }": "OPERATION_NAME_REQUIRED",
        "{ things(first: 100000) { edges { node { id } } } }": "MAX_COST",
        "{" + "hello " * 2000 + "}": "GRAPHQL_PARSE_FAILED",
        "{ hello" + "," * 300_000 + "}": "GRAPHQL_PARSE_FAILED",
        "{ echo(value: " + "9" * 5000 + ") }": "GRAPHQL_VALIDATION_FAILED",
        "": "BAD_REQUEST",
        "fragment f on Query { hello }": "BAD_REQUEST",
    }
    async with opened(served) as socket:
        for query, code in operations.items():
            await socket.send(json.dumps({"id": "x", "type": "subscribe", "payload": {"query": query}}))
            message = await receive(socket)
            assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", code)
    assert door.calls.mutations == before


async def test_legacy_protocol_as_a_setting() -> None:
    door = build_door(legacy_websocket=True)
    with serving(door.app) as served:
        async with opened(served, init=False, subprotocols=[LEGACY]) as socket:
            await socket.send('{"id":"1","type":"start","payload":{"query":"subscription { count }"}}')
            assert await close_code(socket) == 4401
        async with opened(served, subprotocols=[LEGACY]) as socket:
            await socket.send('{"id":"1","type":"start","payload":{"query":"subscription { count(to: 2) }"}}')
            messages = [await receive(socket) for _ in range(3)]
            assert [message["type"] for message in messages] == ["data", "data", "complete"]
        for frame in (
            "null",
            "{",
            "[" * 100_000,
            '{"type":"start"}',
            '{"type":"stop"}',
            '{"id":"1","type":"start"}',
            "{}",
        ):
            async with opened(served, subprotocols=[LEGACY]) as socket:
                await socket.send(frame)
                assert await close_code(socket) == 4400


async def test_a_fault_closes_with_a_code(served: Served) -> None:
    async with opened(served, init=False, additional_headers={"X-Crash": "1"}) as socket:
        assert await close_code(socket) == 1011


async def test_the_server_says_goodbye(door: Door) -> None:
    own = build_door()
    with serving(own.app, on_closing=own.closing.set) as served:
        async with opened(served) as socket:
            await socket.send(json.dumps(SUBSCRIBE))
            await receive(socket)
            served.stop()
            assert await close_code(socket) in (1001, 1012)
    assert own.calls.open_streams == 0


async def test_a_connection_that_is_being_closed_does_not_stop_the_shutdown() -> None:
    own = build_door()
    with serving(own.app, on_closing=own.closing.set) as served:
        async with opened(served) as socket:
            await socket.send('{"type":"ping"}')
            await receive(socket)
            # The server sends its close frame and waits for an answer, which never comes.
            socket.transport.pause_reading()  # type: ignore[attr-defined]
            await socket.send("null")
            [connection] = served.server.server_state.connections
            await until(lambda: connection.close_sent)  # type: ignore[union-attr]
            connection.close_sent = False  # type: ignore[union-attr]
            served.stop()
            await until(lambda: not served.server.server_state.connections)
    assert served.server.lifespan.shutdown_event.is_set()  # type: ignore[attr-defined]


async def test_a_reader_that_stops_does_not_fill_the_memory(served: Served) -> None:
    import psutil

    process = psutil.Process()
    async with opened(served) as healthy, opened(served, max_queue=1) as stalled:
        before = process.memory_info().rss
        await stalled.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": _large(100_000)}}))
        for _ in range(100):
            await healthy.send('{"type":"ping"}')
            await receive(healthy)
        assert process.memory_info().rss - before < 64 * 1024 * 1024


def _large(size: int) -> str:
    return f"subscription {{ large(size: {size}) }}"


async def test_frames_within_the_limit_of_the_application(door: Door) -> None:
    # Behind another server, whose own limit may be larger, the application holds its limit itself.
    small = build_door(requests=RequestLimits(frame_bytes=1_000))
    with serving(small.app) as served:
        async with opened(served) as socket:
            await socket.send('{"type":"ping","payload":{"a":"' + "é" * 600 + '"}}')
            assert await close_code(socket) == 1009


messages = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.binary(max_size=10),
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["connection_init", "ping", "pong", "subscribe", "complete", "next", "error", "x"]
                )
            },
            optional={
                "id": st.sampled_from(["1", "2", "", 1, None]),
                "payload": st.one_of(
                    st.none(),
                    st.integers(),
                    st.lists(st.none(), max_size=2),
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "query": st.sampled_from(
                                ["{ hello }", "subscription { forever }", "{", "{ nope }", None, 5]
                            ),
                            "variables": st.sampled_from([None, {}, [], "x"]),
                            "operationName": st.sampled_from([None, "A", 1]),
                        },
                    ),
                ),
            },
        ).map(json.dumps),
    ),
    max_size=8,
)


@given(frames=messages, init=st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_frames_loses_the_connection(
    served: Served, door: Door, frames: list[str | bytes], init: bool
) -> None:
    async def run() -> None:
        async with opened(served, init=init) as socket:
            try:
                for frame in frames:
                    await socket.send(frame)
                await (await socket.ping())
            except ConnectionClosed as closed:
                assert closed.rcvd is not None, "lost without a close frame"
                assert closed.rcvd.code in range(4400, 4500)

    _in_own_loop(run)
    _in_own_loop(lambda: until(lambda: door.calls.open_streams == 0))


def _in_own_loop(work: Any) -> None:
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


async def test_connections_from_one_address_are_bounded() -> None:
    door = build_door(max_connections=3)
    with serving(door.app) as served:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(opened(served))
            with pytest.raises(InvalidStatus) as caught:
                await stack.enter_async_context(opened(served))
            assert caught.value.response.status_code == 503
            assert caught.value.response.headers["Retry-After"] == "2"
        async with asyncio.timeout(60):
            while True:
                with suppress(InvalidStatus):
                    async with opened(served):
                        break


async def test_idle_connections_before_init_are_released() -> None:
    door = build_door(init_timeout=timedelta(milliseconds=100))
    with serving(door.app) as served:
        handshake = (
            f"GET /graphql HTTP/1.1\r\nHost: {served.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        ).encode()
        sockets = [socket.create_connection((served.host, served.port), timeout=60) for _ in range(200)]
        try:
            for each in sockets:
                each.sendall(handshake)
            closed = await asyncio.to_thread(
                lambda: sum(b"initialisation timeout" in _read_all(each) for each in sockets)
            )
            assert closed == 200
        finally:
            for each in sockets:
                each.close()
        await until(lambda: not served.server.server_state.connections)


def _read_all(connection: socket.socket) -> bytes:
    data = b""
    while b"initialisation timeout" not in data and (chunk := connection.recv(65536)):
        data += chunk
    return data
