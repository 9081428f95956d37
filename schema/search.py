"""What does a search find, to a GraphQL client?"""

from typing import Annotated, Any

import strawberry

from schema.enums import described
from schema.fields import query, resolved
from schema.jobs import Job
from schema.resolvers import search as resolvers
from schema.selection import Info, heavy
from switchtower.engine import Found, SearchType

__all__ = ["SearchQuery"]

described(
    SearchType,
    "Where a search looks.",
    {
        "ALL": "Everywhere.",
        "ID": "In the ids of jobs, ours and their enqueuers': those that begin with the text.",
        "QUEUE": "In the names of queues.",
        "NAME": "In the names of jobs.",
        "PAYLOAD": "In payloads.",
        "ERROR": "In the types and messages of errors.",
    },
)


def _jobs(root: strawberry.Parent[Found]) -> Any:
    return root.jobs


@strawberry.type(description="What a search found, and how far it looked.")
class SearchResult:
    """`switchtower.engine.Found`."""

    jobs: list[Job] = resolved(
        resolver=_jobs, graphql_type=list[Job], description="Jobs: by their ids first, then the newest first."
    )
    queues: list[str] = strawberry.field(description="The names of queues, on the first page; at most 100.")
    scanned: int = strawberry.field(description="How many jobs were looked at.")
    exhaustive: bool = strawberry.field(
        description="Whether all jobs were considered; false where the page is full or the time was up."
    )
    indexed: bool = strawberry.field(description="Whether an index led to the jobs.")
    cursor: str | None = strawberry.field(
        description="Pass it as `after` to go on behind what was looked at; null where nothing is left."
    )


@strawberry.type
class SearchQuery:
    """The search."""

    @query(
        graphql_type=SearchResult,
        description=(
            "Looks for a text, literally and whatever its case, or for `path:value` in payloads. It looks at the "
            "newest jobs for about 600 ms and says how far it came; a path that has an index is found at once."
        ),
    )
    async def search(
        self,
        info: Info,
        query: Annotated[
            str,
            strawberry.argument(
                description='1 to 256 characters. `user.id:42` is the number or the text, `user.id:"42"` the text only.'
            ),
        ],
        type: Annotated[SearchType, strawberry.argument(description="Where to look.")] = SearchType.ALL,
        queue: Annotated[str | None, strawberry.argument(description="Only jobs of this queue.")] = None,
        first: Annotated[int, strawberry.argument(description="At most so many jobs, 1 to 100.")] = 50,
        after: Annotated[str | None, strawberry.argument(description="Go on behind this cursor.")] = None,
    ) -> Any:
        return await resolvers.find(info.context, query, type, queue=queue, first=first, after=after, with_=heavy(info))
