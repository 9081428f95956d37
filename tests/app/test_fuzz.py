"""Malformed requests by the thousand: none is a fault, every answer has the shape of a GraphQL answer."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import from_schema, nodes
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from app.main import create_app
from app.settings import ServerSettings
from switchtower.engine import Engine
from tests.app.conftest import build_door
from tests.app.direct import send
from tests.nightly.counting import count
from tests.nightly.scale import SEED

ROOT = Path(__file__).parents[2]

QUERIES = (
    "{ hello }",
    "query A($n: Int = 3) { things(first: $n) { edges { node { id name child { id } } } total } }",
    'query B { echo(value: {a: [1, 2.5, "x", null, true], b: {c: ENUM}}) number(value: 3) }',
    "query C { thing { ...f } } fragment f on Thing { a: id things(first: 2) { id @include(if: true) } }",
    "mutation M { increment }",
    "{ __schema { types { name fields { name type { name ofType { name } } } } } }",
)
PRODUCT_QUERIES = (
    "{ __typename }",
    'query D { jobs(first: 5, filter: {states: [WAITING], queues: ["a"]}) { edges { node { id state tags } } } }',
    'mutation E { enqueueJob(input: {name: "x", payload: {a: 1}, delayMs: 5}) { __typename ... on Error { code } } }',
    'query F { job(id: "job_01h455vb4pex5vsknk084sn02q") { id attempts { number } whyNotRunning { message } } }',
    "query G { queues { name counts { waiting } } stats { counts { waiting } } workers { id } }",
)
PIECES = (
    *("{", "}", "[", "]", "(", ")", ":", "$", "@", "!", "...", "|", "&", '"', '"""', "\\", "#", ",", "\ufeff", "\0"),
    *("null", "true", "NaN", "1e400", "-0", "9" * 30, "0x10", "\\u0000", "\\ud800", "\\u{110000}", "on", "fragment"),
    *("\u2028", "\U0001f3c3", "é", "\x7f", "\x1b[31m", "$where", "__proto__", "{" * 80, "[" * 80, "...f " * 20),
    *("first: -1", "first: 99999999999", 'after: "x"', "query", "mutation", "subscription", "@defer", "@skip(if: 5)"),
)
VALUES: tuple[Any, ...] = (None, True, -1, 2**63, 1.5, "", "x" * 300, [], {}, [[]], {"a": None}, "\0", {"$gt": ""})
ACCEPTS = ("*/*", "application/json", "application/graphql-response+json", "text/event-stream", "text/html", "", "x;q=")
TYPES = ("application/json", "application/json; charset=utf-8", "text/plain", "", "application/json; charset=\xff")


def mutated(rng: random.Random, queries: Sequence[str]) -> tuple[str, list[tuple[bytes, bytes]], bytes]:
    """A method, headers and a body, some distance away from a valid request."""
    query = rng.choice(queries)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 1, 2, 5))):
        at, length = rng.randrange(len(query) + 1), rng.choice((0, 0, 1, 3, 10))
        query = query[:at] + rng.choice((*PIECES, rng.choice(queries))) + query[at + length :]
    body: Any = {"query": query, "variables": {"n": rng.choice((2, *VALUES))}}
    if rng.random() < 0.2:
        body[rng.choice(("query", "variables", "operationName", "extensions", "x"))] = rng.choice(VALUES)
    if rng.random() < 0.05:
        body = rng.choice((*VALUES, [body]))
    data = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.choice((0, 1, 4))] = rng.choice((*PIECES, "\xff")).encode(
                rng.choice(("utf-8", "utf-16"))
            )
    kind, accept = (rng.choice(TYPES), rng.choice(ACCEPTS)) if rng.random() < 0.1 else ("application/json", "*/*")
    headers = [
        (b"host", b"localhost"),
        (b"content-type", kind.encode("latin-1")),
        (b"accept", accept.encode("latin-1")),
    ]
    return rng.choice(("POST",) * 9 + ("GET", "PUT")), headers, bytes(data)


def check(status: int, body: bytes, request: object) -> bool:
    """Whether there was data, after checking that the answer is one."""
    assert status < 500, (request, body)
    if body.startswith((b"{", b"[")):
        answer = json.loads(body)
        assert "errors" in answer or "data" in answer, (request, body)
        assert b"INTERNAL" not in body, (request, body)
        return bool(answer.get("data"))
    assert status == 200, (request, body)  # an event stream, or a page
    return False


async def storm(app: ASGIApp, queries: Sequence[str], number: int, seed: int) -> None:
    rng = random.Random(seed)
    slowest: list[float] = []
    answered = 0
    with capture_logs() as logs:
        for _ in range(number):
            request = mutated(rng, queries)
            started = time.perf_counter()
            answered += check(*await send(app, *request), request)
            slowest.append(time.perf_counter() - started)
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert answered > number / 10
    count("G8", "requests", number)
    slowest.sort()
    # Milliseconds each; the limit is for a machine that is busy with something else.
    assert slowest[int(number * 0.99)] < 1


@pytest.mark.timeout(600)
async def test_mutated_requests_against_the_front_door(scale: str) -> None:
    await storm(build_door().app, QUERIES, 150_000 if scale == "full" else 1_500, seed=1 + 2 * SEED)


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[ASGIApp]:
    # Wide limits, so that generated operations run.
    wide: dict[str, Any] = {"max_depth": 100, "max_cost": 10**9, "max_aliases": 1_000, "max_tokens": 20_000}
    own = ServerSettings(mongodb_url=mongodb_url, database=database_name, maintenance=False, **wide)
    engine = await Engine.connect(mongodb_url, database=database_name, role="server")
    app = create_app(own, engine=engine)
    async with app.router.lifespan_context(app):
        yield app


@pytest.mark.timeout(900)
async def test_mutated_requests_against_the_product(app: ASGIApp, scale: str) -> None:
    await storm(app, PRODUCT_QUERIES, 100_000 if scale == "full" else 800, seed=2 + 2 * SEED)


scalars = {
    "JSON": st.sampled_from((nodes.String("x"), nodes.Int(1), nodes.Null, nodes.Object([]), nodes.List([]))),
    "DateTime": st.sampled_from((nodes.String("2026-01-01T00:00:00.000Z"), nodes.String("x"))),
}
operations = from_schema((ROOT / "schema.graphql").read_text(), custom_scalars=scalars)


@pytest.fixture
def answered() -> Iterator[Counter[bool]]:
    """How many operations had data, and how many had none: generated ones must have run."""
    counted: Counter[bool] = Counter()
    yield counted
    assert counted[True] > counted[False] / 10, counted


@pytest.mark.timeout(900)
@given(operation=operations)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_valid_operations_against_the_product(app: ASGIApp, answered: Counter[bool], operation: str) -> None:
    body = json.dumps({"query": operation}).encode("utf-8", "surrogatepass")
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    answered[check(*await send(app, "POST", headers, body), operation)] += 1
