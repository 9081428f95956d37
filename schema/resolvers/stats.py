"""How much of everything is there?"""

from __future__ import annotations

from schema.context import Context
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.engine import Totals

__all__ = ["totals"]


@needs(Scope.READ)
async def totals(context: Context) -> Totals:
    """The totals of what the caller may see."""
    return await context.engine.stats.totals(caller=context.caller)
