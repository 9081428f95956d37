"""`switchtower doctor`: can everything that a queue needs be had here?"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from switchtower.cli.options import AsJson, DataDir, MongodbUrl, Url
from switchtower.cli.output import EXIT_REFUSED, console, print_json, shown
from switchtower.cli.places import setting
from switchtower.cli.services import data_path
from switchtower.errors import StoreUnavailable, SwitchtowerError

__all__ = ["doctor"]

BASE = ("pymongo", "motor", "croniter", "orjson", "pebble", "httpx2", "websockets")
SERVER = {"fastapi": "fastapi", "strawberry-graphql": "strawberry", "uvicorn": "uvicorn"}
STYLES = {"ok": "green", "warn": "yellow", "error": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `level` is ok, warn or error."""

    name: str
    level: str
    message: str


def doctor(
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Check the libraries, the database (its version, replica set, indexes, clock) and the server."""
    checks = [
        *_libraries(),
        *_database(setting("mongodb_url", mongodb_url, "") or None, data_path(data_dir)),
        _server(url),
    ]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _print(checks)
    raise typer.Exit(EXIT_REFUSED if any(check.level == "error" for check in checks) else 0)


def _libraries() -> list[Check]:
    from importlib import metadata

    version = ".".join(str(part) for part in sys.version_info[:3])
    checks = [
        Check("python", "ok" if sys.version_info >= (3, 11) else "error", f"Python {version}; 3.11 or newer is needed.")
    ]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in BASE)
    checks.append(Check("libraries", "ok", f"switchtower {metadata.version('switchtower')}; {found}"))
    missing = [name for name, module in SERVER.items() if importlib.util.find_spec(module) is None]
    if missing:
        message = f"{', '.join(missing)} not installed: this machine can run workers, and no server. "
        checks.append(Check("server libraries", "warn", f"{message}For one: pip install 'switchtower[server]'"))
    else:
        found = ", ".join(f"{name} {metadata.version(name)}" for name in SERVER)
        checks.append(Check("server libraries", "ok", found))
    return checks


def _database(mongodb_url: str | None, data_dir: Path) -> list[Check]:
    import asyncio

    try:
        with _url(mongodb_url, data_dir) as (url, found):
            return [*found, *asyncio.run(_engine(url))]
    except SwitchtowerError as error:
        return [Check("database", "error", error.message)]


@contextmanager
def _url(mongodb_url: str | None, data_dir: Path) -> Iterator[tuple[str, list[Check]]]:
    """The database to look at: the one named, or the embedded one, started where it does not run and stopped again."""
    if mongodb_url is not None:
        yield mongodb_url, []
        return
    import tempfile

    from switchtower import embedded

    with tempfile.TemporaryDirectory(prefix="switchtower-doctor-") as scratch:
        # A folder without a database gets none by being looked at.
        exists = data_dir.is_dir()
        with embedded.start(data_dir if exists else Path(scratch)) as mongodb:
            how = "runs already" if mongodb.attached else f"started in {mongodb.started_seconds:.1f} s"
            where = f"data in {data_dir}" if exists else "in a scratch directory, since there is no data yet"
            yield mongodb.url, [Check("embedded database", "ok", f"MongoDB {mongodb.version} {how}, {where}.")]


async def _engine(url: str) -> list[Check]:
    from switchtower.engine import Engine

    engine = await Engine.connect(url, role="client")
    try:
        return [Check(f.name, f.level, f.message) for f in await engine.check()]
    finally:
        await engine.close()


def _server(url: str | None) -> Check:
    import asyncio

    from switchtower.client import Client

    async def ask() -> str:
        async with Client(url, timeout_seconds=5) as client:
            await client.execute("{ __typename }")
            return client.url

    try:
        return Check("server", "ok", f"answers at {asyncio.run(ask())}.")
    except StoreUnavailable as error:
        return Check("server", "warn", error.message)
    except SwitchtowerError as error:
        return Check("server", "error", error.message)


def _print(checks: list[Check]) -> None:
    from rich.text import Text

    screen: Any = console()
    for check in checks:
        mark = Text(f"{check.level:<5} ", STYLES.get(check.level, ""))
        screen.print(mark.append(f"{check.name:<18} ", "bold").append(shown(check.message), "default"), soft_wrap=True)
