"""Who may do what in a dialect, and how it refuses: keys, scopes, tenants, rates, origins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app import auth
from app.limits import Refused
from app.main import OWN
from app.rest import DIALECTS
from app.rest.dialect import Route
from switchtower.access import ApiKey, NewApiKey, RateLimit, Scope
from switchtower.callers import SYSTEM, Caller
from switchtower.crons import NewCron, Schedule
from switchtower.ids import new_id
from switchtower.jobs import NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from switchtower.workflows import NewRun
from tests.app.rest.conftest import Server
from tests.conformance.situations import ERROR
from tests.mongod import fail_command
from tests.waiting import until

Target = tuple[Route, str]
QUEUE = "/api/queues/{name}"
BODIES: dict[str, Any] = {
    f"POST {QUEUE}/clean": {"state": "failed", "grace": 0},
    f"POST {QUEUE}/retry": {"state": "failed"},
    f"POST {QUEUE}/jobs": {"name": "x"},
    f"PATCH {QUEUE}/jobs/{{id}}": {"data": 1},
    "POST /api/jobs/dispatch": {"payload": {}},
    "PATCH /api/jobs/{jobId}": {"scheduledFor": None},
}
"""What a route is sent that must be sent something."""
CREATING = (f"POST {QUEUE}/jobs", "POST /api/jobs/dispatch")


def targets(*, open_: bool = False, **ids: str) -> list[Target]:
    """Every route of every dialect that asks for a key (`open_`: while there is none, asks for none), with ids for the
    parameters of its path."""
    found = []
    for dialect in DIALECTS:
        if open_ and dialect.requires_key:
            continue
        for route in dialect.routes:
            path = route.path.format(**{name: ids.get(name) or new_id("job") for name in route.parameters})
            if route.query and route.path == "/api/search":
                path += "?q=x"
            if route.path in OWN:
                path = f"/{dialect.name}{path}"
            if not route.public:
                found.append((route, path))
    return found


async def send(server: Server, route: Route, path: str, **options: Any) -> Any:
    given = {"accept": "application/json", **options}
    return await server.ask(route.method, path, body=BODIES.get(f"{route.method} {route.path}"), **given)


async def key(server: Server, *scopes: Scope, **options: Any) -> str:
    created = await server.engine.keys.create(NewApiKey(name="k", scopes=list(scopes), **options), caller=SYSTEM)
    return created.secret


def error_of(answer: Any) -> str:
    """What an error says, in the shape of any dialect."""
    body = answer.json
    if list(body) == ["error", "data"]:
        return str(body["data"]["message"])
    assert body.pop("ok", False) is False
    assert list(body) == ["error"] and body["error"]
    error = body["error"]
    return error if isinstance(error, str) else str(error["message"])


async def test_with_a_key_nobody_comes_in_without_one(maintained: Server) -> None:
    secret = await key(maintained, Scope.ADMIN)
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for route, path in targets():
        for given in (None, wrong, "nonsense"):
            answer = await send(maintained, route, path, key=given)
            assert answer.status == 401, (route, given)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert secret not in error_of(answer)
        if route.events is None:
            assert (await send(maintained, route, path, key=secret)).status not in (401, 403)


async def test_what_changes_anything_needs_the_scope(maintained: Server) -> None:
    reader, worker = await key(maintained, Scope.READ), await key(maintained, Scope.WORK)
    for route, path in targets():
        if route.events is None:
            reads = await send(maintained, route, path, key=reader)
            assert (reads.status == 403) == route.writes, route
            if route.writes:
                assert "operate" in error_of(reads) or "admin" in error_of(reads)
        assert (await send(maintained, route, path, key=worker)).status == 403, route


async def test_another_tenants_things_do_not_exist(maintained: Server) -> None:
    engine, acme = maintained.engine, Caller("ann", org="acme", app="shop")
    job = (await engine.jobs.enqueue(NewJob(name="secret-job", queue="q", payload="sesame"), caller=acme)).job
    bad = (await engine.jobs.enqueue(NewJob(name="secret-bad", queue="b", max_attempts=1), caller=acme)).job
    run = await engine.workflows.start(NewRun(workflow="secret-run", version=1), caller=acme)
    cron = await engine.crons.create(
        NewCron(name="secret-cron", schedule=Schedule("* * * * *"), job=NewJob(name="x")), caller=acme
    )
    await engine.workers.register(WorkerInfo(id="w", queues=["b"]))
    (claimed,) = await engine.claims.claim("w", ["b"])
    await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.BURY, error=ERROR)])
    entry = (await until(lambda: engine.dead_letters.for_jobs([bad.id], caller=acme)))[bad.id]
    ids = {"jobId": job.id, "entryId": entry.id, "cronId": cron.id, "runId": run.job.id.replace("job_", "run_")}
    ids |= {"name": "q", "id": job.id}
    own, other = await key(maintained, Scope.OPERATE, org="acme"), await key(maintained, Scope.OPERATE, org="other")
    for route, path in targets(**ids):
        if route.events is not None or f"{route.method} {route.path}" in CREATING:
            continue
        answer = await send(maintained, route, path, key=other)
        assert b"secret" not in answer.body and b"sesame" not in answer.body, route
        if route.parameters and not route.path.startswith((QUEUE, "/queues/")):  # AsyncMQ: zeros for what there is not
            assert answer.status == 404, route
    for path in ("/v1/jobs", "/v1/workflows/runs", "/v1/dlq", "/v1/crons"):
        assert (await maintained.ask("GET", path, key=other)).json == []
        assert b"secret" in (await maintained.ask("GET", path, key=own)).body
    assert (await maintained.ask("GET", "/v1/dlq/count", key=other)).json == {"count": 0}
    shown = (await maintained.ask("GET", f"/v1/jobs/{job.id}", key=own)).json
    assert (shown["scope_org_id"], shown["scope_app_id"]) == ("acme", "shop")
    replayed = (await maintained.ask("POST", f"/v1/dlq/{entry.id}/replay", key=own)).json
    assert (replayed["scope_org_id"], replayed["scope_app_id"]) == ("acme", "shop")


async def test_a_rate_is_refused_in_the_dialects_shape(maintained: Server) -> None:
    secret = await key(maintained, Scope.READ, rate=RateLimit(3, 60_000))
    answers = [await maintained.ask("GET", "/v1/jobs", key=secret) for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 3 + [429] * 2
    assert "requests" in error_of(answers[-1]) and 1 <= int(answers[-1].headers["retry-after"]) <= 60


async def test_while_its_key_is_looked_up_again_who_was_admitted_is_charged(
    maintained: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBERED_SECONDS", 0.0)
    keys, gate = maintained.engine.keys, auth.Gate()
    gate.engine = maintained.engine
    secret = await key(maintained, Scope.READ, rate=RateLimit(1, 60_000))
    caller = await gate.admit(secret)
    await gate.charge(caller, writes=False)
    verify, asked, go_on = keys.verify, asyncio.Event(), asyncio.Event()

    async def slow(text: str) -> ApiKey:
        asked.set()
        await go_on.wait()
        return await verify(text)

    monkeypatch.setattr(keys, "verify", slow)
    again = asyncio.create_task(gate.admit(secret))
    await asked.wait()
    with pytest.raises(Refused, match="More than 1 requests"):
        await gate.charge(caller, writes=False)
    go_on.set()
    assert await again == caller


async def test_a_refused_action_is_in_the_audit_trail_under_the_dialects_name(maintained: Server) -> None:
    secret = await key(maintained, Scope.READ)
    assert (await maintained.ask("POST", "/v1/dlq/purge", key=secret)).status == 403
    admin = await key(maintained, Scope.ADMIN)
    assert (await maintained.ask("POST", "/v1/dlq/purge", key=admin)).status == 200
    query = "{ audit(first: 5) { nodes { action source status } } }"
    rows = (await maintained.graphql(query, key=admin))["audit"]["nodes"]
    purges = [(row["source"], row["status"]) for row in rows if row["action"] == "dead_letter.purge"]
    assert purges == [("dispatch", "SUCCESS"), ("dispatch", "FAILED")]


FOREIGN: tuple[dict[str, str], ...] = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
    {"origin": "http://localhost:9999"},
    {"sec_fetch_site": "cross-site"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_without_keys_a_foreign_page_changes_nothing(server: Server, headers: dict[str, str]) -> None:
    id = await server.enqueue()
    for route, path in targets(open_=True, jobId=id, name="default", id=id):
        if route.events is not None:
            continue
        answer = await send(server, route, path, **headers)
        assert (answer.status == 403) == route.writes, route
        if route.writes:
            assert "another origin" in error_of(answer)
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers, "and reads nothing"
    assert (await server.ask("GET", f"/v1/jobs/{id}")).json["state"] == "pending"


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost"}, {"sec_fetch_site": "none"}], ids=str)
async def test_without_keys_its_own_pages_and_programs_do(server: Server, headers: dict[str, str]) -> None:
    id = await server.enqueue()
    assert (await server.ask("POST", f"/v1/jobs/{id}/cancel", **headers)).status == 204


async def test_with_a_key_the_origin_does_not_matter(maintained: Server) -> None:
    secret = await key(maintained, Scope.OPERATE)
    answer = await maintained.ask("POST", "/v1/dlq/purge", key=secret, origin="http://evil.example")
    assert answer.status == 200


async def test_while_the_database_is_away_it_says_so_in_its_shape(server: Server, mongodb_url: str) -> None:
    id = await server.enqueue()
    with fail_command(mongodb_url, ["find", "findAndModify", "aggregate"], closeConnection=True):
        answers = await asyncio.gather(
            server.ask("GET", "/v1/jobs"),
            server.ask("GET", f"/v1/jobs/{id}"),
            server.ask("GET", "/v1/stats"),
            server.ask("POST", f"/v1/jobs/{id}/cancel"),
        )
    for answer in answers:
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert "database cannot be reached" in error_of(answer)

    async def back() -> bool:
        return (await server.ask("GET", f"/v1/jobs/{id}")).status == 200

    await until(back)
