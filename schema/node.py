"""What has an id that can be looked up?"""

from typing import Any

import strawberry

__all__ = ["Node", "Scope"]


@strawberry.interface(description="A thing with an id of its own; `node(id)` finds it again.")
class Node:
    """Relay's node."""

    id: strawberry.ID = strawberry.field(description="Its id; opaque.")


def _org(root: strawberry.Parent[Any]) -> str | None:
    return root.org or None


def _app(root: strawberry.Parent[Any]) -> str | None:
    return getattr(root, "app", None) or None


@strawberry.type(description="Whose a thing is.")
class Scope:
    """Read from anything with `org` and `app`."""

    org: str | None = strawberry.field(resolver=_org, description="The tenant; null for the operator's own.")
    app: str | None = strawberry.field(resolver=_app, description="The tenant's application that made it.")
