"""Dead letters, error clusters and operations on many jobs over GraphQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from switchtower.engine import Engine
from tests.schema.conftest import Graph, fail_for_good

LIST = """query($filter: DeadLetterFilter, $first: Int, $after: String) {
  deadLetters(filter: $filter, first: $first, after: $after) { nodes { id } totalCount { value exact }
    pageInfo { hasNextPage endCursor } } }"""


async def test_a_dead_letter_tells_what_failed(graph: Graph, engine: Engine) -> None:
    job = await graph.enqueue(payload={"n": 1}, tags=["t"], group="g", maxAttempts=3)
    id = await fail_for_good(engine, graph, job)
    entry = await graph(
        """query($id: ID!) { deadLetter(id: $id) { id jobId generation name queue payload attempt maxAttempts priority
          tags group replayedAt replayJobIds error { type message kind } job { id state deadLetter { id } }
          scope { org } } }""",
        id=id,
    )
    assert entry == {
        "id": id,
        "jobId": job,
        "generation": 1,
        "name": "send",
        "queue": "default",
        "payload": {"n": 1},
        "attempt": 1,
        "maxAttempts": 3,
        "priority": 0,
        "tags": ["t"],
        "group": "g",
        "replayedAt": None,
        "replayJobIds": [],
        "error": {"type": "Boom", "message": "no luck", "kind": "FATAL"},
        "job": {"id": job, "state": "FAILED", "deadLetter": {"id": id}},
        "scope": {"org": None},
    }
    assert (await graph("query($id: ID!) { node(id: $id) { __typename } }", id=id))["__typename"] == "DeadLetter"
    assert await graph.as_tenant("t")("query($id: ID!) { deadLetter(id: $id) { id } }", id=id) is None
    assert await graph('{ deadLetter(id: "dlq_none") { id } }') is None


async def test_dead_letters_come_in_pages_and_by_filter(graph: Graph, engine: Engine) -> None:
    ids = [await fail_for_good(engine, graph, await graph.enqueue(name)) for name in ("a", "b", "c")]
    first = await graph(LIST, first=2)
    assert [node["id"] for node in first["nodes"]] == [ids[2], ids[1]] and first["pageInfo"]["hasNextPage"]
    rest = await graph(LIST, first=2, after=first["pageInfo"]["endCursor"])
    assert [node["id"] for node in rest["nodes"]] == [ids[0]]
    assert first["totalCount"] == {"value": 3, "exact": True}
    for filter, expected in (
        ({"names": ["b"]}, [ids[1]]),
        ({"queues": ["none"]}, []),
        ({"replayed": True}, []),
        ({"replayed": False}, ids[::-1]),
        ({"text": "NO LUCK"}, ids[::-1]),
        ({"failedAfter": "2999-01-01T00:00:00Z"}, []),
    ):
        assert [node["id"] for node in (await graph(LIST, filter=filter))["nodes"]] == expected, filter
    count = await graph('{ deadLetterCount(filter: {names: ["a", "b"]}) { value exact } }')
    assert count == {"value": 2, "exact": True}
    for arguments in ('after: "x"', "first: 0", 'filter: {text: ""}'):
        error = await graph.refused(f"{{ deadLetters({arguments}) {{ nodes {{ id }} }} }}")
        assert error.original_error.code == "VALIDATION"


async def test_a_replay_makes_a_new_job_once_per_key(graph: Graph, engine: Engine) -> None:
    id = await fail_for_good(engine, graph, await graph.enqueue(payload=[1]))
    replay = """mutation($id: ID!, $key: String) { replayDeadLetter(id: $id, idempotencyKey: $key) { __typename
      ... on Job { id state payload deduplication } ... on Error { code } } }"""
    first = await graph(replay, id=id, key="k")
    assert (first["state"], first["payload"], first["deduplication"]) == ("WAITING", [1], None)
    again = await graph(replay, id=id, key="k")
    assert (again["id"], again["deduplication"]) == (first["id"], "IDEMPOTENCY_KEY")
    other = await graph(replay, id=id)
    assert other["id"] != first["id"]
    assert (await graph(replay, id="dlq_none"))["code"] == "NOT_FOUND"
    assert (await graph(replay, id=id, key=""))["code"] == "VALIDATION"
    entry = await graph("query($id: ID!) { deadLetter(id: $id) { replayJobIds replayedAt } }", id=id)
    assert entry["replayJobIds"] == [first["id"], other["id"]] and entry["replayedAt"] is not None


async def test_replay_remove_and_purge_many(graph: Graph, engine: Engine) -> None:
    ids = [await fail_for_good(engine, graph, await graph.enqueue(name)) for name in ("a", "a", "b")]
    replay = """mutation($filter: DeadLetterFilter) { replayDeadLetters(filter: $filter) {
      ... on ReplayedDeadLetters { replayed errors { code } } } }"""
    assert await graph(replay, filter={"names": ["a"]}) == {"replayed": 2, "errors": []}
    assert await graph(replay) == {"replayed": 1, "errors": []}
    assert await graph(replay) == {"replayed": 0, "errors": []}
    remove = """mutation($ids: [ID!]!) { removeDeadLetters(ids: $ids) { ... on RemovedDeadLetters { removed }
      ... on ValidationError { field } } }"""
    assert await graph.as_tenant("t")(remove, ids=ids) == {"removed": 0}
    assert await graph(remove, ids=[ids[0], "dlq_none"]) == {"removed": 1}
    assert await graph(remove, ids=[]) == {"removed": 0}
    assert await graph(remove, ids=["x"] * 1001) == {"field": "ids"}
    purge = """mutation($ms: Int!) { purgeDeadLetters(olderThanMs: $ms) { ... on RemovedDeadLetters { removed }
      ... on ValidationError { field } } }"""
    assert await graph(purge, ms=3_600_000) == {"removed": 0}
    assert await graph(purge, ms=-1) == {"field": "olderThanMs"}
    # What is older than now is asked of this process's idea of now, which may be behind the time of the last of them.
    at = datetime.now(UTC) - timedelta(minutes=1)
    await engine._store.dead_letters.update_many({}, {"$set": {"failed_at": at}})
    assert await graph(purge, ms=0) == {"removed": 2}


async def test_errors_are_grouped_by_fault(graph: Graph, engine: Engine) -> None:
    jobs = [await graph.enqueue(name) for name in ("a", "b")]
    for job in jobs:
        await fail_for_good(engine, graph, job)
    query = """{ errorClusters { fingerprint count queues names sampleJobId sampleJob { id payload }
      error { type message } firstSeen lastSeen } }"""
    (cluster,) = await graph(query)
    assert (cluster["count"], cluster["names"], cluster["queues"]) == (2, ["a", "b"], ["default"])
    assert cluster["error"] == {"type": "Boom", "message": "no luck"}
    assert cluster["sampleJob"]["id"] == cluster["sampleJobId"] == jobs[1]
    assert cluster["firstSeen"] <= cluster["lastSeen"]
    same = await graph(
        "query($f: String!) { jobs(filter: {errorFingerprint: $f}) { totalCount { value } } }", f=cluster["fingerprint"]
    )
    assert same == {"totalCount": {"value": 2}}
    error = await graph.refused("{ errorClusters(limit: 0) { count } }")
    assert error.original_error.field == "limit"


BULK = """mutation($filter: JobFilter!, $dry: Boolean!) { %s(filter: $filter, dryRun: $dry) { __typename
  ... on BulkOperation { id verb matched exact changed failed done dryRun sampleIds actor }
  ... on ValidationError { field } } }"""


async def test_many_jobs_at_once(graph: Graph) -> None:
    ids = [await graph.enqueue("a", delayMs=100_000) for _ in range(5)]
    await graph.enqueue("b", delayMs=100_000)
    dry = await graph(BULK % "promoteJobs", filter={"names": ["a"]}, dry=True)
    assert (dry["id"], dry["matched"], dry["changed"], dry["done"], dry["dryRun"]) == (None, 5, 0, True, True)
    assert dry["sampleIds"] == ids
    assert (await graph("{ jobs(filter: {states: [WAITING]}) { totalCount { value } } }"))["totalCount"]["value"] == 0
    for verb, state in (("promoteJobs", "WAITING"), ("cancelJobs", "CANCELLED"), ("retryJobs", "WAITING")):
        done = await graph(BULK % verb, filter={"names": ["a"]}, dry=False)
        assert (done["matched"], done["changed"], done["failed"], done["done"]) == (5, 5, 0, True), verb
        assert done["actor"] == "tester"
        page = await graph("query($s: JobState!) { jobs(filter: {states: [$s]}) { nodes { id } } }", s=state)
        assert {node["id"] for node in page["nodes"]} >= set(ids)
        found = await graph("query($id: ID!) { bulkOperation(id: $id) { changed } }", id=done["id"])
        assert found == {"changed": 5}
    assert (await graph.as_tenant("t")(BULK % "removeJobs", filter={}, dry=False))["matched"] == 0
    assert (await graph(BULK % "removeJobs", filter={}, dry=False))["changed"] == 6
    assert await graph("{ jobs { nodes { id } } }") == {"nodes": []}
    assert (await graph(BULK % "removeJobs", filter={"text": ""}, dry=True))["field"] == "filter.text"
    assert await graph('{ bulkOperation(id: "bulk_none") { id } }') is None
