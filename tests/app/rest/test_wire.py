"""What is no HTTP, or not honest about its length, is refused or cut off, and the server goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.app.product import product
from tests.app.serving import Served

DISPATCH = b"POST /conveyor/api/queues/q/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
REQUESTS = {
    "a length that is none": DISPATCH + b"Content-Length: abc\r\n\r\n{}",
    "a negative length": DISPATCH + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": DISPATCH + b"Content-Length: 2\r\nContent-Length: 200\r\n\r\n{}",
    "a length and chunks": DISPATCH
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1",
    "chunks that are none": DISPATCH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "an unknown encoding": DISPATCH + b"Transfer-Encoding: brotli\r\n\r\n{}",
    "a body that is shorter than it says": DISPATCH + b"Content-Length: 500\r\n\r\n{}",
    "a line break in a header": b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX: a\nb\r\n: c\r\n\r\n",
    "a space in the target": b"GET /v1/jobs ?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another version": b"GET /v1/jobs HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "many headers": b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    "a long header": b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    "a long target": b"GET /v1/jobs?" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def served(mongodb_url: str) -> Iterator[Served]:
    with product(mongodb_url, "test_wire", maintenance=False) as server:
        yield server


def answer_to(served: Served, request: bytes) -> bytes:
    """All that comes back until the connection is closed, of which our side is at once."""
    with socket.create_connection((served.host, served.port), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b""


@pytest.mark.parametrize("name", REQUESTS)
def test_it_is_refused_and_changes_nothing(served: Served, name: str) -> None:
    answer = answer_to(served, REQUESTS[name])
    first = answer.split(b"\r\n", 1)[0]
    assert not answer or first.split()[1].startswith(b"4"), first
    assert answer.count(b"HTTP/1.1 ") <= 1, "what stands behind is no request of its own"
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        assert http.get("/v1/jobs").json() == []
