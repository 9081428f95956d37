"""Nothing of one tenant reaches another, nor of a queue anybody who does not see it: every field that the schema has,
probed with the ids and names of what is not theirs.

The probes are generated from the schema itself, so that a field added later is probed too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
import strawberry
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLUnionType,
    get_named_type,
    is_required_argument,
    is_required_input_field,
)
from pymongo import MongoClient

from schema.build import build_schema
from schema.limits import DocumentLimits, Documents, Limits
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.schema.conftest import Graph
from tests.schema.theirs import BRAVO, KEPT, SECRET, Theirs, acquire, possessions
from tests.waiting import until

DEPTH = 4


@pytest.fixture(scope="module")
def open_schema() -> strawberry.Schema:
    """The schema with its document cache and without its limits: thousands of probes share few documents."""
    documents = Documents(Limits(depth=100, tokens=20_000, aliases=1_000, cost=10**12))
    return build_schema([lambda: DocumentLimits(documents)])


@pytest.fixture
async def theirs(engine: Engine) -> Theirs:
    return await acquire(engine)


@pytest.fixture(params=["tenant", "queues"])
def acme(request: pytest.FixtureRequest, open_schema: strawberry.Schema, graph: Graph) -> Graph:
    """Somebody of another tenant; then an operator for whom there are other queues only."""
    if request.param == "tenant":
        return Graph(open_schema, graph.context).as_tenant("acme")
    caller = Caller("key of acme", queues=frozenset({"ours"}), key_id="key_of_acme")
    return Graph(open_schema, replace(graph.context, caller=caller, memo={}))


def plain(type_: Any) -> Any:
    """Some value that the type takes."""
    if isinstance(type_, GraphQLNonNull):
        return plain(type_.of_type)
    if isinstance(type_, GraphQLList):
        return [plain(type_.of_type)]
    if isinstance(type_, GraphQLEnumType):
        return next(iter(type_.values))
    if isinstance(type_, GraphQLInputObjectType):
        return {name: plain(field.type) for name, field in type_.fields.items() if is_required_input_field(field)}
    samples = {"Int": 1, "Float": 1.0, "Boolean": True, "DateTime": "2026-01-01T00:00:00Z", "Date": "2026-01-01"}
    return samples.get(type_.name, "x")


def aimed(type_: Any, targets: tuple[str, ...], depth: int = 0) -> Iterator[Any]:
    """Values of the type, each with one of the targets somewhere in it."""
    if isinstance(type_, GraphQLNonNull):
        yield from aimed(type_.of_type, targets, depth)
    elif isinstance(type_, GraphQLList):
        yield from ([value] for value in aimed(type_.of_type, targets, depth))
    elif isinstance(type_, GraphQLInputObjectType):
        if depth > 2:
            return
        for name, field in type_.fields.items():
            for value in aimed(field.type, targets, depth + 1):
                yield plain(type_) | {name: value}
    elif getattr(type_, "name", "") == "ID":
        yield from targets
    elif getattr(type_, "name", "") in ("String", "JSON"):
        # The text in an input is rarely an id: one of them, and the names.
        few = (targets[0], *(target for target in targets if "_" not in target and "their" not in target))
        yield from few if depth else targets


def selection(type_: Any, depth: int = 0, deepest: int = DEPTH) -> str:
    """Everything below a type, `deepest` levels down."""
    type_ = get_named_type(type_)
    if isinstance(type_, GraphQLUnionType):
        parts = " ".join(f"... on {each.name} {selection(each, depth, deepest)}" for each in type_.types)
        return f"{{ __typename {parts} }}"
    if isinstance(type_, GraphQLInterfaceType):
        members = " ".join(f"... on {each} {{ id }}" for each in ("Job", "DeadLetter", "Worker", "Cron"))
        return f"{{ __typename id ... on Job {{ name payload }} {members} }}"
    if not isinstance(type_, GraphQLObjectType):
        return ""
    fields = []
    for name, field in type_.fields.items():
        if any(is_required_argument(argument) for argument in field.args.values()):
            continue
        leaf = not isinstance(get_named_type(field.type), GraphQLObjectType | GraphQLUnionType | GraphQLInterfaceType)
        if leaf:
            fields.append(name if depth == 0 or name != "id" else "id")
        elif depth < deepest and name not in ("nodes", "parent"):
            inner = selection(field.type, depth + 1, deepest)
            if inner.strip("{} "):
                fields.append(f"{name} {inner}")
    return "{ " + " ".join(fields or ["__typename"]) + " }"


def document(kind: str, name: str, field: GraphQLField, given: tuple[str, ...]) -> str:
    declared = ", ".join(f"${each}: {field.args[each].type}" for each in given)
    passed = ", ".join(f"{each}: ${each}" for each in given)
    deepest = DEPTH if kind == "query" else 1
    return (
        f"{kind} {f'({declared})' if declared else ''} "
        f"{{ {name}{f'({passed})' if passed else ''} {selection(field.type, deepest=deepest)} }}"
    )


def probes(kind: str, root: GraphQLObjectType, targets: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the root, bare and with each target in each place that takes one."""
    for name, field in root.fields.items():
        required = {each: plain(arg.type) for each, arg in field.args.items() if is_required_argument(arg)}
        yield document(kind, name, field, tuple(required)), required
        for each, argument in field.args.items():
            for value in aimed(argument.type, targets):
                variables = required | {each: value}
                yield document(kind, name, field, tuple(variables)), variables


