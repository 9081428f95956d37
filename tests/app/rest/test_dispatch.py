"""Dispatch, row by row: each route's answer in full, what it refuses in its words, and what the others see of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.rest.dispatch import DISPATCH
from switchtower.crons import NewCron, Schedule
from switchtower.engine import Engine
from switchtower.ids import CRON, DEAD_LETTER, JOB, RUN, new_id
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.app.rest.conftest import Server, running
from tests.app.rest.transcripts import Transcript, play, written
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, job_in, quiet
from tests.conformance.test_workflows import Run, started, step
from tests.waiting import until

DOCUMENTED = (
    *("GET /v1/jobs", "GET /v1/jobs/{jobId}", "POST /v1/jobs/{jobId}/cancel", "GET /v1/jobs/counts"),
    *("GET /v1/workflows", "GET /v1/workflows/runs", "GET /v1/workflows/runs/{runId}"),
    *("GET /v1/dlq", "GET /v1/dlq/{entryId}", "POST /v1/dlq/{entryId}/replay", "POST /v1/dlq/purge"),
    *("GET /v1/dlq/count", "GET /v1/crons", "GET /v1/crons/{cronId}", "POST /v1/crons/{cronId}/enable"),
    *("POST /v1/crons/{cronId}/disable", "DELETE /v1/crons/{cronId}", "GET /v1/stats"),
)
"""What Dispatch's own document lists."""
UNDOCUMENTED = ("POST /v1/jobs/{jobId}/retry", "POST /v1/dlq/replay-all")
"""What its server has besides."""

PAYLOAD = {"to": "a@b.c", "n": [1, 2.5, None, True]}
PENDING = {
    "id": "<job>",
    "name": "work",
    "queue": "billing",
    "state": "pending",
    "payload": PAYLOAD,
    "attempt": 0,
    "max_attempts": 4,
    "run_at": "<time>",
    "started_at": None,
    "completed_at": None,
    "scope_app_id": "",
    "scope_org_id": "",
    "priority": 0,
    "max_retries": 3,
    "retry_count": 0,
    "last_error": "",
    "worker_id": "",
    "heartbeat_at": None,
    "timeout": 0,
    "created_at": "<time>",
    "updated_at": "<time>",
}
FAILED = PENDING | {
    "state": "failed",
    "attempt": 1,
    "max_attempts": 1,
    "max_retries": 0,
    "retry_count": 1,
    "started_at": "<time>",
    "last_error": "it broke",
}
RUNNING_RUN = {
    "id": "<run>",
    "name": "close",
    "state": "running",
    "current_step": "lock-ledger",
    "started_at": "<time>",
    "completed_at": None,
    "scope_app_id": "",
    "scope_org_id": "",
    "input": {"month": "01"},
    "output": None,
    "error": "",
    "version": 1,
    "parent_run_id": None,
    "created_at": "<time>",
    "updated_at": "<time>",
}
ENTRY = {
    "id": "<dlq>",
    "job_id": "<job>",
    "job_name": "work",
    "queue": "billing",
    "error": "it broke",
    "payload": PAYLOAD,
    "failed_at": "<time>",
    "scope_app_id": "",
    "scope_org_id": "",
    "retry_count": 1,
    "max_retries": 0,
    "replayed_at": None,
    "created_at": "<time>",
}
CRON_ENTRY = {
    "id": "<cron>",
    "name": "nightly-sweep",
    "schedule": "15 2 * * *",
    "enabled": True,
    "last_fired_at": None,
    "next_run_at": "<time>",
    "scope_app_id": "",
    "scope_org_id": "",
    "last_run_at": None,
    "job_name": "sweep",
    "queue": "default",
    "payload": {"deep": True},
    "locked_by": "",
    "locked_until": None,
    "created_at": "<time>",
    "updated_at": "<time>",
}
EMPTY_COUNTS = dict.fromkeys(("pending", "running", "completed", "failed", "retrying", "cancelled"), 0)


async def waiting(server: Server) -> dict[str, str]:
    return {"jobId": await server.enqueue(queue="billing", payload=PAYLOAD)}


async def buried(server: Server) -> dict[str, str]:
    s = await job_in(server.engine, "failed", queue="billing", payload=PAYLOAD, max_attempts=1)
    entry = (await server.engine.dead_letters.for_jobs([s.id], caller=CALLER))[s.id]
    return {"jobId": s.id, "entryId": entry.id}


