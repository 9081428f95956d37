"""What did the client select, as far as it decides what is read from the database?"""

from typing import Any

from graphql import FieldNode, FragmentSpreadNode, SelectionSetNode
from strawberry import Info as StrawberryInfo

from schema.context import Context

__all__ = ["HEAVY", "Info", "heavy"]

Info = StrawberryInfo[Context, None]

HEAVY = frozenset({"attempts", "logs", "payload", "result", "timeline"})
"""The fields of a job that can be large; lists read them only when they are selected."""


def heavy(info: StrawberryInfo[Any, Any]) -> frozenset[str]:
    """Which heavy fields are selected anywhere below the current field; more than is needed does no harm."""
    raw = info._raw_info
    found: set[str] = set()
    seen: set[str] = set()
    open_sets: list[SelectionSetNode] = [node.selection_set for node in raw.field_nodes if node.selection_set]
    while open_sets:
        for node in open_sets.pop().selections:
            if isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name not in seen:
                    seen.add(name)
                    open_sets.append(raw.fragments[name].selection_set)
                continue
            if isinstance(node, FieldNode):
                found.add(node.name.value)
            if node.selection_set:  # type: ignore[attr-defined]
                open_sets.append(node.selection_set)  # type: ignore[attr-defined]
    return HEAVY & found
