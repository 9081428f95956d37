"""Anything that a client may give as an argument, made from the schema: right, nearly right and quite wrong."""

from __future__ import annotations

from functools import cache
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    build_schema,
    is_leaf_type,
    is_required_input_field,
)
from graphql.type.definition import get_named_type
from hypothesis import strategies as st

from schema.build import build_schema as product_schema

Strategy = st.SearchStrategy[Any]

TEXTS = (
    *("", " ", "x", "default", "work", "a.b", "$token", "$$ROOT", "$where", "__proto__", "\0", "\n", "\u202e", "é"),
    *(
        "x" * 300,
        "x" * 70_000,
        "\U0001d4b3" * 40,
        "null",
        "-1",
        "0x10",
        "../..",
        "%00",
        "{}",
        "(a+)+$",
        ".*",
        "/",
        "<script>",
    ),
    *("job_01h455vb4pex5vsknk084sn02q", "run_01h455vb4pex5vsknk084sn02q", "cron_01h455vb4pex5vsknk084sn02q"),
    *("1.82" + "0" * 40, "WyJ4IiwgMV0", "* * * * *", "0 0 31 2 *", "Europe/Berlin", "UTC", "PT5S"),
)
TIMES = (
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00+99:99",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "x",
    "",
)
NUMBERS = (0, 1, -1, 2, 5, 50, 500, 501, 10_000, 2**31 - 1, -(2**31), 2**31, 2**53, 2**63 - 1, 2**63, 10**40)

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
numbers = st.one_of(st.integers(1, 10), st.sampled_from(NUMBERS))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
SCALARS: dict[str, Strategy] = {
    "Int": numbers,
    "Float": st.one_of(numbers, st.sampled_from((0.5, -0.0, 1e308))),
    "Boolean": st.booleans(),
    "String": texts,
    "ID": texts,
    "JSON": anything,
    "DateTime": st.sampled_from(TIMES),
}


@cache
def schema() -> GraphQLSchema:
    """The product's schema."""
    return build_schema(product_schema().as_str())


@cache
def of(kind: Any) -> Strategy:
    """Values for a type of argument; one in twenty or so is of another type."""
    nullable = not isinstance(kind, GraphQLNonNull)
    inner = kind if nullable else kind.of_type
    if isinstance(inner, GraphQLList):
        values: Strategy = st.lists(of(inner.of_type), max_size=3)
    elif isinstance(inner, GraphQLInputObjectType):
        values = st.deferred(lambda: _object(inner))
    elif isinstance(inner, GraphQLEnumType):
        values = st.sampled_from(sorted(inner.values))
    else:
        values = SCALARS.get(inner.name, texts)
    odd = st.integers(0, 19).flatmap(lambda n: anything if n == 0 else values)
    return st.one_of(st.none(), odd) if nullable else odd


def _object(kind: GraphQLInputObjectType) -> Strategy:
    required = {name: of(field.type) for name, field in kind.fields.items() if is_required_input_field(field)}
    optional = {name: of(field.type) for name, field in kind.fields.items() if name not in required}
    # Most of a dozen optional fields at once would hardly ever be accepted together.
    some = st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True) if optional else st.just([])
    return some.flatmap(lambda chosen: st.fixed_dictionaries(required | {name: optional[name] for name in chosen}))


def fields(operation: str) -> dict[str, GraphQLField]:
    """The fields of the root type of an operation: query, mutation or subscription."""
    root = {
        "query": schema().query_type,
        "mutation": schema().mutation_type,
        "subscription": schema().subscription_type,
    }
    found = root[operation]
    assert found is not None
    return dict(found.fields)


def document(operation: str, name: str) -> str:
    """An operation that asks for one field, with a variable for each of its arguments."""
    field = fields(operation)[name]
    declared = ", ".join(f"${argument}: {value.type}" for argument, value in field.args.items())
    given = ", ".join(f"{argument}: ${argument}" for argument in field.args)
    selection = "" if is_leaf_type(get_named_type(field.type)) else " { __typename }"
    return f"{operation}{f'({declared})' if declared else ''} {{ {name}{f'({given})' if given else ''}{selection} }}"


def variables(operation: str, name: str) -> Strategy:
    """Values for the variables of `document`."""
    return st.fixed_dictionaries({name: of(value.type) for name, value in fields(operation)[name].args.items()})
