"""What every dialect has from the adapter, on dialects of the tests' own: routing, bodies, faults, one shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from pymongo import MongoClient
from structlog.testing import capture_logs

from app import rest
from app.main import create_app
from app.rest.dialect import Dialect, Given, Route, refusal_of, whole_number
from app.rest.dispatcher import Dialects
from app.rest.serving import DialectApp
from app.settings import ServerSettings
from schema.context import Context
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.errors import (
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidTransition,
    LeaseLost,
    NotFound,
    RateLimited,
    StoreUnavailable,
    SwitchtowerError,
    Unauthorized,
)
from tests.app.direct import request
from tests.app.rest.conftest import DATABASE, Server

SECRET = "mongodb://user:hunter2@db"
ERRORS: dict[str, tuple[Exception, int]] = {
    "missing": (NotFound("Job", "x"), 404),
    "state": (InvalidTransition("cancel", "active", ["waiting"]), 409),
    "input": (InvalidInput("f", "is wrong."), 400),
    "large": (InvalidInput("f", "is large.", too_large=True), 413),
    "unauthorized": (Unauthorized(), 401),
    "forbidden": (Forbidden("no"), 403),
    "conflict": (Conflict("taken"), 409),
    "lease": (LeaseLost("x"), 409),
    "rate": (RateLimited("slowly", retry_after_seconds=1.2), 429),
    "store": (StoreUnavailable(), 503),
    "configuration": (ConfigurationError(SECRET), 500),
    "base": (SwitchtowerError(SECRET), 500),
    "fault": (RuntimeError(SECRET), 500),
    "recursion": (RecursionError(SECRET), 500),
}


async def echo(context: Context, **given: Any) -> Any:
    return {"actor": context.caller.actor, "source": context.caller.source, **given}


async def fail(context: Context, kind: str) -> Any:
    raise ERRORS[kind][0]


def thing(given: Given) -> dict[str, Any]:
    return {"path": dict(given.path), "body": dict(given.body)}


def unserialisable(found: Any) -> Any:
    return {"value": object()}


def as_it_is(found: Any) -> Any:
    return found


TEST = Dialect(
    name="test",
    title="Test",
    prefixes=("/t", "/shared/mine/too"),
    routes=(
        Route(method="GET", path="/t/things/{id}", summary="", resolver=echo, parse=thing, render=as_it_is),
        Route(
            method="GET", path="/t/things/{id}/parts/{part}", summary="", resolver=echo, parse=thing, render=as_it_is
        ),
        Route(method="GET", path="/t/things/known", summary="", resolver=echo, render=lambda found: "the literal"),
        Route(
            method="POST",
            path="/t/things",
            summary="",
            resolver=echo,
            parse=thing,
            render=as_it_is,
            status=201,
            body={"type": "object"},
        ),
        Route(method="DELETE", path="/t/things/{id}", summary="", resolver=echo, status=204),
        Route(
            method="GET",
            path="/t/fail/{kind}",
            summary="",
            resolver=fail,
            parse=lambda given: {"kind": given.path["kind"]},
            render=as_it_is,
        ),
        Route(method="GET", path="/t/unserialisable", summary="", resolver=echo, render=unserialisable),
        Route(method="GET", path="/shared/mine/too", summary="", resolver=echo, render=as_it_is),
    ),
    refusal=refusal_of,
    envelope=lambda refused: {"no": {"code": refused.code, "message": refused.message}},
    schemas={"Error": {}},
)
LENIENT = Dialect(
    name="lenient",
    title="Lenient",
    prefixes=("/lenient-api", "/described.json"),
    routes=(
        Route(
            method="POST",
            path="/lenient-api/optional",
            summary="",
            resolver=echo,
            parse=thing,
            render=as_it_is,
            body={"type": "object"},
            body_optional=True,
        ),
        Route(
            method="POST",
            path="/lenient-api/needed",
            summary="",
            resolver=echo,
            parse=thing,
            render=as_it_is,
            body={"type": "object"},
        ),
        Route(method="GET", path="/lenient-api/open", summary="", resolver=echo, render=as_it_is, public=True),
        Route(method="GET", path="/lenient-api/closed", summary="", resolver=echo, render=as_it_is),
    ),
    refusal=refusal_of,
    envelope=lambda refused: {"lenient": refused.code},
    schemas={"Error": {}},
    any_media=True,
    cors=True,
    described_at="/described.json",
)
OTHER = Dialect(
    name="other",
    title="Other",
    prefixes=("/shared", "/shared/mine"),
    routes=(Route(method="GET", path="/shared/{a}/{b}", summary="", resolver=echo, render=lambda found: "other"),),
    refusal=refusal_of,
    envelope=lambda refused: {"other": refused.message},
    schemas={"Error": {}},
)


@pytest.fixture
async def tested(
    mongodb_url: str, mongo: MongoClient[dict[str, Any]], shared: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    monkeypatch.setattr("app.main.DIALECTS", (*rest.DIALECTS, TEST, OTHER, LENIENT))
    settings = ServerSettings(
        mongodb_url=mongodb_url, database=DATABASE, maintenance=False, max_body_bytes=2_000, allowed_hosts=("mine",)
    )
    engine = await Engine.connect(mongodb_url, database=DATABASE, role="server")
    app = create_app(settings, engine=engine)
    async with app.router.lifespan_context(app):
        yield Server(app, engine)


def refused(answer: Any, status: int) -> dict[str, str]:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == ["no"] and set(answer.json["no"]) == {"code", "message"}
    return dict(answer.json["no"])


async def test_paths_lead_to_routes(tested: Server) -> None:
    for target, expected in (
        ("/t/things/5", {"id": "5"}),
        ("/test/t/things/5", {"id": "5"}),
        ("/t/things/a%2Fb", {"id": "a/b"}),
        ("/t/th%69ngs/%25", {"id": "%"}),
        ("/%74/things/x", {"id": "x"}),
        ("/t/things/a%00b", {"id": "a\0b"}),
        ("/t/things/..%2f..", {"id": "../.."}),
        ("/t/things/%ff", {"id": "\ufffd"}),
        ("/t/things/gr%C3%B6%C3%9Fe", {"id": "größe"}),
        ("/t/things/a/parts/b", {"id": "a", "part": "b"}),
        ("/t/things/%6Bnown/parts/b", {"id": "known", "part": "b"}),
    ):
        answer = await tested.ask("GET", target)
        assert (answer.status, answer.json["path"]) == (200, expected), target
        assert (answer.json["actor"], answer.json["source"]) == ("operator", "test")
    assert (await tested.ask("GET", "/t/things/known")).json == "the literal"
    assert (await tested.ask("HEAD", "/t/things/5")).status == 200
    assert (await tested.ask("DELETE", "/t/things/5")).status == 204


async def test_the_longest_prefix_has_a_path(tested: Server) -> None:
    assert (await tested.ask("GET", "/shared/mine/too")).json["source"] == "test"
    assert (await tested.ask("GET", "/shared/mine/other")).json == "other"
    assert (await tested.ask("GET", "/other/shared/mine/too")).json == "other"
    assert (await tested.ask("GET", "/shared/x")).json == {"other": "There is nothing at this address."}
    nobodys = await tested.ask("GET", "/sharedness/x", accept="application/json")
    assert nobodys.json == {"ok": False, "error": "There is nothing at this address."}, "AsyncMQ has what nobody has"


NOWHERE = (
    "/t",
    "/t/",
    "/t/things",
    "/t/things/",
    "/t//things",
    "/t/things/5/",
    "/test",
    "/test/",
    "/test/x",
    "/t/%2e%2e",
)


@pytest.mark.parametrize("target", NOWHERE)
async def test_what_is_nowhere_is_so_in_the_dialects_shape(tested: Server, target: str) -> None:
    method = "GET" if target != "/t/things" else "POST"
    if target == "/t/things":
        assert refused(await tested.ask("GET", target), 405)["code"] == "METHOD_NOT_ALLOWED"
    else:
        assert refused(await tested.ask(method, target), 404)["code"] == "NOT_FOUND"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "POST"])
async def test_a_wrong_method_is_told_the_right_ones(tested: Server, method: str) -> None:
    answer = await tested.ask(method, "/t/things/5", x_http_method_override="DELETE")
    assert refused(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
    assert answer.headers["allow"] == "GET, DELETE, HEAD"


@pytest.mark.parametrize("kind", ERRORS)
async def test_every_error_has_its_status(tested: Server, kind: str) -> None:
    with capture_logs() as logs:
        answer = await tested.ask("GET", f"/t/fail/{kind}")
    shown = refused(answer, ERRORS[kind][1])
    assert "hunter2" not in answer.body.decode()
    assert answer.headers["x-request-id"]
    if answer.status >= 500:
        mine = [line for line in logs if line.get("request_id") == answer.headers["x-request-id"]]
        (line,) = [line for line in mine if line["log_level"] == "error"]
        assert line["dialect"] == "test"
        assert shown["code"] in ("INTERNAL", "UNAVAILABLE")
    assert ("retry-after" in answer.headers) == (answer.status in (429, 503))
    if kind == "rate":
        assert answer.headers["retry-after"] == "2"


async def test_an_answer_that_cannot_be_written_is_a_fault(tested: Server) -> None:
    with capture_logs() as logs:
        answer = await tested.ask("GET", "/t/unserialisable")
    assert refused(answer, 500)["code"] == "INTERNAL"
    mine = [line for line in logs if line.get("request_id") == answer.headers["x-request-id"]]
    assert [line["log_level"] for line in mine] == ["error"]


BODIES: tuple[tuple[bytes, dict[str, str], int], ...] = (
    (b'{"a": {"$gt": ""}}', {}, 201),
    (b"{}", {"content_type": "application/json; charset=utf-8"}, 201),
    (b"", {}, 400),
    (b"null", {}, 400),
    (b"[]", {}, 400),
    (b'"x"', {}, 400),
    (b"{", {}, 400),
    (b'{"a":1,"a":2}', {}, 400),
    (b'{"a": NaN}', {}, 400),
    (b'{"a": 1e400}', {}, 400),
    (b'{"a": 99999999999999999999}', {}, 400),
    (b'{"a\\u0000": 1}', {}, 400),
    (b'{"a": "\\ud800"}', {}, 400),
    (b'\xef\xbb\xbf{"a": 1}', {}, 400),
    (b'{"a": "\xff"}', {}, 400),
    ('{"a": 1}'.encode("utf-16"), {}, 400),
    (b'{"a":' + b"[" * 80 + b"]" * 80 + b"}", {}, 400),
    (b'{"a":"' + b"x" * 2_000 + b'"}', {}, 413),
    (b"{}", {"content_length": "9999999999999999999999"}, 413),
    (b"{}", {"content_type": "text/plain"}, 415),
    (b"{}", {"content_type": "application/x-www-form-urlencoded"}, 415),
    (b"{}", {"content_type": "application/json; charset=latin-1"}, 415),
    (b"{}", {"content_type": ""}, 415),
    (b"{}", {"content_encoding": "gzip"}, 415),
)


@pytest.mark.parametrize(("body", "headers", "status"), BODIES, ids=range(len(BODIES)))
async def test_bodies(tested: Server, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = await tested.ask("POST", "/t/things", body=body, **headers)
    if status == 201:
        assert (answer.status, answer.json["body"]) == (201, orjson.loads(body))
    else:
        refused(answer, status)


@pytest.mark.parametrize(
    ("body", "media", "needed", "optional"),
    [
        (b'{"a": 1}', "text/plain", 200, 200),
        (b'{"a": 1}', "application/x-www-form-urlencoded", 200, 200),
        (b'{"a": 1}', "", 200, 200),
        (b"", "", 400, 200),
        (b"", "application/json", 400, 200),
        (b" ", "application/json", 400, 400),
        (b"garbage", "text/plain", 400, 400),
        (b"null", "application/json", 400, 400),
        (b"[]", "application/json", 400, 400),
    ],
)
async def test_a_lenient_dialect_reads_bodies_whatever_they_say_they_are(
    tested: Server, body: bytes, media: str, needed: int, optional: int
) -> None:
    for path, status in (("needed", needed), ("optional", optional)):
        answer = await tested.ask("POST", f"/lenient-api/{path}", body=body, content_type=media)
        assert answer.status == status, path
        if status == 200:
            assert answer.json["body"] == (orjson.loads(body) if body else {})
        else:
            assert answer.json == {"lenient": "BAD_REQUEST"}


async def test_pages_of_any_origin_may_read_a_dialect_that_says_so(tested: Server) -> None:
    for method, target, status in (
        ("GET", "/lenient-api/closed", 200),
        ("GET", "/lenient/lenient-api/closed", 200),
        ("GET", "/lenient-api/nothing", 404),
        ("OPTIONS", "/lenient-api/closed", 204),
    ):
        answer = await tested.ask(method, target, origin="https://elsewhere.example")
        # What needs no key is for pages of this server: any page can ask the machine that it is looked at on.
        expected = None if status == 200 else "*"
        assert (answer.status, answer.headers.get("access-control-allow-origin")) == (status, expected)
        assert "access-control-allow-credentials" not in answer.headers
        with_cookie = await tested.ask(method, target, origin="https://elsewhere.example", cookie="session=x")
        assert with_cookie.status == status and "access-control-allow-origin" not in with_cookie.headers
    preflight = await tested.ask("OPTIONS", "/lenient-api/needed", origin="https://elsewhere.example")
    assert preflight.body == b"" and "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    refused = await tested.ask("POST", "/lenient-api/needed", body={}, origin="https://elsewhere.example")
    assert refused.status == 403, "reading is not writing"


async def test_a_dialect_serves_its_own_description(tested: Server) -> None:
    for base in ("", "/lenient"):
        answer = await tested.ask("GET", f"{base}/described.json")
        assert answer.status == 200 and answer.headers["content-type"] == "application/json"
        assert answer.json["servers"] == [{"url": base or "/"}]
        assert set(answer.json["paths"]) == {route.path for route in LENIENT.routes}
        assert answer.json["paths"]["/lenient-api/open"]["get"]["security"] == [{}]
        body = answer.json["paths"]["/lenient-api/optional"]["post"]["requestBody"]
        assert body["required"] is False
    assert (await tested.ask("POST", "/described.json")).status == 404
    without = create_app(ServerSettings(introspection=False))
    assert (await request(without, "GET", "/described.json")).status == 404


async def test_what_is_public_asks_for_no_key(tested: Server, mongo: MongoClient[dict[str, Any]]) -> None:
    created = await tested.engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
    try:
        assert (await tested.ask("GET", "/lenient-api/closed", key="nonsense")).status == 401
        for key in (None, created.secret, "nonsense"):
            answer = await tested.ask("GET", "/lenient-api/open", key=key)
            assert (answer.status, answer.json["actor"]) == (200, "anonymous")
    finally:
        mongo[DATABASE]["keys"].delete_many({})


def test_a_base_moves_the_paths_at_the_root() -> None:
    app = DialectApp(OTHER, **dict.fromkeys(("gate", "context", "limits", "streams")))  # type: ignore[arg-type]
    dialects = Dialects([app], bases={"other": "/admin/queue"})
    assert dialects.find("/admin/queue/shared/x") == (app, "/shared/x")
    assert dialects.find("/other/shared/x") == (app, "/shared/x")
    assert dialects.find("/shared/x") is None and dialects.find("/admin/queuex/shared") is None


async def test_a_body_that_nobody_reads_is_still_not_too_large(tested: Server) -> None:
    assert (await tested.ask("DELETE", "/t/things/5", body=b"}{", content_type="x/y")).status == 204
    refused(await tested.ask("DELETE", "/t/things/5", content_length="2001"), 413)


async def test_what_is_refused_at_the_front_door_has_the_shape_too(tested: Server) -> None:
    refused(await tested.ask("GET", "/t/things/" + "x" * 40_000), 414)
    refused(await tested.ask("GET", "/t/things/5", x_large="x" * 40_000), 431)
    refused(await tested.ask("GET", "/t/things/5", **{f"x_{n}": "1" for n in range(120)}), 431)
    mine = await tested.ask("GET", "/graphql?query=" + "x" * 40_000)
    assert mine.status == 414 and "errors" in mine.json


async def test_an_absurd_accept_header_is_answered_in_json(tested: Server) -> None:
    for accept in ("text/html", "x;q=", "*/*;q=0", ""):
        assert (await tested.ask("GET", "/t/things/5", accept=accept)).status == 200


@pytest.mark.parametrize("text", ["0", "-0", "+7", "-9223372036854775808", "9223372036854775807", "007"])
def test_whole_numbers(text: str) -> None:
    assert whole_number("n", text) == int(text)


def test_names_and_prefixes_of_dialects_do_not_collide() -> None:
    names = [dialect.name for dialect in rest.DIALECTS]
    prefixes = [prefix for dialect in rest.DIALECTS for prefix in dialect.prefixes]
    assert len({*names}) == len(names) and len({*prefixes}) == len(prefixes)
    assert not {f"/{name}" for name in names} & {*prefixes}
    assert Dialects([]).find("/v1/jobs") is None
