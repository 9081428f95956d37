"""`switchtower serve` and `switchtower worker`: one of the two, in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from switchtower.cli.options import AsJson, DataDir, MongodbUrl
from switchtower.cli.places import child_environment, require_server, server_root, setting

__all__ = [
    "Concurrency",
    "Host",
    "Module",
    "Port",
    "Processes",
    "Reload",
    "data_path",
    "serve",
    "worker",
    "worker_arguments",
]

Host = Annotated[
    str | None, typer.Option("--host", envvar="SWITCHTOWER_HOST", help="The address (127.0.0.1 if left out).")
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", envvar="SWITCHTOWER_PORT", min=0, max=65_535, help="The port (8420 if left out); 0 takes a free one."
    ),
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
    host: Host = None,
    port: Port = None,
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run the server in the foreground."""
    require_server()
    arguments = [
        f"--{name}={value}"
        for name, value in (("host", host), ("port", port), ("mongodb-url", mongodb_url), ("data-dir", data_dir))
        if value not in (None, "")
    ]
    root = server_root()
    if as_json:
        _run_stack("server", "app", arguments, root, as_json=True)
    _become("app", arguments, child_environment(root))


def worker(
    module: Module,
    processes: Processes = None,
    concurrency: Concurrency = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="Only take jobs of this queue; can be repeated.")
    ] = None,
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
    reload: Reload = False,
    as_json: AsJson = False,
) -> None:
    """Run workers in the foreground."""
    root = server_root()
    arguments = worker_arguments(module, processes, concurrency, queue, reload=reload)
    url = setting("mongodb_url", mongodb_url, "")
    if as_json or not url:
        _run_stack("worker", "workers", arguments, root, mongodb_url=url, data_dir=data_path(data_dir), as_json=as_json)
    _become("workers", arguments, child_environment(root, mongodb_url=url))


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


def data_path(given: Path | None) -> Path:
    """Where the embedded database keeps its data."""
    return setting("data_dir", given, Path(".switchtower"))


def _become(module: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Replaces this process by the server or the supervisor: there is nothing to do beside it, and signals reach it."""
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)


def _run_stack(
    name: str,
    module: str,
    arguments: list[str],
    root: Path,
    *,
    mongodb_url: str | None = None,
    data_dir: Path | None = None,
    as_json: bool,
) -> NoReturn:
    import asyncio

    from switchtower.cli.stack import supervise

    asyncio.run(supervise(name, module, arguments, root, mongodb_url=mongodb_url, data_dir=data_dir, as_json=as_json))
    raise typer.Exit
