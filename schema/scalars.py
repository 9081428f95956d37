"""How do times and free JSON travel?"""

import math
import re
from datetime import UTC, datetime
from typing import Any, NewType

import orjson
import strawberry
from graphql import FloatValueNode, GraphQLError, IntValueNode, ListValueNode, ObjectValueNode, ValueNode, VariableNode
from graphql.utilities import value_from_ast_untyped
from strawberry.types.scalar import ScalarDefinition

__all__ = ["JSON", "MAX_INT", "SCALARS", "int32"]

MAX_INT = 2**31 - 1
"""GraphQL's `Int` has 32 bits; as milliseconds that is 24.8 days."""

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})",
)
_INT64 = range(-(2**63), 2**63)


def int32(value: float | None) -> int | None:
    """The number as a GraphQL `Int`, held at its largest value where it is larger."""
    return None if value is None else min(int(value), MAX_INT)


def _written(at: datetime) -> str:
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    # orjson writes six decimals, or none where they are zero, six times as fast as `isoformat` writes three.
    text = orjson.dumps(at, option=orjson.OPT_UTC_Z).decode()
    return f"{text[1:24]}Z" if len(text) == 29 else f"{text[1:20]}.000Z"


def _read(text: object) -> datetime:
    if not isinstance(text, str) or _RFC3339.fullmatch(text) is None:
        raise GraphQLError("A DateTime is RFC 3339 text with a time zone, such as 2026-01-31T12:00:00.000Z.")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise GraphQLError("This DateTime does not exist in the calendar, or is outside the years 1 to 9999.") from None


def _literal(node: ValueNode, variables: dict[str, Any] | None = None) -> Any:
    _refuse_inexact(node)
    return value_from_ast_untyped(node, variables)


def _refuse_inexact(node: ValueNode) -> None:
    """Numbers in a literal that JSON readers elsewhere could not keep: outside 64 bits, or not finite."""
    if isinstance(node, IntValueNode):
        if len(node.value) > 20 or int(node.value) not in _INT64:
            raise GraphQLError("A JSON integer must fit in 64 bits; send it as text.", node)
    elif isinstance(node, FloatValueNode):
        if len(node.value) > 400 or not math.isfinite(float(node.value)):
            raise GraphQLError("A JSON number must be finite.", node)
    elif isinstance(node, ListValueNode):
        for item in node.values:
            _refuse_inexact(item)
    elif isinstance(node, ObjectValueNode):
        names = {field.name.value for field in node.fields}
        if len(names) != len(node.fields):
            raise GraphQLError("A JSON object must not have the same key twice.", node)
        for field in node.fields:
            _refuse_inexact(field.value)
    elif isinstance(node, VariableNode):
        return


JSON = NewType("JSON", object)
"""Any JSON value."""

_JSON_DEFINITION = strawberry.scalar(
    name="JSON",
    description="Any JSON value: null, boolean, finite number (integers of 64 bits), text, list or object.",
    specified_by_url="https://datatracker.ietf.org/doc/html/rfc8259",
    serialize=lambda value: value,
    parse_value=lambda value: value,
    parse_literal=_literal,
)
_DATE_TIME_DEFINITION = strawberry.scalar(
    name="DateTime",
    description=(
        "A time in RFC 3339 with a zone; answers are in UTC with milliseconds, such as 2026-01-31T12:00:00.000Z."
    ),
    specified_by_url="https://datatracker.ietf.org/doc/html/rfc3339",
    serialize=_written,
    parse_value=_read,
)

SCALARS: dict[object, ScalarDefinition] = {
    JSON: _JSON_DEFINITION,
    datetime: _DATE_TIME_DEFINITION,
}
