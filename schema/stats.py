"""How much of everything is there, to a GraphQL client?"""

import strawberry

from schema.fields import query, resolved
from schema.queues import JobCounts, counts_of
from schema.resolvers import stats as resolvers
from schema.selection import Info
from switchtower.engine import Totals

__all__ = ["Stats", "StatsQuery"]


def _counts(root: strawberry.Parent[Totals]) -> JobCounts:
    return counts_of(root.counts)


def _jobs(root: strawberry.Parent[Totals]) -> int:
    return sum(root.counts.values())


@strawberry.type(description="The totals of what you may see.")
class Stats:
    """`switchtower.engine.Totals`."""

    counts: JobCounts = resolved(
        resolver=_counts, graphql_type=JobCounts, description="How many jobs are in each state."
    )
    jobs: int = resolved(resolver=_jobs, description="How many jobs there are.")
    queues: int = strawberry.field(description="How many queues.")
    workers: int = strawberry.field(description="How many workers that live or drain.")
    dead_letters: int = strawberry.field(description="How many dead letters.")


@strawberry.type
class StatsQuery:
    """Queries about totals."""

    @query(graphql_type=Stats, description="The totals.")
    async def stats(self, info: Info) -> Totals:
        return await resolvers.totals(info.context)
