"""How much of everything is there?"""

from __future__ import annotations

from schema.context import Context
from switchtower.engine import Totals

__all__ = ["totals"]


async def totals(context: Context) -> Totals:
    """The totals of what the caller may see."""
    return await context.engine.stats.totals(caller=context.caller)
