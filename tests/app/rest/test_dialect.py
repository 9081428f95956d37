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
from app.settings import ServerSettings
from schema.context import Context
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
    monkeypatch.setattr("app.main.DIALECTS", (*rest.DIALECTS, TEST, OTHER))
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
    assert "errors" in (await tested.ask("GET", "/sharedness/x")).json, "that is nobody's"


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
        (line,) = [line for line in logs if line["log_level"] == "error"]
        assert line["request_id"] == answer.headers["x-request-id"] and line["dialect"] == "test"
        assert shown["code"] in ("INTERNAL", "UNAVAILABLE")
    assert ("retry-after" in answer.headers) == (answer.status in (429, 503))
    if kind == "rate":
        assert answer.headers["retry-after"] == "2"


async def test_an_answer_that_cannot_be_written_is_a_fault(tested: Server) -> None:
    with capture_logs() as logs:
        assert refused(await tested.ask("GET", "/t/unserialisable"), 500)["code"] == "INTERNAL"
    assert [line["log_level"] for line in logs] == ["error"]


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
