"""Conveyor's rules: options, pages, states, searches; every odd value is 400 in its shape, and none is a fault."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from switchtower.jobs import ErrorKind, JobError
from switchtower.retry import Backoff, BackoffKind
from switchtower.states import JobState
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.app.rest.conftest import Server
from tests.conformance.situations import CALLER, enqueue, job_in, quiet

QUEUE = "/api/queues/q"


async def add(server: Server, **body: Any) -> dict[str, Any]:
    answer = await server.ask("POST", f"{QUEUE}/jobs", body={"name": "work", **body})
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json["data"]
    return found


async def get(server: Server, path: str) -> Any:
    answer = await server.ask("GET", path)
    assert answer.status == 200, answer.body
    return answer.json["data"]


def bad(answer: Any, *statuses: int) -> str:
    assert answer.status in (statuses or (400,)), answer.body
    assert set(answer.json) == {"error"} and set(answer.json["error"]) == {"code", "message"}
    return str(answer.json["error"]["message"])


OPTIONS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {"max_attempts": 1, "backoff": Backoff(BackoffKind.NONE, jitter=0.0), "timeout_ms": None, "priority": 0}),
    ({"attempts": 4}, {"max_attempts": 4}),
    ({"backoff": {"type": "fixed", "delay": "5s"}}, {"backoff": Backoff(BackoffKind.FIXED, 5_000, 86_400_000, 0.0)}),
    ({"backoff": 250}, {"backoff": Backoff(BackoffKind.FIXED, 250, jitter=0.0)}),
    (
        {"backoff": {"type": "exponential", "delay": 500}},
        {"backoff": Backoff(BackoffKind.EXPONENTIAL, 500, 86_400_000, 0.25)},
    ),
    ({"priority": -2.5}, {"rank": -2.5, "priority": -2}),
    ({"priority": 10**15}, {"rank": 10**15, "priority": 2**31 - 1}),
    ({"lifo": True}, {"lifo": True}),
    ({"jobId": "mine"}, {"custom_id": "mine"}),
    ({"group": {"id": "acme", "concurrency": 2}}, {"group": "acme"}),
    ({"timeout": "2h"}, {"timeout_ms": 7_200_000}),
    ({"removeOnComplete": True, "removeOnFail": 5}, {"remove_on_complete": True, "remove_on_fail": False}),
    ({"failParentOnChildFailure": "remove"}, {"on_child_failure": "remove"}),
    ({"failParentOnChildFailure": False}, {"on_child_failure": "ignore"}),
    ({"deduplication": {"key": "k", "ttl": 1_000}}, {"unique_key": "k"}),
    ({"repeat": {"every": 60_000, "limit": 3}}, {"repeats": True, "state": "waiting"}),
    ({"nobodyKnows": {"$gt": ""}, "a.b": "$x"}, {}),
    ({"attempts": None, "delay": None, "group": None}, {"max_attempts": 1}),
)


@pytest.mark.parametrize(("opts", "expected"), OPTIONS, ids=lambda value: json.dumps(value, default=str)[:60])
async def test_options_are_obeyed_and_echoed(server: Server, opts: dict[str, Any], expected: dict[str, Any]) -> None:
    shown = await add(server, data={"$gt": ""}, opts=opts)
    assert (shown["opts"], shown["data"]) == (opts, {"$gt": ""})
    job = await server.engine.jobs.get(shown["id"], caller=CALLER)
    assert job is not None and job.dialect == "conveyor"
    assert {field: getattr(job, field) for field in expected} == expected


DELAYS = {
    "5s": 5,
    "10 minutes": 600,
    "2h": 7_200,
    "1.5 hours": 5_400,
    "3 days": 259_200,
    "250ms": 0.25,
    5000: 5,
    "90": 0.09,
}


@pytest.mark.parametrize("delay", DELAYS)
async def test_delays_are_milliseconds_or_what_people_say(server: Server, delay: Any) -> None:
    shown = await add(server, opts={"delay": delay})
    times = [datetime.fromisoformat(shown[key]) for key in ("createdAt", "delayUntil")]
    assert shown["state"] == "delayed" and times[1] - times[0] == timedelta(seconds=DELAYS[delay])


async def test_a_repetition_begins_at_its_start_and_goes_on(server: Server) -> None:
    start = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    later = await add(
        server, opts={"repeat": {"cron": "0 3 * * *", "startDate": start.isoformat(), "tz": "Asia/Tokyo"}}
    )
    assert later["state"] == "delayed" and datetime.fromisoformat(later["delayUntil"]) == start
    first = await add(server, opts={"repeat": {"every": "1 minute", "limit": 2}})
    (claimed,) = await server.engine.claims.claim("w", ["q"])
    assert claimed.id == first["id"]
    await server.engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.COMPLETE)])
    await quiet(server.engine)
    following = (await get(server, f"{QUEUE}/jobs?state=delayed"))[1]
    assert following["opts"] == {"repeat": {"every": "1 minute", "limit": 1}}


BAD_OPTIONS: tuple[Any, ...] = (
    *({"attempts": value} for value in (0, -1, 1.5, "3", True, 10**9, [], {})),
    *({"delay": value} for value in (-1, "soon", "5 parsecs", "", True, [1], {"$gt": 0}, 1e300, "9" * 40, "٣s")),
    *({"backoff": value} for value in (-1, "x", {}, {"type": "custom"}, {"type": ["fixed"]})),
    *({"backoff": {"type": "fixed", "delay": value}} for value in (-1, "x", {})),
    *({"priority": value} for value in ("1", True, [], {"$ne": None})),
    *({"group": value} for value in ("acme", {}, {"id": ""}, {"id": 5}, {"id": {"$ne": 1}}, {"id": "a\n"})),
    *({"group": {"id": "g", "maxSize": value}} for value in (0, "1", 1.5)),
    *({"jobId": value} for value in ("", 5, {"$gt": ""}, "x" * 300, "a\0", "job_" + "0" * 26)),
    *({"timeout": value} for value in (0, -5, "x")),
    *({"lifo": value} for value in ("yes", 1)),
    *({"deduplication": value} for value in ({}, {"key": 5}, {"hash": "x"}, {"hash": False}, "k")),
    {"deduplication": {"key": "k", "ttl": -1}},
    *({"repeat": value} for value in ("x", {}, {"cron": "x"}, {"every": 0}, {"every": 60_000, "cron": "* * * * *"})),
    *({"repeat": {"every": 60_000} | value} for value in ({"limit": 0}, {"tz": "Mars/Base"}, {"endDate": "never"})),
    *({"removeOnComplete": value} for value in ("x", [])),
    *({"failParentOnChildFailure": value} for value in ("x", 1, {})),
    *("x", [], 5, True),
)  # fmt: skip


@pytest.mark.parametrize("opts", BAD_OPTIONS, ids=lambda value: json.dumps(value)[:60])
async def test_bad_options_are_refused_and_nothing_is_added(server: Server, opts: Any) -> None:
    assert bad(await server.ask("POST", f"{QUEUE}/jobs", body={"name": "x", "opts": opts}))
    assert await get(server, f"{QUEUE}/jobs") == []


BAD_BODIES = (b"", b"garbage", b"null", b"[]", b'"x"', b"{", b'{"name": 1}', b'{"name": ""}', b'{"name": null}')
NEEDED = 'Valid JSON with "name" field is required'


@pytest.mark.parametrize("body", BAD_BODIES, ids=str)
async def test_an_add_without_a_name(server: Server, body: bytes) -> None:
    answer = await server.ask("POST", f"{QUEUE}/jobs", body=body, content_type="text/plain")
    assert answer.json == {"error": {"code": "BAD_REQUEST", "message": NEEDED}} and answer.status == 400


@pytest.mark.parametrize("name", ["%00", "a%2Fb", "__all__", "x" * 1_024, "a%0Ab"])
async def test_a_queue_that_cannot_be(server: Server, name: str) -> None:
    bad(await server.ask("POST", f"/api/queues/{name}/jobs", body={"name": "x"}))
    bad(await server.ask("POST", f"/api/queues/{name}/pause")) if name != "__all__" else None
    assert (await server.ask("GET", f"/api/queues/{name}")).status == 200


@pytest.mark.parametrize("name", ["%D7%A9%D7%9C%D7%95%D7%9D", "%F0%9F%90%A2", "<script>", "$ne", "a b", "job."])
async def test_odd_names_are_names(server: Server, name: str) -> None:
    answer = await server.ask("POST", f"/api/queues/{name}/jobs", body={"name": "x"})
    assert answer.status == 201
    job = answer.json["data"]
    assert (await get(server, f"/api/queues/{name}/jobs/{job['id']}")) == job


GARBAGE_BODIES = (b"garbage", b"[]", b'{"jobName": {"$gt": ""}}', b'{"jobName": 5}', b'{"jobName": ["a"]}')


@pytest.mark.parametrize("body", GARBAGE_BODIES, ids=str)
async def test_garbage_pauses_nothing(server: Server, body: bytes) -> None:
    for verb in ("pause", "resume"):
        bad(await server.ask("POST", f"{QUEUE}/{verb}", body=body))
    assert (await get(server, QUEUE))["pausedNames"] == []


CLEANINGS: tuple[dict[str, Any], ...] = (
    {"state": "failed"},
    {"grace": 1},
    *({"state": "failed", "grace": grace} for grace in ("1", -1, None, True, [], {"$gt": 0}, 1e300)),
    *({"grace": 0, "state": state} for state in ("Failed", "paused", "cancelled", {"$ne": None}, ["failed"], "", 5)),
)


@pytest.mark.parametrize("body", CLEANINGS, ids=str)
async def test_what_cannot_be_cleaned(server: Server, body: dict[str, Any]) -> None:
    await job_in(server.engine, "failed", queue="q")
    bad(await server.ask("POST", f"{QUEUE}/clean", body=body))
    assert len(await get(server, f"{QUEUE}/jobs?state=failed")) == 1


@pytest.mark.parametrize("state", ["active", "waiting", {"$ne": None}, ["failed"], None, "FAILED"])
async def test_what_cannot_be_retried_at_once(server: Server, state: Any) -> None:
    answer = await server.ask("POST", f"{QUEUE}/retry", body={"state": state})
    assert bad(answer) == 'state must be "failed" or "completed"'


NAMES = {"waiting": "waiting", "blocked": "waiting-children", "scheduled": "delayed", "retrying": "delayed"} | {
    state: state for state in ("active", "completed", "failed")
} | {"cancelled": "failed"}  # fmt: skip
ALLOWED = {"retry": {"failed", "completed"}, "promote": {"delayed"}, "cancel": {"active"}}


@pytest.mark.parametrize("verb", ALLOWED)
@pytest.mark.parametrize("state", JobState)
async def test_who_may_be_retried_promoted_and_cancelled(server: Server, verb: str, state: JobState) -> None:
    s = await job_in(server.engine, state, queue="q")
    path = f"{QUEUE}/jobs/{s.id}"
    shown = (await get(server, path))["state"]
    assert shown == NAMES[state]
    assert [job["id"] for job in await get(server, f"{QUEUE}/jobs?state={shown}")] == [s.id]
    before = await s.document()
    answer = await server.ask("POST", f"{path}/{verb}")
    if shown in ALLOWED[verb]:
        assert answer.status == 200
    else:
        assert bad(answer) == f'Cannot {verb} job in state "{shown}"'
        assert await s.document() == before, "a refusal changes nothing"


async def test_a_cancelled_job_is_a_failed_one_and_starts_afresh(server: Server) -> None:
    s = await job_in(server.engine, "active", queue="q")
    await server.ask("POST", f"{QUEUE}/jobs/{s.id}/cancel")
    asked = await get(server, f"{QUEUE}/jobs/{s.id}")
    assert asked["state"] == "active" and asked["cancelledAt"] is not None
    await s.report(OutcomeKind.ABORT)
    job = await get(server, f"{QUEUE}/jobs/{s.id}")
    assert (job["state"], job["failedReason"]) == ("failed", "Job cancelled")
    assert job["cancelledAt"] == job["failedAt"] is not None
    assert (await server.ask("POST", f"{QUEUE}/retry", body={"state": "failed"})).json == {"data": {"retried": 1}}
    again = await get(server, f"{QUEUE}/jobs/{s.id}")
    assert (again["state"], again["cancelledAt"], again["failedReason"], again["failedAt"]) == ("waiting", *[None] * 3)
    assert (again["attemptsMade"], again["progress"], again["stacktrace"]) == (0, 0, [])


async def test_a_retry_begins_anew_and_keeps_its_history(server: Server) -> None:
    s = await job_in(server.engine, "failed", queue="q", max_attempts=1)
    before = await get(server, f"{QUEUE}/jobs/{s.id}")
    assert (before["attemptsMade"], before["stacktrace"]) == (1, ["Traceback …"])
    assert (await server.ask("POST", f"{QUEUE}/jobs/{s.id}/retry")).json == {"data": {"retried": True}}
    after = await get(server, f"{QUEUE}/jobs/{s.id}")
    assert (after["state"], after["attemptsMade"], after["stacktrace"], after["processedAt"]) == (
        "waiting",
        0,
        [],
        None,
    )
    assert after["attemptLogs"] == before["attemptLogs"]


REASONS = {
    ErrorKind.TIMEOUT: "Job timed out after 50ms",
    ErrorKind.EXPIRED: "expired",
    ErrorKind.WORKER_LOST: "Job stalled and exceeded max attempts",
    ErrorKind.DEPENDENCY: "Child failed: it broke",
    ErrorKind.EXCEPTION: "it broke",
}


@pytest.mark.parametrize("kind", REASONS)
async def test_why_a_job_failed(server: Server, kind: ErrorKind) -> None:
    s = await job_in(server.engine, "active", queue="q", timeout_ms=50)
    await s.report(OutcomeKind.BURY, error=JobError(kind, "Error", "it broke"))
    assert (await get(server, f"{QUEUE}/jobs/{s.id}"))["failedReason"] == REASONS[kind]


async def test_an_active_job_shows_its_lease(server: Server) -> None:
    await server.engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    job = await enqueue(server.engine, queue="q", payload=1)
    await server.engine.claims.claim("w", ["q"])
    shown = await get(server, f"{QUEUE}/jobs/{job.id}")
    assert shown["lockedBy"] == "w" and shown["lockUntil"] > shown["createdAt"]
    assert bad(await server.ask("PATCH", f"{QUEUE}/jobs/{job.id}", body={"data": 2})) == "Cannot edit active jobs"
    assert (await get(server, f"{QUEUE}/jobs/{job.id}"))["data"] == 1


CHANGES: tuple[Any, ...] = (
    {},
    {"opts": {}},
    {"opts": {"priority": "1"}},
    {"opts": {"priority": True}},
    {"opts": {"delay": 5_000}},
    {"opts": []},
    {"opts": "x"},
)


@pytest.mark.parametrize("body", CHANGES, ids=str)
async def test_what_changes_nothing_is_refused(server: Server, body: Any) -> None:
    job = await add(server)
    bad(await server.ask("PATCH", f"{QUEUE}/jobs/{job['id']}", body=body))
    assert await get(server, f"{QUEUE}/jobs/{job['id']}") == job


async def test_a_new_priority_counts(server: Server) -> None:
    first, second = await add(server), await add(server, opts={"attempts": 2, "priority": 1})
    answer = await server.ask("PATCH", f"{QUEUE}/jobs/{second['id']}", body={"opts": {"priority": -0.5}, "data": None})
    assert answer.json["data"]["opts"] == {"attempts": 2, "priority": -0.5} and answer.json["data"]["data"] is None
    claimed = await server.engine.claims.claim("w", ["q"], limit=2)
    assert [job.id for job in claimed] == [second["id"], first["id"]]


async def test_equal_jobs_are_one(server: Server) -> None:
    for opts in ({"jobId": "mine"}, {"deduplication": {"key": "k"}}, {"deduplication": {"hash": True}}):
        first, second = [await add(server, data={"a": 1}, opts=opts) for _ in range(2)]
        assert first == second
    assert first["deduplicationKey"].startswith("sha256:")
    assert (await add(server, data={"a": 2}, opts=opts))["id"] != first["id"]


async def test_a_full_group_takes_no_more(server: Server) -> None:
    opts = {"group": {"id": "acme", "maxSize": 1}}
    await add(server, opts=opts)
    answer = await server.ask("POST", f"{QUEUE}/jobs", body={"name": "x", "opts": opts})
    assert answer.json["error"]["code"] == "CONFLICT" and "1 jobs waiting" in bad(answer, 409)
