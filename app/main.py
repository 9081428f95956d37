"""What is this server made of? `create_app` puts the parts together; each has its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import orjson
from fastapi import FastAPI
from graphql import lexicographic_sort_schema, print_schema
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from app.auth import Gate, bearer
from app.dashboard.assets import Assets
from app.dashboard.playground import Tools
from app.errors import RenderErrors
from app.export import Export
from app.front_door import FrontDoor
from app.graphql import GraphQLEndpoint, refusal_response
from app.limits import LOOPBACK_HOSTS, Refused
from app.probes import Probes
from app.prometheus import Metrics
from app.rest import DIALECTS
from app.rest.dialect import Dialect
from app.rest.dispatcher import Dialects, Dispatcher
from app.rest.openapi import combined, document
from app.rest.serving import DialectApp
from app.rest.streams import EventStreams
from app.settings import ServerSettings
from schema.build import build_schema
from schema.context import Context
from schema.limits import DocumentLimits, Documents
from switchtower.access import Scope
from switchtower.callers import EVERYTHING, Caller
from switchtower.courier import Courier
from switchtower.engine import Engine
from switchtower.errors import ConfigurationError, Forbidden, StoreUnavailable
from switchtower.maintenance import Maintenance

__all__ = ["check_bind", "create_app"]

OWN = ("/graphql", "/schema.graphql", "/docs", "/export", "/livez", "/readyz", "/metrics/prometheus", "/assets")
"""The addresses that are no dialect's; AsyncMQ's pages have all that nobody else has."""
STOP_SECONDS = 15.0
NOBODY = Caller("", source="graphql", scopes=frozenset())
"""A WebSocket before it said whose it is."""


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
    assets = Assets()
    tools = Tools(assets)
    probes, metrics = Probes(closing), Metrics()
    gate = Gate(
        connections=settings.max_key_connections,
        subscriptions=settings.max_key_subscriptions,
        queues=frozenset(settings.queues) or None,
    )
    gate.engine = engine

    def context(connection: HTTPConnection) -> Context:
        return Context(
            engine=app.state.engine,
            caller=connection.scope["state"].get("caller", NOBODY),
            request_id=connection.scope["state"]["request_id"],
            max_page=settings.max_page,
            read_only=settings.read_only,
        )

    endpoint = GraphQLEndpoint(
        schema,
        documents,
        context=context,
        gate=gate,
        limits=settings.request_limits,
        max_subscriptions=settings.max_subscriptions,
        max_connections=settings.max_connections,
        allowed_origins=settings.allowed_origins,
        legacy_websocket=settings.legacy_ws,
        closing=closing,
        page=tools.playground if settings.playground else None,
    )

    export = Export(schema, context=context, gate=gate, closing=closing)
    streams = EventStreams(gate, closing)
    dialects = Dialects(
        [
            DialectApp(
                dialect,
                gate=gate,
                context=context,
                limits=settings.request_limits,
                streams=streams,
                allowed_origins=settings.allowed_origins,
                description=partial(_described, dialect) if settings.introspection else None,
            )
            for dialect in DIALECTS
        ],
        bases={"conveyor": settings.conveyor_base},
        others=OWN,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connected = engine or await Engine.connect(settings.mongodb_url, **settings.engine_options)
        try:
            await connected.prepare()
            await connected.hub().start()
            app.state.engine = probes.engine = metrics.engine = gate.engine = connected
            await check_bind(settings, connected)
            async with _background(connected, metrics, gate, settings):
                yield
        finally:
            closing.set()
            await connected.close()

    async def scrape(request: Request) -> Response:
        caller = await gate.admit(bearer(request))
        if caller.reach != EVERYTHING or Scope.READ not in caller.scopes:
            raise Refused(
                403, Forbidden.code, "Metrics are of all tenants and queues: use an operator's key with the scope read."
            )
        return await metrics.scrape(request)

    async def sdl(request: Request) -> Response:
        if not settings.introspection:
            raise HTTPException(404)
        return Response(printed, media_type="text/plain; charset=utf-8")

    async def openapi(request: Request) -> Response:
        if not settings.introspection:
            raise HTTPException(404)
        return Response(described, media_type="application/json")

    described = orjson.dumps(combined(DIALECTS, version=version("switchtower")))
    printed = print_schema(lexicographic_sort_schema(schema._schema)) + "\n"
    app = FastAPI(
        title="Switchtower",
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        routes=[
            Route("/graphql", endpoint),
            WebSocketRoute("/graphql", endpoint),
            Route("/schema.graphql", sdl),
            *([Route("/docs", tools.docs)] if settings.playground and settings.introspection else []),
            Route("/docs/openapi.json", openapi),
            Route("/export/jobs.ndjson", export, methods=["GET"]),
            Route("/livez", probes.live),
            Route("/readyz", probes.ready),
            Route("/metrics/prometheus", scrape),
            assets.route(),
        ],
        exception_handlers={HTTPException: _refused, Refused: _turned_away, StoreUnavailable: _no_store},
    )
    app.add_middleware(Dispatcher, dialects=dialects)
    app.add_middleware(FrontDoor, limits=settings.request_limits, hosts=_hosts(settings), refusals=dialects.refusal)
    app.state.closing = closing
    return app


@asynccontextmanager
async def _background(engine: Engine, metrics: Metrics, gate: Gate, settings: ServerSettings) -> AsyncIterator[None]:
    """Runs maintenance, the courier and the counting of events; the first two are asked to stop, and waited for."""
    stop = asyncio.Event()
    counting = asyncio.create_task(metrics.count(engine), name="metrics")
    watching = asyncio.create_task(gate.watch(), name="keys")
    elected = []
    if settings.maintenance:
        elected = [
            asyncio.create_task(duty.run(stop))
            for duty in (Maintenance(engine), Courier(engine, settings.courier_options))
        ]
    try:
        yield
    finally:
        stop.set()
        counting.cancel()
        watching.cancel()
        if elected:
            _, late = await asyncio.wait(elected, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
        await asyncio.gather(counting, watching, *elected, return_exceptions=True)


def _hosts(settings: ServerSettings) -> frozenset[str] | None:
    if settings.is_loopback:
        own = f"[{settings.host}]" if ":" in settings.host else settings.host
        return LOOPBACK_HOSTS | {own} | frozenset(settings.allowed_hosts)
    return frozenset(settings.allowed_hosts) or None


def _described(dialect: Dialect, base: str) -> bytes:
    return orjson.dumps(document(dialect, version=version("switchtower"), base=base))


async def check_bind(settings: ServerSettings, engine: Engine) -> None:
    """Raises ConfigurationError when others can reach a server that would ask them for nothing."""
    if settings.is_loopback or settings.allow_insecure_bind or not await engine.keys.none_exists():
        return
    raise ConfigurationError(
        f"{settings.host} can be reached from outside, and there is no API key yet: create one with "
        "`switchtower keys create`, or set SWITCHTOWER_ALLOW_INSECURE_BIND=true inside a private network."
    )


async def _turned_away(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal_response(error, request.headers.get("accept"), request.scope["state"]["request_id"])


async def _no_store(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreUnavailable)
    return await _turned_away(request, Refused(503, error.code, error.message, {"Retry-After": "2"}))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: ("NOT_FOUND", "There is nothing at this address; GraphQL is at /graphql."),
        405: ("METHOD_NOT_ALLOWED", "This address does not answer to this method."),
    }
    code, message = messages.get(error.status_code, ("BAD_REQUEST", str(error.detail)))
    refused = Refused(error.status_code, code, message, error.headers)
    return refusal_response(refused, request.headers.get("accept"), request.scope["state"]["request_id"])
