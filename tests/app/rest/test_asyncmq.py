"""AsyncMQ, row by row: each route's answer to programs and to browsers, its forms, and what they leave behind."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema_rs
import pytest

from app.rest.asyncmq import ASYNCMQ
from app.rest.asyncmq.pulse import NAMES
from switchtower.audit import AuditFilter, AuditRow
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.app.direct import Answer
from tests.app.rest.conftest import Server, running
from tests.app.rest.streaming import opened
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, Situation, job_in
from tests.waiting import until

ROOT = Path(__file__).parents[3]
DOCUMENTED = {
    "/": "GET",
    "/queues": "GET",
    "/queues/{name}": "GET, POST",
    "/queues/{name}/jobs": "GET, POST",
    "/queues/{name}/jobs/{job_id}/{action}": "POST",
    "/queues/{name}/dlq": "GET, POST",
    "/queues/{name}/repeatables": "GET, POST",
    "/queues/{name}/repeatables/new": "GET, POST",
    "/workers": "GET",
    "/metrics": "GET",
    "/metrics/history": "GET",
    "/audit": "GET",
    "/events": "GET",
}
"""The route map of AsyncMQ's own document."""
UNDOCUMENTED = {
    *("GET /queues/{name}/jobs/{job_id}", "GET /health", "GET /ready"),
    *("GET /login", "POST /login", "POST /logout", "GET /events/history", "GET /metrics/prometheus"),
}
"""What its dashboard has besides."""

JSON = {"accept": "application/json"}
HTML = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FORM = "application/x-www-form-urlencoded"


async def get(server: Server, target: str) -> Any:
    """The JSON of a page, in the shape that its route promises."""
    answer = await server.ask("GET", target, **JSON)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
    path = target.partition("?")[0]
    route = next(route for route in ASYNCMQ.routes if route.method == "GET" and _fits(route.path, path))
    assert route.shows is not None
    schema = {**route.shows, "components": {"schemas": ASYNCMQ.schemas}}
    jsonschema_rs.validate(schema, answer.json)
    return answer.json


