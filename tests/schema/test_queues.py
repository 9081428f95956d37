"""Queues, workers and totals over GraphQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from switchtower.engine import Engine
from tests.databases import anywhere
from tests.schema.conftest import Graph, worker
from tests.waiting import until

REMOVE = """mutation { %s { __typename ... on RemovedJobs { queue removed }
  ... on ValidationError { field } ... on Error { code } } }"""


async def test_a_queue_with_its_counts_and_jobs(graph: Graph, maintained: Engine) -> None:
    assert await graph('{ queue(name: "mail") { name } }') is None
    waiting = await graph.enqueue(queue="mail", group="g")
    later = await graph.enqueue(queue="mail", delayMs=100_000)
    query = """{ queue(name: "mail") { name paused pausedNames latencyMs throughputPerMinute createdAt
      counts { waiting scheduled open total exact completed } groups { name waiting active }
      jobs(first: 10) { nodes { id } totalCount { value exact } }
      scheduled: jobs(filter: {states: [SCHEDULED]}) { nodes { id } } } }"""

    async def counted() -> bool:
        queue = await graph('{ queue(name: "mail") { counts { total } } }')
        return queue is not None and queue["counts"]["total"] == 2

    await until(counted)
    queue = await graph(query)
    assert queue["counts"] == {"waiting": 1, "scheduled": 1, "open": 2, "total": 2, "exact": True, "completed": 0}
    assert (queue["paused"], queue["pausedNames"], queue["createdAt"]) == (False, [], None)
    assert queue["latencyMs"] >= 0 and queue["throughputPerMinute"] == 0
    assert queue["groups"] == [{"name": "g", "waiting": 1, "active": 0}]
    assert [node["id"] for node in queue["jobs"]["nodes"]] == [later, waiting]
    assert queue["jobs"]["totalCount"]["value"] == 2
    assert queue["scheduled"]["nodes"] == [{"id": later}]
    assert await graph("{ queues { name } }") == [{"name": "mail"}]
    error = await graph.refused('{ queue(name: "mail") { jobs(filter: {queues: ["x"]}) { nodes { id } } } }')
    assert error.original_error.field == "filter.queues"


async def test_pause_and_resume(graph: Graph) -> None:
    change = "mutation { %s { __typename ... on Queue { name paused pausedNames } ... on ValidationError { field } } }"
    paused = {"__typename": "Queue", "name": "q", "paused": True, "pausedNames": []}
    assert await graph(change % 'pauseQueue(name: "q")') == paused
    assert await graph(change % 'pauseQueue(name: "q")') == paused
    assert await graph(change % 'pauseQueue(name: "q", jobName: "b")') == paused | {"pausedNames": ["b"]}
    assert await graph(change % 'resumeQueue(name: "q")') == paused | {"paused": False, "pausedNames": ["b"]}
    assert await graph(change % 'resumeQueue(name: "q", jobName: "b")') == paused | {"paused": False}
    assert (await graph(change % 'pauseQueue(name: "")'))["field"] == "name"
    assert (await graph(change % 'pauseQueue(name: "q", jobName: "")'))["field"] == "jobName"


async def test_drain_clean_obliterate(graph: Graph) -> None:
    for mutation in ('drainQueue(name: "q")', 'cleanQueue(name: "q", state: FAILED)', 'obliterateQueue(name: "q")'):
        assert (await graph(REMOVE % mutation))["code"] == "NOT_FOUND"
    await graph('mutation { resumeQueue(name: "q") { __typename } }')
    for _ in range(3):
        await graph.enqueue(queue="q")
    assert await graph(REMOVE % 'drainQueue(name: "q")') == {"__typename": "RemovedJobs", "queue": "q", "removed": 3}
    for i in range(3):
        id = await graph.enqueue(f"n{i}", queue="q")
        await graph("mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=id)
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: CANCELLED, graceMs: 3600000)'))["removed"] == 0
    # What is older than now is asked of this process's idea of now, which may be behind the time of the last of them.
    at = datetime.now(UTC) - timedelta(minutes=1)
    await graph.context.engine._store.jobs.update_many(anywhere(state="cancelled"), {"$set": {"updated_at": at}})
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: CANCELLED, limit: 1)'))["removed"] == 1
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: CANCELLED)'))["removed"] == 2
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: ACTIVE)'))["field"] == "state"
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: FAILED, graceMs: -1)'))["field"] == "graceMs"
    assert (await graph(REMOVE % 'cleanQueue(name: "q", state: FAILED, limit: 0)'))["field"] == "limit"
    await graph.enqueue(queue="q")
    await graph('mutation { claimJobs(input: {workerId: "w", queues: ["q"]}) { __typename } }')
    await graph.enqueue(queue="q")
    assert (await graph(REMOVE % 'obliterateQueue(name: "q")'))["code"] == "CONFLICT"
    assert (await graph(REMOVE % 'obliterateQueue(name: "q", force: true)'))["removed"] == 2


async def test_job_counts(graph: Graph, maintained: Engine) -> None:
    await graph.enqueue("a", queue="q")
    await graph.enqueue("b", queue="q", delayMs=100_000)
    query = "query($filter: JobFilter) { jobCounts(filter: $filter) { waiting scheduled total exact } }"
    both = {"waiting": 1, "scheduled": 1, "total": 2, "exact": True}

    async def folded() -> bool:
        return bool(await graph(query, filter={"queues": ["q"]}) == both)

    await until(folded)
    assert await graph(query) == both
    assert await graph(query, filter={"names": ["a"]}) == {"waiting": 1, "scheduled": 0, "total": 1, "exact": True}
    assert (await graph(query, filter={"names": ["a"], "states": ["SCHEDULED"]}))["total"] == 0


async def test_stats(graph: Graph, maintained: Engine) -> None:
    await graph.enqueue(queue="a")
    await graph.enqueue(queue="b")
    await worker(maintained)
    query = "{ stats { jobs queues workers deadLetters counts { waiting } } }"

    async def folded() -> bool:
        return bool((await graph(query))["jobs"] == 2)

    await until(folded)
    assert await graph(query) == {"jobs": 2, "queues": 2, "workers": 1, "deadLetters": 0, "counts": {"waiting": 2}}
    assert (await graph.as_tenant("t")(query))["jobs"] == 0


async def test_workers_with_their_jobs(graph: Graph, engine: Engine) -> None:
    id = await graph.enqueue(payload={"n": 1})
    await graph(
        """mutation { claimJobs(input: {workerId: "w", queues: ["default"], names: ["send"], leaseMs: 300000}) {
             __typename } }"""
    )
    await worker(engine, "gone")
    await engine.workers.retire("gone")
    query = """query($gone: Boolean! = false) { workers(includeGone: $gone) {
      id state names leaseMs currentJobs { id payload } } }"""
    assert await graph(query) == [
        {
            "id": "w",
            "state": "LIVE",
            "names": ["send"],
            "leaseMs": 300_000,
            "currentJobs": [{"id": id, "payload": {"n": 1}}],
        }
    ]
    assert {w["id"]: w["state"] for w in await graph(query, gone=True)} == {"w": "LIVE", "gone": "STOPPED"}
    assert (await graph('{ worker(id: "w") { id } }')) == {"id": "w"}
    assert await graph('{ worker(id: "nope") { id } }') is None
    assert (await graph.as_tenant("t")(query))[0]["currentJobs"] == []
