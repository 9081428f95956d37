"""How does a large input reach its resolver quickly?

Strawberry finds out about every field of an input type, its name and its type, each time that a value of it arrives:
0.4 ms for one job to enqueue, four fifths of a bulk enqueue (docs/benchmarks.md). Here it is found out once.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from strawberry.relay.types import GlobalID
from strawberry.types.arguments import InputContext
from strawberry.types.base import StrawberryList, StrawberryOptional, has_object_definition
from strawberry.types.lazy_type import LazyType

__all__ = ["prepared"]

T = TypeVar("T", bound=type)


def prepared(input_type: T) -> T:
    """Class decorator above `@strawberry.input`: how its fields are converted is worked out at the first value.

    A field that was not given takes the class's own default.
    """
    definition: Any = input_type.__strawberry_definition__  # type: ignore[attr-defined]
    plan: dict[str, tuple[str, Any]] = {}

    def build(type_: type, value: Mapping[str, Any], context: InputContext) -> Any:
        if not plan:
            named = context.config.name_converter.from_field
            plan.update(
                (named(field), (field.python_name, _converted(field.resolve_type(type_definition=definition))))
                for field in definition.fields
            )
        arguments = {}
        for name, given in value.items():
            python_name, kind = plan[name]
            arguments[python_name] = given if kind is None else context.convert(given, kind, name)
        return type_(**arguments)

    definition.from_input = build
    return input_type


def _converted(type_: Any) -> Any:
    """The type, where its values need a conversion behind graphql-core's own; None for scalars and enums."""
    inner = type_
    while isinstance(inner, StrawberryOptional):
        inner = inner.of_type
    plain = not isinstance(inner, StrawberryList | LazyType) and inner is not GlobalID
    return None if plain and not has_object_definition(inner) else type_
