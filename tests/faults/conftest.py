"""Engines on a database of the test's own, and maintenance that runs beside the test as a server's does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.maintenance import Maintenance
from tests.faults.processes import MADE, Nursery

CALLER = Caller("tests")
LAST_WORDS = 3_000

Open = Callable[[], Any]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, Any]:
    """A failure shows the end of what each process of the test has written."""
    report = yield
    if report.failed:
        for process in MADE:
            report.sections.append((f"Log of {process.name}", process.said[-LAST_WORDS:]))
    if call.when == "teardown":
        MADE.clear()
    return report


@pytest.fixture
async def open_engine(mongodb_url: str, database_name: str) -> AsyncIterator[Open]:
    """Opens one more engine on the test's database: one more process, as far as the database can tell."""
    opened: list[Engine] = []

    async def another() -> Engine:
        engine = await Engine.connect(mongodb_url, database=database_name, role="worker")
        if not opened:
            await engine.prepare()
        opened.append(engine)
        return engine

    yield another
    for engine in opened:
        await engine.close()


@pytest.fixture
async def engine(open_engine: Open) -> Engine:
    found: Engine = await open_engine()
    return found


@pytest.fixture
def view(mongo: MongoClient[dict[str, Any]], database_name: str) -> Database[dict[str, Any]]:
    """The test's database through a blocking client, to look at."""
    return mongo[database_name]


@asynccontextmanager
async def maintained(engine: Engine) -> AsyncIterator[None]:
    """Maintenance runs while the block does."""
    stop = asyncio.Event()
    task = asyncio.create_task(Maintenance(engine).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


def struck(view: Database[dict[str, Any]]) -> int:
    """How often the fail point of `tests.mongod.fail_command` has struck since it was set."""
    answer = view.client.admin.command({"getParameter": 1, "failpoint.failCommand": 1})
    return int(answer["failpoint.failCommand"]["timesEntered"])


@pytest.fixture
def nursery(tmp_path: Path, mongodb_url: str, database_name: str) -> Any:
    with Nursery(tmp_path, mongodb_url, database_name) as opened:
        yield opened
