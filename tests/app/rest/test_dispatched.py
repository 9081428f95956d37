"""Dispatched, row by row: routes, statuses, what it refuses and in which words, and what becomes of its jobs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app.rest.dispatched import DISPATCHED
from switchtower.access import NewApiKey, Scope, TenantLimits
from switchtower.callers import SYSTEM
from switchtower.dialects import Dialect
from switchtower.jobs import Job
from switchtower.states import JobState
from switchtower.webhooks import WEBHOOK_BACKOFF
from tests.app.direct import Answer
from tests.app.rest.conftest import Server
from tests.app.rest.transcripts import check_shape, route_of, written

DOCUMENTED = ("POST /api/jobs/dispatch", "GET /api/jobs/{jobId}", "DELETE /api/jobs/{jobId}")
"""What Dispatched's own document lists."""
UNDOCUMENTED = ("PATCH /api/jobs/{jobId}",)
"""What its client calls besides."""

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
ISO = LATER.strftime("%Y-%m-%dT%H:%M:%SZ")
SHOWN = LATER.strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Client:
    """Somebody with a key."""

    def __init__(self, server: Server, secret: str, key_id: str, prefix: str = "") -> None:
        self.server, self.secret, self.key_id, self.prefix = server, secret, key_id, prefix

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.server.ask(method, self.prefix + path, body=body, key=self.secret, **headers)

    async def dispatch(self, **body: Any) -> Answer:
        return await self.ask("POST", "/api/jobs/dispatch", {"payload": {}, **body})

    async def new(self, **body: Any) -> str:
        answer = await self.dispatch(**body)
        assert answer.status == 201, answer.body
        return str(answer.json["jobId"])

    async def status(self, id: str) -> str:
        return str((await self.ask("GET", f"/api/jobs/{id}")).json["status"])


async def client_of(server: Server, *, prefix: str = "", **options: Any) -> Client:
    new = NewApiKey(**{"name": "k", "scopes": [Scope.OPERATE], "dev": True, **options})
    created = await server.engine.keys.create(new, caller=SYSTEM)
    return Client(server, created.secret, created.key.id, prefix)


@pytest.fixture(params=["", "/dispatched"], ids=["at the root", "under its prefix"])
async def client(server: Server, request: pytest.FixtureRequest) -> Client:
    return await client_of(server, prefix=request.param)


async def read(server: Server, id: str) -> Job:
    job = await server.engine.jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job


