"""Workflows through GraphQL: start, publish, watch, list, cancel, replay; another tenant sees nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower import App, WorkflowContext, testing
from switchtower.engine import Engine
from tests.schema.conftest import Graph, worker
from tests.waiting import until

START = """mutation($input: StartWorkflowInput!) { startWorkflow(input: $input) {
  __typename ... on WorkflowRun { id workflow version state queue job { id name } } ... on Error { message } } }"""
RUN = """query($id: ID!) { workflowRun(id: $id) { id state currentStep output
  steps { name kind status result attempts events children }
  parentRun { id } children { nodes { id name } } job { timeline { type } } } }"""
PUBLISH = """mutation($input: PublishEventInput!) { publishEvent(input: $input) {
  ... on PublishedEvent { id name publishedAt } ... on Error { message } } }"""


@pytest.fixture
def app(mongodb_url: str, database_name: str) -> App:
    app = App(mongodb_url=mongodb_url, database=database_name)

    @app.workflow
    async def sub(ctx: WorkflowContext, n: int) -> int:
        return await ctx.step("double", lambda: n * 2)

    @app.workflow
    async def main(ctx: WorkflowContext, n: int) -> int:
        first = await ctx.step("first", lambda: n)
        await ctx.wait_for_event("go")
        return first + await ctx.child(sub, {"n": n})

    return app


async def test_a_run_from_start_to_end(app: App, graph: Graph) -> None:
    async with testing.worker(app):
        assert await graph("{ workflows { name versions } }") == [
            {"name": "main", "versions": [1]},
            {"name": "sub", "versions": [1]},
        ]
        started = await graph(START, input={"workflow": "main", "input": {"n": 2}, "idempotencyKey": "k"})
        assert (started["workflow"], started["version"], started["queue"]) == ("main", 1, "default")
        assert started["id"].removeprefix("run_") == started["job"]["id"].removeprefix("job_")
        again = await graph(START, input={"workflow": "main", "input": {"n": 2}, "idempotencyKey": "k"})
        assert again["id"] == started["id"]
        seen: list[Any] = []

        async def watch() -> None:
            query = "subscription($id: ID!) { workflowRun(id: $id) { state steps { name status } } }"
            async for run in graph.stream(query, id=started["id"]):
                seen.append(run)

        watching = asyncio.create_task(watch())
        await until(lambda: any(run["state"] == "WAITING" for run in seen))
        event = await graph(PUBLISH, input={"name": "go", "payload": {"x": 1}, "idempotencyKey": "e"})
        assert event["id"].startswith("evt_")
        await asyncio.wait_for(watching, 60)
        assert seen[-1]["state"] == "COMPLETED"
        assert [step["name"] for step in seen[-1]["steps"]] == ["first", "wait:go", "child:sub"]
        run = await graph(RUN, id=started["id"])
        assert (run["output"], run["currentStep"]) == (6, "child:sub")
        assert run["steps"][1]["result"] == {"name": "go", "payload": {"x": 1}}
        (child,) = run["children"]["nodes"]
        assert run["steps"][2]["children"] == [child["id"]] and child["name"] == "sub#1"
        assert (await graph(RUN, id=child["id"]))["parentRun"] == {"id": started["id"]}
        found = await graph("query($id: ID!) { node(id: $id) { __typename id } }", id=started["id"])
        assert found == {"__typename": "WorkflowRun", "id": started["id"]}
        replay = """mutation($id: ID!, $from: String!) { replayWorkflowRun(id: $id, fromStep: $from) {
          __typename ... on WorkflowRun { steps { name } } ... on Error { message } } }"""
        replayed = await graph(replay, **{"id": started["id"], "from": "wait:go"})
        assert replayed["steps"] == [{"name": "first"}]
        refused = await graph(replay, **{"id": started["id"], "from": "first"})
        assert refused["__typename"] == "InvalidTransition"
        cancel = "mutation($id: ID!) { cancelWorkflowRun(id: $id) { __typename ... on Error { message } } }"
        assert (await graph(cancel, id=started["id"]))["__typename"] == "WorkflowRun"
    await app.close()


async def test_runs_are_listed_with_their_steps_when_asked(engine: Engine, graph: Graph) -> None:
    await worker(engine, names=("w#1", "w#2"), queues=["money"])
    ids = [(await graph(START, input={"workflow": "w", "version": version}))["id"] for version in (1, 2)]
    listed = await graph(
        """{ workflowRuns(filter: {workflow: "w", states: [RUNNING]}, first: 1) {
             nodes { id version queue steps { name } } pageInfo { hasNextPage } totalCount { value } } }"""
    )
    assert listed == {
        "nodes": [{"id": ids[1], "version": 2, "queue": "money", "steps": []}],
        "pageInfo": {"hasNextPage": True},
        "totalCount": {"value": 2},
    }
    assert await graph("{ workflowRuns(filter: {states: [SLEEPING]}) { nodes { id } } }") == {"nodes": []}


async def test_another_tenant_sees_nothing(engine: Engine, graph: Graph) -> None:
    id = (await graph.as_tenant("acme")(START, input={"workflow": "w", "version": 1}))["id"]
    other = graph.as_tenant("other")
    assert await other(RUN, id=id) is None
    assert (await other("{ workflowRuns { nodes { id } totalCount { value } } }"))["totalCount"] == {"value": 0}
    cancel = "mutation($id: ID!) { cancelWorkflowRun(id: $id) { __typename } }"
    assert await other(cancel, id=id) == {"__typename": "NotFound"}
    stream = other.stream("subscription($id: ID!) { workflowRun(id: $id) { id } }", id=id)
    assert [item async for item in stream] == [None]


async def test_bad_input_is_a_typed_error(graph: Graph) -> None:
    for query, input, field in [
        (START, {"workflow": "nobody"}, "workflow"),
        (START, {"workflow": "a#b", "version": 1}, "workflow"),
        (START, {"workflow": "w", "version": 0}, "version"),
        (START, {"workflow": "w", "version": 1, "maxAttempts": 0}, "maxAttempts"),
        (PUBLISH, {"name": ""}, "name"),
        (PUBLISH, {"name": "go", "idempotencyKey": ""}, "idempotencyKey"),
    ]:
        answer = await graph(query, input=input)
        assert answer["message"].startswith(field), answer
