"""The short way for plain fields answers just as graphql-core does, also where something is wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import strawberry
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from schema.build import build_schema
from schema.execution import Executor
from schema.queues import Queue
from switchtower.jobs import Attempt, ErrorKind, JobError, LogLine
from switchtower.retry import Backoff, BackoffKind
from switchtower.states import JobState
from tests.schema.fakes import NOW, context, job


@pytest.fixture(scope="module")
def stock() -> strawberry.Schema:
    schema = build_schema()
    schema.execution_context_class = StrawberryGraphQLCoreExecutionContext
    return schema


async def compared(stock: strawberry.Schema, quick: strawberry.Schema, query: str, jobs: Any, **variables: Any) -> Any:
    """The answer, which both ways give."""
    answers = []
    for schema in (stock, quick):
        answer = await schema.execute(query, variables, context_value=context(jobs))
        answers.append((answer.data, [error.formatted for error in answer.errors or ()]))
    assert answers[0] == answers[1]
    assert repr(answers[0][0]) == repr(answers[1][0]), "in the same order"
    return answers[1]


FULL = job(
    payload={"a": [1, None]},
    result=0,
    error=JobError(ErrorKind.TIMEOUT, "T", "m", None, "f"),
    attempts=[Attempt("att_1", 1, 1, "w", NOW, None, "running", JobError(ErrorKind.FATAL, "F", "x", "s", "g"))],
    logs=[LogLine(NOW, "line", "info", 1)],
    tags=["a", "b"],
    backoff=Backoff(BackoffKind.TABLE, waits_ms=(1, 2)),
    lifo=True,
    depends_on=["job_2"],
    timeout_ms=5,
    pending=["job_2"],
)

FIELDS = """__typename id customId name queue state priority payload result attempt maxAttempts generation
  error { kind type message stack fingerprint } progress logs { at line level attempt } timeline { type } tags group
  attempts { id number generation workerId startedAt endedAt outcome error { kind stack } } uniqueKey uniqueForMs lifo
  backoff { kind baseMs capMs jitter waitsMs } runAt createdAt updatedAt startedAt finishedAt expiresAt timeoutMs ttlMs
  workerId worker { id } leaseExpiresAt cancelRequestedAt parentId parent { id } pendingChildren dependsOn
  removeOnComplete removeOnFail deadLetter { id } scope { org app } deduplication"""


async def test_both_ways_answer_alike(schema: strawberry.Schema, stock: strawberry.Schema) -> None:
    for selection in [
        FIELDS,
        "b: name a: id name c: name",
        "...f ... on Job { queue tags } ... on Node { id }",
        "id @skip(if: $yes) name @include(if: $yes) queue @include(if: $no)",
        "state worker { id } name parent { id } id",
    ]:
        fragment = " fragment f on Job { state id name }" if "...f" in selection else ""
        declared = "query($yes: Boolean! = true, $no: Boolean! = false) " if "$yes" in selection else ""
        asked = f"nodes {{ {selection} }} edges {{ cursor node {{ {selection} }} }}"
        query = f"{declared}{{ jobs {{ {asked} }} }}{fragment}"
        data, errors = await compared(stock, schema, query, [FULL, job()])
        assert errors == [] and len(data["jobs"]["nodes"]) == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"name": None},
        {"name": JobState.WAITING},
        {"name": 5},
        {"name": ["x"]},
        {"priority": 2**40},
        {"priority": True},
        {"priority": 1.5},
        {"priority": "7"},
        {"state": "bogus"},
        {"state": "waiting"},
        {"state": ["unhashable"]},
        {"tags": ["a", None]},
        {"tags": None},
        {"tags": "text"},
        {"tags": ("a",)},
        {"tags": iter(["a"])},
        {"tags": [["nested"]]},
        {"lifo": 1},
        {"run_at": "today"},
        {"run_at": NOW.replace(tzinfo=None)},
        {"started_at": 5},
        {"group": 5},
        {"payload": ValueError("a value that is an exception")},
        {"id": 17},
    ],
)
async def test_both_ways_fail_alike(
    schema: strawberry.Schema, stock: strawberry.Schema, broken: dict[str, Any]
) -> None:
    fields = "id name priority state tags lifo runAt startedAt group payload"
    for query in (f"{{ jobs {{ nodes {{ {fields} }} }} }}", f'{{ job(id: "x") {{ {fields} scope {{ org }} }} }}'):
        if "tags" in broken and not isinstance(broken["tags"], list | tuple | str | None):
            answers = [await s.execute(query, context_value=context([job(tags=iter(["a"]))])) for s in (stock, schema)]
            assert answers[0].data == answers[1].data
            continue
        await compared(stock, schema, query, [job(**broken)])


async def test_a_missing_attribute_is_a_masked_fault_and_no_crash(
    schema: strawberry.Schema, stock: strawberry.Schema
) -> None:
    whole = job()
    lacking: Any = SimpleNamespace(**{f: getattr(whole, f) for f in whole.__dataclass_fields__ if f != "queue"})
    data, errors = await compared(stock, schema, "{ jobs { edges { cursor } nodes { name queue } } }", [lacking])
    assert (data is None and errors[0]["path"] == ["jobs", "nodes", 0]) or errors, errors


async def test_the_short_way_is_taken(schema: strawberry.Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    general: list[str] = []
    execute_field = Executor.execute_field

    def watched(self: Any, parent_type: Any, source: Any, details: Any, *rest: Any) -> Any:
        general.append(details[0].node.name.value)
        return execute_field(self, parent_type, source, details, *rest)

    monkeypatch.setattr(Executor, "execute_field", watched)
    query = "{ jobs { nodes { __typename id name state payload tags runAt attempt lifo group } } }"
    answer = await schema.execute(query, context_value=context([job(), job()]))
    assert answer.errors is None and general == ["jobs", "nodes"]


async def test_an_extension_that_watches_fields_sees_all_of_them(schema: strawberry.Schema) -> None:
    seen: list[str] = []

    class Watching(SchemaExtension):
        def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(info.field_name)
            return _next(root, info, *args, **kwargs)

    answer = await build_schema([Watching]).execute("{ jobs { nodes { id name } } }", context_value=context([job()]))
    assert answer.errors is None and seen == ["jobs", "nodes", "id", "name"]


def test_records_are_told_from_each_other() -> None:
    assert not Queue.is_type_of(job(), None)
