"""`switchtower dev`: a database, a server and workers with one command."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import urlsplit

import typer

from switchtower.cli.options import AsJson, DataDir, MongodbUrl
from switchtower.cli.places import require_server, server_root, setting
from switchtower.cli.services import Concurrency, Host, Port, Processes, Reload, data_path, worker_arguments
from switchtower.errors import ConfigurationError

__all__ = ["dev"]


def dev(
    module: Annotated[
        str | None, typer.Argument(metavar="[MODULE:APP]", help="Your tasks, such as tasks:app; the demo if left out.")
    ] = None,
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    workers: Processes = None,
    concurrency: Concurrency = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Without MODULE:APP: enqueue no demo jobs.")] = False,
    reload: Reload = False,
    mongodb_url: MongodbUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run everything here: the embedded database, the server and workers. Ctrl-C stops it."""
    import asyncio

    from switchtower.cli.development import DEMO, Plan, develop

    require_server()
    root = server_root()
    address = setting("host", host, "127.0.0.1")
    data = data_path(data_dir)
    with _claim(data, address, setting("port", port, 8420)) as (announce, chosen):
        plan = Plan(
            root=root,
            host=address,
            port=chosen,
            data_dir=data,
            mongodb_url=setting("mongodb_url", mongodb_url, "") or None,
            module=module or DEMO,
            worker_arguments=worker_arguments(module or DEMO, workers, concurrency, None, reload=reload),
            seeding=module is None and not no_demo,
            as_json=as_json,
        )
        asyncio.run(develop(plan, announce))


@contextmanager
def _claim(data_dir: Path, host: str, port: int) -> Iterator[tuple[Callable[[str], None], int]]:
    """Makes sure that the port is free, and notes who runs in this folder: the file is locked as long as we live.

    Yields what writes the server's address there, and the port, which is a free one where 0 was asked for. Raises
    ConfigurationError.
    """
    try:
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            # It mostly lies in the user's project, whose repository it must not enter.
            (data_dir / ".gitignore").write_text("*\n")
        note = (data_dir / "dev.lock").open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {data_dir} cannot be used ({error.strerror}). Choose another with --data-dir."
        ) from error
    with note:
        mine = _locked(note)
        note.seek(0)
        holder = "" if mine else note.read().strip()
        chosen = _free_port(host, port, holder)

        def announce(url: str) -> None:
            # Two in one folder share the database; the second needs only another port, and the note is the first one's.
            if mine:
                note.truncate(0)
                note.write(f"{os.getpid()} {url}")
                note.flush()

        yield announce, chosen


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _free_port(host: str, port: int, holder: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise ConfigurationError(f"{host!r} is no address to listen on ({error.strerror}); see --host.") from error
    except PermissionError as error:
        raise ConfigurationError(
            f"Port {port} needs more rights than you have; choose one above 1023 with --port."
        ) from error
    except OSError as error:
        pid, _, url = holder.partition(" ")
        if url and urlsplit(url).port == port:
            raise ConfigurationError(
                f"Port {port} is in use by another `switchtower dev` for this folder (process {pid}); "
                "use --port for a second one, or stop that one."
            ) from error
        raise ConfigurationError(
            f"Port {port} on {host} cannot be used ({error.strerror}); use --port, or stop the program that has it."
        ) from error
