"""Flows over GraphQL: every field, every mutation, and a flow that is watched to its end."""

from __future__ import annotations

from typing import Any

import pytest

from switchtower.engine import Engine
from tests.conformance.situations import quiet
from tests.schema.conftest import Commands, Graph, worker
from tests.schema.test_streams import Reader, ready
from tests.waiting import until

ENQUEUE = """mutation($input: EnqueueFlowInput!) { enqueueFlow(input: $input) { __typename
  ... on Flow { id total finished progress state root { name } } ... on ValidationError { field }
  ... on Error { code message } } }"""
FLOW = """query($id: ID!) { flow(id: $id) { id state total finished progress createdAt scope { org app }
  counts { waiting blocked completed total } root { id name pendingChildren children(first: 10) { nodes { name } } }
  jobs(first: 10) { nodes { id name flowId flow { id } parentId } totalCount { value exact } } } }"""


def job(name: str, **fields: Any) -> dict[str, Any]:
    return {"job": {"name": name, **fields}}


TREE = {
    **job("root", payload={"n": 1}),
    "children": [
        {**job("late", queue="other"), "dependsOn": ["early"]},
        {**job("early"), "key": "early"},
    ],
}


@pytest.fixture(autouse=True)
async def anybody(engine: Engine) -> None:
    await worker(engine, queues=["default", "other"])


async def finish(graph: Graph, queue: str = "default", **fields: Any) -> str:
    """Claims and completes the next job of a queue; returns its name."""
    claimed = await graph(
        """mutation($queue: String!) { claimJobs(input: {queues: [$queue], workerId: "w", limit: 1}) {
             ... on ClaimedJobs { jobs { leaseToken job { id name } } } } }""",
        queue=queue,
    )
    (leased,) = claimed["jobs"]
    done = await graph(
        "mutation($id: ID!, $token: String!) { completeJob(id: $id, leaseToken: $token) { ... on Job { state } } }",
        id=leased["job"]["id"],
        token=leased["leaseToken"],
    )
    assert done == {"state": "COMPLETED"}
    return str(leased["job"]["name"])


async def enqueue(graph: Graph, root: dict[str, Any] = TREE, **input: Any) -> str:
    made = await graph(ENQUEUE, input={"root": root, **input})
    assert made["__typename"] == "Flow", made
    return str(made["id"])


async def test_flow_with_every_field(graph: Graph) -> None:
    made = await graph(ENQUEUE, input={"root": TREE})
    expected = {"total": 3, "finished": 0, "progress": 0.0, "state": "BLOCKED", "root": {"name": "root"}}
    assert {key: made[key] for key in expected} == expected
    flow = await graph(FLOW, id=made["id"])
    assert (flow["id"], flow["state"], flow["scope"]) == (made["id"], "BLOCKED", {"org": None, "app": None})
    assert flow["counts"] == {"waiting": 1, "blocked": 2, "completed": 0, "total": 3}
    assert flow["root"]["pendingChildren"] == 2 and flow["createdAt"]
    assert [node["name"] for node in flow["root"]["children"]["nodes"]] == ["late", "early"]
    assert [node["name"] for node in flow["jobs"]["nodes"]] == ["root", "late", "early"]
    assert {node["flow"]["id"] for node in flow["jobs"]["nodes"]} == {flow["id"]}
    assert flow["jobs"]["totalCount"] == {"value": 3, "exact": True}
    by_child = await graph("query($id: ID!) { flow(id: $id) { id } }", id=flow["jobs"]["nodes"][2]["id"])
    assert by_child == {"id": flow["id"]}
    assert await graph('{ flow(id: "job_nothing") { id } }') is None
    alone = await graph.enqueue()
    assert await graph("query($id: ID!) { flow(id: $id) { id } }", id=alone) is None
    assert await graph("query($id: ID!) { job(id: $id) { flow { id } flowId } }", id=alone) == {
        "flow": None,
        "flowId": None,
    }


async def test_key_makes_repeats_harmless(graph: Graph) -> None:
    ids = {await enqueue(graph, idempotencyKey="k") for _ in range(3)}
    assert len(ids) == 1
    assert (await graph.as_tenant("t")(ENQUEUE, input={"root": TREE, "idempotencyKey": "k"}))["id"] not in ids


REFUSED = {
    "unknown key": ({**job("r"), "dependsOn": ["x"]}, "flow.dependsOn"),
    "cycle": ({**job("r"), "key": "r", "children": [{**job("a"), "dependsOn": ["r"]}]}, "flow.dependsOn"),
    "key used twice": ({**job("r"), "key": "a", "children": [{**job("a"), "key": "a"}]}, "flow.key"),
    "own parent": (job("r", parentId="job_x"), "flow.job"),
    "own key": (job("r", idempotencyKey="k"), "flow.job.idempotencyKey"),
    "no name": ({**job("r"), "children": [job("")]}, "name"),
    "delayed twice": (job("r", delayMs=5, runAt="2030-01-01T00:00:00Z"), "runAt"),
}


