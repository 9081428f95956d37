"""`switchtower serve` and `switchtower worker`: one of the two, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from switchtower.cli.options import AsJson, DataDir, MongodbUrl
from switchtower.cli.places import child_environment, require_server, server_root

__all__ = ["Concurrency", "Host", "Module", "Port", "Processes", "Reload", "serve", "worker", "worker_arguments"]

Host = Annotated[str, typer.Option("--host", envvar="SWITCHTOWER_HOST", help="The address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", envvar="SWITCHTOWER_PORT", min=0, max=65_535, help="The port; 0 takes a free one.")
]
Processes = Annotated[
    int | None, typer.Option("--workers", envvar="SWITCHTOWER_WORKERS", min=1, help="How many worker processes.")
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", envvar="SWITCHTOWER_CONCURRENCY", min=1, help="Jobs at once in each process."),
]
Reload = Annotated[bool, typer.Option("--reload", help="Restart the workers when the code changes.")]
Module = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the tasks are, such as tasks:app.")]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8420,
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = Path(".switchtower"),
    as_json: AsJson = False,
) -> None:
    """Run the server in the foreground."""
    require_server()
    _run("server", "app", [], mongodb_url, data_dir, {"host": host, "port": str(port)}, as_json=as_json)


def worker(
    module: Module,
    processes: Processes = None,
    concurrency: Concurrency = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="Only take jobs of this queue; can be repeated.")
    ] = None,
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = Path(".switchtower"),
    reload: Reload = False,
    as_json: AsJson = False,
) -> None:
    """Run workers in the foreground."""
    arguments = worker_arguments(module, processes, concurrency, queue, reload=reload)
    _run("worker", "workers", arguments, mongodb_url, data_dir, {}, as_json=as_json)


def worker_arguments(
    module: str, processes: int | None, concurrency: int | None, queues: Sequence[str] | None, *, reload: bool
) -> list[str]:
    """The arguments of `python -m workers`."""
    arguments = [module]
    if processes is not None:
        arguments += ["--processes", str(processes)]
    if concurrency is not None:
        arguments += ["--concurrency", str(concurrency)]
    if queues:
        arguments += ["--queues", ",".join(queues)]
    return [*arguments, "--reload"] if reload else arguments


def _run(
    name: str,
    module: str,
    arguments: list[str],
    mongodb_url: str | None,
    data_dir: Path,
    settings: dict[str, str],
    *,
    as_json: bool,
) -> None:
    root = server_root()
    if mongodb_url is not None and not as_json:
        # Nothing to start beside it: the process becomes the server or the supervisor, and signals reach that directly.
        environment = child_environment(root, mongodb_url=mongodb_url, **settings)
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)
    import asyncio

    from switchtower.cli.stack import supervise

    asyncio.run(supervise(name, module, arguments, mongodb_url, data_dir, settings, root, as_json=as_json))
