"""Whatever stands in a parameter, a path, a method or a header: an answer in the dialect's shape, and no operator.

Each value is given for every parameter of every route that reads one; what exactly some of them are answered with is
in the tests of the dialects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient

from app.rest import DIALECTS
from app.rest.dialect import Dialect, Route
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from tests.app.direct import Answer
from tests.app.rest.conftest import Server, running
from tests.app.rest.transcripts import check_shape
from tests.conformance.situations import enqueue, job_in

JSON = {"accept": "application/json"}
NUMBERS = ("-1", "0", "1001", "1000000000", "1e3", " 5", "+5", "٣", "0x10", str(2**63), "-" + "9" * 40, "NaN", "1.5")
TIMES = (
    *("0000-01-01T00:00:00Z", "9999999", "2026-01-01T00:00:00", "2016-12-31T23:59:60Z", "1700000000000"),
    *("2026-01-01T00:00:00+99:99", "2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"),
)
TEXTS = (
    *("", "\0", "\n", "true", "null", "[]", "{}", "running", "RUNNING", "waiting,failed", "WAITING", "(a+)+$", ".*"),
    *('{"$gt": ""}', '{"$ne": null}', '{"$where": "sleep(1)"}', "$where", "$$ROOT", "$token", "__proto__", "__all__"),
    *("<script>alert(1)</script>", "\u202eabc", "\ud83d\udca9", "a/b", "../..", "x" * 300, "x" * 12_000),
)
PLACES = (
    *("job_", "jbo_01h455vb4pex5vsknk084sn02q", "job_01h455vb4pex5vsknk084sn02u", "job_81h455vb4pex5vsknk084sn02q"),
    *(
        "%00",
        "..%2f..%2fetc",
        "%2e%2e",
        "$ne",
        "job.",
        "%D1%98ob_01",
        "a%0Ab",
        "%3Cscript%3E",
        "__all__",
        "%E2%80%AEabc",
    ),
    *(
        "%F0%9F%92%A9",
        "x" * 1_000,
        "x" * 10_000,
        "%FF%FE",
        "%7B%22$gt%22:%22%22%7D",
        "[object Object]".replace(" ", "%20"),
    ),
)
OPERATORS = ("$ne", "$gt", "$regex", "$where", "$in", "$exists", "$function", "$expr", "$nin", "$elemMatch")
MARK = "zq9-mark"


@pytest.fixture
async def key(server: Server) -> str:
    return await stock(server)


async def stock(server: Server) -> str:
    """A queue with two jobs, and a key."""
    await job_in(server.engine, "failed", queue="q")
    await enqueue(server.engine, queue="q", job_id="mine")
    new = NewApiKey(name="k", scopes=[Scope.OPERATE], dev=True)
    return (await server.engine.keys.create(new, caller=SYSTEM)).secret


def reading(dialect: Dialect) -> Iterator[Route]:
    return (route for route in dialect.routes if route.method == "GET" and route.events is None and not route.public)


def target(dialect: Dialect, route: Route, **names: str) -> str:
    known = {"name": "q", **dict.fromkeys(("jobId", "job_id", "id"), "mine")}
    return f"/{dialect.name}{route.path.format(**dict.fromkeys(route.parameters, 'x') | known | names)}"


async def ask(server: Server, dialect: Dialect, key: str, method: str, path: str, **headers: str) -> Answer:
    return await server.ask(method, path, key=key if dialect.requires_key else None, **{**JSON, **headers})


def answered(dialect: Dialect, route: Route, answer: Answer, path: str) -> None:
    assert answer.status < 500, (path[:300], answer.body[:300])
    if answer.status >= 400 or route.media == "application/json":
        check_shape(dialect, route, answer.status, answer.body, answer.json)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_any_value_of_any_parameter(server: Server, dialect: Dialect, key: str) -> None:
    for route in reading(dialect):
        for parameter in route.query:
            base = f"{target(dialect, route)}?{parameter.name}"
            values = [quote(value.encode("utf-16", "surrogatepass").decode("utf-16")) for value in TEXTS]
            values += [*map(quote, (*NUMBERS, *TIMES)), "%FF", "%zz", "%", "+"]
            queries = [f"{base}={value}" for value in values]
            queries += [base, f"{base}=1&{parameter.name}=2", f"{base}[]=1&{parameter.name}[]=2", f"{base}[a][b]=1"]
            for path in queries:
                answered(dialect, route, await ask(server, dialect, key, "GET", path), path)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_any_text_in_a_path(server: Server, dialect: Dialect, key: str) -> None:
    routes = [route for route in dialect.routes if route.parameters and route.events is None]
    for route in routes:
        for parameter in route.parameters:
            for place in PLACES:
                path = target(dialect, route, **{parameter: place})
                answer = await ask(server, dialect, key, route.method, path)
                assert answer.status < 500, (route.method, path[:300], answer.body[:300])
                if answer.status >= 400:
                    check_shape(dialect, route, answer.status, answer.body, answer.json)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_operators_are_no_part_of_what_is_asked_of_the_database(
    mongodb_url: str, database_name: str, mongo: MongoClient[dict[str, Any]], dialect: Dialect
) -> None:
    """A parameter that nobody knows changes nothing, and nothing of it reaches the database but as a text."""
    database = mongo[database_name]
    async with running(mongodb_url, database_name, maintenance=False) as server:
        key = await stock(server)
        database.command("profile", 2)
        for route in reading(dialect):
            plain = await ask(server, dialect, key, "GET", target(dialect, route))
            names = [parameter.name for parameter in route.query] or ["state"]
            for operator in OPERATORS:
                query = "&".join(f"{name}[{operator}]={MARK}" for name in names)
                answer = await ask(server, dialect, key, "GET", f"{target(dialect, route)}?{query}")
                assert (answer.status, answer.body) == (plain.status, plain.body), (route.path, operator)
                for name in names:
                    value = quote(f'{{"{operator}": "{MARK}"}}')
                    path = f"{target(dialect, route)}?{name}={value}"
                    answered(dialect, route, await ask(server, dialect, key, "GET", path), path)
        for route in (route for route in dialect.routes if route.body is not None):
            for field in route.body["properties"]:  # type: ignore[index]
                for operator in OPERATORS:
                    for value in ({operator: MARK}, [{operator: MARK}], {"a": {operator: [MARK]}}):
                        path = target(dialect, route)
                        answer = await server.ask(route.method, path, body={field: value}, key=key, **JSON)
                        answered(dialect, route, answer, path)
        database.command("profile", 0)
    commands = [row.get("command", {}) for row in database["system.profile"].find({})]
    used = [pair for command in commands for pair in operators(command)]
    assert len(commands) > 20 and not [pair for pair in used if MARK in pair[1] or pair[0] in ("$where", "$function")]


def operators(value: Any) -> Iterator[tuple[str, str]]:
    """The operators of a command that stand for a text, but those that compare it as it is (an escaped pattern too) and
    what is inserted."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("documents", "$literal", "$regex", "$eq"):
                continue
            if name.startswith("$") and isinstance(inner, str):
                yield name, inner
            yield from operators(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from operators(inner)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_methods_slashes_and_headers(server: Server, dialect: Dialect, key: str) -> None:
    for route in reading(dialect):
        path = target(dialect, route)
        plain = await ask(server, dialect, key, "GET", path)
        for method in ("TRACE", "BREW", "get"):
            answer = await ask(server, dialect, key, method, path)
            assert answer.status == 405 and "GET" in answer.headers["allow"], (method, path)
            check_shape(dialect, route, answer.status, answer.body, answer.json)
        head = await ask(server, dialect, key, "HEAD", path)
        assert head.status == plain.status
        for headers in (
            {"if_none_match": '"garbage'}, {"if_modified_since": "yesterday"}, {"range": "bytes=9-1"}, {"te": "x"},
            {"last_event_id": "$ne"}, {"x_http_method_override": "DELETE"}, {"content_type": "\x00/\xff"},
            {"forwarded": "for=\"<script>\""}, {"x_forwarded_prefix": "//evil.example"}, {"cookie": "a; =b; c=\x7f"},
        ):  # fmt: skip
            answer = await ask(server, dialect, key, "GET", path, **headers)
            assert (answer.status, answer.body) == (plain.status, plain.body), (headers, path)
        for odd in (f"{path}/", path.replace("/", "//", 2), f"{path}%2F", f"{path};a=b", f"{path}%20"):
            answer = await ask(server, dialect, key, "GET", odd)
            assert answer.status < 500, odd


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_foreign_page_reads_what_a_dialect_says_and_never_with_a_cookie(
    server: Server, dialect: Dialect, key: str
) -> None:
    for route in reading(dialect):
        for origin in ("https://evil.example", "null"):
            answer = await ask(server, dialect, key, "GET", target(dialect, route), origin=origin)
            # Nobody had a key to ask with.
            assert "access-control-allow-origin" not in answer.headers
            answer = await server.ask("GET", target(dialect, route), key=key, origin=origin, **JSON)
            assert answer.headers.get("access-control-allow-origin") == ("*" if dialect.cors else None)
            answer = await ask(server, dialect, key, "GET", target(dialect, route), origin=origin, cookie="a=b")
            assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/queues/q/jobs?q", "/queues/q/jobs?task", "/queues/q/jobs?job_id", "/audit?q"])
async def test_a_long_text_is_not_looked_for(server: Server, path: str) -> None:
    for text, status in (("(a+)+$" * 42, 200), ("x" * 256, 200), ("x" * 257, 400), ("(a+)+$" * 2_000, 400)):
        answer = await server.ask("GET", f"{path}={quote(text)}", **JSON)
        assert answer.status == status, (path, len(text))
        assert status == 200 or "at most 256" in answer.json["error"]


HOSTILE = {
    "__reduce__": ["os.system", ["true"]],
    "py/object/apply:os.system": ["true"],
    "yaml": "!!python/object/apply:os.system ['true']",
    "pickle": "gASVHQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu",
    "$type": "System.Diagnostics.Process",
    "$$ROOT": "$token",
    "$function": {"body": "sleep(1)", "args": [], "lang": "js"},
    "$literal": {"$where": "1"},
}


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "__import__", "subprocess:run", "../tasks", "$token"])
async def test_names_and_payloads_are_kept_and_mean_nothing(server: Server, name: str) -> None:
    answer = await server.ask("POST", "/api/queues/q/jobs", body={"name": name, "data": HOSTILE})
    assert (answer.status, answer.json["data"]["name"], answer.json["data"]["data"]) == (201, name, HOSTILE)
    shown = await server.ask("GET", f"/v1/jobs/{answer.json['data']['id']}")
    assert (shown.json["name"], shown.json["payload"]) == (name, HOSTILE)
    listed = await server.ask("GET", "/queues/q/jobs", **JSON)
    assert [(job["task"], job["kwargs"]) for job in listed.json["jobs"]] == [(name, HOSTILE)]
    assert await server.engine.claims.claim("w", ["q"], names=["work"]) == []
