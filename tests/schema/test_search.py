"""The search and the clusters of errors through GraphQL."""

from __future__ import annotations

from switchtower.engine import Engine
from tests.schema.conftest import Graph, fail_for_good

SEARCH = """query($text: String!, $type: SearchType! = ALL, $queue: String, $first: Int! = 50, $after: String) {
  search(query: $text, type: $type, queue: $queue, first: $first, after: $after) {
    jobs { id name payload } queues scanned exhaustive indexed cursor } }"""


async def test_search(graph: Graph) -> None:
    id = await graph.enqueue(payload={"user": {"id": 42}}, name="welcome")
    await graph.enqueue(payload={"user": {"id": 43}})
    for text, type in (("user.id:42", "PAYLOAD"), ("user.id:42", "ALL"), ("WELCOME", "NAME"), (id, "ID")):
        found = await graph(SEARCH, text=text, type=type)
        assert [job["id"] for job in found["jobs"]] == [id]
        assert found["exhaustive"] and found["cursor"] is None
    assert found["jobs"][0]["payload"] == {"user": {"id": 42}}
    page = await graph(SEARCH, text="user", type="PAYLOAD", first=1)
    assert len(page["jobs"]) == 1 and not page["exhaustive"]
    rest = await graph(SEARCH, text="user", type="PAYLOAD", first=1, after=page["cursor"])
    assert [job["id"] for job in rest["jobs"]] == [id]
    assert (await graph.as_tenant("acme")(SEARCH, text="user.id:42"))["jobs"] == []
    assert (await graph(SEARCH, text="user.id:42", queue="elsewhere"))["jobs"] == []


async def test_bounds(graph: Graph) -> None:
    for variables in [
        {"text": ""},
        {"text": "x" * 257},
        {"text": "\0"},
        {"text": "x", "first": 0},
        {"text": "x", "first": 101},
        {"text": "x", "after": "nonsense"},
        {"text": "x", "after": ""},
        {"text": "x", "queue": ""},
    ]:
        error = await graph.refused(SEARCH, **variables)
        assert "nternal" not in error.message


async def test_one_cluster_is_retried(maintained: Engine, graph: Graph) -> None:
    one, two = await graph.enqueue(name="one"), ""
    await fail_for_good(maintained, graph, one)
    two = await graph.enqueue(name="two")
    claimed = await graph(
        """mutation { claimJobs(input: {queues: ["default"], workerId: "w", limit: 1}) {
             ... on ClaimedJobs { jobs { leaseToken } } } }"""
    )
    await graph(
        """mutation($id: ID!, $token: String!) { failJob(id: $id, leaseToken: $token,
             error: {type: "Other", message: "else", retryable: false}) { ... on Job { state } } }""",
        id=two,
        token=claimed["jobs"][0]["leaseToken"],
    )
    clusters = await graph("{ errorClusters { fingerprint count names firstSeen lastSeen trend { at count } } }")
    assert {cluster["names"][0]: cluster["count"] for cluster in clusters} == {"one": 1, "two": 1}
    assert all(cluster["firstSeen"] == cluster["lastSeen"] for cluster in clusters)
    assert all(hour["at"].endswith(":00:00.000Z") for cluster in clusters for hour in cluster["trend"])
    assert [hour["count"] for hour in clusters[0]["trend"]] == [1]
    (fingerprint,) = [cluster["fingerprint"] for cluster in clusters if cluster["names"] == ["one"]]
    operation = await graph(
        """mutation($fingerprint: String!) { retryJobs(filter: {errorFingerprint: $fingerprint}) {
             ... on BulkOperation { matched changed done } } }""",
        fingerprint=fingerprint,
    )
    assert operation == {"matched": 1, "changed": 1, "done": True}
    states = {id: (await graph("query($id: ID!) { job(id: $id) { state } }", id=id))["state"] for id in (one, two)}
    assert states == {one: "WAITING", two: "FAILED"}
    assert [cluster["names"] for cluster in await graph("{ errorClusters { names } }")] == [["two"]]
