"""A request's `traceparent` header goes with the jobs that it enqueues, through whatever surface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.app.product import execute, product
from tests.app.serving import Served

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACES = "{ jobs(first: 50) { edges { node { name traceparent } } } }"
ENQUEUE = 'mutation { enqueueJob(input: {name: "by GraphQL"}) { __typename } }'
MANY = 'mutation { enqueueJobs(inputs: [{name: "one of many"}, {name: "two of many"}]) { __typename } }'
ROOT = '{job: {name: "root"}, children: [{job: {name: "child"}}]}'
FLOW = f"mutation {{ enqueueFlow(input: {{root: {ROOT}}}) {{ __typename }} }}"


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


def traces(served: Served, header: str) -> dict[str, Any]:
    with httpx2.Client(base_url=served.url, timeout=60, headers={"traceparent": header}) as http:
        for document in (ENQUEUE, MANY, FLOW):
            answer = http.post("/graphql", json={"query": document}).json()
            assert "errors" not in answer, answer
        assert http.post("/api/queues/q/jobs", json={"name": "by Conveyor", "data": {}}).status_code == 201
        found = execute(http, TRACES)["jobs"]["edges"]
    return {edge["node"]["name"]: edge["node"]["traceparent"] for edge in found}


def test_jobs_carry_the_trace_of_their_request(served: Served) -> None:
    names = ["by GraphQL", "one of many", "two of many", "root", "child", "by Conveyor"]
    assert traces(served, GIVEN) == dict.fromkeys(names, GIVEN)


def test_a_malformed_header_is_none(served: Served) -> None:
    assert set(traces(served, "00-nothing").values()) == {None}