def _fits(template: str, path: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
    return re.fullmatch(pattern, path) is not None and ("{" not in template or "/repeatables/new" not in path)


async def page(server: Server, target: str, **headers: str) -> str:
    """The page that a browser gets."""
    answer = await server.ask("GET", target, **HTML, **headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), answer.body
    return answer.body.decode()


async def post(server: Server, target: str, fields: Any = (), **headers: str) -> Answer:
    """The answer to a form."""
    body = urlencode(list(fields.items()) if isinstance(fields, dict) else fields).encode()
    return await server.ask("POST", target, body=body, content_type=FORM, **{**HTML, **headers})


async def told(server: Server, answer: Answer) -> str:
    """Follows a redirect, as a browser with its cookies does; the words that the next page says once."""
    cookie = answer.headers["set-cookie"].partition(";")[0]
    shown = await page(server, answer.headers["location"], cookie=cookie)
    return "".join(re.findall(r'<p class="toast" data-tone="\w+">(.*?)</p>', shown))


@asynccontextmanager
async def arranging(url: str, database: str) -> AsyncIterator[Engine]:
    """An engine whose jobs nobody takes back from workers that do not exist."""
    engine = await Engine.connect(url, database=database)
    try:
        await engine.prepare()
        yield engine
    finally:
        await engine.close()


async def counted(server: Server, target: str, total: int) -> None:
    """Waits until the counters know of so many jobs."""

    async def known() -> bool:
        return bool((await get(server, target))["total"] == total)

    await until(known)


async def rows(server: Server, **filter: Any) -> list[AuditRow]:
    return (await server.engine.audit.page(AuditFilter(**filter), caller=CALLER, first=50)).items


async def failed_job(server: Server, queue: str, **fields: Any) -> Situation:
    return await job_in(server.engine, JobState.FAILED, queue=queue, **fields)


def test_the_table_is_what_is_documented() -> None:
    table = {f"{route.method} {route.path}" for route in ASYNCMQ.routes}
    documented = {f"{method} {path}" for path, methods in DOCUMENTED.items() for method in methods.split(", ")}
    assert table == documented | UNDOCUMENTED
    ours = (ROOT / "docs" / "rest" / "asyncmq.md").read_text()
    listed = re.findall(r"^\| `([A-Z, ]+) (/[^` ]*)`", ours, re.MULTILINE)
    assert {f"{method} {path}" for methods, path in listed for method in methods.split(", ")} == table


@pytest.mark.parametrize("prefix", ["", "/asyncmq"])
async def test_every_page_is_served_and_its_links_stay_under_its_prefix(server: Server, prefix: str) -> None:
    s = await failed_job(server, "emails")
    for route in ASYNCMQ.routes:
        if route.method != "GET" or route.page is None:
            continue
        path = prefix + route.path.format(name="emails", job_id=s.id)
        shown = await page(server, path)
        links = re.findall(r'(?:href|action|src)="([^"]*)"', shown)
        assert links and all(link.startswith(("/assets/", f"{prefix}/", "#main")) for link in links), path
        for link in {link.replace("&amp;", "&") for link in re.findall(r'href="(/[^"]*)"', shown)}:
            if not link.startswith("/assets/"):
                # What happened lately may have happened to a job that has gone since.
                gone = (404,) if route.path == "/events/history" else ()
                assert (await server.ask("GET", link, **HTML)).status in (200, 303, *gone), link


async def test_the_root_of_the_mount_leads_behind_its_slash(server: Server) -> None:
    answer = await server.ask("GET", "/asyncmq", **HTML)
    assert (answer.status, answer.headers["location"]) == (303, "/asyncmq/")


async def test_a_page_by_default_and_json_for_who_would_rather_have_it(server: Server) -> None:
    for accept, kind in (
        (None, "html"),
        ("*/*", "html"),
        ("", "html"),
        ("application/json", "json"),
        ("application/json, text/plain, */*", "json"),
        ("text/html;q=0.5, application/json", "json"),
        ("application/json;q=0.5, text/html", "html"),
        ("text/html, application/json", "html"),
        ("application/json;q=0", "html"),
        ("application/json;q=nonsense", "html"),
        ("audio/*;q=1, ,;;;=", "html"),
        ("x" * 5_000, "html"),
    ):
        headers = {} if accept is None else {"accept": accept}
        for path, status in (("/queues", 200), ("/nope", 404)):
            answer = await server.ask("GET", path, **headers)
            assert answer.status == status and kind in answer.headers["content-type"], (accept, path)


QUEUE = {"name": "emails", "paused": False, "waiting": 0, "active": 0, "delayed": 0, "failed": 0, "completed": 0}


async def test_queues_and_one_queue(mongodb_url: str, database_name: str, unrescued: None) -> None:
    async with arranging(mongodb_url, database_name) as engine:
        # Those that are claimed first, alone in their queue.
        await engine.workers.register(WorkerInfo(id="w", queues=["emails"]))
        await engine.jobs.enqueue(NewJob(name="work", queue="emails"), caller=CALLER)
        assert len(await engine.claims.claim("w", ["emails"])) == 1
        for state in reversed(JobState):
            if state is not JobState.ACTIVE:
                await job_in(engine, state, queue="emails")
        await engine.jobs.enqueue(NewJob(name="work", queue="billing"), caller=CALLER)
    async with running(mongodb_url, database_name) as server:
        # Of each state one, and the one that the blocked one waits for, which stands elsewhere.
        emails = QUEUE | {"waiting": 1, "active": 1, "delayed": 2, "failed": 1, "completed": 1}
        assert await until(lambda: _counted(server, emails))
        # What is enqueued last is counted last.
        assert await until(lambda: _counted(server, QUEUE | {"name": "billing", "waiting": 1}))
        found = await get(server, "/queues")
        assert {row["name"] for row in found["queues"]} > {"emails", "billing"}
        assert (await get(server, "/queues?q=MAIL"))["queues"] == [emails]
        assert (await get(server, "/queues/emails")) == emails
        assert (await get(server, "/queues/nobody")) == QUEUE | {"name": "nobody"}
        shown = await page(server, "/queues/emails")
        for state, count in (("waiting", 1), ("delayed", 2), ("cancelled", 1)):
            assert re.search(rf'data-count="{state}" data-queue="emails">{count}<', shown), state
        overview = await get(server, "/")
        assert list(overview) == list(NAMES)
        assert overview["jobdist"] == {"waiting": 2, "active": 1, "delayed": 3, "completed": 1, "failed": 1}
        assert overview["overview"] == {"total_queues": 3, "total_jobs": 8, "total_workers": 1}
        assert overview["metrics"] == {"throughput": 1, "avg_duration": None, "retries": 1, "failures": 1}
        assert overview["metrics"] == await get(server, "/metrics")
        assert (overview["latest_jobs"][0]["queue"], overview["latest_jobs"][0]["state"]) == ("billing", "waiting")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", overview["latest_jobs"][0]["time"])
        assert [queue["name"] for queue in overview["latest_queues"][:1]] == ["billing"]
        history = await until(lambda: _snapshots(server))
        assert {"throughput": 1, "waiting": 2, "failed": 1, "total_queues": 3}.items() <= history[0].items()
        assert history[0]["time"].endswith("+00:00") and history[0]["avg_duration"] is None
        before = await server.engine._store.snapshots.count_documents({})
        await page(server, "/metrics")
        assert len((await get(server, "/metrics/history?limit=0"))["history"]) == 1
        assert before <= len((await get(server, "/metrics/history?limit=junk"))["history"]) <= 120


async def _counted(server: Server, row: dict[str, Any]) -> bool:
    found = await get(server, f"/queues/{row['name']}")
    return bool(found == row)


async def _snapshots(server: Server) -> Any:
    found = (await get(server, "/metrics/history"))["history"]
    return found if found and found[0]["waiting"] == 2 else None


async def test_pause_and_resume(server: Server) -> None:
    for action, paused in (("pause", True), ("resume", False)):
        answer = await post(server, "/queues/emails", {"action": action})
        assert (answer.status, answer.headers["location"]) == (303, "/queues/emails")
        assert (await get(server, "/queues/emails"))["paused"] is paused
        assert "emails" in await told(server, answer)
    answer = await post(server, "/asyncmq/queues/a%20b", {"action": "explode"})
    assert (answer.status, answer.headers["location"]) == (303, "/asyncmq/queues/a%20b")
    assert "set-cookie" not in answer.headers and await server.engine.queues.list(caller=CALLER) != []


async def test_a_job_in_full(server: Server) -> None:
    s = await failed_job(server, "emails", payload={"to": "a@b.c", "api_key": "sesame", "n": [1]}, max_attempts=1)
    shown = await get(server, f"/queues/emails/jobs/{s.id}")
    expected = {
        "id": s.id,
        "task": "work",
        "args": [],
        "kwargs": {"to": "a@b.c", "api_key": "sesame", "n": [1]},
        "retries": 1,
        "max_retries": 0,
        "status": "failed",
        "result": None,
        "last_error": "it broke",
        "error_traceback": "Traceback …",
        "delay_until": None,
        "priority": 5,
        "depends_on": [],
        "repeat_every": None,
        "deduplication": None,
        "ttl": None,
    }
    assert expected.items() <= shown.items()
    # It was created by this process's idea of the database's time, and failed by the database's own.
    assert -1 < shown["failed_at"] - shown["created_at"] < 60 and shown["last_attempt"] <= shown["failed_at"]
    assert shown == (await get(server, "/queues/emails/jobs?state=failed"))["jobs"][0]
    html = await page(server, f"/queues/emails/jobs/{s.id}")
    assert "sesame" not in html and html.count("[redacted]") == 3 and "a@b.c" in html and "Traceback …" in html
    for path in ("/queues/emails/jobs/nope", f"/queues/other/jobs/{s.id}", "/queues/emails/jobs/%00"):
        assert (await server.ask("GET", path, **HTML)).status == 404
        assert (await server.ask("GET", path, **JSON)).json["ok"] is False
    for payload, args in ((None, []), ([1, {"a": 2}], [1, {"a": 2}]), ("x", ["x"]), (0, [0])):
        id = await server.enqueue(queue="emails", payload=payload)
        assert ((await get(server, f"/queues/emails/jobs/{id}"))["args"]) == args


async def test_states_are_tabs(server: Server) -> None:
    ids: dict[str, str] = {}
    for state in reversed(JobState):
        ids[state.value] = (await job_in(server.engine, state, queue="q")).id
    for tab, states in {
        "waiting": ["waiting"],
        "active": ["active"],
        "delayed": ["retrying", "scheduled"],
        "completed": ["completed"],
        "failed": ["failed"],
        "cancelled": ["cancelled"],
    }.items():
        found = await get(server, f"/queues/q/jobs?state={tab}&sort=oldest")
        assert [job["id"] for job in found["jobs"]] == [ids[state] for state in states], tab
        assert {job["status"] for job in found["jobs"]} == {tab}
        html = await page(server, f"/queues/q/jobs?state={tab}")
        assert all(ids[state] in html for state in states)
    for tab in ("blocked", "Waiting", "waiting-children", "%00", "$ne", "expired"):
        assert (await get(server, f"/queues/q/jobs?state={tab}"))["jobs"] == []
    assert (await get(server, "/queues/q/jobs?state="))["state"] == "waiting"
    blocked = await get(server, f"/queues/q/jobs/{ids['blocked']}")
    assert blocked["status"] == "waiting-children" and len(blocked["depends_on"]) == 1


async def test_filters_pages_and_orders(maintained: Server) -> None:
    server = maintained
    ids = [
        await server.enqueue(
            name=f"send-{n % 3}", queue="q", payload={"user": f"Größe-{n}", "n": n}, jobId=f"order{n:02}"
        )
        for n in range(45)
    ]
    await counted(server, "/queues/q/jobs", len(ids))

    async def found(query: str) -> list[str]:
        return [job["id"] for job in (await get(server, f"/queues/q/jobs?{query}"))["jobs"]]

    everything = [f"order{n:02}" for n in range(45)]
    assert await found("sort=oldest&size=100") == everything
    assert await found("size=100") == await found("size=100&sort=junk") == everything[::-1]
    assert await found("sort=oldest&page=2&size=20") == everything[20:40]
    assert await found("sort=oldest&page=3&size=20") == everything[40:]
    assert await found("page=3&size=20") == everything[:5][::-1]
    for page_ in ("1000000000", "9" * 19, "3"):
        assert await found(f"sort=oldest&page={page_}") == everything[40:], page_
    for first in ("page=0", "page=-1", "page=", "page=junk", "page=1e3", "page=%D9%A3", "page=0x10", "page[]=3"):
        assert await found(f"sort=oldest&{first}") == everything[:20], first
    for size, count in (("0", 1), ("-5", 1), ("7", 7), ("1000000", 45), ("junk", 20), ("", 20)):
        assert len(await found(f"size={size}")) == count, size
    numbers = await get(server, "/queues/q/jobs?page=99&size=20")
    assert (numbers["page"], numbers["total"], numbers["total_pages"], numbers["size"]) == (3, 45, 3, 20)
    assert await found("task=SEND-1&sort=oldest&size=100") == everything[1::3]
    assert await found("job_id=er07") == ["order07"] and await found("job_id=ER07") == []
    assert await found(f"q={quote('größe-7')}") == ["order07"], "whatever its case"
    as_json = quote('"n": 12, "user"')
    assert await found(f"q={as_json}") == ["order12"], "as JSON with sorted keys"
    assert await found(f"q={quote('(a+)+$')}") == await found("q=.*") == []
    assert await found("task=send-0&q=n%22%3A%203&job_id=order") == [
        "order39",
        "order36",
        "order33",
        "order30",
        "order03",
    ]
    paged = await get(server, "/queues/q/jobs?task=send-1&size=10&page=2&sort=oldest")
    assert [job["id"] for job in paged["jobs"]] == everything[1::3][10:]
    assert (paged["total"], paged["total_pages"], paged["exhaustive"]) == (15, 2, True)
    last = await get(server, "/queues/q/jobs?task=send-1&size=10&page=7&sort=oldest")
    assert (last["page"], [job["id"] for job in last["jobs"]]) == (2, everything[1::3][10:])
    for name in ("q", "task", "job_id"):
        assert (await server.ask("GET", f"/queues/q/jobs?{name}={'x' * 257}", **JSON)).status == 400
        assert (await server.ask("GET", f"/queues/q/jobs?{name}={'x' * 10_000}", **HTML)).status == 400


async def test_links_lead_through_all_pages_without_counting_them_off(maintained: Server) -> None:
    server = maintained
    await server.engine.jobs.enqueue_many(
        [NewJob(name="work", queue="q", job_id=f"order{n:02}") for n in range(45)], caller=CALLER
    )
    await counted(server, "/queues/q/jobs", 45)
    target, seen = "/queues/q/jobs?size=20&sort=oldest", []
    for number in (1, 2, 3):
        html = await page(server, target)
        seen += re.findall(r'value="(order\d\d)"', html)
        assert f"Page {number} of 3" in html
        following = re.search(r'rel="next" href="([^"]*)"', html)
        if following is not None:
            target = following[1].replace("&amp;", "&")
            assert "after=" in target and f"page={number + 1}" in target
    assert seen == [f"order{n:02}" for n in range(45)]
    back = re.search(r'rel="prev" href="([^"]*)"', html)
    assert back is not None and "before=" in back[1]
    html = await page(server, back[1].replace("&amp;", "&"))
    assert re.findall(r'value="(order\d\d)"', html) == [f"order{n:02}" for n in range(20, 40)]
    assert (await server.ask("GET", "/queues/q/jobs?after=nonsense", **HTML)).status == 400


async def test_workers(server: Server) -> None:
    for n in range(3):
        await server.engine.workers.register(WorkerInfo(id=f"w{n}", queues=["a", "b"], concurrency=4, hostname="h"))
    found = await get(server, "/workers?size=2&page=2")
    assert (found["total"], found["total_pages"], len(found["workers"])) == (3, 2, 1)
    worker = (await get(server, "/workers"))["workers"][0]
    assert (worker["queue"], worker["concurrency"]) == ("a, b", 4) and worker["heartbeat"] > 0
    assert "healthy" in await page(server, "/workers")


async def test_events_are_seven_and_come_again(maintained: Server) -> None:
    server = maintained
    await server.enqueue(queue="emails")
    await counted(server, "/queues/emails/jobs", 1)
    async with opened(server.app, "/events") as reader, opened(server.app, "/asyncmq/events") as other:
        first = await reader.until(7)
        assert (await other.until(7))[:7] == first[:7], "one snapshot for all"
        assert [name for name, _ in first] == list(NAMES)
        assert reader.status == 200 and reader.headers["content-type"].startswith("text/event-stream")
        data = dict(first)
        assert data["queues"] == [QUEUE | {"waiting": 1}]
        assert data["latest_jobs"][0]["queue"] == data["latest_queues"][0]["name"] == "emails"
        again = await reader.until(14)
        assert [name for name, _ in again[7:14]] == list(NAMES)
        assert b"\nid:" not in reader.text and b"\n:" not in reader.text


async def test_health_and_readiness(server: Server) -> None:
    assert (await server.ask("GET", "/health")).json == {"status": "ok", "service": "asyncmq-dashboard"}
    assert (await server.ask("GET", "/asyncmq/ready")).json == {"status": "ok", "backend": "mongodb"}


async def test_jobs_of_other_doors_look_right_here(server: Server) -> None:
    s = await job_in(server.engine, JobState.RETRYING, queue="q", max_attempts=3)
    shown = await get(server, f"/queues/q/jobs/{s.id}")
    assert (shown["status"], shown["retries"], shown["max_retries"]) == ("delayed", 1, 2)
    assert 0 < shown["delay_until"] - shown["created_at"] <= HOUR_MS / 1000 + 60
    running_ = await job_in(server.engine, JobState.ACTIVE, queue="r", priority=-2)
    shown = await get(server, f"/queues/r/jobs/{running_.id}")
    assert (shown["status"], shown["priority"], shown["retries"]) == ("active", 3, 0) and shown["active_since"]
    await running_.report(OutcomeKind.COMPLETE, result={"a": 1})
    shown = await get(server, f"/queues/r/jobs/{running_.id}")
    assert (shown["status"], shown["result"]) == ("completed", {"a": 1}) and shown["completed_at"]
    assert ERROR.message == "it broke"