async def running_run(server: Server) -> dict[str, str]:
    run = await started(server.engine)
    await run.checkpoint(step("lock-ledger"))
    return {"runId": f"run_{run.id.removeprefix('job_')}"}


async def cron(server: Server, *, enabled: bool = True) -> dict[str, str]:
    job = NewJob(name="sweep", payload={"deep": True})
    new = NewCron(name="nightly-sweep", schedule=Schedule("15 2 * * *"), job=job, enabled=enabled)
    return {"cronId": (await server.engine.crons.create(new, caller=CALLER)).id}


async def disabled(server: Server) -> dict[str, str]:
    return await cron(server, enabled=False)


async def live_workers(server: Server) -> dict[str, str]:
    names = ["send_report#2", "onboard_user#1", "send_report#1", "plain_task"]
    await server.engine.workers.register(WorkerInfo(id="w", queues=["default"], names=names))
    return {}


TRANSCRIPTS = (
    Transcript("GET /v1/jobs", 200, [PENDING], waiting),
    Transcript("GET /v1/jobs", 200, []),
    Transcript("GET /v1/jobs/counts", 200, EMPTY_COUNTS),
    Transcript("GET /v1/jobs/{jobId}", 200, PENDING, waiting),
    Transcript("GET /v1/jobs/{jobId}", 200, FAILED, buried),
    Transcript("POST /v1/jobs/{jobId}/cancel", 204, None, waiting),
    Transcript("POST /v1/jobs/{jobId}/retry", 204, None, buried),
    Transcript("GET /v1/workflows", 200, {"names": ["onboard_user", "send_report"]}, live_workers),
    Transcript("GET /v1/workflows/runs", 200, [RUNNING_RUN], running_run),
    Transcript("GET /v1/workflows/runs/{runId}", 200, RUNNING_RUN, running_run),
    Transcript("GET /v1/dlq", 200, [ENTRY], buried),
    Transcript("GET /v1/dlq/count", 200, {"count": 1}, buried),
    Transcript("GET /v1/dlq/{entryId}", 200, ENTRY, buried),
    Transcript("POST /v1/dlq/{entryId}/replay", 201, PENDING | {"max_attempts": 1, "max_retries": 0}, buried),
    Transcript("POST /v1/dlq/replay-all", 200, {"replayed": 1, "errors": 0}, buried),
    Transcript("POST /v1/dlq/purge", 200, {"purged": 0}, buried),
    Transcript("GET /v1/crons", 200, [CRON_ENTRY], cron),
    Transcript("GET /v1/crons/{cronId}", 200, CRON_ENTRY, cron),
    Transcript("POST /v1/crons/{cronId}/enable", 200, CRON_ENTRY, disabled),
    Transcript("POST /v1/crons/{cronId}/disable", 200, CRON_ENTRY | {"enabled": False, "next_run_at": None}, cron),
    Transcript("DELETE /v1/crons/{cronId}", 204, None, cron),
    Transcript(
        "GET /v1/stats",
        200,
        {"jobs": EMPTY_COUNTS, "dlq_count": 0, "workflows": {"running": 1, "completed": 0, "failed": 0}},
        running_run,
    ),
)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
async def test_transcript(server: Server, transcript: Transcript) -> None:
    await play(server, DISPATCH, transcript)


@pytest.mark.parametrize("transcript", TRANSCRIPTS[:4], ids=lambda transcript: transcript.name)
async def test_transcript_under_the_prefix(server: Server, transcript: Transcript) -> None:
    await play(server, DISPATCH, transcript, prefix="/dispatch")


def table() -> set[str]:
    return {f"{route.method} {route.path}" for route in DISPATCH.routes}


