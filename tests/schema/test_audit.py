"""The audit trail through GraphQL: what was done, what was refused, live, and each tenant's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from switchtower.access import Scope
from switchtower.callers import Caller
from switchtower.engine import Engine
from tests.schema.conftest import Graph
from tests.waiting import until

AUDIT = """query($filter: AuditFilter, $first: Int, $after: String) {
  audit(filter: $filter, first: $first, after: $after) {
  nodes { id action source status actor queue jobId target details error scope { org } }
  pageInfo { hasNextPage endCursor } totalCount { value exact } } }"""


async def _trail(graph: Graph, count: int, **variables: Any) -> list[Any]:
    async def there() -> Any:
        nodes = (await graph(AUDIT, **variables))["nodes"]
        return nodes if len(nodes) >= count else None

    found = await until(lambda: there(), timeout_seconds=60)
    assert len(found) == count
    return list(reversed(found))


async def _counted(engine: Engine) -> None:
    async def there() -> bool:
        return (await engine.upkeep.fold_position())[0] is not None

    await until(lambda: there())


async def test_done_and_refused(maintained: Engine, graph: Graph) -> None:
    await _counted(maintained)
    id = await graph.enqueue(delayMs=3_600_000)
    await graph("mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=id)
    await graph("mutation($id: ID!) { promoteJob(id: $id) { __typename } }", id=id)
    await graph('mutation { pauseQueue(name: "a/b") { __typename } }')
    await graph('mutation { retryJob(id: "job_unknown") { __typename } }')
    await graph('mutation { deleteCron(id: "cron_unknown") { __typename } }')
    found = {row["action"]: row for row in await _trail(graph, 5)}
    done, refused = found["job.cancel"], found["job.promote"]
    assert done["status"] == "SUCCESS" and done["jobId"] == id and done["actor"] == "tester"
    assert done["details"]["before"] == {"state": "scheduled"} and done["error"] is None
    assert refused["status"] == "FAILED" and refused["jobId"] == id and "cancelled" in refused["error"]
    assert found["queue.pause"]["status"] == "FAILED" and found["queue.pause"]["queue"] == "a/b"
    assert found["job.retry"]["jobId"] == "job_unknown"
    assert found["cron.delete"]["target"] == "cron_unknown"
    failed = await graph(AUDIT, filter={"statuses": ["FAILED"], "text": "UNKNOWN"})
    assert failed["totalCount"] == {"value": 2, "exact": True}
    page = await graph(AUDIT, first=2)
    assert page["pageInfo"]["hasNextPage"]
    rest = await graph(AUDIT, first=100, after=page["pageInfo"]["endCursor"])
    assert len(rest["nodes"]) == 3


async def test_live(maintained: Engine, graph: Graph) -> None:
    await _counted(maintained)
    live = maintained.hub()._live
    others = len(live)
    stream = graph.stream("subscription { audit { ... on AuditEvent { cursor entry { action jobId } } } }")
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: len(live) > others)
    id = await graph.enqueue(delayMs=3_600_000)
    await graph("mutation($id: ID!) { removeJob(id: $id) { __typename } }", id=id)
    event = await asyncio.wait_for(first, 60)
    assert event["entry"] == {"action": "job.remove", "jobId": id}
    await stream.aclose()
    await graph('mutation { pauseQueue(name: "q") { __typename } }')
    again = graph.stream(
        "subscription($after: String) { audit(after: $after) { ... on AuditEvent { entry { action } } } }",
        after=event["cursor"],
    )
    assert (await asyncio.wait_for(anext(again), 60))["entry"] == {"action": "queue.pause"}
    await again.aclose()


async def test_tenants(maintained: Engine, graph: Graph) -> None:
    await _counted(maintained)
    acme, other = graph.as_tenant("acme"), graph.as_tenant("other")
    id = await acme.enqueue(delayMs=3_600_000)
    await other("mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=id)
    await acme("mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=id)
    (mine,) = await _trail(acme, 1)
    (refused,) = await _trail(other, 1)
    assert (mine["status"], mine["scope"]) == ("SUCCESS", {"org": "acme"})
    assert (refused["status"], refused["scope"]) == ("FAILED", {"org": "other"})
    assert len(await _trail(graph, 2)) == 2


async def test_bounds(graph: Graph) -> None:
    for variables in [
        {"filter": {"text": "x" * 257}},
        {"filter": {"text": "a\0b"}},
        {"filter": {"actions": ["a"] * 101}},
        {"filter": {"after": "2026-02-01T00:00:00Z", "before": "2026-01-01T00:00:00Z"}},
        {"filter": {"after": "9999-12-31T23:59:59Z", "before": "9999-12-31T23:59:59Z", "queue": "\0"}},
        {"first": 0},
        {"first": 501},
        {"after": "nonsense"},
        {"after": ""},
    ]:
        error = await graph.refused(AUDIT, **variables)
        assert error.extensions is None or error.extensions.get("code") != "INTERNAL"
        assert "nternal" not in error.message


async def test_far_times(graph: Graph) -> None:
    for at in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]:
        assert (await graph(AUDIT, filter={"after": at}))["nodes"] == []
        assert (await graph(AUDIT, filter={"before": at}))["nodes"] == []


async def test_what_a_key_may_not_do_is_written_down(engine: Engine, graph: Graph) -> None:
    reader = Graph(
        graph.schema, replace(graph.context, caller=Caller("reader", scopes=frozenset({Scope.READ})), memo={})
    )
    answer = await reader('mutation { pauseQueue(name: "q") { ... on Error { code } } }')
    assert answer == {"code": "FORBIDDEN"}
    (row,) = await _trail(graph, 1)
    assert (row["action"], row["actor"], row["queue"], row["status"]) == ("queue.pause", "reader", "q", "FAILED")
