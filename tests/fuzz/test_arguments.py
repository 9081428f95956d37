"""Every query and mutation of the product, with whatever arguments: an answer each time, and never a fault."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from tests.app.direct import send
from tests.fuzz import arguments
from tests.nightly.counting import count
from tests.nightly.scale import FULL

HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]
EXAMPLES = 20_000 if FULL else 300
ANSWER_SECONDS = 60
# The first key closes the server to everybody without one, which would be the end of the test.
LOCKS_OUT = {"createApiKey"}
CHOICES = [
    (operation, name)
    for operation in ("query", "mutation")
    for name in arguments.fields(operation)
    if name not in LOCKS_OUT
]
SETTINGS: dict[str, Any] = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}

requests = st.sampled_from(CHOICES).flatmap(lambda choice: st.tuples(st.just(choice), arguments.variables(*choice)))


@pytest.fixture
def reached() -> Iterator[Counter[str]]:
    """How often each field had data: generated arguments must get through often enough."""
    counted: Counter[str] = Counter()
    yield counted
    assert len(counted) > len(CHOICES) / 2, {name for _, name in CHOICES} - set(counted)


async def ask(app: ASGIApp, operation: str, name: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": arguments.document(operation, name), "variables": variables})
    async with asyncio.timeout(ANSWER_SECONDS):
        status, said = await send(app, "POST", HEADERS, body.encode("utf-8", "surrogatepass"))
    assert status < 500, (name, variables, said)
    answer: dict[str, Any] = json.loads(said)
    assert "data" in answer or "errors" in answer, (name, variables, said)
    assert b"INTERNAL" not in said, (name, variables, said)
    count("G8", "requests", 1)
    return answer


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@given(asked=requests)
@settings(max_examples=EXAMPLES, **SETTINGS)
async def test_any_arguments_are_answered(
    app: ASGIApp, reached: Counter[str], asked: tuple[tuple[str, str], dict[str, Any]]
) -> None:
    (operation, name), variables = asked
    answer = await ask(app, operation, name, variables)
    if answer.get("data"):
        reached[name] += 1


@pytest.mark.timeout(3_600)
@given(variables=arguments.variables("mutation", "createApiKey"))
@settings(max_examples=EXAMPLES // 20, **SETTINGS)
async def test_any_arguments_of_a_key_are_answered(app: ASGIApp, engine: Any, variables: dict[str, Any]) -> None:
    await ask(app, "mutation", "createApiKey", variables)
    await engine._store.keys.delete_many({})
