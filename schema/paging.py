"""How does a long list come in pages?

Relay connections over keyset cursors: a page costs the same wherever in the list it lies.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import strawberry

from schema.fields import resolved
from schema.resolvers.bounds import Listing

__all__ = ["AFTER", "BEFORE", "FIRST", "LAST", "Connection", "Count", "Edge", "PageInfo"]

FIRST = strawberry.argument(
    description="How many from the start: 1 to 500; 50 where neither `first` nor `last` is given."
)
AFTER = strawberry.argument(description="Only what comes after this cursor.")
LAST = strawberry.argument(description="How many from the end: 1 to 500; not together with `first`.")
BEFORE = strawberry.argument(description="Only what comes before this cursor.")

T = TypeVar("T")


@strawberry.type(description="How many there are.")
class Count:
    """A number that stops at a bound."""

    value: int = strawberry.field(description="The number, or the bound at which counting stopped.")
    exact: bool = strawberry.field(description="False where there are more than `value`.")


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    """Relay's page information."""

    has_next_page: bool = strawberry.field(description="Whether more follow.")
    has_previous_page: bool = strawberry.field(description="Whether more come before.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first item; null on an empty page.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last item; null on an empty page.")


class EdgeOf(NamedTuple):
    """What the fields of `Edge` are read from."""

    cursor: str
    node: Any


def _edges(root: strawberry.Parent[Listing[Any]]) -> list[EdgeOf]:
    return [EdgeOf(cursor, node) for cursor, node in zip(root.page.cursors, root.page.items, strict=True)]


def _nodes(root: strawberry.Parent[Listing[Any]]) -> list[Any]:
    return list(root.page.items)


def _page_info(root: strawberry.Parent[Listing[Any]]) -> PageInfo:
    page = root.page
    return PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=page.cursors[0] if page.cursors else None,
        end_cursor=page.cursors[-1] if page.cursors else None,
    )


async def _total_count(root: strawberry.Parent[Listing[Any]]) -> Any:
    return await root.count()


@strawberry.type(description="One item of a list with its place in it.")
class Edge(Generic[T]):
    """Relay's edge."""

    cursor: str = strawberry.field(description="The item's place: pass it as `after` or `before`.")
    node: T = strawberry.field(description="The item.")


@strawberry.type(description="One page of a list.")
class Connection(Generic[T]):
    """Relay's connection, read from a `Listing`."""

    edges: list[Edge[T]] = resolved(resolver=_edges, description="The items with their cursors.")
    nodes: list[T] = resolved(resolver=_nodes, description="The items.")
    page_info: PageInfo = resolved(resolver=_page_info, description="Where the page lies.")
    total_count: Count = resolved(
        resolver=_total_count, description="How many the whole list has; counted only when asked for, up to a bound."
    )
