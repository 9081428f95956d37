"""The schema itself: everything described, names that the contract fixes, unions that can be selected together."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    is_introspection_type,
    is_specified_scalar_type,
    print_schema,
    validate_schema,
)

from schema.errors import HANDLERS
from schema.export import sdl
from switchtower import errors
from switchtower.states import TRANSITIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def core(schema: strawberry.Schema) -> GraphQLSchema:
    return schema._schema


def own_types(core: GraphQLSchema) -> list[Any]:
    return [t for t in core.type_map.values() if not is_introspection_type(t) and not is_specified_scalar_type(t)]


def test_the_schema_is_valid(core: GraphQLSchema) -> None:
    assert validate_schema(core) == []


def test_everything_has_a_description(core: GraphQLSchema) -> None:
    bare = []
    for type_ in own_types(core):
        if not type_.description:
            bare.append(type_.name)
        if isinstance(type_, GraphQLEnumType):
            bare += [f"{type_.name}.{name}" for name, value in type_.values.items() if not value.description]
        for name, field in getattr(type_, "fields", {}).items():
            if not field.description:
                bare.append(f"{type_.name}.{name}")
            for argument, definition in getattr(field, "args", {}).items():
                if not definition.description:
                    bare.append(f"{type_.name}.{name}({argument}:)")
    assert bare == []


def test_the_committed_sdl_is_this_schema() -> None:
    assert (ROOT / "schema.graphql").read_text() == sdl(), "run `make schema`"


QUERIES = """
node job jobs jobCounts queue queues deadLetter deadLetters deadLetterCount workers errorClusters stats
bulkOperation
""".split()  # noqa: SIM905
MUTATIONS = """
enqueueJob enqueueJobs cancelJob retryJob promoteJob removeJob updateJob cancelJobs retryJobs promoteJobs
removeJobs pauseQueue resumeQueue drainQueue cleanQueue obliterateQueue replayDeadLetter replayDeadLetters
removeDeadLetters purgeDeadLetters claimJobs extendLeases completeJob failJob reportProgress appendLog
releaseJob
""".split()  # noqa: SIM905
SUBSCRIPTIONS = ["jobEvents", "job", "queueEvents", "queueCounts", "deadLetters", "workers", "bulkOperation"]


def test_the_fixed_names_are_there(core: GraphQLSchema) -> None:
    for root, names in ((core.query_type, QUERIES), (core.mutation_type, MUTATIONS)):
        assert root is not None and set(names) <= root.fields.keys()
    assert core.subscription_type is not None and set(SUBSCRIPTIONS) <= core.subscription_type.fields.keys()


def test_a_mutation_answers_with_a_union_of_its_success_and_errors(core: GraphQLSchema) -> None:
    assert core.mutation_type is not None
    for name, field in core.mutation_type.fields.items():
        answer = field.type.of_type
        if name == "enqueueJobs":
            answer = answer.fields["items"].type.of_type.of_type.of_type
        assert isinstance(answer, GraphQLUnionType), name
        success = [t for t in answer.types if "Error" not in {i.name for i in t.interfaces}]
        assert len(success) == 1, name
        assert {"ValidationError", "Forbidden", "RateLimited", "Unauthorized"} < {t.name for t in answer.types}


def test_members_of_a_union_can_be_selected_together(core: GraphQLSchema) -> None:
    """The same field name with two types in two members is a validation error in any query that selects both."""
    clashes = []
    for type_ in own_types(core):
        members = type_.types if isinstance(type_, GraphQLUnionType) else ()
        if isinstance(type_, GraphQLInterfaceType):
            members = core.get_possible_types(type_)
        seen: dict[str, str] = {}
        for member in members:
            for name, field in member.fields.items():
                if seen.setdefault(name, str(field.type)) != str(field.type):
                    clashes.append(f"{type_.name}: {member.name}.{name}")
    # Different things behind `node(id)` may differ; an alias tells them apart.
    assert [clash for clash in clashes if not clash.startswith("Node:")] == []


def test_every_error_that_can_be_an_answer_is_one(core: GraphQLSchema) -> None:
    interface = core.type_map["Error"]
    assert isinstance(interface, GraphQLInterfaceType)
    shown = {t.name for t in core.get_possible_types(interface)}
    assert shown == {handler.error_type.__name__ for handler in HANDLERS}
    handled = {handler.exception_type for handler in HANDLERS}
    ours = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.SwitchtowerError)}
    assert ours - handled == {errors.SwitchtowerError, errors.ConfigurationError, errors.StoreUnavailable}


def test_event_types_are_the_transitions(core: GraphQLSchema) -> None:
    enum = core.type_map["JobEventType"]
    assert isinstance(enum, GraphQLEnumType)
    assert set(enum.values) == {name.upper() for name in TRANSITIONS} >= {"PROGRESS", "LOG"}


def test_durations_say_their_unit(core: GraphQLSchema) -> None:
    for type_ in own_types(core):
        if isinstance(type_, GraphQLObjectType | GraphQLInputObjectType):
            for name in type_.fields:
                assert not name.lower().endswith(("seconds", "timeout", "delay", "ttl")), f"{type_.name}.{name}"


def test_the_sdl_is_sorted_and_complete(core: GraphQLSchema) -> None:
    names = [line.split()[1] for line in sdl().splitlines() if line.startswith(("type ", "input ", "union ", "enum "))]
    assert names == sorted(names)
    assert len(print_schema(core)) == len(sdl().rstrip("\n"))


def test_resolvers_know_no_graphql() -> None:
    for path in (ROOT / "schema" / "resolvers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            assert not any(m.split(".")[0] in ("strawberry", "graphql", "fastapi", "pymongo") for m in modules), path
