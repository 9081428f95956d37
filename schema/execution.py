"""How is a page of records turned into an answer quickly?

Most fields of a list are attributes of a record, shown by a scalar or an enum. The general executor makes a path, an
info object and six calls for each of them. Here the attributes of an object are read in one loop; whatever is not
plain, or goes wrong, takes the general way, so that answers and errors stay the same: 50 jobs with 12 fields 345 times
a second so, 920 times with the short way (docs/benchmarks.md).
"""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, cast

from graphql import (
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLString,
)
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.field import StrawberryField

from schema.scalars import SCALARS

__all__ = ["Executor"]

Show = Callable[[Any], Any]
PLAIN = "switchtower-plain"
"""Where a field keeps what was found out about it."""

INT32 = range(-(2**31), 2**31)


class Odd(Exception):
    """A value that the general way has to deal with."""


class Plain(NamedTuple):
    """A field whose value is read without a resolver."""

    read: Callable[[Any], Any]
    show: Show
    nullable: bool


class Plan(NamedTuple):
    """What to do with one selection on one type: the plain fields by response name, and the others."""

    plain: dict[str, Plain]
    others: dict[str, Any]


def _same(value: Any) -> Any:
    if isinstance(value, Exception):
        raise Odd
    return value


def _typed(kind: type) -> Show:
    def show(value: Any) -> Any:
        if type(value) is not kind:
            raise Odd
        return value

    return show


def _int(value: Any) -> Any:
    if type(value) is not int or value not in INT32:
        raise Odd
    return value


def _enum(type_: GraphQLEnumType) -> Show:
    names = {value.value: name for name, value in type_.values.items()}

    def show(value: Any) -> Any:
        name = names.get(value)
        if name is None:
            raise Odd
        return name

    return show


def _list(show: Show) -> Show:
    def shown(values: Any) -> Any:
        if type(values) not in (list, tuple) or None in values:
            raise Odd
        return [show(value) for value in values]

    return shown


def _show(type_: Any) -> Show | None:
    """How a value of this nullable type is shown; None where that is not for here."""
    if isinstance(type_, GraphQLEnumType):
        return _enum(type_)
    if isinstance(type_, GraphQLList):
        item = type_.of_type
        inner = _show(item.of_type) if isinstance(item, GraphQLNonNull) else None
        return None if inner is None else _list(inner)
    if not isinstance(type_, GraphQLScalarType):
        return None
    if type_ in (GraphQLString, GraphQLID):
        return _typed(str)
    if type_ is GraphQLInt:
        return _int
    if type_ is GraphQLBoolean:
        return _typed(bool)
    if type_ is GraphQLFloat:
        return None
    if type_.name == "JSON":
        return _same
    return SCALARS[datetime].serialize if type_.name == "DateTime" else None


def _plain(field: GraphQLField) -> Plain | None:
    definition = field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    if not isinstance(definition, StrawberryField) or not definition.is_basic_field or field.args:
        return None
    type_: Any = field.type
    nullable = not isinstance(type_, GraphQLNonNull)
    show = _show(type_ if nullable else type_.of_type)
    return None if show is None else Plain(attrgetter(definition.python_name), show, nullable)


class Executor(StrawberryGraphQLCoreExecutionContext):
    """graphql-core's executor with a short way for plain fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plans: dict[tuple[str, int], tuple[Any, Plan]] = {}

    def build_per_event_executor(self, payload: Any) -> Any:
        """A copy for one event of a subscription.

        It remembers for itself: selections are collected anew for each event, so what one event leaves would be of no
        use to the next, and would be kept for as long as the subscription lasts.
        """
        executor: Any = super().build_per_event_executor(payload)
        executor._plans, executor._relevant_sub_fields = {}, {}
        return executor

    def _plan(self, parent_type: GraphQLObjectType, selected: dict[str, Any]) -> Plan:
        key = (parent_type.name, id(selected))
        found = self._plans.get(key)
        if found is not None:
            return found[1]
        plan = Plan({}, {})
        watched = self.middleware_manager is not None and bool(self.middleware_manager.middlewares)
        for name, details in selected.items():
            plain = None if watched else self._field(parent_type, details[0].node.name.value)
            if plain is None:
                plan.others[name] = details
            else:
                plan.plain[name] = plain
        # The selection is kept with its plan: while it lives, its id belongs to no other.
        self._plans[key] = (selected, plan)
        return plan

    @staticmethod
    def _field(parent_type: GraphQLObjectType, name: str) -> Plain | None:
        if name == "__typename":
            return Plain(lambda _: parent_type.name, _same, False)
        field = parent_type.fields.get(name)
        if field is None:
            return None
        if PLAIN not in field.extensions:
            field.extensions[PLAIN] = _plain(field)
        return cast("Plain | None", field.extensions[PLAIN])

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Any,
        grouped_field_set: Any,
        position_context: Any,
    ) -> Any:
        """The values of an object's fields, or an awaitable of them."""
        plan = self._plan(parent_type, grouped_field_set)
        if not plan.plain:
            return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)
        values: dict[str, Any] = {}
        others = plan.others
        for name, (read, show, nullable) in plan.plain.items():
            try:
                value = read(source_value)
                if value is not None:
                    values[name] = show(value)
                elif nullable:
                    values[name] = None
                else:
                    raise Odd
            except Exception:
                others = {**others, name: grouped_field_set[name]}
        if not others:
            return values
        rest: Any = super().execute_fields(parent_type, source_value, path, others, position_context)
        if self.is_awaitable(rest):
            return self._awaited(grouped_field_set, values, rest)
        return _in_order(grouped_field_set, values, rest)

    def complete_iterable_value(
        self,
        item_type: Any,
        field_details_list: Any,
        info: Any,
        path: Any,
        items: Any,
        position_context: Any,
    ) -> Any:
        """The values of a list: of objects with plain fields alone in one loop, without a path and an info for each."""
        rows = None
        if type(items) is list and not self.get_stream_usage(field_details_list, path):
            rows = self._rows(item_type, field_details_list, info, items)
        if rows is not None:
            return rows
        return super().complete_iterable_value(item_type, field_details_list, info, path, items, position_context)

    def _rows(self, item_type: Any, field_details_list: Any, info: Any, items: list[Any]) -> list[Any] | None:
        """The objects of a list as answered; None where one of their fields, or values, needs the general way."""
        kind = item_type.of_type if isinstance(item_type, GraphQLNonNull) else item_type
        if not isinstance(kind, GraphQLObjectType):
            return None
        selected, deferred, _ = self.collect_subfields(kind, field_details_list)
        plan = self._plan(kind, selected)
        if deferred or plan.others:
            return None
        fields = [(name, *plain) for name, plain in plan.plain.items()]
        belongs: Any = kind.is_type_of or _always
        rows = []
        try:
            for item in items:
                if belongs(item, info) is not True:
                    return None
                row = {}
                for name, read, show, nullable in fields:
                    value = read(item)
                    if value is not None:
                        row[name] = show(value)
                    elif nullable:
                        row[name] = None
                    else:
                        return None
                rows.append(row)
        except Exception:
            return None
        return rows

    @staticmethod
    async def _awaited(selected: Any, values: dict[str, Any], rest: Any) -> dict[str, Any]:
        return _in_order(selected, values, await rest)


def _always(*_: Any) -> bool:
    return True


def _in_order(selected: Any, values: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    both = values | rest
    return {name: both[name] for name in selected if name in both}
