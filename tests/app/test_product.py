"""The server as it is shipped: the product's schema behind the front door, its pages, probes and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from switchtower import embedded
from tests.app.node import node
from tests.app.product import ENQUEUE, execute, product
from tests.app.serving import Served
from tests.waiting import until

ROOT = Path(__file__).parents[2]
LABELS = ("queue", "name", "state", "outcome", "le")
CLAIM = """
mutation ($queues: [String!]!) {
  claimJobs(input: { queues: $queues, limit: 1 }) { ... on ClaimedJobs { workerId jobs { leaseToken job { id } } } }
}
"""
COMPLETE = """
mutation ($id: ID!, $token: String!) {
  completeJob(id: $id, leaseToken: $token, result: { ok: true }) { ... on Job { state } ... on Error { code message } }
}
"""


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


def enqueue(http: httpx2.Client, name: str, **options: Any) -> str:
    answer = execute(http, ENQUEUE, input={"name": name, **options})["enqueueJob"]
    assert answer["__typename"] == "Job", answer
    return str(answer["id"])


def run_one(http: httpx2.Client, queue: str = "default") -> None:
    """Claims a job over GraphQL and completes it."""
    [leased] = execute(http, CLAIM, queues=[queue])["claimJobs"]["jobs"]
    done = execute(http, COMPLETE, id=leased["job"]["id"], token=leased["leaseToken"])["completeJob"]
    assert done == {"state": "COMPLETED"}


def test_a_job_from_enqueue_to_completion(http: httpx2.Client) -> None:
    id = enqueue(http, "greet", payload={"$gt": {"a.b": "$token"}}, queue="email")
    run_one(http, "email")
    job = execute(http, "query($id: ID!) { job(id: $id) { name queue state payload result } }", id=id)["job"]
    assert job == {
        "name": "greet",
        "queue": "email",
        "state": "COMPLETED",
        "payload": {"$gt": {"a.b": "$token"}},
        "result": {"ok": True},
    }


async def subscribe(socket: ClientConnection, query: str, **variables: Any) -> None:
    await socket.send('{"type":"connection_init"}')
    assert json.loads(await socket.recv())["type"] == "connection_ack"
    payload = {"query": query, "variables": variables}
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))


async def events(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    """The next so many events of the one subscription."""
    found = []
    async with asyncio.timeout(60):
        while len(found) < count:
            message = json.loads(await socket.recv())
            assert message["type"] == "next" and "errors" not in message["payload"], message
            found += message["payload"]["data"].values()
    return found


EVENTS = """
subscription ($after: String) {
  jobEvents(filter: { queues: ["watched"] }, after: $after) { ... on JobTransition { cursor type jobId to } }
}
"""


async def test_events_over_a_socket_and_resumption_behind_a_cursor(served: Served, http: httpx2.Client) -> None:
    def work(name: str) -> str:
        id = enqueue(http, name, queue="watched")
        run_one(http, "watched")
        return id

    transport = Subprotocol("graphql-transport-ws")
    async with connect(served.websocket, subprotocols=[transport], open_timeout=60) as socket:
        await subscribe(socket, EVENTS)
        await until(lambda: served.server.server_state.connections)
        # The subscription is open when an event of a job arrives; until then jobs are enqueued.
        first: list[dict[str, Any]] = []
        while not first:
            await asyncio.to_thread(work, "probe")
            try:
                first = await asyncio.wait_for(events(socket, 1), 1)
            except TimeoutError:
                continue
    id = await asyncio.to_thread(work, "missed")
    async with connect(served.websocket, subprotocols=[transport], open_timeout=60) as socket:
        await subscribe(socket, EVENTS, after=first[0]["cursor"])
        seen: list[dict[str, Any]] = []
        while not any(event.get("jobId") == id and event.get("to") == "COMPLETED" for event in seen):
            seen += await events(socket, 1)
    missed = [event["type"] for event in seen if event.get("jobId") == id]
    assert missed[0] == "ENQUEUE" and missed[-1] == "COMPLETE"
    assert len({event["cursor"] for event in seen}) == len(seen)


def test_a_malformed_cursor_is_an_error_not_a_fault(http: httpx2.Client) -> None:
    response = http.post(
        "/graphql",
        json={"query": EVENTS, "variables": {"after": "x" * 5000}},
        headers={"Accept": "text/event-stream"},
    )
    assert "VALIDATION" in response.text and "INTERNAL" not in response.text
    assert "complete" in response.text


def test_all_audits_pass_on_the_product(served: Served) -> None:
    results = node("audit.mjs", served.graphql)
    assert [result for result in results if result["status"] != "ok"] == []
    assert len(results) == 61


def test_the_schema_served_is_the_one_committed(http: httpx2.Client) -> None:
    response = http.get("/schema.graphql")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == (ROOT / "schema.graphql").read_text()


def test_large_lists_are_refused_by_cost(http: httpx2.Client) -> None:
    query = "{ jobs(first: 500) { edges { node { id children(first: 500) { edges { node { id } } } } } } }"
    response = http.post("/graphql", json={"query": query}, headers={"Accept": "application/graphql-response+json"})
    assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (400, "MAX_COST")
    query = "{ jobs(first: 500) { edges { node { id name queue state attempt createdAt runAt priority } } } }"
    assert execute(http, query) == {"jobs": {"edges": []}}


def test_probes(http: httpx2.Client) -> None:
    assert http.get("/livez").json() == {"live": True, "databaseClientsReplaced": 0}
    deadline = time.monotonic() + 60
    while (response := http.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, response.text
    body = response.json()
    assert body["ready"] and set(body["checks"]) == {"database", "indexes", "changeStream"}


def test_metrics(http: httpx2.Client) -> None:
    for _ in range(3):
        enqueue(http, "measured", queue="q")
    run_one(http, "q")

    def scraped() -> dict[tuple[str, str], float]:
        families = text_string_to_metric_families(http.get("/metrics/prometheus").text)
        return {
            (sample.name, ",".join(sample.labels[key] for key in LABELS if key in sample.labels)): sample.value
            for family in families
            for sample in family.samples
        }

    deadline = time.monotonic() + 60
    while True:
        values = scraped()
        if (
            values.get(("switchtower_jobs_total", "q,measured,completed")) == 1
            and values.get(("switchtower_queue_depth", "q,waiting")) == 2
            and values.get(("switchtower_queue_depth", "q,completed")) == 1
        ):
            break
        assert time.monotonic() < deadline, values
    assert values["switchtower_queue_depth", "q,active"] == 0
    assert values["switchtower_job_duration_seconds_count", "q,measured"] == 1
    assert values["switchtower_workers", ""] == 1
    assert values["switchtower_database_up", ""] == 1
    assert ("switchtower_change_stream_lag_seconds", "") in values
    assert ("switchtower_queue_latency_seconds", "q") in values
    shown = json.loads((ROOT / "docs/grafana/switchtower.json").read_text())
    asked = " ".join(target["expr"] for panel in shown["panels"] for target in panel["targets"])
    unknown = {name.removesuffix("_bucket") for name in re.findall(r"switchtower_\w+", asked)} - {
        name.removesuffix("_bucket") for name, _ in values
    }
    assert not unknown, "the Grafana dashboard asks for what is not exported"


class _Page(HTMLParser):
    """What a page refers to, and what a strict policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self.labelled: set[str] = set()
        self.fields: set[str] = set()
        self.language = ""
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.references += [values[name] for name in ("src", "href", "action") if name in values]
        self.inline += [name for name in values if name.startswith("on") or name == "style"]
        self._script = tag in ("script", "style") and "src" not in values
        if tag == "html":
            self.language = values.get("lang", "")
        if tag == "label":
            self.labelled.add(values["for"])
        # What is hidden, or named by itself, needs no label.
        named = values.get("type") == "hidden" or "aria-label" in values
        if tag in ("textarea", "select", "input") and not named:
            self.fields.add(values["id"])

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", ["/", "/graphql", "/docs"])
def test_pages_are_self_contained_and_strict(http: httpx2.Client, path: str) -> None:
    response = http.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    page = _Page()
    page.feed(response.text)
    assert page.inline == [] and page.language == "en"
    assert page.fields <= page.labelled
    assert page.references
    for reference in page.references:
        if reference == "#main":
            continue
        assert reference.startswith("/") and not reference.startswith("//"), reference
        assert http.get(reference, headers={"Accept": "text/html, */*"}).status_code == 200, reference


