"""Whose child is a job, and which children does it have?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schema.context import Context
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.jobs import Job

__all__ = ["MOST_CHILDREN", "Families", "of_jobs"]

MOST_CHILDREN = 1_000


@dataclass(frozen=True, slots=True)
class Families:
    """The first thousand children of each job that has some, oldest first, and the parents, by their ids of ours."""

    children: Mapping[str, Sequence[Job]]
    parents: Mapping[str, Job]


@needs(Scope.READ)
async def of_jobs(context: Context, jobs: Sequence[Job]) -> Families:
    """The children and the parents of these jobs, as far as the caller sees them; without their heavy fields."""
    engine, caller = context.engine, context.caller
    above = [job.id for job in jobs if job.flow_id is not None]
    below = sorted({job.parent_id for job in jobs if job.parent_id is not None})
    bare: frozenset[str] = frozenset()
    pages, parents = await asyncio.gather(
        engine.jobs.children_of(above, caller=caller, limit=MOST_CHILDREN, with_=bare),
        engine.jobs.get_many(below, caller=caller, with_=bare),
    )
    return Families({id: page.items for id, page in pages.items()}, parents)
