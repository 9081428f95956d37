"""The whole server behind a socket, and an engine to arrange with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from switchtower.engine import Engine
from tests.app.product import product
from tests.app.serving import Served


@pytest.fixture
def served(mongodb_url: str, database_name: str, unrescued: None) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=served.url, timeout=60) as client:
        yield client


@pytest.fixture
async def engine(served: Served, mongodb_url: str, database_name: str) -> AsyncIterator[Engine]:
    engine = await Engine.connect(mongodb_url, database=database_name)
    yield engine
    await engine.close()
