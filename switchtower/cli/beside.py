"""How does a command act from beside the database? Whoever reaches it needs no key to make the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from switchtower.cli.places import database_name, setting
from switchtower.cli.services import data_path

__all__ = ["beside_the_database"]


def beside_the_database(mongodb_url: str | None, data_dir: Any, do: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What `do(engine, caller)` answers, on the configured database or else the embedded one."""
    from switchtower import embedded
    from switchtower.callers import Caller
    from switchtower.engine import Engine

    async def run(url: str) -> Any:
        engine = await Engine.connect(url, database=database_name(), role="client")
        try:
            await engine.prepare()
            return await do(engine, Caller("operator", source="cli"))
        finally:
            await engine.close()

    if url := setting("mongodb_url", mongodb_url, "") or None:
        return asyncio.run(run(url))
    with embedded.start(data_path(data_dir)) as mongodb:
        return asyncio.run(run(mongodb.url))
