"""One request and its whole answer, written down: ids and times, which differ each time, by what they are."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jsonschema_rs
import orjson

from app.rest.dialect import Dialect, Route
from tests.app.rest.conftest import Server

_ID = re.compile(r"^(job|run|dlq|cron|wkr)_[0-7][0-9a-hjkmnp-tv-z]{25}$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")

Arrange = Callable[[Server], Awaitable[dict[str, str]]]


async def nothing(server: Server) -> dict[str, str]:
    """An empty database."""
    return {}


@dataclass(frozen=True)
class Transcript:
    """`arrange` makes what the request is about, and returns what stands for the braces in its target."""

    request: str
    status: int
    body: Any = None
    arrange: Arrange = nothing
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    sent: Any = None

    @property
    def name(self) -> str:
        return f"{self.request}{self.query} {self.status}"


def written(value: Any) -> Any:
    """The value with `<job>` for an id of a job, and `<time>` for a time."""
    if isinstance(value, dict):
        return {key: written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [written(each) for each in value]
    if isinstance(value, str):
        if found := _ID.match(value):
            return f"<{found[1]}>"
        return "<time>" if _TIME.match(value) else value
    return value


def route_of(dialect: Dialect, request: str) -> Route:
    method, _, path = request.partition(" ")
    return next(route for route in dialect.routes if (route.method, route.path) == (method, path))


def check_shape(dialect: Dialect, route: Route, status: int, body: bytes, json: Any) -> None:
    """The answer has the shape that the route's description promises for its status."""
    schema = route.shows if status < 400 else {"$ref": "#/components/schemas/Error"}
    if schema is None:
        assert body == b""
        return
    validator(dialect.name, orjson.dumps({**schema, "components": {"schemas": dialect.schemas}})).validate(json)


@cache
def validator(dialect: str, schema: bytes) -> Any:
    return jsonschema_rs.validator_for(orjson.loads(schema), validate_formats=True)


async def play(server: Server, dialect: Dialect, transcript: Transcript, *, prefix: str = "") -> None:
    """Arranges, asks, and compares with what is written."""
    names = await transcript.arrange(server)
    method, _, path = transcript.request.partition(" ")
    target = path.format(**names) + transcript.query.format(**names)
    answer = await server.ask(method, prefix + target, body=transcript.sent, **transcript.headers)
    assert answer.status == transcript.status, answer.body
    if transcript.body is None:
        assert answer.body == b""
    else:
        assert answer.headers["content-type"] == "application/json"
        assert written(answer.json) == transcript.body
    check_shape(
        dialect, route_of(dialect, transcript.request), answer.status, answer.body, answer.json if answer.body else None
    )
