"""Our own pages beside AsyncMQ's: each is there, complete without scripts, escapes what is in it, does its errand."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import pytest

from app.dashboard.redaction import redacted, restored
from app.dashboard.words import FILTERS, duration, schedule
from app.rest.asyncmq import ASYNCMQ
from app.rest.dashboard.fields import json_of
from switchtower.crons import NewCron, Schedule, duration_ms
from switchtower.errors import InvalidInput, StoreUnavailable
from switchtower.flows import FlowNode
from switchtower.jobs import JobFilter, NewJob
from switchtower.states import JobState
from tests.app.direct import Answer
from tests.app.rest.conftest import Server
from tests.app.rest.test_asyncmq_browsers import MARKUP, check_markup
from tests.conformance.situations import CALLER, ERROR, job_in, quiet
from tests.conformance.test_workflows import started
from tests.databases import anywhere
from tests.waiting import until

HTML = {"accept": "text/html"}
FORM = "application/x-www-form-urlencoded"


async def page(server: Server, target: str) -> str:
    answer = await server.ask("GET", target, **HTML)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), (target, answer.body)
    return answer.body.decode()


async def post(server: Server, target: str, fields: Any) -> Answer:
    body = urlencode(list(fields.items()) if isinstance(fields, dict) else fields).encode()
    return await server.ask("POST", target, body=body, content_type=FORM, **HTML)


async def done(server: Server, target: str, fields: Any) -> str:
    """The address that a form that did what it asked for leads to."""
    answer = await post(server, target, fields)
    assert answer.status == 303, (target, fields, answer.body)
    return answer.headers["location"]


async def ids(server: Server, name: str = "work") -> dict[str, str]:
    """One of each thing, by the beginning of the address of its page."""
    engine = server.engine
    job = (await engine.jobs.enqueue(NewJob(name=name, queue="q"), caller=CALLER)).job.id
    new = NewCron(name=name, schedule=Schedule("0 9 * * 1-5"), job=NewJob(name=name, queue="q"))
    flow = await engine.flows.enqueue(
        FlowNode(job=NewJob(name=name, queue="q"), children=[FlowNode(job=NewJob(name=name, queue="q"))]), caller=CALLER
    )
    operation = await engine.bulk.start("promote", JobFilter(queues=["nowhere"]), caller=CALLER)
    assert operation.id is not None
    return {
        "/jobs": job,
        "/crons": (await engine.crons.create(new, caller=CALLER)).id,
        "/flows": flow.id,
        "/runs": (await started(engine)).id,
        "/bulk": operation.id,
    }


async def addresses(server: Server) -> list[str]:
    """Every page that can be looked at."""
    made = await ids(server)
    paths = [route.path for route in ASYNCMQ.pages if route.method == "GET"]
    return [path.replace("{id}", made.get(path.partition("/{")[0], "")) for path in paths]


@pytest.mark.parametrize("prefix", ["", "/asyncmq"])
async def test_every_page_is_there_and_leads_nowhere_else(server: Server, prefix: str) -> None:
    found = await addresses(server)
    assert len(found) >= 14
    for path in found:
        answer = await server.ask("GET", prefix + path, **HTML)
        assert answer.status == 303 if path.startswith("/jobs/") else 200, path
        if answer.status == 303:
            continue
        html = answer.body.decode()
        targets = {link.replace("&amp;", "&") for link in re.findall(r'(?:href|action)="(/[^"]*)"', html)}
        assert all(link.startswith((f"{prefix}/", "/assets/", "/export/")) for link in targets), path
        for link in targets:
            if not link.startswith(("/assets/", "/export/")) and f'action="{link}"' not in html:
                assert (await server.ask("GET", link, **HTML)).status in (200, 303), (path, link)
        fields = set(re.findall(r'<(?:input|select|textarea)(?![^>]*type="hidden")[^>]*\sid="([^"]+)"', html))
        assert fields <= set(re.findall(r'<label[^>]*for="([^"]+)"', html)), path
        check_markup(html)


async def test_looking_changes_nothing(server: Server) -> None:
    found = await addresses(server)
    await quiet(server.engine)

    async def everything() -> list[Any]:
        database = server.engine._store.database
        names = ("jobs", "queues", "crons", "dead_letters", "bulk_operations", "keys", "audit", "sessions")
        return [await database[name].find({}, sort=[("_id", 1)]).to_list(None) for name in names]

    before = await everything()
    for path in found:
        await server.ask("GET", path + "?action=delete&verb=remove&confirmed=yes", **HTML)
    assert await everything() == before


async def test_no_name_becomes_markup_on_our_pages(server: Server) -> None:
    for text in MARKUP:
        made = await ids(server, text)
        failed = await job_in(server.engine, JobState.FAILED, name=text, payload={text: text})
        for route in ASYNCMQ.pages:
            if route.method == "GET" and not route.path.startswith("/jobs/"):
                path = route.path.replace("{id}", made.get(route.path.partition("/{")[0], ""))
                names = ("queue", "name", "text", "path", "value", "tag", "group", "q", "workflow", "fingerprint")
                for query in ("", "?" + urlencode(dict.fromkeys(names, text)), "?by=error"):
                    answer = await server.ask("GET", path + query, **HTML)
                    # A path that cannot be one is refused, on a page too.
                    assert answer.status in (200, 400), (path, query)
                    check_markup(answer.body.decode())
        check_markup(await page(server, f"/queues/{failed.queue}/jobs/{failed.id}"))


async def test_a_job_is_enqueued_changed_and_run_again(server: Server) -> None:
    payload = {"to": "a", "token": "sesame", "n": [1, {"secret": "x"}]}
    fields = {
        "name": "mail",
        "queue": "q",
        "payload": json.dumps(payload),
        "delay": "3600",
        "tags": "a, b",
        "priority": "2",
    }
    where = await done(server, "/enqueue", fields)
    (job,) = (await server.engine.jobs.page(JobFilter(queues=["q"]), caller=CALLER)).items
    assert where == f"/queues/q/jobs/{job.id}"
    assert (job.payload, job.tags, job.priority, job.state) == (payload, ["a", "b"], 2, JobState.SCHEDULED)
    html = await page(server, where)
    assert "sesame" not in html and "Edit and run again" in html and "Run now" in html
    shown = re.search(r'<textarea id="payload"[^>]*>(.*?)</textarea>', html, re.S)
    assert shown is not None
    edited = json.loads(shown[1].replace("&#34;", '"')) | {"to": "b"}
    change = {"payload": json.dumps(edited), "priority": "5", "max_attempts": "9", "tags": "c"}
    assert await done(server, f"/jobs/{job.id}/edit", change | {"as": "same"}) == where
    changed = await server.engine.jobs.get(job.id, caller=CALLER)
    assert changed is not None and changed.payload == payload | {"to": "b"}
    assert (changed.priority, changed.max_attempts, changed.tags) == (5, 9, ["c"])
    other = await done(server, f"/jobs/{job.id}/edit", change | {"as": "new"})
    assert other != where
    copy = await server.engine.jobs.get(other.rpartition("/")[2], caller=CALLER)
    assert copy is not None and (copy.name, copy.payload, copy.state) == ("mail", changed.payload, JobState.WAITING)
    await done(server, f"/jobs/{job.id}/promote", {})
    await server.engine.jobs.cancel(job.id, caller=CALLER)
    await done(server, f"/jobs/{job.id}/retry", {})
    after = await server.engine.jobs.get(job.id, caller=CALLER)
    assert after is not None and after.state is JobState.WAITING
    for target, wrong in (
        ("/enqueue", {"name": "x", "payload": "{"}),
        ("/enqueue", {"name": "x", "payload": '1, "x": 2'}),
        ("/enqueue", {"name": "", "payload": "1"}),
        ("/enqueue", {"name": "x", "delay": "soon"}),
        ("/enqueue", {"name": "x", "priority": "9" * 15}),
        (f"/jobs/{job.id}/edit", {"as": "same"}),
        (f"/jobs/{job.id}/edit", {"as": "same", "payload": "NaN"}),
    ):
        assert (await post(server, target, wrong)).status == 400, wrong
    assert (await post(server, "/jobs/nope/edit", {"payload": "1"})).status == 404
    assert (await post(server, f"/jobs/{job.id}/promote", {})).status == 409


async def test_jobs_are_found_by_every_field_and_page_by_cursors(server: Server) -> None:
    news = [NewJob(name=f"n{n % 2}", queue="q", payload={"user": {"id": n}}, tags=["t"], group="g") for n in range(120)]
    await server.engine.jobs.enqueue_many(news, caller=CALLER)

    async def rows(target: str) -> list[str]:
        return re.findall(r'<tr data-job="(job_\w+)"', await page(server, target))

    everything: list[str] = []
    target = "/jobs?queue=q&order=created_asc"
    while target:
        html = await page(server, target)
        everything += re.findall(r'<tr data-job="(job_\w+)"', html)
        following = re.search(r'rel="next" href="([^"]*)"', html)
        target = following[1].replace("&amp;", "&") if following else ""
    assert len(everything) == len(set(everything)) == 120 and everything == sorted(everything)
    back = re.search(r'rel="prev" href="([^"]*)"', html)
    assert back is not None and await rows(back[1].replace("&amp;", "&")) == everything[50:100]
    assert await rows("/jobs?path=user.id&value=7") == await rows(f"/jobs?job_id={everything[7]}") == [everything[7]]
    assert len(await rows("/jobs?name=n1&tag=t&group=g&state=waiting")) == 50
    assert await rows("/jobs?path=user.id&value=%227%22") == await rows("/jobs?after_time=2100-01-01T00:00") == []
    html = await page(server, "/jobs?path=user.id&value=7&state=waiting&after_time=2020-01-01T00:00&name=n1")
    export = re.search(r'href="(/export/[^"]*)"', html)
    assert export is not None
    assert json.loads(parse_qs(export[1].partition("?")[2])["filter"][0]) == {
        "names": ["n1"],
        "states": ["WAITING"],
        "payload": [{"path": "user.id", "value": 7}],
        "createdAfter": "2020-01-01T00:00:00+00:00",
    }
    for wrong in ("state=nonsense", "after_time=soon", "path=a..b&value=1", "after=nonsense", f"text={'x' * 257}"):
        assert (await server.ask("GET", f"/jobs?{wrong}", **HTML)).status == 400, wrong


async def test_a_verb_on_a_filter_is_counted_first(server: Server) -> None:
    failed = [await job_in(server.engine, JobState.FAILED, name="bad") for _ in range(3)]
    html = await page(server, "/jobs?by=error&state=failed")
    assert "it broke" in html and ERROR.fingerprint in html
    fields = {"verb": "retry", "state": "failed", "fingerprint": ERROR.fingerprint}
    answer = await post(server, "/bulk", fields)
    assert answer.status == 200 and b"Retry 3 jobs?" in answer.body and b"data-confirmation" in answer.body
    assert [await job.state() for job in failed] == ["failed"] * 3, "nothing has happened yet"
    where = await done(server, "/bulk", fields | {"confirmed": "yes"})
    assert where.startswith("/bulk/bulk_")
    await until(lambda: _all_waiting(failed))

    async def told() -> bool:
        return "3 of 3 jobs changed" in await page(server, where)

    await until(told)
    chosen = [("verb", "cancel"), ("job_id", failed[0].id), ("job_id", failed[1].id), ("confirmed", "yes")]
    await done(server, "/bulk", chosen)
    await until(lambda: _cancelled(failed[0]))
    await until(lambda: _cancelled(failed[1]))
    assert await failed[2].state() == "waiting"
    assert (await post(server, "/bulk", {"verb": "explode"})).status == 400


async def _all_waiting(jobs: list[Any]) -> bool:
    return [await job.state() for job in jobs] == ["waiting"] * len(jobs)


async def _cancelled(job: Any) -> bool:
    return bool(await job.state() == "cancelled")


async def test_dead_letters_are_replayed_and_removed(server: Server) -> None:
    for _ in range(3):
        await job_in(server.engine, JobState.FAILED, queue="q", payload={"password": "sesame"})
    html = await page(server, "/dead-letters?queue=q&text=work&replayed=no")
    entries = re.findall(r'name="id" value="(dlq_\w+)"', html)
    assert len(entries) == 3 and "sesame" not in html
    where = await done(server, "/dead-letters", {"action": "replay", "id": entries[0], "queue": "q"})
    assert where == "/dead-letters?queue=q"
    assert await server.engine.jobs.count(JobFilter(states=[JobState.WAITING], names=["work"]), caller=CALLER)
    assert len(re.findall('name="id"', await page(server, "/dead-letters?replayed=yes"))) == 1
    await done(server, "/dead-letters", {"action": "remove", "id": entries[1]})
    assert len(re.findall('name="id"', await page(server, "/dead-letters"))) == 2
    await done(server, "/dead-letters", {"action": "replay-all", "queue": "q"})
    assert len(re.findall('name="id"', await page(server, "/dead-letters?replayed=no"))) == 0
    assert (await post(server, "/dead-letters", {"action": "explode"})).status == 400


async def test_a_cron_is_made_changed_run_and_deleted(server: Server) -> None:
    fields = {"name": "c", "schedule": "every 90s", "task": "t", "queue": "q", "payload": '{"token": "sesame"}'}
    where = await done(server, "/crons/new", fields)
    html = await page(server, where)
    assert "every 1 min 30 s" in html and "sesame" not in html
    assert len(re.findall(r'<li data-state="scheduled">', html)) == 10
    id = where.rpartition("/")[2]
    assert (await done(server, where, {"action": "run"})).startswith("/queues/q/jobs/job_")
    assert await done(server, where, {"action": "disable"}) == where
    assert "It does not fire any more" in await page(server, where)
    await done(server, where, {"action": "enable"})
    changed = fields | {"action": "update", "schedule": "30 6 * * *", "timezone": "Europe/Berlin", "overlap": "skip"}
    await done(server, where, changed | {"payload": '{"token": "[redacted]", "a": 1}'})
    cron = await server.engine.crons.get(id, caller=CALLER)
    assert cron is not None and cron.job.payload == {"token": "sesame", "a": 1}
    assert (cron.schedule.expression, cron.schedule.timezone, cron.overlap.value) == (
        "30 6 * * *",
        "Europe/Berlin",
        "skip",
    )
    assert "every day at 06:30 (Europe/Berlin)" in await page(server, "/crons")
    assert await done(server, where, {"action": "delete"}) == "/crons"
    assert (await server.ask("GET", where, **HTML)).status == 404
    for wrong in (
        {"schedule": ""},
        {"schedule": "nonsense"},
        {"timezone": "Nowhere"},
        {"overlap": "x"},
        {"payload": "{"},
    ):
        assert (await post(server, "/crons/new", fields | wrong)).status == 400, wrong
    assert (await post(server, where, {"action": "explode"})).status == 400


async def test_flows_and_runs(server: Server) -> None:
    made = await ids(server)
    html = await page(server, f"/flows/{made['/flows']}")
    assert html.count("<li data-job=") == 2 and f'data-flow="{made["/flows"]}"' in html
    assert await done(server, f"/flows/{made['/flows']}", {"action": "cancel"}) == f"/flows/{made['/flows']}"
    assert "Steps" in await page(server, f"/runs/{made['/runs']}")
    await done(server, f"/runs/{made['/runs']}", {"action": "cancel"})
    for target in ("/flows/nope", "/runs/nope", "/bulk/nope", "/crons/nope", "/jobs/nope"):
        assert (await server.ask("GET", target, **HTML)).status == 404, target
    assert (await post(server, f"/flows/{made['/flows']}", {"action": "explode"})).status == 400


async def test_a_queue_is_limited_and_emptied(server: Server) -> None:
    await done(server, "/queues/q/limits", {"concurrency": "3", "starts": "10", "per_seconds": "60", "per_group": "1"})
    queue = await server.engine.queues.get("q", caller=CALLER)
    assert queue is not None and queue.limits.queue.concurrency == 3 and queue.limits.per_group.concurrency == 1
    assert queue.limits.queue.rate is not None and queue.limits.queue.rate.per_ms == 60_000
    await done(server, "/queues/q/limits", {"concurrency": ""})
    queue = await server.engine.queues.get("q", caller=CALLER)
    assert queue is not None and not queue.limits
    assert (await post(server, "/queues/q/limits", {"starts": "3"})).status == 400
    for _ in range(3):
        await server.enqueue(queue="q")
    assert (await post(server, "/queues/q/remove", {"action": "drain"})).status == 400
    await done(server, "/queues/q/remove", {"action": "clean", "state": "failed", "confirmed": "yes"})
    await done(server, "/queues/q/remove", {"action": "drain", "confirmed": "yes"})
    assert await server.engine._store.jobs.count_documents(anywhere(state="removed")) == 3


async def test_search_finds_by_id_name_and_payload(maintained: Server) -> None:
    server = maintained
    id = await server.enqueue(name="invoice", queue="billing", payload={"user": {"email": "a@b.c"}})
    for query in (id, "invoice", "a@b.c", "user.email:a@b.c"):
        assert id in await page(server, f"/search?q={quote(query)}"), query

    async def listed() -> bool:
        return 'href="/queues/billing"' in await page(server, "/search?q=billing")

    await until(listed)
    assert "No jobs found" in await page(server, "/search?q=.*&type=payload")
    assert (await server.ask("GET", f"/search?q={'x' * 257}", **HTML)).status == 400


async def test_keys_are_shown_once_and_revoked(maintained: Server) -> None:
    answer = await post(maintained, "/keys", [("name", "ops"), ("scope", "admin"), ("days", "7")])
    secret = re.search(r"swt_live_\w+", answer.body.decode())
    assert answer.status == 200 and secret is not None
    listed = await maintained.ask("GET", "/keys", key=secret[0], **HTML)
    assert listed.status == 200 and secret[0] not in listed.body.decode() and b"ops" in listed.body
    id = re.search(r"/keys/(key_\w+)/revoke", listed.body.decode())
    assert id is not None

    async def revoke(body: bytes) -> int:
        target = f"/keys/{id[1]}/revoke"
        return (await maintained.ask("POST", target, body=body, content_type=FORM, key=secret[0], **HTML)).status

    assert (await revoke(b""), await revoke(b"confirmed=yes")) == (400, 303)


def test_secrets_are_hidden_and_come_back() -> None:
    value = {"a": [{"API-Key": 1}, {"userToken": {"x": 2}}], "Authorization": None, "note": "password", "n": 1}
    shown = redacted(value)
    hidden = "[redacted]"
    assert shown == {
        "a": [{"API-Key": hidden}, {"userToken": hidden}],
        "Authorization": hidden,
        "note": "password",
        "n": 1,
    }
    assert restored(shown, value) == value
    assert restored({"a": hidden, "token": hidden}, {"a": 1}) == {"a": hidden, "token": hidden}
    assert restored({"token": "new"}, {"token": "old"}) == {"token": "new"}


def test_words() -> None:
    assert [duration(ms) for ms in (None, 0, 999, 1_500, 59_000, 200_000, 3_600_000, 90_061_000)] == [
        *("–", "0 ms", "999 ms", "1.5 s", "59 s", "3 min 20 s", "1 h", "1 d 1 h"),
    ]
    for expression, words in (
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("7 * * * *", "at minute 7 of every hour"),
        ("7 */2 * * *", "at minute 7 of every 2 hours"),
        ("5 4 * * *", "every day at 04:05"),
        ("5 4 * * 0", "every Sunday at 04:05"),
        ("0 9 * * 1-5", "Monday to Friday at 09:00"),
        ("0 0 1 * *", "on day 1 of every month at 00:00"),
        ("0 0 1 1 *", "0 0 1 1 *"),
        ("@daily", "@daily"),
        ("0 0 9 * * 1", "0 0 9 * * 1"),
    ):
        assert schedule(Schedule(expression)) == words
    assert schedule(Schedule("5 4 * * *", timezone="Asia/Tokyo")) == "every day at 04:05 (Asia/Tokyo)"
    assert len(FILTERS["pretty"]("x" * 200_000)) < 101_000
    at = datetime(2026, 11, 29, 23, 30, 5, tzinfo=UTC)
    assert FILTERS["occasion"](at, "UTC") == "Sunday, 29 November 2026, 23:30:05 UTC"
    assert FILTERS["occasion"](at.replace(second=0), "Asia/Tokyo") == "Monday, 30 November 2026, 08:30 Asia/Tokyo"
    for ms, text in ((90_000, "90s"), (7_200_000, "2h"), (86_400_000, "1d"), (1_500, "1500ms"), (180_000, "3m")):
        assert FILTERS["length_of_time"](ms) == text and duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "{", '1, "x": 2', "NaN", "1}", '1} , {"a": 1', "'a'", '{"a":1,"a":2}', "[" * 100])
def test_only_json_is_json(text: str) -> None:
    with pytest.raises(InvalidInput):
        json_of("payload", text)
    assert json_of("payload", ' {"a": [1, null]} ') == {"a": [1, None]}


async def test_a_page_says_what_cannot_be_found_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(*given: Any, **named: Any) -> Any:
        raise StoreUnavailable

    engine = server.engine
    await engine.jobs.enqueue(NewJob(name="work", queue="grouped", group="g"), caller=CALLER)
    with monkeypatch.context() as patched:
        for name in ("page", "count", "error_clusters"):
            patched.setattr(engine.jobs, name, late)
        html = await page(server, "/jobs?path=user.id&value=7&queue=q&by=error")
        assert "too many jobs to find these" in html and 'href="/search?q=user.id%3A7&amp;queue=q"' in html
        # Nothing at all is found where the database is away.
        patched.setattr(engine.stats, "totals", late)
        assert (await server.ask("GET", "/jobs?text=x", **HTML)).status == 503
    assert "1 job matches" in await page(server, "/jobs?name=work")
    with monkeypatch.context() as patched:
        patched.setattr(engine.queues, "groups", late)
        assert "too many jobs to count them by group" in await page(server, "/queues/grouped")
    assert '<h2 id="groups">' in await page(server, "/queues/grouped")
