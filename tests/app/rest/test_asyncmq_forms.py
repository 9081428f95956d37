"""AsyncMQ's forms: what each does, where it leads, and what it leaves in the audit trail."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from switchtower.crons import NewCron, Schedule
from switchtower.jobs import NewJob
from switchtower.states import JobState
from tests.app.rest.conftest import Server, running
from tests.app.rest.test_asyncmq import JSON, arranging, counted, failed_job, get, page, post, rows, told
from tests.conformance.situations import CALLER, Situation, job_in
from tests.databases import anywhere
from tests.waiting import until


async def test_actions_on_one_job_answer_json(server: Server) -> None:
    engine = server.engine
    failed = await failed_job(server, "q", max_attempts=2)
    await failed.set(attempt=2)
    answer = await post(server, f"/queues/q/jobs/{failed.id}/retry")
    assert (answer.status, answer.headers["content-type"], answer.json) == (200, "application/json", {"ok": True})
    job = await failed.job()
    assert (job.state, job.failures, job.error) == (JobState.WAITING, 2, None), "its retries are kept"
    for state in JobState:
        for action, gone in (("cancel", False), ("retry", False), ("delete", True)):
            s = await job_in(engine, state, queue=f"q-{action}-{state.value}")
            answer = await server.ask("POST", f"/queues/{s.queue}/jobs/{s.id}/{action}")
            assert (answer.status, answer.json) == (200, {"ok": True}), (state, action)
            assert (await engine.jobs.get(s.id, caller=CALLER) is None) is gone
            after = None if gone else await s.state()
            if action == "cancel" and state not in (JobState.ACTIVE, JobState.COMPLETED, JobState.FAILED):
                assert after == "cancelled"
            if action == "retry":
                assert after == ("waiting" if state is JobState.FAILED else state.value)
    for target in ("/queues/q/jobs/nope/retry", f"/queues/other/jobs/{failed.id}/remove", "/queues/q/jobs/%00/cancel"):
        answer = await post(server, target)
        assert (answer.status, answer.json) == (200, {"ok": True}), target
    assert (await failed.job()).state is JobState.WAITING, "a job of another queue is none of this one"
    (noted,) = await rows(server, actions=["job.retry"], job_id="nope")
    assert (noted.source, noted.status.value, noted.queue) == ("jobs.single", "success", "q")
    for unknown in ("explode", "pause", "%3Cscript%3E"):
        answer = await post(server, f"/queues/q/jobs/{failed.id}/{unknown}")
        assert (answer.status, answer.json) == (400, {"ok": False, "error": "Unknown action"})
    unknown = [row for row in await rows(server, job_id=failed.id) if row.action == "job.explode"]
    assert [(row.status.value, row.source) for row in unknown] == [("failed", "jobs.single")]
    answer = await server.ask("GET", f"/queues/q/jobs/{failed.id}/retry", **JSON)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_a_form_of_one_job_leads_back(server: Server) -> None:
    for back, location in (
        ("/queues/q/jobs?state=failed", "/queues/q/jobs?state=failed"),
        ("//evil.example/x", "/queues/q/jobs"),
        ("https://evil.example/", "/queues/q/jobs"),
        ("/\\evil.example", "/queues/q/jobs"),
        ("/x\r\nSet-Cookie: a=b", "/queues/q/jobs"),
        ("javascript:alert(1)", "/queues/q/jobs"),
        ("", "/queues/q/jobs"),
    ):
        id = await server.enqueue(queue="q")
        fields = {"_response": "html", "return_to": back}
        answer = await post(server, f"/queues/q/jobs/{id}/cancel", fields)
        assert (answer.status, answer.headers["location"]) == (303, location), back
        assert id in await told(server, answer)
    answer = await post(server, "/queues/q/jobs/x/explode", {"_response": "html"})
    assert answer.status == 400 and answer.headers["content-type"].startswith("text/html")


async def test_actions_on_many_jobs(server: Server) -> None:
    jobs = [await failed_job(server, "q") for _ in range(3)]
    ids = [job.id for job in jobs]
    echoed = {"state": "failed", "q": "a b", "task": "", "sort": "oldest", "size": "50"}
    fields = [("action", "retry"), ("job_id", ids[0]), ("job_id", f"{ids[1]},nope"), *echoed.items()]
    answer = await post(server, "/queues/q/jobs", fields)
    expected = "/queues/q/jobs?state=failed&q=a+b&sort=oldest&size=50&page=1"
    assert (answer.status, answer.headers["location"]) == (302, expected)
    assert "2 of 3 jobs" in await told(server, answer)
    assert [await job.state() for job in jobs] == ["waiting", "waiting", "failed"]
    (noted,) = await rows(server, job_id="nope")
    assert (noted.action, noted.source, noted.status.value) == ("job.retry", "jobs.bulk", "success")
    answer = await post(server, "/queues/q/jobs", [("action", "delete"), *(("job_id", id) for id in ids)])
    assert answer.status == 302 and await server.engine._store.jobs.count_documents(anywhere(state="removed")) == 3
    assert "No jobs selected" in await told(server, await post(server, "/queues/q/jobs", {"action": "retry"}))
    id = await server.enqueue(queue="q")
    assert "Unknown" not in await told(server, await post(server, "/queues/q/jobs", {"action": "boom", "job_id": id}))
    assert [(row.action, row.status.value) for row in await rows(server, job_id=id)] == [("job.boom", "failed")]
    many = [("action", "cancel"), *(("job_id", f"x{n}") for n in range(1_001))]
    assert "nothing was done" in await told(server, await post(server, "/queues/q/jobs", many))


async def test_dead_letters(mongodb_url: str, database_name: str) -> None:
    async with arranging(mongodb_url, database_name) as engine:
        jobs = [await job_in(engine, JobState.FAILED, queue="q") for _ in range(3)]
    async with running(mongodb_url, database_name) as server:
        for job in jobs:
            job.engine = server.engine
        await counted(server, "/queues/q/dlq", 3)
        await act_on_dead_letters(server, jobs)


async def act_on_dead_letters(server: Server, jobs: list[Situation]) -> None:
    found = await get(server, "/queues/q/dlq?size=2")
    assert [job["id"] for job in found["jobs"]] == [jobs[2].id, jobs[1].id]
    assert (found["total"], found["total_pages"]) == (3, 2)
    assert jobs[0].id in await page(server, "/queues/q/dlq?page=2&size=2")
    answer = await post(server, "/queues/q/dlq?page=2&size=2", {"action": "retry", "job_id": jobs[0].id})
    assert (answer.status, answer.headers["location"]) == (303, "/queues/q/dlq?page=2&size=2")
    assert await jobs[0].state() == "waiting"
    answer = await post(server, "/queues/q/dlq", {"action": "remove", "job_id": jobs[1].id, "page": "3", "size": "50"})
    assert (answer.status, answer.headers["location"]) == (303, "/queues/q/dlq?page=3&size=50")
    answer = await post(server, "/queues/q/dlq", {"action": "retry"})
    assert (answer.status, answer.headers["location"]) == (303, "/queues/q/dlq?page=1&size=20")
    assert "No jobs selected" in await told(server, answer)
    assert [job["id"] for job in (await get(server, "/queues/q/dlq"))["jobs"]] == [jobs[2].id]
    assert (await get(server, "/queues/nobody/dlq"))["jobs"] == []


async def test_what_forms_did_is_in_the_audit_trail(mongodb_url: str, database_name: str) -> None:
    async with arranging(mongodb_url, database_name) as engine:
        failed = [await job_in(engine, JobState.FAILED, queue="q") for _ in range(2)]
    async with running(mongodb_url, database_name) as server:
        # From then on what is done is relayed to the audit trail.
        await counted(server, "/queues/q/dlq", 2)
        await post(server, "/queues/q", {"action": "pause"})
        await post(server, f"/queues/q/jobs/{failed[0].id}/retry")
        await post(server, "/queues/q/jobs", {"action": "cancel", "job_id": failed[0].id})
        await post(server, "/queues/q/dlq", {"action": "retry", "job_id": failed[1].id})
        await post(server, "/queues/q/repeatables/new", {"task_id": "mailer", "every": "60"})
        await post(server, "/queues/q/repeatables", {"action": "pause", "job_def": '{"task_id":"mailer","every":60}'})
        await post(server, "/queues/q/repeatables", {"action": "remove", "job_def": "{nonsense"})
        expected = {
            ("queue.pause", "queues.detail", "success", None),
            ("job.retry", "jobs.single", "success", failed[0].id),
            ("job.cancel", "jobs.bulk", "success", failed[0].id),
            ("dlq.retry", "dlq.bulk", "success", failed[1].id),
            ("repeatable.create", "repeatables.new", "success", "mailer"),
            ("repeatable.pause", "repeatables", "success", "mailer"),
            ("repeatable.remove", "repeatables", "failed", None),
        }

        async def all_there() -> Any:
            events = (await get(server, "/audit"))["events"]
            return events if len(events) == len(expected) else None

        events = await until(all_there)
        assert {(e["action"], e["source"], e["status"], e["job_id"]) for e in events} == expected
        assert {e["queue"] for e in events} == {"q"} and {e["actor"] for e in events} == {"operator"}
        # Refusals are dated by this process's clock, all else by the database's: some milliseconds may be between them.
        assert all(newer["timestamp"] > older["timestamp"] - 0.1 for newer, older in pairwise(events))
        for query, count in (
            ("action=job.retry", 1),
            ("action=dlq.retry", 1),
            ("action=repeatable.pause", 1),
            ("action=job.", 0),
            ("status=failed", 1),
            ("status=success", 6),
            ("status=nonsense", 0),
            ("queue=q", 7),
            ("queue=Q", 0),
            ("q=JOBS.SINGLE", 1),
            ("q=mailer", 2),
            (f"q={failed[1].id}", 1),
            ("q=.*", 0),
            ("limit=2", 2),
            ("limit=0", 1),
            ("limit=9999999999", 7),
            ("limit=junk", 7),
        ):
            assert len((await get(server, f"/audit?{query}"))["events"]) == count, query
        html = await page(server, "/audit?status=failed")
        assert "repeatable.remove" in html and "queue.pause" not in html
        assert (await server.ask("GET", f"/audit?q={'x' * 257}", **JSON)).status == 400


async def test_repeatables(server: Server) -> None:
    answer = await post(server, "/queues/q/repeatables/new", {"task_id": "mailer", "every": "30"})
    assert (answer.status, answer.headers["location"]) == (303, "/queues/q/repeatables")
    await post(server, "/queues/q/repeatables/new", {"task_id": "mailer", "cron": "*/5 * * * *"})
    await post(server, "/queues/q/repeatables/new", {"task_id": "mailer", "every": "30"})
    await server.engine.crons.create(
        NewCron(name="other", schedule=Schedule("@daily"), job=NewJob(name="x", queue="other")), caller=CALLER
    )
    first, second = (await get(server, "/queues/q/repeatables"))["repeatables"]
    definition = {"task_id": "mailer", "args": [], "kwargs": {}, "retries": 0, "ttl": None, "backoff": None}
    assert (definition | {"every": 30, "priority": 5}).items() <= first["job_def"].items()
    assert (definition | {"cron": "*/5 * * * *"}).items() <= second["job_def"].items()
    assert first["paused"] is False and first["next_run"] > 0
    assert (await get(server, "/queues/q/jobs?state=repeatable"))["jobs"] == [first, second]
    assert (await get(server, "/queues/q/jobs?state=repeatable&q=*/5"))["jobs"] == [second]
    html = await page(server, "/queues/q/repeatables")
    assert "every 30 s" in html and "every 5 minutes" in html

    async def ask(action: str, job_def: Any) -> str:
        text = job_def if isinstance(job_def, str) else json.dumps(job_def)
        answer = await post(server, "/queues/q/repeatables", {"action": action, "job_def": text})
        assert (answer.status, answer.headers["location"]) == (303, "/queues/q/repeatables")
        return await told(server, answer)

    async def paused() -> list[bool]:
        return [each["paused"] for each in (await get(server, "/queues/q/repeatables"))["repeatables"]]

    assert "is paused" in await ask("pause", first["job_def"]) and await paused() == [True, False]
    assert (await get(server, "/queues/q/repeatables"))["repeatables"][0]["next_run"] is None
    await ask("resume", {"repeat_id": first["id"]})
    await ask("pause", {"task_id": "mailer", "cron": "*/5 * * * *"})
    assert await paused() == [False, True]
    await ask("pause", {"task_id": "mailer", "every": "30.0"})
    assert await paused() == [True, True]
    for wrong in ("", "[]", "nonsense", "{", '{"a":1,"a":2}', "null", "{}" * 40_000):
        assert await ask("pause", wrong) == "Invalid repeatable job definition.", wrong[:20]
    odd = (
        {"task_id": "other", "every": 30},
        {"task_id": {"$ne": None}},
        {"id": [1]},
        {"every": 1e308},
        {"every": True},
    )
    for unknown in odd:
        assert "does not exist" in await ask("remove", unknown), unknown
    assert "not known" in await ask("explode", first["job_def"])
    await ask("delete", first["job_def"])
    assert await paused() == [True]


BAD_REPEATABLES = (
    {},
    {"task_id": "t"},
    {"task_id": "t", "every": "5", "cron": "* * * * *"},
    {"every": "5"},
    {"task_id": "t", "every": "0"},
    {"task_id": "t", "every": "-1"},
    {"task_id": "t", "every": "1.5"},
    {"task_id": "t", "every": "٣"},
    {"task_id": "t", "every": "9" * 30},
    {"task_id": "t", "cron": "nonsense"},
    {"task_id": "t", "cron": "0 0 31 2 *"},
    {"task_id": "x" * 300, "every": "5"},
    {"task_id": "a\0b", "every": "5"},
)


@pytest.mark.parametrize("fields", BAD_REPEATABLES, ids=str)
async def test_a_repeatable_that_makes_no_sense_is_told(server: Server, fields: dict[str, str]) -> None:
    answer = await post(server, "/queues/q/repeatables/new", fields)
    assert (answer.status, answer.headers["location"]) == (303, "/queues/q/repeatables/new")
    assert await told(server, answer)
    assert (await get(server, "/queues/q/repeatables"))["repeatables"] == []
