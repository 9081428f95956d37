"""Conveyor's event streams: every event of its document, resumed with nothing missed, and gaps that are told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schema.resolvers import streams as resolvers
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM, Caller
from switchtower.engine import Engine
from switchtower.events import Gap
from switchtower.jobs import NewJob
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.app.rest.conftest import Server, running
from tests.app.rest.streaming import Reader, opened
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, job_in
from tests.waiting import until


def told(reader: Reader) -> list[tuple[str, Any, Any]]:
    """Type, job and data of every event but the first."""
    found = []
    for name, data in reader.events[1:]:
        assert data["type"] == name and data["timestamp"].endswith("Z")
        found.append((name, data.get("jobId"), data.get("data")))
    return found


async def life(engine: Engine, queue: str) -> list[tuple[str, str | None, Any]]:
    """Does all that there is an event for, and says what must be told."""
    s = await job_in(engine, "active", queue=queue, job_id="mine", max_attempts=2)
    await engine.claims.progress(s.id, s.token, 40)
    await s.report(OutcomeKind.FAIL, error=ERROR, wait_ms=HOUR_MS)
    await engine.jobs.promote(s.id, caller=CALLER)
    await s.claim(start=True)
    await s.report(OutcomeKind.FAIL, error=ERROR)
    await engine.jobs.retry(s.id, caller=CALLER)
    await s.claim(start=True)
    await s.report(OutcomeKind.COMPLETE)
    stopped = await job_in(engine, "active", queue=queue)
    await engine.jobs.cancel(stopped.id, caller=CALLER)
    await stopped.report(OutcomeKind.ABORT)
    blocked = await job_in(engine, "blocked", queue=queue)
    await engine.queues.pause(queue, caller=CALLER)
    await engine.queues.resume(queue, caller=CALLER, job_name="send-email")
    await engine.queues.pause(queue, caller=CALLER, group="acme")
    await engine.queues.drain(queue, caller=CALLER)
    return [
        ("job:waiting", "mine", None),
        ("job:active", "mine", None),
        ("job:progress", "mine", 40),
        ("job:delayed", "mine", None),
        ("job:waiting", "mine", None),
        ("job:active", "mine", None),
        ("job:failed", "mine", {"reason": "it broke"}),
        ("job:waiting", "mine", None),
        ("job:active", "mine", None),
        ("job:completed", "mine", None),
        ("job:waiting", stopped.id, None),
        ("job:active", stopped.id, None),
        ("job:cancelled", stopped.id, None),
        ("job:cancelled", stopped.id, None),
        ("job:waiting-children", blocked.id, None),
        ("queue:paused", None, {"jobName": "__all__"}),
        ("queue:resumed", None, {"jobName": "send-email"}),
        ("job:removed", blocked.id, None),
        ("queue:drained", None, None),
    ]


async def test_everything_is_told_in_order_and_of_one_queue_alone(maintained: Server) -> None:
    async with (
        opened(maintained.app, "/api/queues/q/events") as one,
        opened(maintained.app, "/conveyor/api/events") as all,
        opened(maintained.app, "/api/queues/other/events") as other,
    ):
        assert one.events == all.events == other.events == [("connected", {})]
        expected = await life(maintained.engine, "q")
        await enqueue(maintained.engine, queue="other")
        await one.until(1 + len(expected))
        assert told(one) == expected
        assert {data["queueName"] for _, data in one.events[1:]} == {"q"}
        await until(lambda: ("other" in {data.get("queueName") for _, data in all.events}) or None)
        assert [event for event in told(all) if event in expected] == expected
        await other.until(2)
        assert [name for name, _, _ in told(other)] == ["job:waiting"]


@pytest.mark.nightly
async def test_a_job_of_a_lost_worker_is_stalled(mongodb_url: str, database_name: str) -> None:
    async with running(mongodb_url, database_name) as server, opened(server.app, "/api/queues/q/events") as reader:
        engine = server.engine
        job = await enqueue(engine, queue="q")
        await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
        await engine.claims.claim("w", ["q"])
        long_ago = datetime.now(UTC) - timedelta(minutes=1)
        await engine._store.workers.update_one({"_id": "w"}, {"$set": {"expires_at": long_ago}})
        await reader.until(4)
        # What comes after it may have come already.
        assert told(reader)[:3] == [
            ("job:waiting", job.id, None),
            ("job:active", job.id, None),
            ("job:stalled", job.id, None),
        ]


async def test_who_comes_back_misses_nothing_and_is_told_nothing_twice(maintained: Server) -> None:
    engine, last, seen = maintained.engine, "", []
    ids: list[str] = []

    async def load() -> None:
        for _ in range(20):
            ids.extend([(await enqueue(engine, queue="q")).id for _ in range(10)])
            await asyncio.sleep(0)

    loading = asyncio.ensure_future(load())
    for _ in range(8):
        resume = {"last_event_id": last} if last else {}
        async with opened(maintained.app, "/api/queues/q/events", **resume) as reader:
            few = min(5, 200 - len(seen))
            await until(lambda reader=reader, few=few: len(reader.events) > few)
            seen += [data["jobId"] for _, data in reader.events[1:]]
            last = reader.last_id
    await loading
    async with opened(maintained.app, "/api/queues/q/events", last_event_id=last) as reader:
        await until(lambda: len(seen) + len(reader.events) - 1 >= 200)
        seen += [data["jobId"] for _, data in reader.events[1:]]
    assert seen == ids


async def test_the_first_event_has_an_id_to_come_back_with(maintained: Server) -> None:
    async with opened(maintained.app, "/api/events") as reader:
        last = reader.last_id
    job = await enqueue(maintained.engine, queue="q")
    async with opened(maintained.app, "/api/events", last_event_id=last) as reader:
        await reader.until(2)
        assert told(reader)[0] == ("job:waiting", job.id, None)


async def test_the_id_of_a_client_for_whom_nothing_happens_moves_on(
    maintained: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(resolvers.activity.__wrapped__.__kwdefaults__, "rest_seconds", 0.05)  # type: ignore[attr-defined]
    async with opened(maintained.app, "/api/queues/quiet/events") as reader:
        first = reader.last_id
        await enqueue(maintained.engine, queue="elsewhere")
        await until(lambda: reader.last_id > first)
        assert reader.events == [("connected", {})]
        last = reader.last_id
        job = await enqueue(maintained.engine, queue="quiet")
        await reader.until(2)
    async with opened(maintained.app, "/api/queues/quiet/events", last_event_id=last) as reader:
        await reader.until(2)
        assert told(reader) == [("job:waiting", job.id, None)]


GARBAGE = ("x", "1", "2.82", "$ne", "job_1", "x" * 5_000, "2.826925A1D2000000062B042C0100296E5A1004")


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
async def test_an_id_that_is_none_of_ours_begins_now_with_a_gap(maintained: Server, text: str) -> None:
    async with opened(maintained.app, "/api/queues/q/events", last_event_id=text) as reader:
        assert reader.status == 200 and reader.events[0] == ("connected", {})
        await reader.until(2)
        name, data = reader.events[1]
        assert name == data["type"] == "resync" and data["data"]["reason"]
        job = await enqueue(maintained.engine, queue="q")
        await reader.until(3)
        assert told(reader)[1] == ("job:waiting", job.id, None)


async def test_a_reader_that_stands_still_is_told_of_a_gap(maintained: Server) -> None:
    async with opened(maintained.app, "/api/queues/q/events") as reader:
        reader.reading.clear()
        for _ in range(3):
            await maintained.engine.jobs.enqueue_many([NewJob(name="x", queue="q")] * 500, caller=CALLER)
        hub = maintained.engine.hub()
        # Once the last of them came to more than it keeps.
        await until(lambda: any(s._items and isinstance(s._items[0], Gap) for s in hub._open))
        reader.reading.set()
        await until(lambda: "resync" in [name for name, _ in reader.events])
        job = await enqueue(maintained.engine, queue="q")
        await until(lambda: job.id in [data.get("jobId") for _, data in reader.events])
        ids = [data.get("jobId") for _, data in reader.events]
        assert ids.count(job.id) == 1 and len(ids) < 1_500, "what was lost is not told later"


async def test_streams_end_with_their_key_and_show_one_tenant_alone(maintained: Server) -> None:
    engine = maintained.engine
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ], org="acme"), caller=SYSTEM)
    other = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ], org="other"), caller=SYSTEM)
    refused = await maintained.ask("GET", "/api/events")
    assert (refused.status, refused.json["error"]["code"]) == (401, "UNAUTHORIZED")
    async with (
        opened(maintained.app, "/api/events", key=created.secret) as own,
        opened(maintained.app, "/api/events", key=other.secret) as foreign,
    ):
        job = (await engine.jobs.enqueue(NewJob(name="x", queue="q"), caller=Caller("ann", org="acme"))).job
        await own.until(2)
        assert told(own) == [("job:waiting", job.id, None)]
        stolen = own.last_id
        await engine.keys.revoke(created.key.id, caller=SYSTEM)
        await until(lambda: own.ended)
        assert not foreign.ended and foreign.events == [("connected", {})]
    async with opened(maintained.app, "/api/events", key=other.secret, last_event_id=stolen) as foreign:
        assert foreign.events == [("connected", {})]


async def test_a_stream_of_a_queue_that_is_not_there_for_the_key(maintained: Server) -> None:
    new = NewApiKey(name="k", scopes=[Scope.OPERATE], queues=["a"])
    created = await maintained.engine.keys.create(new, caller=SYSTEM)
    answer = await maintained.ask("GET", "/api/queues/b/events", key=created.secret)
    assert (answer.status, answer.json["error"]) == (404, {"code": "NOT_FOUND", "message": "Queue b not found"})
    async with opened(maintained.app, "/api/events", key=created.secret) as reader:
        await enqueue(maintained.engine, queue="b")
        job = await enqueue(maintained.engine, queue="a")
        await reader.until(2)
        assert told(reader) == [("job:waiting", job.id, None)]