def test_the_examples_of_the_playground_are_valid() -> None:
    from graphql import build_schema, parse, validate

    schema = build_schema((ROOT / "schema.graphql").read_text())
    examples = list((ROOT / "app" / "dashboard" / "frontend" / "src" / "examples").glob("*.graphql"))
    assert len(examples) >= 4
    for example in examples:
        assert validate(schema, parse(example.read_text())) == [], example


def test_the_playground_can_be_turned_off(mongodb_url: str, database_name: str) -> None:
    with (
        product(mongodb_url, database_name, playground=False, introspection=False) as served,
        httpx2.Client(base_url=served.url, timeout=60) as http,
    ):
        assert http.get("/graphql", headers={"Accept": "text/html"}).status_code == 400
        assert http.get("/docs", headers={"Accept": "text/html"}).status_code == 404
        assert http.get("/schema.graphql").status_code == 404


@pytest.mark.parametrize("path", ["/graphql/", "/docs/nope", "/assets/%2e%2e/main.py", "/assets/", "/livez/nope"])
def test_nothing_else_is_served(http: httpx2.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 404
    assert response.json()["errors"][0]["extensions"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize("path", ["/nope", "/assets/../main.py", "/%00", "/queues/", "/queues//jobs", "/metrics/nope"])
def test_what_nobody_serves_is_told_on_a_page(http: httpx2.Client, path: str) -> None:
    response = http.get(path, headers={"Accept": "text/html"})
    assert (response.status_code, response.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no such page" in response.text
    assert http.get(path, headers={"Accept": "application/json"}).json()["ok"] is False


@pytest.mark.nightly
def test_a_dead_database_is_answered_with_503_and_recovered_from(tmp_path: Path, database_name: str) -> None:
    database = embedded.start(tmp_path)
    try:
        with product(database.url, database_name) as served, httpx2.Client(base_url=served.url, timeout=60) as http:
            enqueue(http, "before")
            database.stop()
            started = time.monotonic()
            response = http.post("/graphql", json={"query": "{ jobs(first: 1) { edges { node { id } } } }"})
            assert time.monotonic() - started < 55
            assert (response.status_code, response.headers["retry-after"]) == (503, "2"), response.text
            assert response.json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
            assert str(tmp_path) not in response.text
            response = http.post("/graphql", json={"query": ENQUEUE, "variables": {"input": {"name": "during"}}})
            assert response.status_code == 503
            assert http.get("/livez").status_code == 200
            ready = http.get("/readyz")
            assert ready.status_code == 503 and not ready.json()["checks"]["database"]["ok"]
            assert "switchtower_database_up 0.0" in http.get("/metrics/prometheus").text
            database = embedded.start(tmp_path)
            deadline = time.monotonic() + 180
            while http.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline, http.get("/readyz").text
            enqueue(http, "after")
            names = execute(http, "{ jobs(first: 9) { edges { node { name } } } }")["jobs"]["edges"]
            assert {"before", "after"} <= {edge["node"]["name"] for edge in names}
    finally:
        database.stop()
