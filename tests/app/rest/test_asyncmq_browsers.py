"""Browsers before AsyncMQ's pages: signing in, forms of other sites, names that want to be markup, odd forms."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from app import forms
from app.rest.asyncmq import ASYNCMQ
from switchtower.access import NewApiKey, Scope
from switchtower.audit import AuditFilter
from switchtower.callers import SYSTEM
from switchtower.crons import NewCron, Schedule
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.states import JobState
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.app.direct import Answer
from tests.app.rest.conftest import Server
from tests.conformance.situations import CALLER, job_in

HTML = {"accept": "text/html"}
FORM = "application/x-www-form-urlencoded"
OWN = {"origin": "http://localhost"}


async def post(server: Server, target: str, fields: Any, **headers: str) -> Answer:
    return await server.ask("POST", target, body=urlencode(fields).encode(), content_type=FORM, **{**HTML, **headers})


async def key(server: Server, *scopes: Scope) -> str:
    created = await server.engine.keys.create(NewApiKey(name="k", scopes=list(scopes)), caller=SYSTEM)
    return created.secret


async def signed_in(server: Server, secret: str) -> str:
    """The cookie of a browser that has signed in."""
    answer = await post(server, "/login", {"key": secret, "next": "/queues?q=a"}, **OWN)
    assert (answer.status, answer.headers["location"]) == (303, "/queues?q=a")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("switchtower=sws_") and secret not in cookie
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    return cookie.partition(";")[0]


async def token(server: Server, cookie: str) -> str:
    answer = await server.ask("GET", "/queues/q", cookie=cookie, **HTML)
    assert answer.status == 200
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', answer.body.decode())
    assert found is not None
    return found[1]


async def paused(server: Server) -> bool:
    return any(queue.paused for queue in await server.engine.queues.list(caller=CALLER))


async def test_who_is_not_signed_in_is_asked_to(maintained: Server) -> None:
    secret = await key(maintained, Scope.OPERATE)
    answer = await maintained.ask("GET", "/queues/a%20b/jobs?state=failed&q=x", **HTML)
    login = answer.headers["location"]
    assert answer.status == 303 and login.startswith("/login?next=")
    form = await maintained.ask("GET", login, **HTML)
    assert form.status == 200 and "queues/a%20b/jobs?state=failed&amp;q=x" in form.body.decode()
    assert (await maintained.ask("GET", "/queues", accept="application/json")).status == 401
    assert (await post(maintained, "/queues/q", {"action": "pause"}, **OWN)).status == 401
    wrong = await post(maintained, "/login", {"key": "nonsense", "next": "//evil.example"}, **OWN)
    assert wrong.status == 401 and "set-cookie" not in wrong.headers and b"no API key" in wrong.body
    cookie = await signed_in(maintained, secret)
    assert (await maintained.ask("GET", "/queues", cookie=cookie, **HTML)).status == 200
    out = await post(maintained, "/logout", {"csrf_token": await token(maintained, cookie)}, cookie=cookie, **OWN)
    assert (out.status, out.headers["location"]) == (303, "/login")
    assert (await maintained.ask("GET", "/health", cookie=cookie)).status == 200
    for _ in range(200):
        answer = await maintained.ask("GET", "/queues", cookie=cookie, **HTML)
        if answer.status == 303:
            break
    assert "next=" in (await maintained.ask("GET", "/queues", cookie="switchtower=sws_" + "0" * 43)).headers["location"]


async def test_a_session_that_has_ended_is_no_hindrance(maintained: Server) -> None:
    secret = await key(maintained, Scope.READ)
    stale = "switchtower=sws_" + "0" * 43
    html = (await maintained.ask("GET", "/login", cookie=stale, **HTML)).body.decode()
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', html)
    assert found is not None
    answer = await post(maintained, "/login", {"key": secret, "csrf_token": found[1]}, cookie=stale, **OWN)
    assert answer.status == 303 and "sws_" in answer.headers["set-cookie"]


async def test_the_cookie_is_bound_to_the_host_where_there_is_tls(maintained: Server) -> None:
    secret = await key(maintained, Scope.READ)
    answer = await post(maintained, "/login", {"key": secret}, host="localhost", **OWN)
    assert "Secure" not in answer.headers["set-cookie"]
    assert "strict-transport-security" not in answer.headers

    async def https(scope: Any, receive: Any, send: Any) -> None:
        await maintained.app({**scope, "scheme": "https"} if scope["type"] == "http" else scope, receive, send)

    served = Server(https, maintained.engine)
    answer = await post(served, "/login", {"key": secret}, origin="https://localhost")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-switchtower=sws_") and {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie and answer.headers["strict-transport-security"] == "max-age=31536000"
    assert (await served.ask("GET", "/queues", cookie=cookie.partition(";")[0], **HTML)).status == 200


FOREIGN: tuple[dict[str, str], ...] = (
    {},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "null", "sec_fetch_site": "none"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"origin": "http://localhost", "sec_fetch_site": "cross-site"},
)


async def test_a_cookie_alone_changes_nothing(maintained: Server) -> None:
    secret = await key(maintained, Scope.OPERATE)
    cookie = await signed_in(maintained, secret)
    right = await token(maintained, cookie)
    other = await token(maintained, await signed_in(maintained, secret))
    refused = 0
    for headers in FOREIGN:
        answer = await post(maintained, "/queues/q", {"action": "pause", "csrf_token": right}, cookie=cookie, **headers)
        assert answer.status == 403, headers
        refused += 1
    for wrong in ("", other, right.upper(), right[:-1], "é"):
        answer = await post(maintained, "/queues/q", {"action": "pause", "csrf_token": wrong}, cookie=cookie, **OWN)
        assert answer.status == 403 and b"reload the page" in answer.body, wrong
        refused += 1
    assert not await paused(maintained)
    rows = await maintained.engine.audit.page(AuditFilter(actions=["queue.pause"]), caller=CALLER, first=50)
    assert [(row.status.value, row.source, row.queue) for row in rows.items] == [
        ("failed", "queues.detail", "q")
    ] * refused
    for headers in (OWN, {"origin": "null", "sec_fetch_site": "same-origin"}, {"sec_fetch_site": "same-origin"}):
        answer = await post(maintained, "/queues/q", {"action": "pause", "csrf_token": right}, cookie=cookie, **headers)
        assert answer.status == 303, headers
    assert await paused(maintained)
    answer = await post(maintained, "/queues/q", {"action": "resume"}, cookie=cookie, x_csrf_token=right, **OWN)
    assert answer.status == 303 and not await paused(maintained)


async def test_a_key_in_a_header_needs_no_token(maintained: Server) -> None:
    secret = await key(maintained, Scope.OPERATE)
    answer = await maintained.ask(
        "POST", "/queues/q", body=b"action=pause", content_type=FORM, key=secret, origin="http://evil.example"
    )
    assert answer.status == 303 and await paused(maintained)


async def test_roles_hide_what_they_may_not_do(maintained: Server) -> None:
    await maintained.engine.jobs.enqueue(NewJob(name="work", queue="q"), caller=CALLER)
    cookie = await signed_in(maintained, await key(maintained, Scope.READ))
    for path in ("/queues/q", "/queues/q/jobs", "/queues/q/repeatables"):
        html = (await maintained.ask("GET", path, cookie=cookie, **HTML)).body.decode()
        assert re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', html) == ["/logout"], path
    form = re.search(r'value="([0-9a-f]{64})"', html)
    assert form is not None
    answer = await post(maintained, "/queues/q", {"action": "pause", "csrf_token": form[1]}, cookie=cookie, **OWN)
    assert answer.status == 403 and b"operate" in answer.body and not await paused(maintained)


@pytest.mark.parametrize("headers", FOREIGN[1:], ids=str)
async def test_login_is_not_for_other_sites(maintained: Server, headers: dict[str, str]) -> None:
    answer = await post(maintained, "/login", {"key": await key(maintained, Scope.READ)}, **headers)
    assert answer.status == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("headers", [*FOREIGN[1:3], FOREIGN[4]], ids=str)
async def test_without_keys_a_foreign_form_is_refused_and_written_down(server: Server, headers: dict[str, str]) -> None:
    answer = await post(server, "/queues/q", {"action": "pause"}, **headers)
    assert answer.status == 403 and not await paused(server)
    rows = await server.engine.audit.page(AuditFilter(actions=["queue.pause"]), caller=CALLER, first=5)
    assert [row.status.value for row in rows.items] == ["failed"]
    assert (await post(server, "/queues/q", {"action": "pause"})).status == 303


MARKUP = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{7*7}}{% raw %}",
    "javascript:alert(1)",
    "\u202eevil\u202c",
    "<!--",
    "]]>",
    "&lt;script&gt;",
)


async def test_no_name_becomes_markup(server: Server) -> None:
    engine = server.engine
    for text in MARKUP:
        name, plain = text, text.replace("/", "_")
        error = JobError(ErrorKind.EXCEPTION, name, name, name, "0" * 16)
        s = await job_in(
            engine, JobState.ACTIVE, name=name, queue=plain, group=name, tags=[name], job_id=plain, payload={name: name}
        )
        await s.report(OutcomeKind.BURY, error=error, logs=[("info", name)], progress={"percent": 1, "message": name})
        await engine.jobs.enqueue(NewJob(name=name, queue=plain, group=name), caller=CALLER)
        await engine.queues.pause(plain, caller=CALLER, job_name=name)
        await engine.crons.create(
            NewCron(name=name, schedule=Schedule("@daily"), job=NewJob(name=name, queue=plain)), caller=CALLER
        )
        await engine.workers.register(WorkerInfo(id=f"w{name}", queues=[name], names=[name], hostname=name))
        await post(server, f"/queues/{quote(plain, safe='')}", {"action": "pause"}, origin="http://evil")
        for route in ASYNCMQ.routes:
            if route.method != "GET" or route.page is None:
                continue
            path = route.path.format(name=quote(plain, safe=""), job_id=quote(plain, safe=""))
            for query in ("", "?" + urlencode(dict.fromkeys(("q", "task", "job_id", "action", "queue", "next"), text))):
                answer = await server.ask("GET", path + query, **HTML)
                assert answer.status == 200, (path, query)
                check_markup(answer.body.decode())


def check_markup(html: str) -> None:
    """Nothing in a page is markup but what its template wrote."""
    assert not re.search(
        r"<(?:img|svg(?! class=\"(?:chart|parts)\"))|<script(?! src=\"/assets/)|onerror=alert\(1\)>", html
    )
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', html))
    assert not re.search(r'(?:href|action|src)="(?!/|#)', html)
    assert "<!--" not in html and "49" not in re.findall(r"<h1>.*?</h1>", html, re.S)[0]


async def test_headers_of_pages_are_strict(server: Server) -> None:
    for path in ("/", "/queues/q", "/nope", "/login"):
        headers = (await server.ask("GET", path, **HTML)).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == "no-store" and "access-control-allow-origin" not in headers


def multipart(*parts: bytes, boundary: str = "xYz") -> dict[str, Any]:
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    end = b"--" + boundary.encode() + b"--\r\n"
    return {"body": body + end, "content_type": f"multipart/form-data; boundary={boundary}"}


def field(name: str, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value


async def test_forms_may_come_in_parts(server: Server) -> None:
    assert (await server.ask("POST", "/queues/q", **multipart(field("action", b"pause")))).status == 303
    assert await paused(server)
    repeated = multipart(field("action", b"cancel"), field("job_id", b"a,b"), field("job_id", "ö".encode()))
    assert (await server.ask("POST", "/queues/q/jobs", **repeated)).status == 302
    rows = await server.engine.audit.page(AuditFilter(actions=["job.cancel"]), caller=CALLER, first=5)
    assert {row.job_id for row in rows.items} == {"a", "b", "ö"}


BAD_FORMS: tuple[tuple[int, dict[str, Any]], ...] = (
    (415, {"body": b"{}", "content_type": "application/json"}),
    (415, {"body": b"action=pause", "content_type": "text/plain"}),
    (415, {"body": b"action=pause", "content_type": f"{FORM}; charset=utf-16"}),
    (415, {"body": b"action=pause", "content_type": ""}),
    (400, {"body": b"action=%", "content_type": FORM}),
    (400, {"body": b"action=%zz", "content_type": FORM}),
    (400, {"body": b"action=%ff", "content_type": FORM}),
    (400, {"body": b"a=1&" * 2_001, "content_type": FORM}),
    (400, {"body": b"x" * 300 + b"=1", "content_type": FORM}),
    (413, {"body": b"a=" + b"x" * forms.FORM_BYTES, "content_type": FORM}),
    (400, {"body": b"", "content_type": "multipart/form-data"}),
    (400, {"body": b"--\r\n", "content_type": "multipart/form-data; boundary="}),
    (400, {"body": b"x", "content_type": f"multipart/form-data; boundary={'b' * 71}"}),
    (400, {"body": b"nonsense", "content_type": "multipart/form-data; boundary=xYz"}),
    (400, {"body": b"--xYz\r\n", "content_type": "multipart/form-data; boundary=xYz"}),
    (400, {"body": b"--xYznonsense", "content_type": "multipart/form-data; boundary=xYz"}),
    (400, multipart(b"no headers")),
    (400, multipart(b"Content-Disposition: form-data\r\n\r\nx")),
    (400, multipart(b"Content-Disposition: attachment; name=a\r\n\r\nx")),
    (400, multipart(b'Content-Disposition: form-data; name="a"; filename="x.txt"\r\n\r\nx')),
    (400, multipart(b'Content-Disposition: form-data; name="\xff"\r\n\r\nx')),
    (400, multipart(b"X-Long: " + b"x" * 3_000 + b'\r\nContent-Disposition: form-data; name="a"\r\n\r\nx')),
    (400, multipart(field("a", b"\xff"))),
    (400, multipart(*[field("a", b"1")] * 2_001)),
)


@pytest.mark.parametrize(("status", "sent"), BAD_FORMS, ids=lambda value: str(value)[:60])
async def test_a_form_that_cannot_be_read_is_refused(server: Server, status: int, sent: dict[str, Any]) -> None:
    answer = await server.ask("POST", "/queues/q", **sent, **HTML)
    assert answer.status == status and answer.headers["content-type"].startswith("text/html")
    answer = await server.ask("POST", "/queues/q", **sent, accept="application/json")
    assert answer.status == status and answer.json["ok"] is False
    assert not await paused(server)


def test_names_of_fields_are_read_as_browsers_write_them() -> None:
    body = multipart(field('a%22b%0D%0Ac\\"', b"1"), field("plain", b"\r\n--xY\r\n"))
    parsed = forms.parse(body["body"], forms.MULTIPART, body["content_type"])
    assert parsed.fields == (('a"b\r\nc"', "1"), ("plain", "\r\n--xY\r\n"))
    assert forms.parse(b"a+b=%2B&&c&d=", forms.URLENCODED, "").fields == (("a b", "+"), ("c", ""), ("d", ""))


async def test_a_server_that_only_reads_shows_no_forms(mongodb_url: str, database_name: str) -> None:
    from app.main import create_app
    from app.settings import ServerSettings
    from switchtower.engine import Engine

    engine = await Engine.connect(mongodb_url, database=database_name, role="server")
    app = create_app(ServerSettings(mongodb_url=mongodb_url, database=database_name, read_only=True), engine=engine)
    async with app.router.lifespan_context(app):
        server = Server(app, engine)
        html = (await server.ask("GET", "/queues/q", **HTML)).body.decode()
        assert "read-only" in html and "<form" not in html
        assert (await post(server, "/queues/q", {"action": "pause"})).status == 403
        assert not await paused(server)
