"""The front door before a schema of the tests' own, so that transports are tested without the product's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import strawberry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute
from strawberry.scalars import JSON

from app.errors import RenderErrors
from app.front_door import FrontDoor
from app.graphql import GraphQLEndpoint
from app.limits import RequestLimits
from schema.limits import DocumentLimits, Documents, Limits
from switchtower.errors import Forbidden, StoreUnavailable
from tests.app.serving import Served, serving

SECRET = "mongodb://user:hunter2@db"


@dataclass
class Calls:
    """What the resolvers were asked to do, seen from outside."""

    mutations: int = 0
    open_streams: int = 0


@dataclass
class TestContext:
    __test__ = False
    calls: Calls
    request_id: str = ""
    connection_params: dict[str, Any] = field(default_factory=dict)


Info = strawberry.Info[TestContext, None]


@strawberry.type
class Thing:
    id: strawberry.ID
    name: str = "thing"

    @strawberry.field
    def child(self) -> Thing:
        return Thing(id=self.id)

    @strawberry.field
    def things(self, first: int = 50) -> list[Thing]:
        return [Thing(id=strawberry.ID(str(i))) for i in range(first)]


@strawberry.type
class ThingEdge:
    node: Thing


@strawberry.type
class ThingConnection:
    edges: list[ThingEdge]
    total: int = 0


@strawberry.type
class Query:
    @strawberry.field
    def hello(self) -> str:
        return "world"

    @strawberry.field
    def thing(self) -> Thing:
        return Thing(id=strawberry.ID("1"))

    @strawberry.field
    def things(self, first: int = 50) -> ThingConnection:
        return ThingConnection(edges=[ThingEdge(node=Thing(id=strawberry.ID(str(i)))) for i in range(first)])

    @strawberry.field
    def echo(self, value: JSON) -> JSON:
        return value

    @strawberry.field
    def number(self, value: int) -> int:
        return value

    @strawberry.field
    def broken(self) -> str | None:
        raise RuntimeError(f"cannot reach {SECRET}")

    @strawberry.field
    def required_broken(self) -> str:
        raise RuntimeError(f"cannot reach {SECRET}")

    @strawberry.field
    def unavailable(self) -> str | None:
        raise StoreUnavailable(f"no primary at {SECRET}")

    @strawberry.field
    def forbidden(self) -> str | None:
        raise Forbidden("This key may not read queues; ask for one with the scope queues:read.")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def increment(self, info: Info) -> int:
        info.context.calls.mutations += 1
        return info.context.calls.mutations


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int = 3) -> AsyncGenerator[int]:
        for i in range(1, to + 1):
            yield i

    @strawberry.subscription
    async def forever(self, info: Info) -> AsyncGenerator[int]:
        info.context.calls.open_streams += 1
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            info.context.calls.open_streams -= 1

    @strawberry.subscription
    async def large(self, size: int) -> AsyncGenerator[str]:
        while True:
            yield "x" * size
            await asyncio.sleep(0)

    @strawberry.subscription
    async def fails(self) -> AsyncGenerator[int]:
        yield 1
        raise RuntimeError(f"cannot reach {SECRET}")


@dataclass
class Door:
    """An application around the test schema, with what a test wants to look at."""

    app: Starlette
    documents: Documents
    calls: Calls
    closing: asyncio.Event


def build_door(
    *, limits: Limits | None = None, requests: RequestLimits | None = None, hosts: Any = None, **options: Any
) -> Door:
    documents = Documents(limits or Limits())
    calls = Calls()
    schema = strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        extensions=[lambda: DocumentLimits(documents), lambda: RenderErrors(suggestions=documents.limits.suggestions)],
    )
    closing = asyncio.Event()

    def context(connection: HTTPConnection) -> TestContext:
        if "x-crash" in connection.headers:
            raise RuntimeError(SECRET)
        return TestContext(calls, connection.scope["state"]["request_id"])

    requests = requests or RequestLimits()
    endpoint = GraphQLEndpoint(
        schema,
        documents,
        context=context,
        limits=requests,
        closing=closing,
        **options,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield

    async def crash(request: Any) -> None:
        raise RuntimeError(SECRET)

    app = Starlette(
        routes=[Route("/crash", crash), Route("/graphql", endpoint), WebSocketRoute("/graphql", endpoint)],
        middleware=[Middleware(FrontDoor, limits=requests, hosts=hosts)],
        lifespan=lifespan,
    )
    return Door(app, documents, calls, closing)


@pytest.fixture(scope="module")
def door() -> Door:
    return build_door(init_timeout=timedelta(seconds=60))


@pytest.fixture(scope="module")
def served(door: Door) -> Iterator[Served]:
    with serving(door.app, on_closing=door.closing.set) as server:
        yield server
