"""Jobs over GraphQL: enqueue, read, change."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from switchtower.clock import DatabaseClock
from switchtower.engine import Engine
from tests.schema.conftest import Graph, worker

ENQUEUE = """mutation($input: EnqueueJobInput!) { enqueueJob(input: $input) {
  __typename
  ... on Job { id name queue state priority payload tags group customId uniqueKey maxAttempts timeoutMs runAt
    backoff { kind baseMs capMs jitter waitsMs } deduplication scope { org app } }
  ... on ValidationError { code message field tooLarge }
  ... on Error { code message } } }"""


async def test_enqueue_takes_every_option(graph: Graph) -> None:
    job = await graph(
        ENQUEUE,
        input={
            "name": "send",
            "payload": {"to": "a@b.c", "n": [1, 2.5, None, True]},
            "queue": "mail",
            "priority": -3,
            "maxAttempts": 7,
            "backoff": {"kind": "TABLE", "waitsMs": [10, 20]},
            "timeoutMs": 30_000,
            "ttlMs": 60_000,
            "group": "g",
            "uniqueKey": "u",
            "uniqueForMs": 1_000,
            "tags": ["x", "y"],
            "jobId": "mine-1",
            "lifo": True,
        },
    )
    assert job["__typename"] == "Job"
    assert job["payload"] == {"to": "a@b.c", "n": [1, 2.5, None, True]}
    assert (job["queue"], job["priority"], job["state"]) == ("mail", -3, "WAITING")
    assert job["backoff"] == {"kind": "TABLE", "baseMs": 1000, "capMs": 60000, "jitter": 1.0, "waitsMs": [10, 20]}
    assert (job["customId"], job["uniqueKey"], job["maxAttempts"]) == ("mine-1", "u", 7)
    assert job["tags"] == ["x", "y"] and job["group"] == "g" and job["deduplication"] is None
    assert job["scope"] == {"org": None, "app": None}
    assert job["runAt"].endswith("Z") and len(job["runAt"]) == len("2026-01-31T12:00:00.000Z")


async def test_a_due_time_in_the_future_schedules(graph: Graph) -> None:
    at = datetime.now(UTC) + timedelta(days=60)
    job = await graph(ENQUEUE, input={"name": "send", "runAt": at.isoformat()})
    assert job["state"] == "SCHEDULED"
    assert abs(datetime.fromisoformat(job["runAt"]) - at) < timedelta(milliseconds=2)


async def test_an_equal_enqueue_says_which_key_made_it_the_same_job(graph: Graph) -> None:
    for option, reason in (("jobId", "JOB_ID"), ("idempotencyKey", "IDEMPOTENCY_KEY"), ("uniqueKey", "UNIQUE_KEY")):
        first = await graph(ENQUEUE, input={"name": "send", option: "k"})
        again = await graph(ENQUEUE, input={"name": "send", option: "k"})
        assert first["deduplication"] is None
        assert (again["id"], again["deduplication"]) == (first["id"], reason)


async def test_deduplication_says_who_won_and_what_it_will_do(graph: Graph) -> None:
    asked = """mutation($input: EnqueueJobInput!) { enqueueJob(input: $input) { ... on Job {
        id payload uniqueKey deduplication deduplicationOptions { mode ttlMs replace extend } } } }"""
    for options, reason, payload in (
        ({"key": "a"}, "SIMPLE", 1),
        ({"mode": "THROTTLE", "key": "b", "ttlMs": 60_000, "extend": True}, "THROTTLE", 1),
        ({"mode": "DEBOUNCE", "key": "c"}, "REPLACED", 2),
        ({"key": "d", "replace": True}, "REPLACED", 2),
    ):
        input = {"name": "send", "delayMs": 100_000, "deduplication": options}
        first = await graph(asked, input={**input, "payload": 1})
        again = await graph(asked, input={**input, "payload": 2})
        assert (first["deduplication"], again["deduplication"]) == (None, reason)
        assert (again["id"], again["payload"], again["uniqueKey"]) == (first["id"], payload, options["key"])
        shown = {"mode": "SIMPLE", "ttlMs": None, "replace": False, "extend": False, **options}
        assert again["deduplicationOptions"] == {name: shown[name] for name in ("mode", "ttlMs", "replace", "extend")}
    plain = await graph(asked, input={"name": "send"})
    assert plain["deduplicationOptions"] is None


async def test_what_is_refused_is_a_validation_error_that_names_its_field(graph: Graph) -> None:
    for field, input in (
        ("name", {"name": ""}),
        ("queue", {"name": "n", "queue": "a/b"}),
        ("runAt", {"name": "n", "delayMs": 1, "runAt": "2030-01-01T00:00:00Z"}),
        ("maxAttempts", {"name": "n", "maxAttempts": 0}),
        ("backoff.jitter", {"name": "n", "backoff": {"jitter": 2.0}}),
        ("backoff.waitsMs", {"name": "n", "backoff": {"kind": "TABLE"}}),
        ("payload", {"name": "n", "payload": 2**63}),
        ("payload", {"name": "n", "payload": {"a\0b": 1}}),
        ("uniqueForMs", {"name": "n", "uniqueForMs": 5}),
        ("deduplication.ttlMs", {"name": "n", "deduplication": {"mode": "THROTTLE"}}),
        ("deduplication.mode", {"name": "n", "deduplication": {"mode": "DEBOUNCE", "ttlMs": 5}}),
    ):
        answer = await graph(ENQUEUE, input=input)
        assert (answer["__typename"], answer.get("field")) == ("ValidationError", field), answer
        assert answer["code"] == "VALIDATION" and field in answer["message"]
    big = await graph(ENQUEUE, input={"name": "n", "payload": "x" * 1_100_000})
    assert big["tooLarge"] is True


async def test_a_parent_that_does_not_exist_is_not_found(graph: Graph) -> None:
    answer = await graph(ENQUEUE, input={"name": "n", "parentId": "job_nope"})
    assert (answer["__typename"], answer["code"]) == ("NotFound", "NOT_FOUND")


async def test_many_enqueues_have_an_answer_each(graph: Graph) -> None:
    answer = await graph(
        """mutation($inputs: [EnqueueJobInput!]!) { enqueueJobs(inputs: $inputs) { items {
             __typename ... on Job { name deduplication } ... on ValidationError { field } } } }""",
        inputs=[
            {"name": "a", "jobId": "same"},
            {"name": ""},
            {"name": "c", "backoff": {"baseMs": -1}},
            {"name": "d", "jobId": "same"},
        ],
    )
    assert answer["items"] == [
        {"__typename": "Job", "name": "a", "deduplication": None},
        {"__typename": "ValidationError", "field": "name"},
        {"__typename": "ValidationError", "field": "backoff.baseMs"},
        {"__typename": "Job", "name": "a", "deduplication": "JOB_ID"},
    ]
    empty = await graph("mutation { enqueueJobs(inputs: []) { items { __typename } } }")
    assert empty == {"items": []}


async def test_a_job_is_found_by_our_id_and_by_its_own(graph: Graph) -> None:
    id = await graph.enqueue(jobId="mine")
    for key in (id, "mine"):
        assert (await graph("query($id: ID!) { job(id: $id) { id customId } }", id=key))["id"] == id
    assert await graph('{ job(id: "nope") { id } }') is None
    assert await graph('{ job(id: "") { id } }') is None


async def test_node_finds_jobs_workers_and_nothing(graph: Graph, engine: Engine) -> None:
    id = await graph.enqueue(payload=[1])
    await worker(engine, "any text at all")
    query = "query($id: ID!) { node(id: $id) { __typename id ... on Job { payload } ... on Worker { state } } }"
    assert await graph(query, id=id) == {"__typename": "Job", "id": id, "payload": [1]}
    assert await graph(query, id="any text at all") == {
        "__typename": "Worker",
        "id": "any text at all",
        "state": "LIVE",
    }
    for unknown in ("job_01h455vb4pex5vsknk084sn02q", "dlq_x", "wkr_x", "", "x" * 5000):
        assert await graph(query, id=unknown) is None


async def test_pages_walk_the_whole_list_in_both_directions(graph: Graph) -> None:
    ids = [await graph.enqueue(f"n{i}") for i in range(7)]
    query = """query($first: Int, $after: String, $last: Int, $before: String) {
      jobs(orderBy: CREATED_ASC, first: $first, after: $after, last: $last, before: $before) {
        edges { cursor node { id } } nodes { id } totalCount { value exact }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
    seen: list[str] = []
    after = None
    while True:
        page = await graph(query, first=3, after=after)
        seen += [edge["node"]["id"] for edge in page["edges"]]
        assert [edge["node"] for edge in page["edges"]] == page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == ids
    last = await graph(query, last=2)
    assert [node["id"] for node in last["nodes"]] == ids[-2:]
    assert last["pageInfo"]["hasPreviousPage"] and not last["pageInfo"]["hasNextPage"]
    before = await graph(query, last=2, before=last["pageInfo"]["startCursor"])
    assert [node["id"] for node in before["nodes"]] == ids[-4:-2]


async def test_bounds_of_a_page(graph: Graph) -> None:
    for arguments in ("first: 0", "first: 501", "first: -1", "last: 0", "first: 1, last: 1", 'after: "nonsense"'):
        error = await graph.refused(f"{{ jobs({arguments}) {{ nodes {{ id }} }} }}")
        assert error.original_error.code == "VALIDATION", error
    assert (await graph("{ jobs { nodes { id } } }")) == {"nodes": []}


async def test_a_filter_narrows(graph: Graph) -> None:
    a = await graph.enqueue("a", queue="q1", tags=["t"], payload={"customer": {"id": 7}})
    b = await graph.enqueue("b", queue="q2", group="g", delayMs=100_000)
    query = "query($filter: JobFilter) { jobs(filter: $filter) { nodes { id } totalCount { value } } }"
    for filter, expected in (
        ({"queues": ["q1"]}, [a]),
        ({"names": ["b"]}, [b]),
        ({"states": ["SCHEDULED"]}, [b]),
        ({"tags": ["t"]}, [a]),
        ({"group": "g"}, [b]),
        ({"ids": [a, b]}, [b, a]),
        ({"payload": [{"path": "customer.id", "value": 7}]}, [a]),
        ({"payload": [{"path": "customer.id", "value": {"$gt": 1}}]}, []),
        ({"createdAfter": "2999-01-01T00:00:00Z"}, []),
        ({"states": []}, []),
        (None, [b, a]),
    ):
        page = await graph(query, filter=filter)
        assert [node["id"] for node in page["nodes"]] == expected, filter
    error = await graph.refused(query, filter={"text": "x" * 257})
    assert error.original_error.field == "filter.text"
    error = await graph.refused(query, filter={"ids": ["x"] * 1001})
    assert error.original_error.field == "filter.ids"


async def test_text_is_found_literally(graph: Graph) -> None:
    a = await graph.enqueue("a", payload={"mail": "X.Y@example.org"})
    await graph.enqueue("b", payload={"mail": "xzy@example.org"})
    page = await graph('{ jobs(filter: {text: "x.y@EXAMPLE"}) { nodes { id } } }')
    assert page == {"nodes": [{"id": a}]}


CHANGE = """mutation($id: ID!) { %s(id: $id) { __typename ... on Job { id state cancelRequestedAt priority }
  ... on InvalidTransition { verb currentState allowed message } ... on Error { code } } }"""


async def test_cancel_retry_promote_remove(graph: Graph) -> None:
    id = await graph.enqueue(delayMs=100_000)
    assert (await graph(CHANGE % "promoteJob", id=id))["state"] == "WAITING"
    refused = await graph(CHANGE % "promoteJob", id=id)
    assert (refused["__typename"], refused["code"]) == ("InvalidTransition", "INVALID_TRANSITION")
    assert (refused["verb"], refused["currentState"]) == ("promote", "WAITING")
    assert refused["allowed"] == ["SCHEDULED", "RETRYING"]
    assert (await graph(CHANGE % "cancelJob", id=id))["state"] == "CANCELLED"
    assert (await graph(CHANGE % "cancelJob", id=id))["__typename"] == "InvalidTransition"
    assert (await graph(CHANGE % "retryJob", id=id))["state"] == "WAITING"
    assert (await graph(CHANGE % "removeJob", id=id))["__typename"] == "Job"
    for verb in ("cancelJob", "retryJob", "promoteJob", "removeJob"):
        assert (await graph(CHANGE % verb, id=id))["__typename"] == "NotFound"


async def test_a_history_begins_with_its_enqueue_also_where_that_is_dated_ahead(
    graph: Graph, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, now = DatabaseClock(), time.monotonic()
    ahead.observe(datetime.now(UTC) + timedelta(seconds=5), sent=now, received=now)
    monkeypatch.setattr(engine._store.database, "clock", ahead)
    id = await graph.enqueue()
    for verb in ("cancelJob", "retryJob"):
        await graph(CHANGE % verb, id=id)
    timeline = (await graph("query($id: ID!) { job(id: $id) { timeline { type } } }", id=id))["timeline"]
    assert [entry["type"] for entry in timeline] == ["enqueue", "cancel", "retry"]


async def test_retry_is_a_conflict_while_another_holds_the_unique_key(graph: Graph) -> None:
    id = await graph.enqueue(uniqueKey="u")
    await graph(CHANGE % "cancelJob", id=id)
    await graph.enqueue(uniqueKey="u")
    assert (await graph(CHANGE % "retryJob", id=id))["code"] == "CONFLICT"


async def test_update_changes_only_what_it_names(graph: Graph) -> None:
    id = await graph.enqueue(payload={"a": 1}, tags=["t"])
    update = """mutation($id: ID!, $input: UpdateJobInput!) { updateJob(id: $id, input: $input) {
      __typename ... on Job { payload priority tags } ... on ValidationError { field } } }"""
    assert await graph(update, id=id, input={"priority": 9}) == {
        "__typename": "Job",
        "payload": {"a": 1},
        "priority": 9,
        "tags": ["t"],
    }
    assert (await graph(update, id=id, input={"payload": None}))["payload"] is None
    assert (await graph(update, id=id, input={}))["__typename"] == "ValidationError"
    assert (await graph(update, id=id, input={"maxAttempts": 0}))["field"] == "maxAttempts"


async def test_a_due_time_is_moved_where_the_job_waits_for_it(graph: Graph) -> None:
    update = """mutation($id: ID!, $at: DateTime!) { updateJob(id: $id, input: { runAt: $at }) {
      __typename ... on Job { state runAt } ... on InvalidTransition { currentState allowed }
      ... on ValidationError { field } } }"""
    id, waiting = await graph.enqueue(delayMs=100_000), await graph.enqueue()
    moved = await graph(update, id=id, at="2031-03-01T06:30:00+01:00")
    assert (moved["state"], datetime.fromisoformat(moved["runAt"])) == (
        "SCHEDULED",
        datetime(2031, 3, 1, 5, 30, tzinfo=UTC),
    )
    assert (await graph(update, id=id, at="2020-01-01T00:00:00Z"))["state"] == "SCHEDULED", "the next look stages it"
    refused = await graph(update, id=waiting, at="2031-03-01T06:30:00Z")
    assert refused == {
        "__typename": "InvalidTransition",
        "currentState": "WAITING",
        "allowed": ["SCHEDULED", "RETRYING"],
    }
    assert (await graph(update, id="job_x", at="2031-03-01T06:30:00Z"))["__typename"] == "NotFound"


async def test_parents_and_children_see_each_other(graph: Graph) -> None:
    parent = await graph.enqueue("report", delayMs=100_000)
    children = [await graph.enqueue(f"part{i}", parentId=parent, payload=i) for i in range(3)]
    query = """query($id: ID!, $first: Int, $after: String) { job(id: $id) { state pendingChildren parent { id }
      children(first: $first, after: $after) { nodes { id payload parent { id state } }
        totalCount { value } pageInfo { hasNextPage endCursor } } } }"""
    job = await graph(query, id=parent, first=2)
    assert (job["state"], job["pendingChildren"], job["parent"]) == ("BLOCKED", 3, None)
    found = job["children"]
    assert [node["id"] for node in found["nodes"]] == children[:2]
    assert [node["payload"] for node in found["nodes"]] == [0, 1]
    assert all(node["parent"] == {"id": parent, "state": "BLOCKED"} for node in found["nodes"])
    assert found["totalCount"] == {"value": 3} and found["pageInfo"]["hasNextPage"]
    rest = (await graph(query, id=parent, first=2, after=found["pageInfo"]["endCursor"]))["children"]
    assert [node["id"] for node in rest["nodes"]] == children[2:] and not rest["pageInfo"]["hasNextPage"]


async def test_why_not_running(graph: Graph, engine: Engine) -> None:
    why = "query($id: ID!) { job(id: $id) { whyNotRunning { kind message until mutation } } }"
    id = await graph.enqueue("send", delayMs=3_600_000)
    kinds = {cause["kind"]: cause for cause in (await graph(why, id=id))["whyNotRunning"]}
    assert kinds.keys() == {"DELAYED", "NO_WORKER"}
    assert kinds["DELAYED"]["mutation"] == "promoteJob" and kinds["DELAYED"]["until"].endswith("Z")
    await worker(engine, names=["sned"])
    await graph('mutation { pauseQueue(name: "default") { __typename } }')
    kinds = {cause["kind"]: cause for cause in (await graph(why, id=id))["whyNotRunning"]}
    assert kinds.keys() == {"DELAYED", "QUEUE_PAUSED", "NO_HANDLER"}
    assert "sned" in kinds["NO_HANDLER"]["message"]


async def test_another_tenants_job_does_not_exist(graph: Graph) -> None:
    ours, theirs = graph.as_tenant("us"), graph.as_tenant("them")
    id = await ours.enqueue(jobId="mine")
    assert (await ours("query($id: ID!) { job(id: $id) { scope { org } } }", id=id)) == {"scope": {"org": "us"}}
    for key in (id, "mine"):
        assert await theirs("query($id: ID!) { job(id: $id) { id } }", id=key) is None
        assert await theirs("query($id: ID!) { node(id: $id) { id } }", id=key) is None
        for verb in ("cancelJob", "retryJob", "promoteJob", "removeJob"):
            assert (await theirs(CHANGE % verb, id=key))["__typename"] == "NotFound"
    assert await theirs("{ jobs { nodes { id } totalCount { value } } }") == {"nodes": [], "totalCount": {"value": 0}}
    assert (await graph("query($id: ID!) { job(id: $id) { id } }", id=id)) == {"id": id}
