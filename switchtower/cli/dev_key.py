"""Which API key does `switchtower dev` hand out, to whoever speaks a dialect that always asks for one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from switchtower.cli.places import database_name

if TYPE_CHECKING:
    from switchtower.access import CreatedKey

__all__ = ["first_key"]


async def first_key(mongodb_url: str | None) -> CreatedKey | None:
    """Creates a key and a webhook secret, where no key was ever created; None where one was.

    The key asks nobody else for one: what was open stays open.
    """
    from switchtower.access import NewApiKey, Scope
    from switchtower.callers import Caller
    from switchtower.engine import Engine

    engine = await Engine.connect(mongodb_url, database=database_name(), role="client")
    try:
        caller = Caller("dev", source="cli")
        if await engine.keys.list(caller=caller):
            return None
        return await engine.keys.create(
            NewApiKey(name="dev", env="dev", scopes=[Scope.OPERATE], dev=True), caller=caller
        )
    finally:
        await engine.close()