async def test_what_cannot_be_a_flow(graph: Graph) -> None:
    for root, field in REFUSED.values():
        answer = await graph(ENQUEUE, input={"root": root})
        assert (answer["__typename"], answer["field"]) == ("ValidationError", field)
        assert await graph("{ flows { nodes { id } } }") == {"nodes": []}


async def test_conflict_is_a_member_of_the_answer(graph: Graph) -> None:
    await graph.enqueue(uniqueKey="u")
    answer = await graph(ENQUEUE, input={"root": {**job("r"), "children": [job("a", uniqueKey="u")]}})
    assert (answer["__typename"], answer["code"]) == ("Conflict", "CONFLICT")
    long = await graph(ENQUEUE, input={"root": job("r"), "idempotencyKey": "x" * 600})
    assert long["field"] == "idempotencyKey"


async def test_pages_of_flows(graph: Graph) -> None:
    ids = [await enqueue(graph, {**job(f"r{n}"), "children": [job("c")]}) for n in range(3)]
    alone = await enqueue(graph, job("alone"))
    page = """query($state: JobState, $first: Int, $after: String, $last: Int) {
      flows(state: $state, first: $first, after: $after, last: $last) { nodes { id total }
        edges { cursor } pageInfo { hasNextPage endCursor } totalCount { value } } }"""
    first = await graph(page, first=2)
    assert [node["id"] for node in first["nodes"]] == [alone, ids[2]] and first["pageInfo"]["hasNextPage"]
    rest = await graph(page, first=5, after=first["pageInfo"]["endCursor"])
    assert [(node["id"], node["total"]) for node in rest["nodes"]] == [(ids[1], 2), (ids[0], 2)]
    assert first["totalCount"] == {"value": 4}
    blocked = await graph(page, state="BLOCKED")
    assert len(blocked["nodes"]) == 3 and blocked["totalCount"] == {"value": 3}
    assert [node["id"] for node in (await graph(page, last=1))["nodes"]] == [ids[0]]
    assert (await graph.as_tenant("t")(page))["nodes"] == []
    assert (await graph.refused(page, first=0)).original_error.field == "first"


async def test_flows_of_a_page_of_jobs_are_one_look_up(graph: Graph, engine: Engine, commands: Commands) -> None:
    for _ in range(5):
        await enqueue(graph)
    await quiet(engine)
    with commands.counted() as names:
        jobs = await graph("{ jobs(first: 50) { nodes { id flow { id total } } } }")
    assert len(jobs["nodes"]) == 15 and {node["flow"]["total"] for node in jobs["nodes"]} == {3}
    assert sorted(names) == ["aggregate jobs", "find jobs", "find jobs"]
    with commands.counted() as names:
        await graph("{ flows { nodes { id total counts { waiting } root { name } } } }")
    assert sorted(names) == ["aggregate jobs", "find jobs"]


async def test_cancel_and_retry(graph: Graph) -> None:
    cancel = """mutation($id: ID!) { cancelFlow(id: $id) { __typename
      ... on BulkOperation { verb matched changed done } ... on Error { code } } }"""
    retry = """mutation($id: ID!) { retryFlow(id: $id) { __typename
      ... on Flow { id counts { waiting blocked } } ... on Error { code } } }"""
    id = await enqueue(graph)
    assert await graph(retry, id=id) == {"__typename": "InvalidTransition", "code": "INVALID_TRANSITION"}
    assert await graph(cancel, id=id) == {
        "__typename": "BulkOperation",
        "verb": "cancel",
        "matched": 3,
        "changed": 3,
        "done": True,
    }
    assert (await graph(cancel, id=id))["__typename"] == "InvalidTransition"
    assert (await graph.as_tenant("t")(retry, id=id))["__typename"] == "NotFound"
    again = await graph(retry, id=id)
    assert again == {"__typename": "Flow", "id": id, "counts": {"waiting": 1, "blocked": 2}}
    for mutation in (cancel, retry):
        assert await graph(mutation, id="job_nothing") == {"__typename": "NotFound", "code": "NOT_FOUND"}


async def test_flow_is_watched_to_its_end(graph: Graph, maintained: Engine) -> None:
    watch = "subscription($id: ID!) { flow(id: $id) { id progress finished counts { waiting } state } }"
    id = await enqueue(graph)
    async with Reader(graph.stream(watch, id=id)) as flow:
        assert (await flow.next())["finished"] == 0
        await ready(graph, 1)
        for name, queue in (("early", "default"), ("late", "other"), ("root", "default")):
            await until(
                lambda queue=queue: maintained._store.jobs.find_one({"queue": queue, "state": "waiting"})  # type: ignore[misc]
            )
            assert await finish(graph, queue) == name
        last = await flow.next()
        while last["finished"] < 3:
            last = await flow.next()
        assert last == {"id": id, "progress": 1.0, "finished": 3, "counts": {"waiting": 0}, "state": "COMPLETED"}
        await flow.ended.wait()


async def test_watching_nothing_ends_at_once(graph: Graph) -> None:
    watch = "subscription($id: ID!) { flow(id: $id) { id } }"
    id = await enqueue(graph)
    async with Reader(graph.as_tenant("t").stream(watch, id=id)) as flow:
        assert await flow.next() is None
        await flow.ended.wait()
