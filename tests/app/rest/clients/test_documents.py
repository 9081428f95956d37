"""Every route of each system's own document, asked for as the document shows it, and every method of a client of it.

What the examples send is sent word by word; what they show must all be in the answers.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.crons import NewCron, Schedule
from switchtower.engine import Engine
from switchtower.engine.upkeep import Upkeep
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.app.rest.clients.asyncmq import AsyncMQClient
from tests.app.rest.clients.conveyor import ConveyorClient, ConveyorError
from tests.app.rest.clients.dispatch import ApiError, DispatchClient
from tests.app.rest.clients.dispatched import DispatchedClient, DispatchedError
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, job_in
from tests.conformance.test_workflows import started
from tests.waiting import until

# The keys of the examples.
JOB = "id name queue state payload attempt max_attempts run_at started_at completed_at scope_app_id scope_org_id"
RUN = "id name state current_step started_at completed_at scope_app_id scope_org_id"
ENTRY = "id job_id job_name queue error payload failed_at scope_org_id"
CRON = "id name schedule enabled last_fired_at next_run_at scope_app_id scope_org_id"
COUNTS = "pending running completed failed retrying cancelled"
AUDIT = "timestamp action source status queue job_id actor details error"
SNAPSHOT = (
    "timestamp time throughput avg_duration retries failures waiting active delayed completed failed "
    "total_queues total_workers"
)


def has(found: dict[str, Any], keys: str) -> dict[str, Any]:
    assert set(keys.split()) <= set(found), set(keys.split()) - set(found)
    return found


async def test_dispatch(http: httpx2.AsyncClient, engine: Engine) -> None:
    client = DispatchClient(http)
    pending = (await enqueue(engine, queue="critical", name="send_email", payload={"to": "user@example.com"})).id
    retrying, running = await job_in(engine, "retrying"), await job_in(engine, "active")
    dead = await job_in(engine, JobState.FAILED, queue="default")
    for prefix in ("", "/dispatch"):
        answer = await http.get(f"{prefix}/v1/jobs?state=pending&queue=critical&limit=50&offset=0")
        (only,) = answer.json()
        assert has(only, JOB)["id"] == pending and only["payload"] == {"to": "user@example.com"}
    assert has(await client.job(pending), JOB) == only
    with pytest.raises(ApiError) as missing:
        await client.job("job_01h455vb4pex5vsknk084sn02q")
    assert (missing.value.status, missing.value.error) == (404, "job not found")
    for id in (pending, retrying.id):
        await client.cancel(id)
        assert (await client.job(id))["state"] == "cancelled"
    with pytest.raises(ApiError, match="running") as refused:
        await client.cancel(running.id)
    assert refused.value.status == 400

    async def counted() -> bool:
        return (await client.counts())["cancelled"] == 2

    await until(counted)
    assert set(await client.counts()) == set(COUNTS.split())
    await started(engine)
    (shown,) = await client.runs("?state=running&limit=50&offset=0")
    names = ["onboard_user", "process_order"]
    worker = WorkerInfo(id="w", queues=["default"], names=[f"{name}#1" for name in names])
    await engine.workers.register(worker)
    assert await client.workflows() == names
    assert has(shown, RUN) == await client.run(shown["id"])
    with pytest.raises(ApiError, match="run not found"):
        await client.run("run_01h455vb4pex5vsknk084sn02q")
    (entry,) = await client.dlq("?queue=default&limit=50&offset=0")
    assert has(entry, ENTRY)["job_id"] == dead.id and await client.entry(entry["id"]) == entry
    again = await client.replay(entry["id"])
    assert has(again, JOB)["state"] == "pending" and again["queue"] == "default" and again["id"] != dead.id
    assert (await client.purge(), await client.dlq_count()) == (0, 1)
    new = NewCron(name="daily-cleanup", schedule=Schedule("0 3 * * *"), job=NewJob(name="cleanup"))
    cron = await engine.crons.create(new, caller=CALLER)
    (listed,) = await client.crons("?limit=50&offset=0")
    assert has(listed, CRON) == await client.cron(cron.id) and listed["schedule"] == "0 3 * * *"
    for verb, enabled in (("disable", False), ("enable", True)):
        assert (await client.switch(cron.id, verb))["enabled"] is enabled
    await client.delete_cron(cron.id)
    assert await client.crons() == []
    stats = await client.stats()
    assert set(stats) == {"jobs", "dlq_count", "workflows"} and set(stats["jobs"]) == set(COUNTS.split())
    assert set(stats["workflows"]) == {"running", "completed", "failed"}


async def test_dispatched(http: httpx2.AsyncClient, engine: Engine) -> None:
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.OPERATE], dev=True), caller=SYSTEM)
    client = DispatchedClient(http, created.secret)
    example = {"payload": {"key": "value"}, "scheduleFor": "2024-12-17T12:00:00Z", "maxRetries": 3}
    assert (await client.dispatch(example))["status"] == "QUEUED"
    at = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    later = await client.dispatch(example | {"scheduleFor": at})
    assert (later["status"], await client.job(later["jobId"])) == ("QUEUED", later)
    assert datetime.fromisoformat(later["scheduledFor"]) == datetime.fromisoformat(at)
    assert await client.update(later["jobId"], None) == {"jobId": later["jobId"], "status": "QUEUED"}
    assert await client.cancel(later["jobId"]) == {"jobId": later["jobId"], "status": "CANCELLED"}
    assert (await client.job(later["jobId"]))["status"] == "CANCELLED"
    with pytest.raises(DispatchedError, match=r"^BAD_REQUEST: ") as refused:
        await client.cancel(later["jobId"])
    assert refused.value.status == 400
    with pytest.raises(DispatchedError, match=r"^NOT_FOUND: "):
        await client.job("job_1234567890abcdef")
    with pytest.raises(DispatchedError, match=r"^UNAUTHORIZED: Unauthorized$"):
        await DispatchedClient(http, "YOUR-API-KEY").job(later["jobId"])
    for body in ({}, {"payload": None}, {"payload": []}):
        with pytest.raises(DispatchedError, match=r"^BAD_REQUEST: payload"):
            await client.dispatch(body)


async def test_asyncmq(http: httpx2.AsyncClient, engine: Engine) -> None:
    client = AsyncMQClient(http)
    failed = [await job_in(engine, JobState.FAILED, queue="emails", name="send-email") for _ in range(3)]
    running = await job_in(engine, "active", queue="emails")
    waiting = await enqueue(engine, queue="emails", payload={"customer": "customer-123"}, job_id="a7f3ab")

    async def listed() -> bool:
        return {"emails"} <= set(await client.page("/")) & set(await client.page("/queues"))

    # Queues are known by their counters, which are a moment behind.
    await until(listed)
    shown = await client.page("/queues/emails/jobs?state=failed&task=send-email&sort=newest")
    assert failed[2].id in shown and waiting.id not in shown
    assert "a7f3ab" in await client.page("/queues/emails/jobs?state=waiting&q=customer-123&job_id=7f3a&page=2&size=50")
    for action, paused in (("pause", True), ("resume", False)):
        assert await client.send("/queues/emails", action=action) == "/asyncmq/queues/emails"
        queue = await engine.queues.get("emails", caller=CALLER)
        assert queue is not None and queue.paused is paused
    ids = [job.id for job in failed]
    for action, id in zip(("retry", "remove", "cancel"), (ids[0], ids[1], "a7f3ab"), strict=True):
        assert await client.act("emails", id, action) == {"ok": True}
    assert (await client.act("emails", running.id, "explode"))["ok"] is False
    assert (await client.send("/queues/emails/jobs", action="cancel", job_id=[running.id])).endswith("page=1")
    await running.report(OutcomeKind.COMPLETE)
    assert await running.state() == "cancelled"
    assert await client.send("/queues/emails/dlq", action="retry", job_id=ids[2]) == (
        "/asyncmq/queues/emails/dlq?page=1&size=20"
    )
    assert [await job.state() for job in failed] == ["waiting", "removed", "waiting"]
    led = await client.send("/queues/emails/repeatables/new", task_id="digest", every="60", cron="")
    assert led == "/asyncmq/queues/emails/repeatables" and "digest" in await client.page("/queues/emails/repeatables")
    definition = '{"task_id": "digest", "every": 60}'
    for action in ("pause", "resume", "remove"):
        await client.send("/queues/emails/repeatables", action=action, job_def=definition)
    assert "digest" not in await client.page("/queues/emails/repeatables")
    for path in (
        "/workers",
        "/metrics",
        "/audit",
        "/queues/emails",
        "/queues/emails/dlq",
        "/queues/emails/repeatables/new",
    ):
        assert await client.page(path)

    async def taken() -> bool:
        return bool(await client.history("?limit=120"))

    await until(taken, timeout_seconds=60)
    assert set(has((await client.history("?limit=1"))[0], SNAPSHOT)) == set(SNAPSHOT.split())
    expected = {"queue.pause", "repeatable.create", "repeatable.pause", "dlq.retry", "job.cancel", "job.retry"}

    async def written() -> bool:
        return expected <= {row["action"] for row in await client.audit()}

    # Rows are relayed from what was done.
    await until(written)
    row = (await client.audit(f"?action=job.retry&status=success&queue=emails&q={ids[0]}&limit=200"))[0]
    assert set(row) == set(AUDIT.split()) and (row["source"], row["job_id"]) == ("jobs.single", ids[0])


@pytest.mark.parametrize("base", ["", "/conveyor"])
async def test_conveyor(http: httpx2.AsyncClient, engine: Engine, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stage(self: Upkeep) -> int:
        return 0

    # The example's job is due in five seconds, and is looked at and changed before that.
    monkeypatch.setattr(Upkeep, "stage", stage)
    client = ConveyorClient(http, base)
    added = await client.add(
        "emails",
        {"name": "send-email", "data": {"to": "[email protected]"}, "opts": {"priority": 1, "delay": 5000}},
    )
    assert (added["state"], added["data"], added["opts"]) == (
        "delayed",
        {"to": "[email protected]"},
        {"priority": 1, "delay": 5000},
    )
    edited = await client.edit("emails", added["id"], {"data": {"to": "[email protected]"}, "opts": {"priority": 2}})
    assert edited["opts"]["priority"] == 2 and await client.job("emails", added["id"]) == edited
    assert await client.act_on_job("emails", added["id"], "promote") == {"promoted": True}
    assert (await client.job("emails", added["id"]))["state"] == "waiting"
    assert await client.act("emails", "pause", {"jobName": "send-email"}) == {"paused": "send-email"}
    assert (await client.queue("emails"))["pausedNames"] == ["send-email"]
    assert await client.act("emails", "resume", {"jobName": "send-email"}) == {"resumed": "send-email"}
    for verb, answer in (("pause", {"paused": "__all__"}), ("resume", {"resumed": "__all__"})):
        assert await client.act("emails", verb) == answer
    running = await job_in(engine, "active", queue="emails-2", group="acme")
    with pytest.raises(ConveyorError, match="Cannot edit active jobs"):
        await client.edit("emails-2", running.id, {"data": {}})
    assert await client.read("/queues/emails-2/groups") == [{"groupId": "acme", "activeCount": 1, "waitingCount": 0}]
    assert await client.act_on_job("emails-2", running.id, "cancel") == {"cancelled": True}
    await running.report(OutcomeKind.FAIL, error=ERROR)
    assert (await client.job("emails-2", running.id))["failedReason"] == "Job cancelled"
    assert await client.act_on_job("emails-2", running.id, "retry") == {"retried": True}
    assert await client.remove("emails-2", running.id) == {"removed": True}
    page = await client.jobs("emails", "?state=waiting&start=0&end=100")
    assert set(page) == {"data", "meta"} and set(page["meta"]) == {"total", "start", "end"}
    assert [job["id"] for job in page["data"]] == [added["id"]]
    for state in (JobState.COMPLETED, JobState.FAILED):
        ended = await job_in(engine, state, queue="emails-3")
        assert await client.act("emails-3", "retry", {"state": state.value}) == {"retried": 1}
        await client.remove("emails-3", ended.id)
    assert await client.act("emails-3", "clean", {"state": "completed", "grace": HOUR_MS}) == {"removed": 0}
    with pytest.raises(ConveyorError) as refused:
        await client.act("emails-3", "retry", {"state": "active"})
    error = refused.value
    assert (error.status, error.code, error.message) == (
        400, "BAD_REQUEST", 'state must be "failed" or "completed"',
    )  # fmt: skip
    assert await client.act("emails", "promote") == {"promoted": 0}
    child = await enqueue(engine, queue="emails", payload={"find": "me here"})
    parent = await job_in(engine, "waiting", queue="emails", depends_on=[])
    await engine.jobs.enqueue(NewJob(name="child", queue="emails", parent_id=parent.id), caller=CALLER)
    assert [job["name"] for job in await client.children("emails", parent.id)] == ["child"]
    assert [job["id"] for job in await client.read("/flows?state=waiting-children")] == [parent.id]
    assert (await client.read(f"/search?q={child.id}"))["id"] == child.id
    await until(lambda: client.queues())
    assert {queue["name"] for queue in await client.read("/search?q=mails&type=queue")} >= {"emails"}
    found = await client.read("/search?q=me%20here&type=payload&queue=emails")
    assert [job["id"] for job in found] == [child.id]
    assert await client.read("/metrics/status") == {"enabled": True}
    assert isinstance(await client.read("/metrics/sparklines"), dict)
    assert isinstance(await client.read("/queues/emails/metrics?granularity=minute"), list)
    assert await client.act("emails", "drain") == {"drained": True}
    with pytest.raises(ConveyorError) as missing:
        await client.job("emails", added["id"])
    assert (missing.value.status, missing.value.code) == (404, "NOT_FOUND")
    blocked = await job_in(engine, "active", queue="emails-4")
    with pytest.raises(ConveyorError):
        await client.obliterate("emails-4")
    assert await client.obliterate("emails-4", "?force=true") == {"obliterated": True}
    assert await engine.jobs.get(blocked.id, caller=CALLER) is None
    document = (await http.get(f"{base}/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
