"""What Dispatched refuses, and in which words: ids, methods, paths, keys, rates and quotas."""

from __future__ import annotations

from typing import Any

import pytest

from switchtower.access import RateLimit, Scope, TenantLimits
from switchtower.callers import SYSTEM
from switchtower.ids import JOB, new_id
from tests.app.rest.conftest import Server
from tests.app.rest.test_dispatched import Client, client_of, error
from tests.waiting import until

IDS = (
    *("job_1234567890abcdef", "1234567890abcdef", "nope", "job_", "JOB_" + "0" * 26, "key_x", "%00", "..%2f", "%2e%2e"),
    *(
        "$ne",
        '{"$gt":""}',
        "job_%D0%B0",
        "x" * 10_000,
        "a%20b",
        "%F0%9F%92%A9",
        "search.",
        "dispatch",
        "%ff",
        "+",
        "null",
    ),
)


@pytest.mark.parametrize("id", IDS, ids=lambda id: id[:30])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
async def test_a_job_that_is_not_there(server: Server, method: str, id: str) -> None:
    client = await client_of(server)
    answer = await client.ask(method, f"/api/jobs/{id}", {"scheduledFor": None} if method == "PATCH" else None)
    if id == "dispatch":
        error(answer, 405, "METHOD_NOT_ALLOWED")
    else:
        assert "not found" in error(answer, 404, "NOT_FOUND")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
async def test_a_job_of_another_team_is_not_there(server: Server, method: str) -> None:
    mine, other = await client_of(server, org="acme"), await client_of(server, org="bravo")
    id = await mine.new()
    body = {"scheduledFor": None} if method == "PATCH" else None
    theirs = await other.ask(method, f"/api/jobs/{id}", body)
    unknown = await other.ask(method, f"/api/jobs/{new_id(JOB)}", body)
    assert error(theirs, 404, "NOT_FOUND") and theirs.body == unknown.body
    assert await mine.status(id) == "QUEUED"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/jobs/dispatch", "POST"),
        ("PUT", "/api/jobs/dispatch", "POST"),
        ("POST", "/api/jobs/job_1", "GET"),
        ("PUT", "/api/jobs/job_1", "PATCH"),
        ("TRACE", "/api/jobs/job_1", "DELETE"),
        ("BREW", "/api/jobs/job_1", "DELETE"),
        ("OPTIONS", "/api/jobs/job_1", "DELETE"),
    ],
)
async def test_a_wrong_method(server: Server, method: str, path: str, allowed: str) -> None:
    client = await client_of(server)
    answer = await client.ask(method, path)
    error(answer, 405, "METHOD_NOT_ALLOWED")
    assert allowed in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    "path",
    ["/api/jobs", "/api/jobs/", "/api/jobs/a/b", "/api/jobs//", "/api/jobs/dispatch/", "/api/jobs/a%2Fb/c"],
)
async def test_an_unknown_path(server: Server, path: str) -> None:
    client = await client_of(server)
    error(await client.ask("GET", path), 404, "NOT_FOUND")
    error(await server.ask("GET", path), 404, "NOT_FOUND")


async def test_without_a_key_that_opens_anything_the_answer_is_always_the_same(server: Server) -> None:
    client = await client_of(server)
    id = await client.new()
    revoked = await client_of(server)
    await server.engine.keys.revoke(revoked.key_id, caller=SYSTEM)
    await until(lambda: refused(revoked))
    cut, other = client.secret[:-1], client.secret.replace("swt_live", "swt_test")
    headers: list[dict[str, str]] = [
        {},
        *({"authorization": value} for value in ("", "Bearer", "Bearer ", "Basic YTpi", "Token x", "Bearer a b", "x")),
        *({"authorization": f"Bearer {key}"} for key in (cut, other, revoked.secret, "swt_", "\xff", "x" * 10_000)),
        {"x_api_key": client.secret},
        {"cookie": f"session={client.secret}"},
    ]
    found = set()
    for given in headers:
        for method, path, body in (
            ("POST", "/api/jobs/dispatch", {"payload": {}}),
            ("GET", f"/api/jobs/{id}", None),
            ("DELETE", f"/api/jobs/{id}", None),
            ("PATCH", f"/api/jobs/{id}", {"scheduledFor": None}),
        ):
            answer = await server.ask(method, path, body=body, **given)
            kept = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
            found.add((answer.status, answer.body, tuple(sorted(kept.items()))))
    ((status, body, _),) = found
    assert (status, body) == (401, b'{"error":"UNAUTHORIZED","data":{"message":"Unauthorized"}}')
    assert await client.status(id) == "QUEUED"


async def refused(client: Client) -> bool:
    return (await client.ask("GET", "/api/jobs/x")).status == 401


async def test_the_other_surfaces_stay_open_beside_a_key_of_dev(server: Server) -> None:
    client = await client_of(server)
    assert (await client.dispatch()).status == 201
    assert (await server.ask("GET", "/v1/jobs")).status == 200
    assert (await server.graphql("{ viewer { actor } }"))["viewer"]["actor"] == "operator"
    assert (await server.ask("GET", "/v1/jobs", key=client.secret)).status == 200


async def test_a_key_needs_the_scope(server: Server) -> None:
    reader, worker = await client_of(server, scopes=[Scope.READ]), await client_of(server, scopes=[Scope.WORK])
    client = await client_of(server)
    id = await client.new()
    assert await reader.status(id) == "QUEUED"
    error(await reader.dispatch(), 403, "FORBIDDEN")
    error(await reader.ask("DELETE", f"/api/jobs/{id}"), 403, "FORBIDDEN")
    error(await reader.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": None}), 403, "FORBIDDEN")
    error(await worker.ask("GET", f"/api/jobs/{id}"), 403, "FORBIDDEN")


async def test_a_rate_is_a_limit(server: Server) -> None:
    client = await client_of(server, rate=RateLimit(3, 60_000))
    answers = [await client.dispatch() for _ in range(5)]
    assert [answer.status for answer in answers] == [201] * 3 + [429] * 2
    for answer in answers[3:]:
        assert "requests" in error(answer, 429, "LIMIT_REACHED")
        headers = answer.headers
        assert 1 <= int(headers["retry-after"]) <= 66 and headers["retry-after"] == headers["ratelimit-reset"]
        assert (headers["ratelimit-limit"], headers["ratelimit-remaining"]) == ("3", "0")
    assert await server.engine._store.jobs.count_documents({}) == 3, "the refused calls changed nothing"


async def test_a_teams_jobs_of_a_month_are_a_limit(server: Server) -> None:
    await server.engine.keys.set_tenant_limits(TenantLimits("acme", jobs_per_month=0), caller=SYSTEM)
    client = await client_of(server, org="acme")
    answer = await client.dispatch()
    assert "month" in error(answer, 429, "LIMIT_REACHED")
    assert int(answer.headers["retry-after"]) >= 1
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"]) == ("0", "0")
    assert await server.engine._store.jobs.count_documents({}) == 0


async def test_what_the_front_door_refuses_has_the_shape_too(server: Server) -> None:
    client = await client_of(server)
    error(await client.ask("GET", "/api/jobs/" + "x" * 40_000), 414, "URI_TOO_LONG")
    error(await client.ask("GET", "/api/jobs/x", x="y" * 40_000), 431, "HEADERS_TOO_LARGE")


async def test_a_fault_has_the_shape_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await client_of(server)

    async def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(server.engine.jobs, "get", fails)
    message = error(await client.ask("GET", "/api/jobs/x"), 500, "INTERNAL_ERROR")
    assert "secret" not in message
