"""Subscriptions over HTTP: event streams (graphql-sse, distinct connections) and multipart/mixed."""

from __future__ import annotations

import email
import email.policy
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.app.conftest import Door, build_door
from tests.app.serving import Served, serving

COUNT = {"query": "subscription($to: Int!) { count(to: $to) }", "variables": {"to": 3}}
FOREVER = {"query": "subscription { forever }"}
MULTIPART = 'multipart/mixed;boundary="graphql";subscriptionSpec="1.0",application/json'
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def _events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"]) if fields.get("data") else None))
    return found


def test_event_stream_by_post_and_by_get(http: httpx2.Client) -> None:
    posted = http.post("/graphql", json=COUNT, headers=EVENTS)
    got = http.get(
        "/graphql", params={"query": COUNT["query"], "variables": json.dumps(COUNT["variables"])}, headers=EVENTS
    )
    for response in (posted, got):
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        # Some clients divide the events at two line feeds.
        assert "\r" not in response.text and response.text.count("\n\n") == 4
        *nexts, last = _events(response.text)
        assert [value["data"]["count"] for kind, value in nexts if kind == "next"] == [1, 2, 3]
        assert last == ("complete", None)


def test_an_event_stream_reports_errors_as_events(http: httpx2.Client) -> None:
    (kind, value), complete = _events(
        http.post("/graphql", json={"query": "subscription { nope }"}, headers=EVENTS).text
    )
    assert (kind, complete) == ("next", ("complete", None))
    assert value["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    refused = http.post("/graphql", json={"query": "subscription {"}, headers=EVENTS)
    assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (400, "GRAPHQL_PARSE_FAILED")


def test_a_query_prefers_json_where_both_are_accepted(http: httpx2.Client) -> None:
    both = {"Accept": "application/graphql-response+json, application/json, text/event-stream, multipart/mixed"}
    assert http.post("/graphql", json={"query": "{ hello }"}, headers=both).json()["data"] == {"hello": "world"}
    assert http.post("/graphql", json=COUNT, headers=both).headers["content-type"].startswith("text/event-stream")
    alone = http.post("/graphql", json={"query": "{ hello }"}, headers=EVENTS)
    assert _events(alone.text)[0] == ("next", {"data": {"hello": "world"}, "extensions": {"cost": 1}})


@pytest.mark.parametrize("accept", [MULTIPART, "multipart/mixed;subscriptionSpec=1.0, application/json"])
def test_multipart(http: httpx2.Client, accept: str) -> None:
    response = http.post("/graphql", json=COUNT, headers={"Accept": accept})
    kind = response.headers["content-type"]
    assert (response.status_code, kind.split(";")[0]) == (200, "multipart/mixed")
    # The media type's own parser must find the parts.
    message = email.message_from_bytes(
        b"Content-Type: multipart/mixed; boundary=graphql\r\n\r\n" + response.content, policy=email.policy.HTTP
    )
    bodies = [json.loads(part.get_payload()) for part in message.iter_parts() if part.get_payload().strip()]  # type: ignore[attr-defined]
    assert [body["payload"]["data"]["count"] for body in bodies if body] == [1, 2, 3]
    assert response.text.endswith("--graphql--\r\n")


def test_a_reader_that_leaves_ends_its_subscription(http: httpx2.Client, door: Door) -> None:
    for headers in (EVENTS, {"Accept": MULTIPART}):
        with http.stream("POST", "/graphql", json=FOREVER, headers=headers) as response:
            assert response.status_code == 200
            # Held on to: the end of the iterator would end the response, and the stream with it.
            chunks = response.iter_text()
            while "forever" not in next(chunks):
                pass
            assert door.calls.open_streams == 1
        _wait(lambda: door.calls.open_streams == 0)


def _until(response: httpx2.Response, text: str) -> Iterator[str]:
    for chunk in response.iter_text():
        yield chunk
        if text in chunk:
            return


def test_streams_end_when_the_server_closes() -> None:
    door = build_door()
    received = []
    with (
        serving(door.app, on_closing=door.closing.set) as served,
        httpx2.Client(base_url=served.url, timeout=60) as http,
    ):
        with http.stream("POST", "/graphql", json=FOREVER, headers=EVENTS, timeout=60) as response:
            for chunk in response.iter_text():
                received.append(chunk)
                started = time.monotonic()
                served.stop()
        # No `complete`: the client is to come back, to a server that stays.
        assert "forever" in "".join(received) and "complete" not in "".join(received)
        assert time.monotonic() - started < 60
    assert door.calls.open_streams == 0


def test_faults_in_a_stream_are_masked(http: httpx2.Client) -> None:
    for headers in (EVENTS, {"Accept": MULTIPART}):
        response = http.post("/graphql", json={"query": "subscription { fails }"}, headers=headers)
        assert "INTERNAL" in response.text and "hunter2" not in response.text
        assert response.headers["x-request-id"] in response.text
