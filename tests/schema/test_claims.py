"""Working over GraphQL: claim, extend, report."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from switchtower.engine import Engine
from tests.schema.conftest import Graph

CLAIM = """mutation($input: ClaimJobsInput!) { claimJobs(input: $input) { __typename
  ... on ClaimedJobs { workerId leaseExpiresAt jobs { leaseToken attemptId attempt fence cancelRequested
    job { id name state payload attempt startedAt leaseExpiresAt worker { id state kind hostname } } } }
  ... on ValidationError { field } ... on Error { code message } } }"""
COMPLETE = """mutation($id: ID!, $token: String!, $result: JSON) {
  completeJob(id: $id, leaseToken: $token, result: $result) { __typename
    ... on Job { state result attempts { id number outcome workerId error { type } } } ... on Error { code } } }"""
FAIL = """mutation($id: ID!, $token: String!, $error: JobErrorInput!) {
  failJob(id: $id, leaseToken: $token, error: $error) { __typename
    ... on Job { state runAt updatedAt attempt error { kind type message stack fingerprint } }
    ... on ValidationError { field } ... on Error { code } } }"""


async def claim(graph: Graph, **input: Any) -> Any:
    return await graph(CLAIM, input={"queues": ["default"], **input})


async def claim_one(graph: Graph, **input: Any) -> tuple[str, str, Any]:
    """The id and token of the only job of a claim, and the whole of it."""
    (leased,) = (await claim(graph, **input))["jobs"]
    return leased["job"]["id"], leased["leaseToken"], leased


async def test_a_worker_is_registered_by_its_claim_and_is_given_an_id(graph: Graph) -> None:
    id = await graph.enqueue(payload={"n": 1})
    answer = await claim(graph, limit=5, hostname="box", names=["send"], leaseMs=60_000)
    (leased,) = answer["jobs"]
    job = leased["job"]
    assert answer["workerId"].startswith("wkr_")
    assert (job["id"], job["state"], job["payload"], job["attempt"]) == (id, "ACTIVE", {"n": 1}, 1)
    assert job["worker"] == {"id": answer["workerId"], "state": "LIVE", "kind": "graphql", "hostname": "box"}
    assert job["leaseExpiresAt"] == answer["leaseExpiresAt"]
    assert job["startedAt"] is not None, "the start is recorded with the claim"
    assert leased["attempt"] == 1 and leased["fence"] > 0 and leased["cancelRequested"] is False
    again = await claim(graph, workerId=answer["workerId"], names=["send"], leaseMs=60_000)
    assert again["workerId"] == answer["workerId"] and again["jobs"] == []
    assert datetime.fromisoformat(again["leaseExpiresAt"]) > datetime.fromisoformat(answer["leaseExpiresAt"])


async def test_a_claim_takes_only_its_names_and_at_most_its_limit(graph: Graph) -> None:
    for i in range(5):
        await graph.enqueue("a" if i % 2 else "b")
    first = await claim(graph, workerId="w", names=["a"], limit=1)
    rest = await claim(graph, workerId="w", names=["a"], limit=10)
    names = [leased["job"]["name"] for answer in (first, rest) for leased in answer["jobs"]]
    assert len(first["jobs"]) == 1 and names == ["a", "a"]


async def test_what_a_claim_refuses(graph: Graph) -> None:
    for field, input in (
        ("queues", {"queues": []}),
        ("queues", {"queues": [""]}),
        ("queues", {"queues": ["q"] * 101}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 501}),
        ("leaseMs", {"leaseMs": 10}),
        ("workerId", {"workerId": ""}),
        ("workerId", {"workerId": "x" * 300}),
    ):
        answer = await claim(graph, **input)
        assert (answer["__typename"], answer.get("field")) == ("ValidationError", field), (input, answer)
    assert (await claim(graph.as_tenant("t"), workerId=(await claim(graph))["workerId"]))["code"] == "NOT_FOUND"


async def test_a_completion_is_recorded_once_and_repeats_itself(graph: Graph) -> None:
    await graph.enqueue()
    id, token, leased = await claim_one(graph, workerId="w")
    done = await graph(COMPLETE, id=id, token=token, result={"ok": True})
    assert (done["state"], done["result"]) == ("COMPLETED", {"ok": True})
    (attempt,) = done["attempts"]
    assert attempt == {
        "id": leased["attemptId"],
        "number": 1,
        "outcome": "completed",
        "workerId": "w",
        "error": None,
    }
    assert await graph(COMPLETE, id=id, token=token, result={"ok": "again"}) == done
    stranger = await graph(COMPLETE, id=id, token="another", result=1)
    assert (stranger["__typename"], stranger["code"]) == ("LeaseLost", "LEASE_LOST")


async def test_a_failure_waits_as_the_job_or_the_worker_says(graph: Graph) -> None:
    backoff = {"kind": "FIXED", "baseMs": 3_600_000, "jitter": 0.0}
    await graph.enqueue(backoff=backoff, maxAttempts=2)
    id, token, _ = await claim_one(graph, workerId="w")
    failed = await graph(FAIL, id=id, token=token, error={"type": "Boom", "message": "no 17", "stack": "at x"})
    assert (failed["state"], failed["attempt"]) == ("RETRYING", 1)
    wait = datetime.fromisoformat(failed["runAt"]) - datetime.fromisoformat(failed["updatedAt"])
    assert round(wait.total_seconds()) == 3600
    error = failed["error"]
    assert (error["kind"], error["type"], error["message"], error["stack"]) == ("EXCEPTION", "Boom", "no 17", "at x")
    assert len(error["fingerprint"]) == 16
    repeated = await graph(FAIL, id=id, token=token, error={"type": "Boom", "message": "no 17"})
    assert (repeated["state"], repeated["attempt"]) == ("RETRYING", 1)

    await graph.enqueue(backoff=backoff)
    id, token, _ = await claim_one(graph, workerId="w")
    failed = await graph(FAIL, id=id, token=token, error={"message": "busy", "retryAfterMs": 60_000})
    wait = datetime.fromisoformat(failed["runAt"]) - datetime.fromisoformat(failed["updatedAt"])
    assert round(wait.total_seconds()) == 60


async def test_a_failure_that_no_retry_can_help_is_final(graph: Graph) -> None:
    await graph.enqueue()
    id, token, _ = await claim_one(graph, workerId="w")
    contradiction = await graph(FAIL, id=id, token=token, error={"message": "x", "retryable": False, "retryAfterMs": 5})
    assert contradiction["field"] == "error.retryAfterMs"
    failed = await graph(FAIL, id=id, token=token, error={"message": "x", "retryable": False})
    assert (failed["state"], failed["error"]["kind"]) == ("FAILED", "FATAL")


async def test_progress_and_logs(graph: Graph) -> None:
    await graph.enqueue()
    id, token, _ = await claim_one(graph, workerId="w")
    report = """mutation($id: ID!, $token: String!, $value: JSON) {
      reportProgress(id: $id, leaseToken: $token, progress: $value) { __typename
        ... on Job { progress cancelRequestedAt } ... on ValidationError { field } ... on Error { code } } }"""
    assert (await graph(report, id=id, token=token, value={"percent": 50}))["progress"] == {"percent": 50}
    assert (await graph(report, id=id, token="x", value=1))["code"] == "LEASE_LOST"
    assert (await graph(report, id=id, token=token, value="x" * 70_000))["field"] == "progress"
    log = """mutation($id: ID!, $token: String!, $line: String!, $level: String! = "info") {
      appendLog(id: $id, leaseToken: $token, line: $line, level: $level) { __typename
        ... on Job { logs { line level attempt } } ... on ValidationError { field } ... on Error { code } } }"""
    await graph(log, id=id, token=token, line="one")
    logged = await graph(log, id=id, token=token, line="two", level="error")
    assert logged["logs"] == [
        {"line": "one", "level": "info", "attempt": 1},
        {"line": "two", "level": "error", "attempt": 1},
    ]
    assert (await graph(log, id=id, token="x", line="three"))["code"] == "LEASE_LOST"
    assert (await graph(log, id=id, token=token, line="x", level="x" * 17))["field"] == "level"


async def test_a_released_job_is_not_charged(graph: Graph) -> None:
    await graph.enqueue()
    id, token, _ = await claim_one(graph, workerId="w")
    release = """mutation($id: ID!, $token: String!) { releaseJob(id: $id, leaseToken: $token) { __typename
      ... on Job { state attempt } ... on Error { code } } }"""
    assert await graph(release, id=id, token=token) == {"__typename": "Job", "state": "WAITING", "attempt": 0}
    assert (await graph(COMPLETE, id=id, token=token))["code"] == "LEASE_LOST"


EXTEND = """mutation($input: ExtendLeasesInput!) { extendLeases(input: $input) { __typename
  ... on ExtendedLeases { workerId leaseExpiresAt cancelRequested } ... on Error { code } } }"""


async def test_extending_tells_what_to_stop(graph: Graph) -> None:
    await graph.enqueue()
    id, token, _ = await claim_one(graph, workerId="w", leaseMs=60_000)
    before = await graph(EXTEND, input={"workerId": "w"})
    assert before["cancelRequested"] == []
    cancelled = await graph(
        "mutation($id: ID!) { cancelJob(id: $id) { ... on Job { state cancelRequestedAt } } }", id=id
    )
    assert cancelled["state"] == "ACTIVE" and cancelled["cancelRequestedAt"] is not None
    after = await graph(EXTEND, input={"workerId": "w", "leaseMs": 600_000})
    assert after["cancelRequested"] == [id]
    longer = datetime.fromisoformat(after["leaseExpiresAt"]) - datetime.fromisoformat(before["leaseExpiresAt"])
    assert longer.total_seconds() > 500
    assert (await graph(FAIL, id=id, token=token, error={"message": "stopped"}))["state"] == "CANCELLED"


async def test_a_worker_that_is_unknown_or_was_lost_is_told_so(graph: Graph, engine: Engine) -> None:
    assert (await graph(EXTEND, input={"workerId": "nobody"}))["code"] == "NOT_FOUND"
    await graph.enqueue()
    id, token, _ = await claim_one(graph, workerId="w")
    await engine.workers.bury_dead("w")
    assert (await graph(EXTEND, input={"workerId": "w"}))["code"] == "NOT_FOUND"
    assert (await graph(COMPLETE, id=id, token=token))["code"] == "LEASE_LOST"
    answer = await claim(graph, workerId="w")
    assert [leased["job"]["id"] for leased in answer["jobs"]] == [id], "it may begin again"


async def test_a_draining_worker_is_given_nothing(graph: Graph, engine: Engine) -> None:
    await graph.enqueue()
    await claim(graph, workerId="w", queues=["other"])
    await engine.workers.drain("w")
    assert (await claim(graph, workerId="w"))["jobs"] == []


async def test_a_tenant_cannot_report_on_anothers_job(graph: Graph) -> None:
    id = await graph.as_tenant("us").enqueue()
    claimed, token, _ = await claim_one(graph, workerId="w")
    assert claimed == id
    them = graph.as_tenant("them")
    assert (await them(COMPLETE, id=id, token=token))["code"] == "LEASE_LOST"
    for mutation in (
        "reportProgress(id: $id, leaseToken: $t, progress: 1)",
        'appendLog(id: $id, leaseToken: $t, line: "x")',
    ):
        answer = await them(
            f"mutation($id: ID!, $t: String!) {{ {mutation} {{ ... on Error {{ code }} }} }}", id=id, t=token
        )
        assert answer["code"] == "LEASE_LOST"
    assert (await graph(COMPLETE, id=id, token=token))["state"] == "COMPLETED"


async def test_a_tenants_worker_is_given_its_tenants_jobs_only(graph: Graph) -> None:
    acme, bravo = graph.as_tenant("acme"), graph.as_tenant("bravo")
    theirs = [await bravo.enqueue() for _ in range(3)]
    mine = await acme.enqueue()
    claimed = await claim(acme, limit=10)
    assert [leased["job"]["id"] for leased in claimed["jobs"]] == [mine]
    assert (await claim(acme, limit=10))["jobs"] == []
    extend = "mutation($id: ID!) { extendLeases(input: {workerId: $id}) { __typename ... on Error { code } } }"
    assert (await bravo(extend, id=claimed["workerId"]))["code"] == "NOT_FOUND"
    assert (await acme(extend, id=claimed["workerId"]))["__typename"] == "ExtendedLeases"
    everybodys = [(await claim_one(graph))[0] for _ in theirs]
    assert everybodys == theirs


async def test_a_tenants_pause_holds_its_own_jobs_and_an_operators_holds_all(graph: Graph) -> None:
    acme, bravo = graph.as_tenant("acme"), graph.as_tenant("bravo")
    mine, theirs = await acme.enqueue(), await bravo.enqueue()
    pause = 'mutation { pauseQueue(name: "default") { ... on Queue { paused } } }'
    resume = 'mutation { resumeQueue(name: "default") { ... on Queue { paused } } }'
    by_name = 'mutation { pauseQueue(name: "default", jobName: "send") { ... on Queue { pausedNames } } }'
    assert await acme(pause) == {"paused": True}
    assert (await claim(acme, limit=10))["jobs"] == []
    assert [leased["job"]["id"] for leased in (await claim(graph, limit=10))["jobs"]] == [theirs]
    later = await bravo.enqueue()
    await acme(resume)
    await acme(by_name)
    graph.context.engine.claims._queues.clear()  # as another process, whose controls are not half a second old
    assert [leased["job"]["id"] for leased in (await claim(graph, limit=10))["jobs"]] == [later]
    await acme('mutation { resumeQueue(name: "default", jobName: "send") { ... on Queue { paused } } }')
    await graph(pause)
    graph.context.engine.claims._queues.clear()
    assert (await claim(acme, limit=10))["jobs"] == []
    await graph(resume)
    graph.context.engine.claims._queues.clear()
    assert [leased["job"]["id"] for leased in (await claim(acme, limit=10))["jobs"]] == [mine]
