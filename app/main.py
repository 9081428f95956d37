"""What is this server made of? `create_app` puts the parts together; each has its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from graphql import lexicographic_sort_schema, print_schema
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from app.errors import RenderErrors
from app.front_door import LOOPBACK_HOSTS, PAGE_POLICY, FrontDoor
from app.graphql import GraphQLEndpoint, refusal_response
from app.limits import Refused
from app.probes import Probes
from app.prometheus import Metrics
from app.settings import ServerSettings
from schema.build import build_schema
from schema.context import Context
from schema.limits import DocumentLimits, Documents
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.maintenance import Maintenance

__all__ = ["create_app"]

PAGES = Path(__file__).parent / "pages"
STOP_SECONDS = 5.0
# Without API keys every caller is the operator of this machine.
OPERATOR = Caller("operator", source="graphql")


def create_app(settings: ServerSettings | None = None, *, engine: Engine | None = None) -> FastAPI:
    """The whole server as an ASGI application.

    Without an `engine` it connects one when it starts. Either way it creates the indexes, takes part in maintenance,
    and closes the engine when it stops. `app.state.closing` is an event that ends open streams: set it before waiting
    for connections to close.
    """
    settings = settings or ServerSettings()
    documents = Documents(settings.operation_limits)
    schema = build_schema(
        [lambda: DocumentLimits(documents), lambda: RenderErrors(suggestions=settings.suggestions)],
        suggestions=settings.suggestions,
    )
    closing = asyncio.Event()
    probes, metrics = Probes(closing), Metrics()

    def context(connection: HTTPConnection) -> Context:
        return Context(
            engine=app.state.engine,
            caller=OPERATOR,
            request_id=connection.scope["state"]["request_id"],
            max_page=settings.max_page,
        )

    endpoint = GraphQLEndpoint(
        schema,
        documents,
        context=context,
        limits=settings.request_limits,
        max_subscriptions=settings.max_subscriptions,
        max_connections=settings.max_connections,
        allowed_origins=settings.allowed_origins,
        legacy_websocket=settings.legacy_ws,
        closing=closing,
        page=(lambda: _page("playground.html")) if settings.playground else None,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connected = engine or await Engine.connect(
            settings.mongodb_url,
            database=settings.database,
            driver=settings.driver,
            role="server",
            payload_limit=settings.payload_limit_bytes,
        )
        try:
            await connected.prepare()
            await connected.hub().start()
            app.state.engine = probes.engine = metrics.engine = connected
            async with _background(connected, metrics, maintenance=settings.maintenance):
                yield
        finally:
            closing.set()
            await connected.close()

    async def sdl(request: Request) -> Response:
        if not settings.introspection:
            raise HTTPException(404)
        return Response(printed, media_type="text/plain; charset=utf-8")

    async def index(request: Request) -> Response:
        return _page("index.html")

    printed = print_schema(lexicographic_sort_schema(schema._schema)) + "\n"
    app = FastAPI(
        title="Switchtower",
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        routes=[
            Route("/", index),
            Route("/graphql", endpoint),
            WebSocketRoute("/graphql", endpoint),
            Route("/schema.graphql", sdl),
            Route("/livez", probes.live),
            Route("/readyz", probes.ready),
            Route("/metrics/prometheus", metrics.scrape),
            Mount("/assets", StaticFiles(directory=PAGES / "assets")),
        ],
        exception_handlers={HTTPException: _refused},
    )
    app.add_middleware(FrontDoor, limits=settings.request_limits, hosts=_hosts(settings))
    app.state.closing = closing
    return app


@asynccontextmanager
async def _background(engine: Engine, metrics: Metrics, *, maintenance: bool) -> AsyncIterator[None]:
    """Runs maintenance and the counting of events; maintenance is asked to stop, and waited for."""
    stop = asyncio.Event()
    counting = asyncio.create_task(metrics.count(engine), name="metrics")
    keeping = asyncio.create_task(Maintenance(engine).run(stop), name="maintenance") if maintenance else None
    try:
        yield
    finally:
        stop.set()
        counting.cancel()
        if keeping is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(keeping, STOP_SECONDS)
        await asyncio.gather(counting, return_exceptions=True)


def _hosts(settings: ServerSettings) -> frozenset[str] | None:
    if settings.is_loopback:
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        return LOOPBACK_HOSTS | {own} | frozenset(settings.allowed_hosts)
    return frozenset(settings.allowed_hosts) or None


def _page(name: str) -> Response:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(PAGES / name, headers=headers, media_type="text/html; charset=utf-8")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: ("NOT_FOUND", "There is nothing at this address; GraphQL is at /graphql."),
        405: ("METHOD_NOT_ALLOWED", "This address does not answer to this method."),
    }
    code, message = messages.get(error.status_code, ("BAD_REQUEST", str(error.detail)))
    refused = Refused(error.status_code, code, message, error.headers)
    return refusal_response(refused, request.headers.get("accept"), request.scope["state"]["request_id"])
