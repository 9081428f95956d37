"""Conveyor's lists, searches and metrics: what is on which page, and who sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.main import create_app
from app.settings import ServerSettings
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.repeats import Repeat
from switchtower.states import JobState
from switchtower.workers import OutcomeKind
from tests.app.rest.conftest import Server
from tests.app.rest.test_conveyor_rules import QUEUE, add, bad, get
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, job_in
from tests.waiting import until


async def test_pages(maintained: Server) -> None:
    ids = [(await enqueue(maintained.engine, queue="q")).id for _ in range(7)]

    async def page(query: str) -> tuple[list[int], dict[str, int]]:
        answer = await maintained.ask("GET", f"{QUEUE}/jobs{query}")
        assert answer.status == 200, query
        return [ids.index(job["id"]) for job in answer.json["data"]], answer.json["meta"]

    async def counted() -> bool:
        return (await page(""))[1]["total"] == 7 and (await page("?start=9"))[1]["total"] == 7

    await until(counted)
    for query, shown, start, end in (
        ("", range(7), 0, 100),
        ("?start=2&end=5", range(2, 5), 2, 5),
        ("?end=3", range(3), 0, 3),
        ("?start=5&end=2", (), 5, 5),
        ("?start=-3&end=2", range(2), 0, 2),
        ("?end=0", range(7), 0, 100),
        ("?end=-5", (), 0, 0),
        ("?start=x&end=y", range(7), 0, 100),
        ("?start=&end=", range(7), 0, 100),
        ("?start=1e3&end=4", range(1, 4), 1, 4),
        ("?start=%205&end=9", range(5, 7), 5, 9),
        ("?start=%D9%A3", range(7), 0, 100),
        ("?start=0x10&end=3", range(3), 0, 3),
        ("?start=1&start=5&end=3", range(1, 3), 1, 3),
        ("?start[]=5&end[$gt]=1&state[$ne]=x", range(7), 0, 100),
        ("?start=7&end=1000", (), 7, 1000),
        ("?start=99999999999999999999", (), 2**31 - 1, 2**31 - 1),
        ("?start=2147483647&end=9999999999999999999999", (), 2**31 - 1, 2**31 + 999),
    ):
        assert await page(query) == (list(shown), {"total": 7, "start": start, "end": end}), query
    for query in ("?end=1001", "?start=5&end=1006", "?end=1000000000", "?end=9223372036854775808"):
        assert bad(await maintained.ask("GET", f"{QUEUE}/jobs{query}"))
    for state in ("Waiting", "paused", "cancelled", "waiting,active", "%00", "$ne"):
        assert bad(await maintained.ask("GET", f"{QUEUE}/jobs?state={state}"))


async def test_lists_of_ended_jobs_begin_with_the_last_end(server: Server) -> None:
    made = [await job_in(server.engine, "active", queue="q", max_attempts=1) for _ in range(3)]
    for s, kind in zip(reversed(made), ("complete", "fail", "abort"), strict=True):
        await s.report(OutcomeKind(kind), **({"error": ERROR} if kind == "fail" else {}))
    last, failed, done = made
    assert [job["id"] for job in await get(server, f"{QUEUE}/jobs?state=failed")] == [last.id, failed.id]
    assert [job["id"] for job in await get(server, f"{QUEUE}/jobs?state=failed&start=1&end=2")] == [failed.id]
    assert [job["id"] for job in await get(server, f"{QUEUE}/jobs?state=completed")] == [done.id]


async def test_counts_activity_and_metrics(maintained: Server) -> None:
    engine = maintained.engine
    for state in sorted(JobState, key=lambda state: state is JobState.WAITING):
        await job_in(engine, state, queue="q")
    await enqueue(engine, queue="q", delay_ms=HOUR_MS, repeat=Repeat(every_ms=60_000))
    expected = {"waiting": 1, "waiting-children": 1, "delayed": 3, "active": 1, "completed": 1, "failed": 2}

    async def found() -> Any:
        queue = next((q for q in await get(maintained, "/api/queues") if q["name"] == "q"), None)
        return queue if queue is not None and queue["counts"] == expected else None

    queue = await until(found)
    assert queue["latestActivity"] is not None and queue["isPaused"] is False and queue["scheduledCount"] == 1
    assert (await get(maintained, QUEUE))["counts"] == expected

    async def bucket() -> Any:
        rows = await get(maintained, f"{QUEUE}/metrics")
        return (
            rows
            if sum(row["completedCount"] + row["failedCount"] for row in rows if row["jobName"] == "work") == 2
            else None
        )

    rows = await until(bucket)
    assert {row["jobName"] for row in rows} == {"__all__", "work"}
    assert [row["periodStart"] for row in rows] == sorted(row["periodStart"] for row in rows)
    assert {row["granularity"] for row in rows} == {"minute"} and {row["queueName"] for row in rows} == {"q"}
    since = (datetime.now(UTC) - timedelta(days=1)).date()
    hours = await get(maintained, f"{QUEUE}/metrics?granularity=hour&from={since}")
    assert sum(row["completedCount"] for row in hours if row["jobName"] == "__all__") == 1
    assert sum((await get(maintained, "/api/metrics/sparklines"))["q"]) == 2


DATES = (
    "0000-01-01",
    "9999999",
    "tomorrow",
    "1700000000000",
    "2026-01-01T00:00:00+99:99",
    "2026-02-30",
    "0001-01-01T00:00:00+14:00",
)


@pytest.mark.parametrize("date", DATES)
async def test_dates_that_are_none(server: Server, date: str) -> None:
    encoded = date.replace("+", "%2B")
    for path in (
        f"{QUEUE}/metrics?from={encoded}",
        f"{QUEUE}/metrics?to={encoded}",
        f"/api/jobs/search?after={encoded}",
    ):
        bad(await server.ask("GET", path))


async def test_ranges_and_what_else_is_refused_of_metrics(server: Server) -> None:
    for query in ("?granularity=MINUTE", "?granularity=day", "?from=1970-01-01", "?from=2026-02-02&to=2026-02-01"):
        bad(await server.ask("GET", f"{QUEUE}/metrics{query}"))
    plus = "?from=2026-02-01T00:00:00+01:00&to=2026-02-01T01:00:00Z"
    assert (await server.ask("GET", f"{QUEUE}/metrics{plus}")).status == 200, "a plus that nobody escaped"


async def test_searches(maintained: Server) -> None:
    engine = maintained.engine
    made = await enqueue(engine, queue="Billing", name="send-Email", payload={"user": {"name": "Ada"}}, job_id="own")
    other = await enqueue(engine, queue="other", name="x", payload="ada")
    await until(lambda: get(maintained, "/api/search?q=Bill&type=queue"))

    async def ids(query: str) -> list[str]:
        return [job["id"] for job in await get(maintained, f"/api/search?{query}")]

    assert (await get(maintained, "/api/search?q=own"))["id"] == "own"
    assert (await get(maintained, f"/api/search?q={made.id}&type=job"))["id"] == "own"
    assert await get(maintained, "/api/search?q=ow") is None
    assert await get(maintained, "/api/search?q=bill&type=queue") == [], "its case counts"
    assert await ids("q=SEND&type=name") == ["own"]
    assert await ids('q="NAME":"ada"&type=payload&queue=Billing') == ["own"], "the JSON text"
    assert await ids("q=ada&type=payload&queue=other") == [other.id]
    for literal in ("(a%2B)%2B$", ".*", "user.name:Ada", "%5Ba-z%5D"):
        assert await ids(f"q={literal}&type=payload&queue=Billing") == []
    for query in ("", "?q=", "?q=x&type=all", "?q=x&type=payload", f"?q={'x' * 300}&type=name", "?q=%00&type=name"):
        assert bad(await maintained.ask("GET", f"/api/search{query}"))
    assert [j["id"] for j in await get(maintained, "/api/jobs/search?name=E&queue=Billing&state=waiting")] == ["own"]
    assert [j["id"] for j in await get(maintained, "/api/jobs/search?start=1&end=2")] == ["own"], "newest first"
    after = other.created_at.isoformat().replace("+", "%2B")
    assert await get(maintained, f"/api/jobs/search?after={after}") == []
    for query in ("?state=bogus", "?state=,", "?end=1001", "?before=x", f"?name={'x' * 300}"):
        assert bad(await maintained.ask("GET", f"/api/jobs/search{query}"))


@pytest.mark.parametrize("id", ["$ne", "job_x", "..%2f", "%00", "x" * 10_000, "job.", "{}"])
async def test_ids_that_are_none(server: Server, id: str) -> None:
    for method, path in (("GET", ""), ("POST", "/retry"), ("POST", "/promote"), ("POST", "/cancel")):
        assert "not found" in bad(await server.ask(method, f"{QUEUE}/jobs/{id}{path}"), 404)
    assert (await server.ask("DELETE", f"{QUEUE}/jobs/{id}")).status == 200


async def test_a_job_is_found_in_its_queue_alone(server: Server) -> None:
    job = await add(server, opts={"jobId": "mine"})
    other = await server.ask("POST", "/api/queues/other/jobs", body={"name": "x", "opts": {"jobId": "mine"}})
    assert (await get(server, "/api/queues/other/jobs/mine"))["name"] == "x"
    assert (await get(server, f"{QUEUE}/jobs/mine")) == job
    await server.ask("DELETE", "/api/queues/other/jobs/mine")
    assert (await get(server, f"{QUEUE}/jobs/mine")) == job and other.status == 201
    assert (await server.ask("GET", "/api/queues/other/jobs/mine")).status == 404


@pytest.mark.parametrize("force", ["", "?force=TRUE", "?force=1", "?force=true%20", "?force[]=true", "?Force=true"])
async def test_only_the_word_true_forces(server: Server, force: str) -> None:
    s = await job_in(server.engine, "active", queue="q")
    assert "active" in bad(await server.ask("DELETE", f"{QUEUE}{force}"))
    assert await s.state() == "active"


async def test_what_the_other_dialects_see(server: Server) -> None:
    job = await add(server, data={"a": 1}, opts={"priority": 3, "attempts": 2})
    shown = (await server.ask("GET", f"/v1/jobs/{job['id']}")).json
    assert (shown["priority"], shown["max_retries"], shown["state"], shown["payload"]) == (-3, 1, "pending", {"a": 1})
    query = "query($id: ID!) { job(id: $id) { priority maxAttempts queue } }"
    found = (await server.graphql(query, id=job["id"]))["job"]
    assert found == {"priority": 3, "maxAttempts": 2, "queue": "q"}


async def test_a_list_of_queues_hides_all_others(maintained: Server) -> None:
    new = NewApiKey(name="k", scopes=[Scope.ADMIN], queues=["a"])
    key = (await maintained.engine.keys.create(new, caller=SYSTEM)).secret
    hidden = await job_in(maintained.engine, "failed", queue="b", payload="sesame", max_attempts=1)
    bodies = {"clean": {"state": "failed", "grace": 0}, "retry": {"state": "failed"}}
    for method, path in (
        ("GET", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/drain"), ("POST", "/clean"),
        ("POST", "/retry"),
        ("POST", "/promote"), ("DELETE", ""), ("GET", "/groups"), ("GET", "/metrics"), ("GET", "/events"),
        ("GET", "/jobs"), ("GET", "/jobs?state=failed&start=5&end=5"), ("GET", f"/jobs/{hidden.id}"),
        ("GET", f"/jobs/{hidden.id}/children"), ("POST", f"/jobs/{hidden.id}/retry"),
        ("DELETE", f"/jobs/{hidden.id}"),
    ):  # fmt: skip
        answer = await maintained.ask(method, f"/api/queues/b{path}", body=bodies.get(path[1:]), key=key)
        assert bad(answer, 404) == "Queue b not found", path
    for method, path, body in (("POST", "/jobs", {"name": "x"}), ("PATCH", f"/jobs/{hidden.id}", {"data": 1})):
        assert bad(await maintained.ask(method, f"/api/queues/b{path}", body=body, key=key), 404)
    for path in ("/api/search?q=s&type=payload&queue=b", "/api/jobs/search?queue=b"):
        assert bad(await maintained.ask("GET", path, key=key), 404)
    for path in (f"/api/search?q={hidden.id}", "/api/search?q=b&type=queue", "/api/search?q=work&type=name",
                 "/api/flows", "/api/queues", "/api/jobs/search", "/api/metrics/sparklines"):  # fmt: skip
        answer = await maintained.ask("GET", path, key=key)
        assert answer.status == 200 and not answer.json["data"], path
    assert await hidden.state() == "failed"


async def test_read_only_base_path_and_metrics_turned_off(mongodb_url: str, database_name: str) -> None:
    settings = ServerSettings(
        mongodb_url=mongodb_url, database=database_name, maintenance=False, read_only=True, metrics=False,
        conveyor_base_path="/admin/",
    )  # fmt: skip
    engine = await Engine.connect(mongodb_url, **settings.engine_options)
    app = create_app(settings, engine=engine)
    async with app.router.lifespan_context(app):
        server = Server(app, engine)
        assert (await get(server, "/admin/api/config"))["readOnly"] is True
        for method, path in (
            ("POST", "/pause"),
            ("POST", "/jobs"),
            ("PATCH", "/jobs/x"),
            ("DELETE", ""),
            ("POST", "/clean"),
        ):
            answer = await server.ask(method, f"/admin{QUEUE}{path}", body=b"garbage", x_http_method_override="GET")
            assert bad(answer, 403) and answer.json["error"]["code"] == "FORBIDDEN"
        assert await get(server, f"/admin{QUEUE}") == await get(server, f"/conveyor{QUEUE}")
        assert (await server.ask("GET", QUEUE)).status == 404, "nothing of it is outside its base"
        described = await server.ask("GET", "/admin/openapi.json")
        assert described.json["servers"] == [{"url": "/admin"}]
        for path in (f"/admin{QUEUE}/metrics", "/admin/api/metrics/sparklines"):
            answer = await server.ask("GET", path)
            assert bad(answer) and answer.json["error"]["code"] == "METRICS_DISABLED"
        bad(await server.ask("GET", f"/admin{QUEUE}/metrics?granularity=day"))
        assert await get(server, "/admin/api/metrics/status") == {"enabled": False}
    for base in ("admin", "//", "/a b", "/a/../b?"):
        with pytest.raises(ValueError, match="conveyor_base_path"):
            ServerSettings(conveyor_base_path=base)


async def test_config_says_whether_a_key_is_asked_for(maintained: Server) -> None:
    assert await get(maintained, "/api/config") == {"readOnly": False, "authRequired": False}
    await maintained.engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
    assert await get(maintained, "/api/config") == {"readOnly": False, "authRequired": True}
    answer = await maintained.ask("GET", "/api/queues")
    assert answer.json == {"error": {"code": "UNAUTHORIZED", "message": "Authentication required"}}


async def test_a_large_payload_is_refused_as_such(server: Server) -> None:
    answer = await server.ask("POST", f"{QUEUE}/jobs", body={"name": "x", "data": "x" * 1_100_000})
    assert bad(answer, 413) and answer.json["error"]["code"] == "VALIDATION"


async def test_bulk_reaches_every_job(server: Server) -> None:
    await server.engine.jobs.enqueue_many([NewJob(name="x", queue="q", delay_ms=60_000)] * 1_200, caller=CALLER)
    assert (await server.ask("POST", f"{QUEUE}/promote")).json == {"data": {"promoted": 1_200}}
    assert (await server.ask("POST", f"{QUEUE}/drain")).json == {"data": {"drained": True}}
    assert await get(server, f"{QUEUE}/jobs") == []