def error(answer: Answer, status: int, code: str) -> str:
    """The message of an error of this status and code, in the only shape that there is."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    body = answer.json
    assert list(body) == ["error", "data"] and list(body["data"]) == ["message"] and body["error"] == code, body
    assert isinstance(body["data"]["message"], str) and body["data"]["message"]
    return str(body["data"]["message"])


def test_the_table_is_what_is_documented() -> None:
    table = [f"{route.method} {route.path}" for route in DISPATCHED.routes]
    assert sorted(table) == sorted((*DOCUMENTED, *UNDOCUMENTED))


async def test_dispatch_at_once(client: Client) -> None:
    answer = await client.ask("POST", "/api/jobs/dispatch", {"payload": {"key": "value"}})
    assert answer.status == 201 and written(answer.json) == {"jobId": "<job>", "status": "QUEUED"}
    job = await read(client.server, answer.json["jobId"])
    assert (job.name, job.queue, job.webhook, job.dialect) == ("webhook", "webhook", True, Dialect.DISPATCHED)
    assert (job.payload, job.max_attempts, job.backoff) == ({"key": "value"}, 4, WEBHOOK_BACKOFF)
    assert job.webhook_key == client.key_id and job.state is JobState.WAITING
    check_shape(DISPATCHED, route_of(DISPATCHED, DOCUMENTED[0]), 201, answer.body, answer.json)


@pytest.mark.parametrize("field", ["scheduleFor", "scheduledFor"])
async def test_dispatch_later(client: Client, field: str) -> None:
    answer = await client.ask("POST", "/api/jobs/dispatch", {"payload": {}, field: ISO, "maxRetries": 2})
    assert answer.status == 201
    assert written(answer.json)["jobId"] == "<job>"
    assert {**answer.json, "jobId": ""} == {"jobId": "", "status": "QUEUED", "scheduledFor": SHOWN}
    job = await read(client.server, answer.json["jobId"])
    assert (job.state, job.run_at, job.max_attempts) == (JobState.SCHEDULED, LATER, 3)


async def test_of_two_spellings_the_documents_wins(client: Client) -> None:
    answer = await client.dispatch(scheduleFor=ISO, scheduledFor="2027-01-01T00:00:00Z")
    assert answer.json["scheduledFor"] == SHOWN
    answer = await client.dispatch(scheduleFor=None, scheduledFor=ISO)
    assert answer.json["scheduledFor"] == SHOWN


async def test_get(client: Client) -> None:
    now, later = await client.new(), await client.new(scheduleFor=ISO)
    answer = await client.ask("GET", f"/api/jobs/{now}")
    assert (answer.status, answer.json) == (200, {"jobId": now, "status": "QUEUED"})
    answer = await client.ask("GET", f"/api/jobs/{later}")
    assert (answer.status, answer.json) == (200, {"jobId": later, "status": "QUEUED", "scheduledFor": SHOWN})
    head = await client.ask("HEAD", f"/api/jobs/{now}")
    assert head.status == 200


async def test_delete(client: Client) -> None:
    id = await client.new()
    answer = await client.ask("DELETE", f"/api/jobs/{id}")
    assert (answer.status, answer.json) == (200, {"jobId": id, "status": "CANCELLED"})
    message = error(await client.ask("DELETE", f"/api/jobs/{id}"), 400, "BAD_REQUEST")
    assert "CANCELLED" in message and "QUEUED" in message
    assert await client.status(id) == "CANCELLED", "it can be viewed still"


async def test_patch(client: Client) -> None:
    id = await client.new()
    answer = await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": ISO})
    assert (answer.status, answer.json) == (200, {"jobId": id, "status": "QUEUED", "scheduledFor": SHOWN})
    job = await read(client.server, id)
    assert (job.state, job.run_at, job.scheduled_for) == (JobState.SCHEDULED, LATER, LATER)
    answer = await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": None})
    assert (answer.status, answer.json) == (200, {"jobId": id, "status": "QUEUED"})
    assert (await read(client.server, id)).state is JobState.WAITING
    answer = await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": "2020-01-01T00:00:00Z"})
    assert (answer.status, answer.json) == (200, {"jobId": id, "status": "QUEUED"}), "what has passed is now"


@pytest.mark.parametrize("body", [{}, {"payload": {}}, {"ScheduledFor": ISO}])
async def test_a_patch_says_when(server: Server, body: Any) -> None:
    client = await client_of(server)
    assert "scheduledFor" in error(
        await client.ask("PATCH", f"/api/jobs/{await client.new()}", body), 400, "BAD_REQUEST"
    )


async def test_a_job_that_waits_for_its_retry_can_be_put_off_and_cancelled(server: Server) -> None:
    client = await client_of(server)
    for verb in ("PATCH", "DELETE"):
        id = await client.new()
        await server.engine._store.jobs.update_one({"_id": id}, {"$set": {"state": "retrying", "retry_pending": True}})
        assert await client.status(id) == "QUEUED"
        answer = await client.ask(verb, f"/api/jobs/{id}", {"scheduledFor": ISO} if verb == "PATCH" else None)
        assert answer.status == 200
        assert (await read(server, id)).state is (JobState.RETRYING if verb == "PATCH" else JobState.CANCELLED)


SCHEDULES: tuple[Any, ...] = (
    *("", "now", "tomorrow", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00"),
    *("2026-01-01T25:00:00Z", "2026-12-31T23:59:60Z", "0000-01-01T00:00:00Z", "9999999", "1767225600000"),
    *("2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00 Z", " 2026-01-01T00:00:00Z", "2026-01-01T00:00:00Zx"),
    *(
        "२०२६-01-01T00:00:00Z",
        "2026-W01-1T00:00:00Z",
        "20260101T000000Z",
        "9999-12-31T23:59:59Z",
        "-2026-01-01T00:00:00Z",
    ),
    *(0, 1767225600, 1.5, True, False, [], {}, ["2027-01-01T00:00:00Z"], {"$gt": ""}),
)


@pytest.mark.parametrize("value", SCHEDULES, ids=repr)
async def test_what_is_no_time_is_refused(server: Server, value: Any) -> None:
    client = await client_of(server)
    for field in ("scheduleFor", "scheduledFor"):
        assert field in error(await client.dispatch(**{field: value}), 400, "BAD_REQUEST")
    id = await client.new()
    error(await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": value}), 400, "BAD_REQUEST")
    assert (await read(server, id)).state is JobState.WAITING


async def test_a_year_is_as_far_as_it_goes(server: Server) -> None:
    client = await client_of(server)
    now = server.engine.clock.now()
    within, beyond = ((now + timedelta(days=days)).isoformat() for days in (365, 367))
    assert (await client.dispatch(scheduleFor=within)).status == 201
    assert "days ahead" in error(await client.dispatch(scheduleFor=beyond), 400, "BAD_REQUEST")
    id = await client.new()
    error(await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": beyond}), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "when", ["2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2020-01-01T00:00:00.123456789Z", "2020-01-01t00:00z"]
)
async def test_what_has_passed_runs_now(server: Server, when: str) -> None:
    client = await client_of(server)
    answer = await client.dispatch(scheduleFor=when)
    if when.startswith("0001"):
        error(answer, 400, "BAD_REQUEST")
        return
    assert answer.status == 201 and "scheduledFor" not in answer.json
    assert (await read(server, answer.json["jobId"])).state is JobState.WAITING


MISSING = object()
PAYLOADS: tuple[Any, ...] = (MISSING, None, [], [{}], "", "text", 0, 1, 1.5, True, False)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: "missing" if value is MISSING else repr(value))
async def test_a_payload_is_an_object(server: Server, payload: Any) -> None:
    client = await client_of(server)
    body = {} if payload is MISSING else {"payload": payload}
    assert "payload" in error(await client.ask("POST", "/api/jobs/dispatch", body), 400, "BAD_REQUEST")


def payload_of(size: int, *, character: str = "x") -> dict[str, str]:
    """An object of so many bytes of compact JSON."""
    around = len(orjson.dumps({"a": ""}))
    return {"a": character * ((size - around) // len(character.encode()))}


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
async def test_ten_kilobytes_is_the_size_as_compact_utf8(server: Server, character: str) -> None:
    client = await client_of(server)
    fits = payload_of(10_240, character=character)
    fits["a"] += "x" * (10_240 - len(orjson.dumps(fits)))
    assert len(orjson.dumps(fits)) == 10_240
    for body in (orjson.dumps({"payload": fits}), orjson.dumps({"payload": fits}, option=orjson.OPT_INDENT_2)):
        assert (await client.ask("POST", "/api/jobs/dispatch", body)).status == 201
    escaped = json.dumps({"payload": fits}).encode()
    assert (await client.ask("POST", "/api/jobs/dispatch", escaped)).status == 201
    answer = await client.dispatch(payload={"a": fits["a"] + "x"})
    assert "10,240" in error(answer, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("size", [200_000, 20_000_000])
async def test_a_body_that_is_far_too_large_is_not_read(server: Server, size: int) -> None:
    client = await client_of(server)
    error(await client.ask("POST", "/api/jobs/dispatch", b"x" * size), 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("retries", [-1, 1.5, "3", True, [], {}, {"$gt": 0}, "", -(2**63), 2.0, 1e300], ids=repr)
async def test_retries_are_a_whole_number(server: Server, retries: Any) -> None:
    client = await client_of(server)
    assert "maxRetries" in error(await client.dispatch(maxRetries=retries), 400, "BAD_REQUEST")


@pytest.mark.parametrize(("asked", "given"), [(None, 4), (0, 1), (1, 2), (3, 4), (4, 4), (10**9, 4), (2**63 - 1, 4)])
async def test_retries_are_capped(server: Server, asked: Any, given: int) -> None:
    client = await client_of(server)
    assert (await read(server, await client.new(maxRetries=asked))).max_attempts == given


async def test_retries_are_capped_by_the_teams_limit(server: Server) -> None:
    await server.engine.keys.set_tenant_limits(TenantLimits("acme", max_retries=1), caller=SYSTEM)
    client, other = await client_of(server, org="acme"), await client_of(server, org="bravo")
    assert [(await read(server, await client.new(**body))).max_attempts for body in ({}, {"maxRetries": 3})] == [2, 2]
    assert (await read(server, await client.new(maxRetries=0))).max_attempts == 1
    assert (await read(server, await other.new(maxRetries=3))).max_attempts == 4


BODIES: tuple[tuple[bytes, dict[str, str], int, str], ...] = (
    (b"", {}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"", {"content_type": "application/json"}, 400, "BAD_REQUEST"),
    (b"{}", {"content_type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"payload={}", {"content_type": "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"{}", {"content_type": "application/json; charset=utf-16"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"{}", {"content_type": "application/json", "content_encoding": "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    *(
        (body, {"content_type": "application/json"}, 400, "BAD_REQUEST")
        for body in (
            *(b"null", b"5", b'"x"', b"[]", b"true", b"{", b"}", b"{]", b"\xff", b"\xef\xbb\xbf{}", b'{"payload":'),
            *(b'{"payload": NaN}', b'{"payload": {"a": 1e999}}', b'{"payload": {"a": ' + b"9" * 5_000 + b"}}"),
            *(b'{"payload": {"a": 1, "a": 2}}', b'{"payload": {"a\\u0000": 1}}', b'{"payload": {"a": "\\ud800"}}'),
            *(b'{"payload": ' + b'{"a":' * 100 + b"1" + b"}" * 101, b'{"payload": {}}{"payload": {}}'),
            *(b'{"payload": {"a": 9223372036854775808}}', '{"payload": {}}'.encode("utf-16")),
        )
    ),
)


@pytest.mark.parametrize(("body", "headers", "status", "code"), BODIES, ids=lambda value: repr(value)[:50])
async def test_bodies_that_make_no_sense(
    server: Server, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    client = await client_of(server)
    given = headers or {"content_type": ""}
    error(await client.ask("POST", "/api/jobs/dispatch", body, **given), status, code)


@pytest.mark.parametrize(
    "payload",
    [{}, {"$gt": ""}, {"a.b": 1, "": 2, "__proto__": {}, "$where": "1"}, {"t": "$token", "r": "$$ROOT"}, {"ü": [None]}],
    ids=repr,
)
async def test_payloads_are_kept_as_they_are(server: Server, payload: Any) -> None:
    client = await client_of(server)
    assert (await read(server, await client.new(payload=payload))).payload == payload