async def asked(acme: Graph, kind: str, targets: tuple[str, ...]) -> AsyncIterator[tuple[str, dict[str, Any], Any]]:
    """Every probe with its answer, a dozen at a time."""
    root = getattr(acme.schema._schema, f"{kind}_type")
    waiting = list(probes(kind, root, targets))
    for start in range(0, len(waiting), 12):
        part = waiting[start : start + 12]
        answers = (acme.schema.execute(query, variables, context_value=acme.context) for query, variables in part)
        for (query, variables), answer in zip(part, await asyncio.gather(*answers), strict=True):
            yield query, variables, answer


def leaks(answer: Any, variables: dict[str, Any], theirs: Theirs) -> list[str]:
    """What of the other tenant is in an answer, apart from the very words of the question."""
    text = orjson.dumps([answer.data, [str(error) for error in answer.errors or ()]], default=str).decode()
    asked = orjson.dumps(variables).decode()
    return [word for word in (*theirs.ids, SECRET) if word in text and word not in asked]


async def test_no_query_shows_anything_of_another_tenant(
    acme: Graph, theirs: Theirs, graph: Graph, open_schema: strawberry.Schema
) -> None:
    count, found = 0, []
    async for query, variables, answer in asked(acme, "query", (*theirs.ids, *theirs.names)):
        assert not any("Syntax" in str(error) or "must not" in str(error) for error in answer.errors or ()), answer
        count += 1
        if leak := leaks(answer, variables, theirs):
            found.append((query[:60], variables, leak))
    assert found == []
    assert count >= 700
    seen = await Graph(open_schema, graph.context).raw("{ jobs { nodes { name } } }")
    assert SECRET in str(seen.data), "the probes would see what is there"


async def test_a_word_of_the_question_finds_nothing_either(acme: Graph, theirs: Theirs) -> None:
    for id in theirs.ids:
        for query in (
            "query($id: ID!) { node(id: $id) { id } }",
            "query($id: ID!) { job(id: $id) { id } }",
            "query($id: ID!) { deadLetter(id: $id) { id } }",
            "query($id: ID!) { cron(id: $id) { id } }",
            "query($id: ID!) { flow(id: $id) { id } }",
            "query($id: ID!) { bulkOperation(id: $id) { id } }",
            "query($id: ID!) { jobs(filter: {ids: [$id]}) { nodes { id } totalCount { value } } }",
        ):
            answer = await acme(query, id=id)
            assert answer in (None, {"nodes": [], "totalCount": {"value": 0}}), (query, id)
    for word in (SECRET, "payload", "their"):
        found = await acme("query($t: String) { jobs(filter: {text: $t}) { totalCount { value } } }", t=word)
        assert found["totalCount"]["value"] == 0
    assert await acme('{ queue(name: "default") { counts { waiting active } groups { name } pausedNames } }') in (
        None,
        {"counts": {"waiting": 0, "active": 0}, "groups": [], "pausedNames": []},
    )


async def test_no_mutation_changes_anything_of_another_tenant(
    acme: Graph, theirs: Theirs, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    before = possessions(mongo, database_name)
    assert all(before[name] for name in KEPT)
    count, found = 0, []
    async for query, variables, answer in asked(acme, "mutation", (*theirs.ids, "default")):
        count += 1
        if SECRET in str(answer.data):
            found.append((query[:80], variables))
    assert found == []
    assert possessions(mongo, database_name) == before
    assert count >= 900


async def test_no_subscription_tells_of_another_tenant(
    acme: Graph, theirs: Theirs, engine: Engine, open_schema: strawberry.Schema
) -> None:
    root = open_schema._schema.subscription_type
    assert root is not None
    heard: list[tuple[str, str]] = []

    async def listen(query: str, variables: dict[str, Any]) -> None:
        with suppress(Exception):
            async for result in await open_schema.subscribe(query, variables, context_value=acme.context):  # type: ignore[union-attr]
                heard.append((query[:80], str(result.data)))
                if leak := leaks(result, variables, theirs):
                    found.append((query[:80], variables, leak))

    found: list[Any] = []
    await engine.hub().start()
    listening = [
        asyncio.create_task(listen(query, variables))
        for query, variables in probes("subscription", root, (*theirs.ids, *theirs.names))
    ]

    async def mine() -> str:
        return (await engine.jobs.enqueue(NewJob(name="mine", queue="ours"), caller=acme.context.caller)).job.id

    async def told() -> bool:
        # Nothing says when a subscription stands, but that it tells something.
        await mine()
        return any("jobEvents" in query for query, _ in heard)

    try:
        await until(told)
        for _ in range(3):
            job = await engine.jobs.enqueue(NewJob(name=f"{SECRET}-later"), caller=BRAVO)
            await engine.jobs.cancel(job.job.id, caller=BRAVO)
            await engine.queues.pause(f"{SECRET}-queue", caller=BRAVO)
        last = await mine()
        await until(lambda: any(last in said for _, said in heard))
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    assert found == []
    assert len(listening) >= 200
