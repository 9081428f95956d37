"""The server's application on a real database, spoken to without a network; emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from pymongo import MongoClient
from starlette.types import ASGIApp

from app.main import create_app
from app.settings import ServerSettings
from switchtower.engine import Engine, bulk
from switchtower.engine.upkeep import Upkeep
from tests.app.direct import Answer, request
from tests.app.product import ENQUEUE
from tests.databases import empty

DATABASE = "test_rest"


@dataclass
class Server:
    """One server: its application, and its engine to arrange things with."""

    app: ASGIApp
    engine: Engine

    async def ask(
        self, method: str, target: str, *, body: Any = None, key: str | None = None, **headers: str
    ) -> Answer:
        """An answer to one request; `_` in the names of headers stands for `-`."""
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if key is not None:
            given.append(("authorization", f"Bearer {key}"))
        data = b""
        if body is not None:
            given += [] if "content_type" in headers else [("content-type", "application/json")]
            data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await request(self.app, method, target, headers=given, body=data)

    async def graphql(self, query: str, *, key: str | None = None, **variables: Any) -> Any:
        """The data of an operation that must succeed."""
        answer = await self.ask("POST", "/graphql", body={"query": query, "variables": variables}, key=key)
        assert answer.status == 200 and "errors" not in answer.json, answer.json
        return answer.json["data"]

    async def enqueue(self, *, key: str | None = None, **input: Any) -> str:
        """The id of a job that GraphQL enqueued."""
        answer = await self.graphql(ENQUEUE, key=key, input={"name": "work", **input})
        return str(answer["enqueueJob"]["id"])


@pytest.fixture(scope="session")
async def shared(mongodb_url: str) -> AsyncIterator[Server]:
    settings = ServerSettings(mongodb_url=mongodb_url, database=DATABASE, maintenance=False)
    engine = await Engine.connect(mongodb_url, database=DATABASE, role="server")
    app = create_app(settings, engine=engine)
    async with app.router.lifespan_context(app):
        yield Server(app, engine)


@pytest.fixture
def server(shared: Server, mongo: MongoClient[dict[str, Any]]) -> Server:
    """A server without access control and without maintenance, empty."""
    empty(mongo, DATABASE)
    return shared


@asynccontextmanager
async def running(url: str, database: str, **settings: Any) -> AsyncIterator[Server]:
    """A server with maintenance, which folds the counters, and takes back what an unknown worker holds."""
    engine = await Engine.connect(url, database=database, role="server")
    app = create_app(ServerSettings(mongodb_url=url, database=database, **settings), engine=engine)
    async with app.router.lifespan_context(app):
        yield Server(app, engine)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation on many jobs is answered when it is done, also where that takes more than two seconds."""
    monkeypatch.setattr(bulk, "FIRST_ANSWER_SECONDS", 60.0)


@pytest.fixture
def unrescued(monkeypatch: pytest.MonkeyPatch) -> None:
    """No maintenance takes back what workers hold that nobody registered."""

    async def rescue(self: Upkeep) -> int:
        return 0

    monkeypatch.setattr(Upkeep, "rescue", rescue)


@pytest.fixture
async def maintained(mongodb_url: str, database_name: str, unrescued: None) -> AsyncIterator[Server]:
    """A server with maintenance of the test's own, where keys may be created, and jobs be held by anybody."""
    async with running(mongodb_url, database_name) as server:
        yield server
