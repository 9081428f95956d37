"""How much of everything is there?"""

from __future__ import annotations

from datetime import datetime

from schema.context import Context
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.engine import Totals

__all__ = ["now", "ping", "totals"]


@needs(Scope.READ)
async def totals(context: Context) -> Totals:
    """The totals of what the caller may see."""
    return await context.engine.stats.totals(caller=context.caller)


async def ping(context: Context) -> float:
    """How long the database takes to answer, in seconds; everybody may know that. Raises StoreUnavailable."""
    return await context.engine.ping()


def now(context: Context) -> datetime:
    """The time by the database's clock."""
    return context.engine.clock.now()
