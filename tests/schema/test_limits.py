"""Limits and groups over GraphQL."""

from __future__ import annotations

from switchtower.engine import Engine
from tests.schema.conftest import Graph, worker

SET = """mutation($name: String! = "q", $input: QueueLimitsInput!) { setQueueLimits(name: $name, input: $input) {
  __typename ... on Queue { name limits { concurrency rate { starts perMs }
    names { name concurrency rate { starts perMs } } perGroup { concurrency rate { starts } }
    groups { name concurrency rate { starts } } } }
  ... on ValidationError { field } ... on Error { code } } }"""
CLAIM = """mutation($limit: Int!) { claimJobs(input: {workerId: "w", queues: ["q"], limit: $limit}) {
  ... on ClaimedJobs { jobs { job { id } } } ... on Error { code message } } }"""
WHY = """query($id: ID!) { job(id: $id) { whyNotRunning { kind message until mutation } } }"""


async def test_limits_are_set_as_a_whole_and_shown(graph: Graph) -> None:
    given = {
        "concurrency": 5,
        "rate": {"starts": 10, "perMs": 1000},
        "names": [{"name": "send", "concurrency": 2}],
        "perGroup": {"concurrency": 1},
        "groups": [{"name": "vip", "rate": {"starts": 3, "perMs": 100}}],
    }
    answer = await graph(SET, input=given)
    assert answer["limits"] == {
        "concurrency": 5,
        "rate": {"starts": 10, "perMs": 1000},
        "names": [{"name": "send", "concurrency": 2, "rate": None}],
        "perGroup": {"concurrency": 1, "rate": None},
        "groups": [{"name": "vip", "concurrency": None, "rate": {"starts": 3}}],
    }
    assert (await graph('{ queue(name: "q") { limits { concurrency } } }'))["limits"] == {"concurrency": 5}
    cleared = await graph(SET, input={})
    assert cleared["limits"]["concurrency"] is None and cleared["limits"]["names"] == []


async def test_limits_that_make_no_sense_name_their_field(graph: Graph) -> None:
    for given, field in [
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 2_000_000}, "concurrency"),
        ({"rate": {"starts": 1, "perMs": 1}}, "rate.perMs"),
        ({"names": [{"name": ""}]}, "names.name"),
        ({"names": [{"name": "a", "concurrency": 1}, {"name": "a"}]}, "names"),
        ({"groups": [{"name": "a", "rate": {"starts": -1, "perMs": 100}}]}, "groups.rate.starts"),
    ]:
        answer = await graph(SET, input=given)
        assert (answer["__typename"], answer["field"]) == ("ValidationError", field)
        assert (await graph(SET, name="a/b", input={}))["field"] == "name"


async def test_workers_over_graphql_obey_limits_and_jobs_say_what_holds_them(graph: Graph, engine: Engine) -> None:
    await worker(engine, queues=["q"], names=[])
    ids = [await graph.enqueue(queue="q", group="g") for _ in range(4)]
    await graph(SET, input={"concurrency": 2, "perGroup": {"rate": {"starts": 3, "perMs": 60_000}}})
    won = [one["job"]["id"] for _ in range(3) for one in (await graph(CLAIM, limit=4))["jobs"]]
    assert won == ids[:2]
    (cause,) = (await graph(WHY, id=ids[3]))["whyNotRunning"]
    assert cause == {
        "kind": "CONCURRENCY_LIMIT",
        "message": "As many jobs of queue 'q' run as may at once: 2.",
        "until": None,
        "mutation": "setQueueLimits",
    }
    await graph(SET, input={"perGroup": {"rate": {"starts": 3, "perMs": 60_000}}})
    assert len((await graph(CLAIM, limit=4))["jobs"]) == 1
    (cause,) = (await graph(WHY, id=ids[3]))["whyNotRunning"]
    assert (cause["kind"], cause["mutation"]) == ("RATE_LIMIT", "setQueueLimits")
    assert "group 'g' in queue 'q'" in cause["message"] and cause["until"] is not None


async def test_group_is_paused_shown_and_resumed(graph: Graph, engine: Engine) -> None:
    await worker(engine, queues=["q"], names=[])
    ids = {group: await graph.enqueue(queue="q", group=group) for group in ("a", "b")}
    change = """mutation { %s { ... on Queue { paused pausedGroups groups { name waiting active paused
      limit { concurrency } } } ... on ValidationError { field } } }"""
    answer = await graph(change % 'pauseQueue(name: "q", group: "a")')
    assert (answer["paused"], answer["pausedGroups"]) == (False, ["a"])
    row = {"waiting": 1, "active": 0, "limit": {"concurrency": None}}
    assert answer["groups"] == [{"name": "a", "paused": True, **row}, {"name": "b", "paused": False, **row}]
    assert [one["job"]["id"] for one in (await graph(CLAIM, limit=5))["jobs"]] == [ids["b"]]
    (cause,) = (await graph(WHY, id=ids["a"]))["whyNotRunning"]
    assert (cause["kind"], cause["mutation"]) == ("GROUP_PAUSED", "resumeQueue")
    assert (await graph(change % 'resumeQueue(name: "q", group: "a")'))["pausedGroups"] == []
    assert [one["job"]["id"] for one in (await graph(CLAIM, limit=5))["jobs"]] == [ids["a"]]
    assert (await graph(change % 'pauseQueue(name: "q", jobName: "n", group: "a")'))["field"] == "group"


async def test_tenant_limits_hold_for_its_jobs_and_say_so(graph: Graph, engine: Engine) -> None:
    await worker(engine, queues=["q"], names=[])
    acme = graph.as_tenant("acme")
    ids = [await acme.enqueue(queue="q") for _ in range(3)]
    limits = """mutation($jobs: JobLimitInput) { setTenantLimits(input: {org: "acme", jobs: $jobs}) {
      ... on TenantLimits { jobs { concurrency rate { starts perMs } } } ... on ValidationError { field } } }"""
    assert (await graph(limits, jobs={"concurrency": -1}))["field"] == "jobs.concurrency"
    assert (await graph(limits, jobs={"concurrency": 1}))["jobs"] == {"concurrency": 1, "rate": None}
    assert len((await graph(CLAIM, limit=3))["jobs"]) == 1
    assert (await graph(CLAIM, limit=3))["jobs"] == []
    (cause,) = (await acme(WHY, id=ids[2]))["whyNotRunning"]
    assert (cause["kind"], cause["mutation"]) == ("CONCURRENCY_LIMIT", "setTenantLimits")


async def test_tenant_sets_its_own_limits_and_pauses_only(graph: Graph, engine: Engine) -> None:
    await worker(engine, queues=["q"], names=[])
    acme = graph.as_tenant("acme")
    mine, other = await acme.enqueue(queue="q"), await graph.as_tenant("bolt").enqueue(queue="q")
    await acme(SET, input={"concurrency": 0})
    assert (await graph('{ queue(name: "q") { limits { concurrency } } }'))["limits"]["concurrency"] is None
    assert [one["job"]["id"] for one in (await graph(CLAIM, limit=5))["jobs"]] == [other]
    await acme(SET, input={})
    await acme('mutation { pauseQueue(name: "q") { __typename } }')
    assert (await graph(CLAIM, limit=5))["jobs"] == []
    (cause,) = (await graph(WHY, id=mine))["whyNotRunning"]
    assert cause["kind"] == "QUEUE_PAUSED" and "by tenant 'acme'" in cause["message"]
