"""Applications on the test's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from switchtower import App
from tests.switchtower import heavy_tasks


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    """An application without tasks."""
    app = App(mongodb_url=mongodb_url, database=database_name)
    yield app
    await app.close()


@pytest.fixture
async def heavy(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    """The application of the CPU-bound tasks."""
    heavy_tasks.app.mongodb_url, heavy_tasks.app.database = mongodb_url, database_name
    yield heavy_tasks.app
    await heavy_tasks.app.close()
