"""What AsyncMQ's dashboard has besides its map: what happened lately, and gauges for Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schema.resolvers import queues
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.errors import StoreUnavailable
from switchtower.states import JobState
from switchtower.workers import OutcomeKind
from tests.app.rest.conftest import Server
from tests.app.rest.test_asyncmq import JSON, get, page
from tests.conformance.situations import CALLER, ERROR, enqueue, job_in
from tests.waiting import until

PATH = "/asyncmq/metrics/prometheus"


async def history(server: Server, query: str = "", count: int = 0) -> list[tuple[str, str]]:
    """The names and the jobs of the events, when there are as many."""
    found: list[tuple[str, str]] = []

    async def seen() -> bool:
        rows = (await get(server, f"/events/history{query}"))["events"]
        found[:] = [(row["event"], row["data"]["job_id"]) for row in rows]
        return len(found) >= count

    await until(seen)
    return found


async def test_what_happened_lately(maintained: Server) -> None:
    engine = maintained.engine
    done = await job_in(engine, JobState.COMPLETED, queue="a", name="<b>one</b>")
    failed = await job_in(engine, "active", queue="b", max_attempts=1)
    await failed.report(OutcomeKind.FAIL, error=ERROR)
    gone = await enqueue(engine, queue="b", job_id="mine", delay_ms=60_000)
    await engine.jobs.cancel(gone.id, caller=CALLER)
    every = await history(maintained, count=7)
    assert every == [
        ("job:cancelled", "mine"),
        *((f"job:{name}", failed.id) for name in ("failed", "started", "ready")),
        *((f"job:{name}", done.id) for name in ("completed", "started", "ready")),
    ]
    assert await history(maintained, "?queue=b&limit=2") == every[:2]
    assert await history(maintained, "?event=job:failed") == [every[1]]
    assert await history(maintained, "?q=IT+BROKE") == [every[1]], "a text of its error"
    assert await history(maintained, "?q=.*") == await history(maintained, "?event=JOB:FAILED") == []
    assert len(await history(maintained, "?limit=x&q=&queue=")) == 7
    for prefix in ("", "/asyncmq"):
        shown = await page(maintained, f"{prefix}/events/history?q=%3Cscript%3E&limit=50")
        assert "<script>" not in shown and "No events match" in shown
        shown = await page(maintained, f"{prefix}/events/history")
        assert "job:failed" in shown and "<b>one" not in shown and f'href="{prefix}/queues/b/jobs/mine"' in shown
    assert (await maintained.ask("GET", f"/events/history?q={'x' * 300}", **JSON)).status == 400


async def test_gauges(maintained: Server) -> None:
    for name, count in (("a", 2), ('quote " and \\ and\nline', 1)):
        for _ in range(count):
            await enqueue(maintained.engine, queue=name.replace("\n", " "))
    await job_in(maintained.engine, JobState.CANCELLED, queue="a")

    async def known() -> bool:
        body = (await maintained.ask("GET", PATH)).body
        last = b'line",state="waiting"} 1' in body
        return last and b'{queue="a",state="waiting"} 2' in body and b"asyncmq_queue_total 2" in body

    await until(known)
    answer = await maintained.ask("GET", PATH)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    totals = {name: families[name].samples[0].value for name in families if name != "asyncmq_queue_jobs"}
    assert totals == {"asyncmq_dashboard_ready": 1, "asyncmq_queue_total": 2, "asyncmq_worker_total": 0}
    jobs = {(s.labels["queue"], s.labels["state"]): s.value for s in families["asyncmq_queue_jobs"].samples}
    assert jobs["a", "waiting"] == 2 and jobs['quote " and \\ and line', "waiting"] == 1
    assert {state for _, state in jobs} == {"waiting", "active", "delayed", "completed", "failed"}
    assert all(family.type == "gauge" and family.documentation for family in families.values())
    own = await maintained.ask("GET", "/metrics/prometheus")
    assert b"asyncmq_" not in own.body and b"switchtower_" in own.body


async def test_gauges_without_a_database(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object) -> None:
        raise StoreUnavailable()

    monkeypatch.setattr(queues, "list_all", away)
    answer = await server.ask("GET", PATH)
    assert answer.status == 503 and answer.body.endswith(b"\nasyncmq_dashboard_ready 0\n")


async def test_both_show_what_the_key_sees(maintained: Server) -> None:
    engine = maintained.engine
    await enqueue(engine, queue="secret")
    await history(maintained, count=1)
    keys = [
        (await engine.keys.create(new, caller=SYSTEM)).secret
        for new in (NewApiKey(name="t", scopes=[Scope.READ], org="acme"), NewApiKey(name="o", scopes=[Scope.READ]))
    ]

    async def counted() -> bool:
        return b"secret" in (await maintained.ask("GET", PATH, key=keys[1])).body

    await until(counted)
    for target in ("/asyncmq/events/history", PATH):
        assert (await maintained.ask("GET", target, **JSON)).status == 401
        mine, all_of = [(await maintained.ask("GET", target, key=key, **JSON)).body for key in keys]
        assert b"secret" not in mine and b"secret" in all_of
