"""How is a field declared whose Python value is a record and whose GraphQL type is one of ours?

Strawberry's own functions do just this; these say so to the type checker.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import strawberry

__all__ = ["mutation", "query", "resolved", "subscription"]

F = TypeVar("F", bound=Callable[..., Any])


def query(*, graphql_type: Any, description: str) -> Callable[[F], F]:
    """Makes a method a field of its type."""
    return cast("Callable[[F], F]", strawberry.field(graphql_type=graphql_type, description=description))


def mutation(*, graphql_type: Any, description: str) -> Callable[[F], F]:
    """Makes a method a mutation."""
    return cast("Callable[[F], F]", strawberry.mutation(graphql_type=graphql_type, description=description))


def subscription(*, graphql_type: Any, description: str) -> Callable[[F], F]:
    """Makes an asynchronous generator a subscription."""
    return cast("Callable[[F], F]", strawberry.subscription(graphql_type=graphql_type, description=description))


def resolved(
    *, resolver: Callable[..., Any], description: str, graphql_type: Any = None, name: str | None = None
) -> Any:
    """A field that `resolver` reads; of the annotated type, unless `graphql_type` says which."""
    return strawberry.field(resolver=resolver, description=description, graphql_type=graphql_type, name=name)