def test_the_table_is_what_is_documented() -> None:
    assert table() == {*DOCUMENTED, *UNDOCUMENTED}
    page = (Path(__file__).parents[3] / "docs" / "rest" / "dispatch.md").read_text()
    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /v1\S*)`", page)) == table()


def test_every_route_has_its_transcript() -> None:
    assert {transcript.request for transcript in TRANSCRIPTS} == table()


MALFORMED = ("1", "job_x", "job_01h455vb4pex5vsknk084sn02", "JOB_01h455vb4pex5vsknk084sn02q", "wkr_" + "0" * 26, "$ne")
THINGS = (
    ("GET /v1/jobs/{}", "job", JOB),
    ("POST /v1/jobs/{}/cancel", "job", JOB),
    ("POST /v1/jobs/{}/retry", "job", JOB),
    ("GET /v1/workflows/runs/{}", "run", RUN),
    ("GET /v1/workflows/runs/{}", "run", "wfrun"),
    ("GET /v1/dlq/{}", "dlq entry", DEAD_LETTER),
    ("POST /v1/dlq/{}/replay", "dlq entry", DEAD_LETTER),
    ("GET /v1/crons/{}", "cron entry", CRON),
    ("POST /v1/crons/{}/enable", "cron entry", CRON),
    ("POST /v1/crons/{}/disable", "cron entry", CRON),
    ("DELETE /v1/crons/{}", "cron entry", CRON),
)


@pytest.mark.parametrize(("request_line", "noun", "prefix"), THINGS)
async def test_what_is_not_there(server: Server, request_line: str, noun: str, prefix: str) -> None:
    method, _, path = request_line.partition(" ")
    unknown = await server.ask(method, path.format(new_id(prefix)))
    assert (unknown.status, unknown.json) == (404, {"error": f"{noun} not found"})
    for id in MALFORMED:
        answer = await server.ask(method, path.format(id))
        assert (answer.status, answer.json) == (400, {"error": f"invalid {noun} ID: {id!r}"})


ALLOWED = {"cancel": {"pending", "retrying"}, "retry": {"failed"}}


@pytest.mark.parametrize("verb", ALLOWED)
@pytest.mark.parametrize("state", JobState)
async def test_what_may_be_cancelled_and_retried(server: Server, verb: str, state: JobState) -> None:
    s = await job_in(server.engine, state)
    shown = (await server.ask("GET", f"/v1/jobs/{s.id}")).json["state"]
    before = await s.document()
    answer = await server.ask("POST", f"/v1/jobs/{s.id}/{verb}")
    if shown in ALLOWED[verb]:
        assert answer.status == 204
        after = (await server.ask("GET", f"/v1/jobs/{s.id}")).json
        if verb == "cancel":
            assert after["state"] == "cancelled" and after["completed_at"] is not None
        else:
            assert after["state"] == "pending" and after["completed_at"] is None and after["started_at"] is None
            assert (after["retry_count"], after["attempt"], after["last_error"]) == (0, 0, "")
    else:
        assert (answer.status, answer.json) == (400, {"error": f"cannot {verb} job in state {shown}"})
        assert await s.document() == before, "a refusal changes nothing"


async def test_a_job_that_failed_is_retrying_until_it_runs_again(server: Server) -> None:
    s = await job_in(server.engine, "retrying", queue="billing")
    fresh = await server.enqueue(queue="another")
    for staged in (False, True):
        if staged:
            await s.set(run_at=datetime.now(UTC) - timedelta(seconds=1))
            await until(server.engine.upkeep.stage)
            assert await s.state() == "waiting"
        job = (await server.ask("GET", f"/v1/jobs/{s.id}")).json
        assert (job["state"], job["attempt"], job["retry_count"], job["last_error"]) == ("retrying", 1, 1, "it broke")
        assert [j["id"] for j in (await server.ask("GET", "/v1/jobs?state=retrying")).json] == [s.id]
        assert [j["id"] for j in (await server.ask("GET", "/v1/jobs?state=pending")).json] == [fresh]
        refused = await server.ask("POST", f"/v1/jobs/{s.id}/retry")
        assert refused.json == {"error": "cannot retry job in state retrying"}
    await s.claim(start=True)
    running = (await server.ask("GET", f"/v1/jobs/{s.id}")).json
    assert (running["state"], running["attempt"], running["retry_count"]) == ("running", 2, 1)
    assert (running["worker_id"], running["heartbeat_at"]) == (s.worker, None), "a worker that nobody knows"
    assert [job["id"] for job in (await server.ask("GET", "/v1/jobs?state=running")).json] == [s.id]
    await s.report(OutcomeKind.COMPLETE, result=5)
    done = (await server.ask("GET", f"/v1/jobs/{s.id}")).json
    assert (done["state"], done["attempt"], done["retry_count"]) == ("completed", 2, 1)
    assert done["completed_at"] > done["started_at"]


async def test_a_running_job_is_heard_of_as_its_worker_is(server: Server) -> None:
    await server.engine.workers.register(WorkerInfo(id="w", queues=["a"]))
    ids = [await server.enqueue(queue="a") for _ in range(2)]
    await server.engine.claims.claim("w", ["a"], limit=1)
    worker = (await server.engine.workers.get_many(["w"]))["w"]
    (held, free) = (await server.ask("GET", "/v1/jobs")).json
    assert datetime.fromisoformat(held["heartbeat_at"]) == worker.heartbeat_at and free["heartbeat_at"] is None
    assert (await server.ask("GET", f"/v1/jobs/{ids[0]}")).json == held


async def test_ids_of_the_callers_own_are_shown_and_found(server: Server) -> None:
    for own in ("order/881", "größe ✓", "counts ", "a?b#c", "..", "%2e", "$ne"):
        await server.enqueue(jobId=own)
        answer = await server.ask("GET", f"/v1/jobs/{quote(own, safe='')}")
        assert (answer.status, answer.json["id"]) == (200, own), own
        assert (await server.ask("POST", f"/v1/jobs/{quote(own, safe='')}/cancel")).status == 204


async def test_runs_have_three_states(server: Server) -> None:
    runs: dict[str, Run] = {}
    for name in ("running", "sleeping", "completed", "failed", "cancelled"):
        runs[name] = await started(server.engine, workflow=name)
    await runs["sleeping"].park()
    await runs["completed"].report(OutcomeKind.COMPLETE, result={"ok": True})
    await runs["failed"].report(OutcomeKind.BURY, error=ERROR)
    await runs["cancelled"].park()
    await server.engine.workflows.cancel(runs["cancelled"].id, caller=CALLER)
    await quiet(server.engine)

    async def listed(query: str = "") -> dict[str, Any]:
        return {run["name"]: run for run in (await server.ask("GET", f"/v1/workflows/runs{query}")).json}

    shown = await listed()
    assert list(shown) == list(runs), "the oldest first"
    states = {name: run["state"] for name, run in shown.items()}
    assert states == dict(zip(runs, ["running", "running", "completed", "failed", "failed"], strict=True))
    assert [shown[name]["error"] for name in runs] == ["", "", "", "it broke", "run cancelled"]
    assert shown["completed"]["output"] == {"ok": True}
    for state, names in (("running", {"running", "sleeping"}), ("failed", {"failed", "cancelled"}), ("x", set())):
        assert set(await listed(f"?state={state}")) == names
    assert list(await listed("?offset=1&limit=2")) == ["sleeping", "completed"]
    suffix = shown["failed"]["id"].removeprefix("run_")
    for id in (f"run_{suffix}", f"wfrun_{suffix}"):
        assert (await server.ask("GET", f"/v1/workflows/runs/{id}")).json["name"] == "failed"
    plain = await server.enqueue()
    assert (await server.ask("GET", f"/v1/workflows/runs/{plain.replace('job_', 'run_')}")).status == 404


async def test_a_replay_makes_another_job_each_time(server: Server) -> None:
    s = await job_in(server.engine, "failed", queue="billing", priority=7, timeout_ms=5_000, max_attempts=2, group="g")
    failed = (await server.ask("GET", f"/v1/jobs/{s.id}")).json
    assert (failed["priority"], failed["timeout"]) == (-7, 5_000_000_000), "higher first, and nanoseconds"
    (entry,) = (await server.ask("GET", "/v1/dlq?queue=billing")).json
    made = [(await server.ask("POST", f"/v1/dlq/{entry['id']}/replay")).json for _ in range(2)]
    assert len({job["id"] for job in made} | {s.id}) == 3
    for job in made:
        assert (job["state"], job["priority"], job["timeout"], job["max_retries"]) == ("pending", 0, 0, 1)
        stored = await server.engine.jobs.get(job["id"], caller=CALLER)
        assert stored is not None and (stored.group, stored.timeout_ms) == ("g", None)
    (again,) = (await server.ask("GET", "/v1/dlq")).json
    assert again["replayed_at"] is not None and again["id"] == entry["id"], "the entry stays"
    assert (await server.ask("POST", "/v1/dlq/replay-all")).json == {"replayed": 0, "errors": 0}
    assert (await server.ask("GET", "/v1/dlq?queue=other")).json == []
    assert (await server.ask("GET", f"/v1/jobs/{s.id}")).json["state"] == "failed"


async def test_what_failed_more_than_thirty_days_ago_is_purged(server: Server) -> None:
    kept, old = await buried(server), await buried(server)
    long_ago = datetime.now(UTC) - timedelta(days=30, minutes=1)
    await server.engine._store.dead_letters.update_one({"_id": old["entryId"]}, {"$set": {"failed_at": long_ago}})
    listed = [entry["id"] for entry in (await server.ask("GET", "/v1/dlq")).json]
    assert listed == [old["entryId"], kept["entryId"]], "the oldest failure first"
    assert (await server.ask("POST", "/v1/dlq/purge", body=b"}{", content_type="x/y")).json == {"purged": 1}
    assert [entry["id"] for entry in (await server.ask("GET", "/v1/dlq?offset=0")).json] == [kept["entryId"]]


async def test_crons_are_switched_and_deleted(server: Server) -> None:
    id = (await cron(server))["cronId"]
    every = NewCron(name="often", schedule=Schedule(every_ms=90_500), job=NewJob(name="x"))
    await server.engine.crons.create(every, caller=CALLER)
    assert [each["schedule"] for each in (await server.ask("GET", "/v1/crons")).json] == ["15 2 * * *", "@every 90.5s"]
    assert [each["name"] for each in (await server.ask("GET", "/v1/crons?offset=1")).json] == ["often"]
    for verb, on in (("disable", False), ("disable", False), ("enable", True), ("enable", True)):
        answer = await server.ask("POST", f"/v1/crons/{id}/{verb}")
        assert (answer.status, answer.json["enabled"], answer.json["next_run_at"] is not None) == (200, on, on)
    assert (await server.ask("DELETE", f"/v1/crons/{id}")).status == 204
    assert (await server.ask("DELETE", f"/v1/crons/{id}")).json == {"error": "cron entry not found"}


async def test_what_one_surface_does_the_other_sees(server: Server) -> None:
    id = await server.enqueue(queue="billing", payload=PAYLOAD, priority=3, delayMs=HOUR_MS)
    job = (await server.ask("GET", f"/v1/jobs/{id}")).json
    assert written(job) == PENDING | {"priority": -3}
    assert (await server.ask("POST", f"/v1/jobs/{id}/cancel")).status == 204
    seen = await server.graphql("query ($id: ID!) { job(id: $id) { state timeline { type actor } } }", id=id)
    assert seen["job"]["state"] == "CANCELLED" and seen["job"]["timeline"][-1]["type"] == "cancel"
    assert (await server.ask("POST", f"/v1/jobs/{id}/cancel")).status == 400
    audit = (await server.graphql("{ audit(first: 5) { nodes { action source status jobId } } }"))["audit"]
    assert audit["nodes"] == [{"action": "job.cancel", "source": "dispatch", "status": "FAILED", "jobId": id}]


async def test_counts_are_of_all_states_in_its_words(mongodb_url: str, database_name: str) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    await engine.prepare()
    for state in set(JobState) - {JobState.ACTIVE}:
        await job_in(engine, state)
    await engine.workers.register(WorkerInfo(id="w", queues=["held"], lease_seconds=3_600))
    await enqueue(engine, queue="held")
    assert await engine.claims.claim("w", ["held"])
    staged = await job_in(engine, "retrying")
    await staged.set(run_at=datetime.now(UTC) - timedelta(seconds=1))
    expected = {"pending": 4, "running": 1, "completed": 1, "failed": 1, "retrying": 2, "cancelled": 1}

    async with running(mongodb_url, database_name) as server:

        async def counted() -> bool:
            if await staged.state() != "waiting":
                return False
            found: Any = (await server.ask("GET", "/v1/jobs/counts")).json
            return bool(found == expected)

        await until(counted)
        stats = (await server.ask("GET", "/v1/stats")).json
        assert stats == {"jobs": expected, "dlq_count": 1, "workflows": {"running": 0, "completed": 0, "failed": 0}}
    await engine.close()
