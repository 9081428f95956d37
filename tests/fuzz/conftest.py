"""The whole server on a database of the test's own, with limits so wide that what is generated runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette

from app.main import create_app
from app.settings import ServerSettings
from switchtower.engine import Engine

WIDE: dict[str, Any] = {"max_depth": 100, "max_cost": 10**9, "max_aliases": 1_000, "max_tokens": 20_000}


@pytest.fixture
async def engine(mongodb_url: str, database_name: str) -> Engine:
    """The engine of `app`, which closes it."""
    return await Engine.connect(mongodb_url, database=database_name, role="server")


@pytest.fixture
async def app(engine: Engine, mongodb_url: str, database_name: str) -> AsyncIterator[Starlette]:
    settings = ServerSettings(mongodb_url=mongodb_url, database=database_name, maintenance=False, **WIDE)
    built: Any = create_app(settings, engine=engine)
    async with built.router.lifespan_context(built):
        yield built
