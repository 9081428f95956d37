"""A tenant's quota of the month stands before every mutation that brings work in; a key's default queue behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from switchtower.access import TenantLimits
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.workers import Outcome, OutcomeKind
from tests.schema.conftest import Graph
from tests.waiting import until

ERROR = "... on Error { code message }"
JOB = {"name": "n"}
OPERATOR = Caller("operator")
MUTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "enqueueJob": (f"mutation($i: EnqueueJobInput!) {{ enqueueJob(input: $i) {{ __typename {ERROR} }} }}", {"i": JOB}),
    "enqueueFlow": (
        f"mutation($i: EnqueueFlowInput!) {{ enqueueFlow(input: $i) {{ __typename {ERROR} }} }}",
        {"i": {"root": {"job": JOB, "children": [{"job": JOB}]}}},
    ),
    "startWorkflow": (
        f"mutation($i: StartWorkflowInput!) {{ startWorkflow(input: $i) {{ __typename {ERROR} }} }}",
        {"i": {"workflow": "w", "version": 1}},
    ),
    "triggerCron": (f"mutation($id: ID!) {{ triggerCron(id: $id) {{ __typename {ERROR} }} }}", {}),
    "replayDeadLetter": (f"mutation($id: ID!) {{ replayDeadLetter(id: $id) {{ __typename {ERROR} }} }}", {}),
    "replayDeadLetters": (
        f"mutation {{ replayDeadLetters(filter: {{}}) {{ __typename {ERROR} }} }}",
        {},
    ),
}


async def cron(tenant: Graph) -> str:
    created = await tenant(
        """mutation { createCron(input: {name: "c", expression: "0 0 1 1 *", job: {name: "n"}}) {
             ... on Cron { id } } }"""
    )
    return str(created["id"])


async def dead_letter(engine: Engine, tenant: Graph) -> str:
    made = await engine.jobs.enqueue(NewJob(name="broken", queue="broken"), caller=tenant.context.caller)
    (claimed,) = await engine.claims.claim("w", ["broken"])
    error = JobError(ErrorKind.FATAL, "Boom", "no luck")
    assert made.job.id == claimed.id
    assert not await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.BURY, error=error)])
    nodes = "{ deadLetters { nodes { id } } }"
    await engine.effects.relay()
    found = await until(lambda: _nodes(tenant, nodes), timeout_seconds=30)
    return str(found[0]["id"])


async def _nodes(tenant: Graph, query: str) -> Any:
    return (await tenant(query))["nodes"]


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_what_would_enqueue_beyond_the_month_is_refused(engine: Engine, graph: Graph, mutation: str) -> None:
    tenant = graph.as_tenant("acme")
    query, variables = MUTATIONS[mutation]
    if mutation == "triggerCron":
        variables = {"id": await cron(tenant)}
    if mutation.startswith("replay"):
        id = await dead_letter(engine, tenant)
        variables = {"id": id} if mutation == "replayDeadLetter" else {}
    await engine.keys.set_tenant_limits(TenantLimits("acme", 0), caller=OPERATOR)
    before = await engine._store.jobs.count_documents({})
    refused = await tenant(query, **variables)
    assert (refused["__typename"], refused["code"]) == ("RateLimited", "RATE_LIMITED"), refused
    assert "calendar month" in refused["message"]
    assert await engine._store.jobs.count_documents({}) == before
    await engine.keys.set_tenant_limits(TenantLimits("acme", 1_000), caller=OPERATOR)
    assert (await tenant(query, **variables))["__typename"] not in ("RateLimited", "ValidationError")
    assert await engine._store.jobs.count_documents({}) > before


async def test_flow_counts_each_of_its_jobs(engine: Engine, graph: Graph) -> None:
    query, variables = MUTATIONS["enqueueFlow"]
    await engine.keys.set_tenant_limits(TenantLimits("acme", 1), caller=OPERATOR)
    assert (await graph.as_tenant("acme")(query, **variables))["__typename"] == "RateLimited"
    await engine.keys.set_tenant_limits(TenantLimits("acme", 2), caller=OPERATOR)
    assert (await graph.as_tenant("acme")(query, **variables))["__typename"] == "Flow"


async def test_jobs_that_name_no_queue_go_to_that_of_the_key(engine: Engine, graph: Graph) -> None:
    caller = replace(graph.context.caller, queue="mine")
    keyed = Graph(graph.schema, replace(graph.context, caller=caller, memo={}))
    enqueue = "mutation($i: EnqueueJobInput!) { enqueueJob(input: $i) { ... on Job { queue } } }"
    many = "mutation($i: [EnqueueJobInput!]!) { enqueueJobs(inputs: $i) { items { ... on Job { queue } } } }"
    flow = """mutation($i: EnqueueFlowInput!) { enqueueFlow(input: $i) { ... on Flow { jobs { nodes { queue } } } } }"""
    assert await keyed(enqueue, i=JOB) == {"queue": "mine"}
    assert await keyed(enqueue, i={**JOB, "queue": None}) == {"queue": "mine"}
    assert await keyed(enqueue, i={**JOB, "queue": "default"}) == {"queue": "default"}
    assert await graph(enqueue, i=JOB) == {"queue": "default"}
    items = (await keyed(many, i=[JOB, {**JOB, "queue": "other"}]))["items"]
    assert [item["queue"] for item in items] == ["mine", "other"]
    root = {"job": JOB, "children": [{"job": {**JOB, "queue": "other"}}, {"job": JOB}]}
    nodes = (await keyed(flow, i={"root": root}))["jobs"]["nodes"]
    assert sorted(node["queue"] for node in nodes) == ["mine", "mine", "other"]
