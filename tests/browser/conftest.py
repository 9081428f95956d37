"""One browser for the tests of a process, before the product on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser

from tests.app.product import product
from tests.app.serving import Served
from tests.browser.browsing import FAILED, browsing, need_frontend

HERE = Path(__file__).parent
# A page that goes away ends what the server computes for it; fields that were not begun by then are never awaited,
# which Python remarks upon whenever it collects them.
UNAWAITED = "ignore:.*_async_resolver:pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(UNAWAITED))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when != "teardown":
        FAILED[:] = [item.nodeid] if report.failed else []
    return report


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    need_frontend()
    async with browsing() as opened:
        yield opened


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client
