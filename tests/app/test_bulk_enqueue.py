"""`enqueueJobs` at its limit: ten thousand jobs in one request, within the size of a body, each with its own answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest
from pymongo import MongoClient

from tests.app.product import product
from tests.app.serving import Served

JOBS = 10_000
BODY_BYTES = 16 * 2**20
ENQUEUE = """mutation($inputs: [EnqueueJobInput!]!) { enqueueJobs(inputs: $inputs) { items { __typename
  ... on Job { id name state queue deduplication } ... on Error { code }
  ... on ValidationError { field } } } }"""


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


def post(served: Served, inputs: list[dict[str, Any]]) -> httpx2.Response:
    body = orjson.dumps({"query": ENQUEUE, "variables": {"inputs": inputs}})
    with httpx2.Client(timeout=120) as http:
        return http.post(served.graphql, content=body, headers={"content-type": "application/json"})


@pytest.mark.nightly
def test_ten_thousand_jobs_in_one_request_have_an_answer_each(
    served: Served, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    text = "x" * 1_250
    inputs: list[dict[str, Any]] = [
        {"name": f"n{n}", "queue": "bulk", "payload": {"n": n, "text": text}, "tags": ["a", "b"], "priority": n % 7}
        | {"idempotencyKey": f"k{n}", "backoff": {"kind": "FIXED", "baseMs": 5}, "group": "g", "maxAttempts": 3}
        for n in range(JOBS)
    ]
    inputs[3]["name"] = ""
    inputs[5_000]["backoff"] = {"kind": "TABLE"}
    inputs[9_999]["idempotencyKey"] = "k7"
    size = len(orjson.dumps(inputs))
    assert BODY_BYTES * 0.85 < size < BODY_BYTES
    response = post(served, inputs)
    assert response.status_code == 200
    answer = response.json()
    assert "errors" not in answer, answer["errors"]
    assert answer["extensions"]["cost"] < 10_000
    items = answer["data"]["enqueueJobs"]["items"]
    assert len(items) == JOBS
    refused = {n: (item["__typename"], item["field"]) for n, item in enumerate(items) if item["__typename"] != "Job"}
    assert refused == {3: ("ValidationError", "name"), 5_000: ("ValidationError", "backoff.waitsMs")}
    assert [item["name"] for n, item in enumerate(items) if n not in refused and n < JOBS - 1] == [
        f"n{n}" for n in range(JOBS - 1) if n not in refused
    ]
    assert (items[9_999]["id"], items[9_999]["deduplication"]) == (items[7]["id"], "IDEMPOTENCY_KEY")
    assert mongo[database_name]["jobs"].count_documents({"queue": "bulk"}) == JOBS - 3
    again = post(served, inputs).json()["data"]["enqueueJobs"]["items"]
    assert [item.get("id") for item in again] == [item.get("id") for item in items]
    assert mongo[database_name]["jobs"].count_documents({"queue": "bulk"}) == JOBS - 3


@pytest.mark.slow
def test_one_more_job_or_one_more_byte_is_refused_whole(
    served: Served, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    items = post(served, [{"name": "n"}] * (JOBS + 1)).json()["data"]["enqueueJobs"]["items"]
    assert len(items) == JOBS + 1
    assert {(item["__typename"], item["field"]) for item in items} == {("ValidationError", "inputs")}
    inputs = [{"name": "n", "payload": "x" * 1_700} for _ in range(JOBS)]
    response = post(served, inputs)
    assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert mongo[database_name]["jobs"].count_documents({}) == 0
