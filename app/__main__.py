"""`python -m app`: the server in the foreground. Exit codes: 0 stopped, 2 misconfigured, 3 no database."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from app.main import check_bind, create_app
from app.server import Server, bind, configure, new_event_loop
from app.settings import ServerSettings
from switchtower import embedded
from switchtower.engine import Engine
from switchtower.errors import ConfigurationError, StoreUnavailable
from switchtower.garbage import relax
from switchtower.instrument import configure_logging

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; prints one line when it listens. Returns the exit code."""
    options = vars(_parser().parse_args(arguments))
    configure_logging()
    try:
        settings = ServerSettings(**{name: value for name, value in options.items() if value is not None})
        with bind(settings.host, settings.port) as sock:
            _run(settings, sock)
    except ValidationError as error:
        for wrong in error.errors():
            name = "".join(f"SWITCHTOWER_{part}: ".upper() for part in map(str, wrong["loc"]))
            print(f"switchtower: {name}{wrong['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except ConfigurationError as error:
        print(f"switchtower: {error.message}", file=sys.stderr)
        return 2
    except StoreUnavailable as error:
        print(f"switchtower: {error.message}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="The server: GraphQL, probes and metrics.")
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port to listen on (default: 8420); 0 takes a free one")
    parser.add_argument("--mongodb-url", help="the replica set that holds the jobs (default: an embedded one)")
    parser.add_argument("--data-dir", help="where the embedded database keeps its files (default: .switchtower)")
    return parser


def _run(settings: ServerSettings, sock: socket.socket) -> None:
    if settings.mongodb_url is not None:
        _serve(settings, settings.mongodb_url, sock)
        return
    with embedded.start(settings.data_dir) as database:
        _serve(settings, database.url, sock)


def _serve(settings: ServerSettings, mongodb_url: str, sock: socket.socket) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_connected(settings, mongodb_url, sock))


async def _connected(settings: ServerSettings, mongodb_url: str, sock: socket.socket) -> None:
    # Connected before the server starts, so that what is wrong is one line and not a trace.
    engine = await Engine.connect(mongodb_url, **settings.engine_options)
    try:
        await check_bind(settings, engine)
    except ConfigurationError:
        await engine.close()
        raise
    app = create_app(settings, engine=engine)
    relax()
    host, port = sock.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = Server(
        configure(app, frame_bytes=settings.max_frame_bytes),
        on_ready=lambda: print(f"Ready: {url} · GraphQL {url}/graphql · database {settings.database}", flush=True),
        on_closing=app.state.closing.set,
    )
    await server.serve(sockets=[sock])


if __name__ == "__main__":
    sys.exit(main())
