"""How each error of the engine reaches a client."""

from __future__ import annotations

from typing import Any

import strawberry

from switchtower import errors
from tests.schema.fakes import context

QUERY = """mutation { retryJob(id: "x") { __typename ... on Error { code message }
  ... on NotFound { kind missingId } ... on InvalidTransition { verb currentState allowed }
  ... on ValidationError { field tooLarge } ... on Conflict { holder } ... on RateLimited { retryAfterMs } } }"""


SHOWN: list[tuple[errors.SwitchtowerError, str, dict[str, Any]]] = [
    (errors.NotFound("Job", "x"), "NOT_FOUND", {"kind": "Job", "missingId": "x"}),
    (
        errors.InvalidTransition("retry", "active", ["failed", "completed"]),
        "INVALID_TRANSITION",
        {"verb": "retry", "currentState": "ACTIVE", "allowed": ["FAILED", "COMPLETED"]},
    ),
    (
        errors.InvalidTransition("retry", "removed", ["failed"]),
        "INVALID_TRANSITION",
        {"verb": "retry", "currentState": None, "allowed": ["FAILED"]},
    ),
    (
        errors.InvalidInput("payload", "is large.", too_large=True),
        "VALIDATION",
        {"__typename": "ValidationError", "field": "payload", "tooLarge": True},
    ),
    (errors.Unauthorized(), "UNAUTHORIZED", {}),
    (errors.Forbidden("Not you."), "FORBIDDEN", {}),
    (errors.Conflict("Held."), "CONFLICT", {"holder": None}),
    (errors.Conflict("Held.", holder="job_2"), "CONFLICT", {"holder": "job_2"}),
    (errors.RateLimited("Slower.", retry_after_seconds=1.5), "RATE_LIMITED", {"retryAfterMs": 1500}),
]


async def test_an_error_of_the_union_is_an_answer(schema: strawberry.Schema) -> None:
    for error, code, fields in SHOWN:
        answer = await schema.execute(QUERY, context_value=context(error=error))
        assert answer.errors is None and answer.data is not None
        shown = {"__typename": type(error).__name__, "code": code, "message": error.message, **fields}
        assert answer.data["retryJob"] == shown


async def test_what_the_union_does_not_have_stays_a_top_level_error(schema: strawberry.Schema) -> None:
    for error in (errors.StoreUnavailable(), errors.LeaseLost("x"), RuntimeError("a bug")):
        answer = await schema.execute(QUERY, context_value=context(error=error))
        assert answer.data is None and answer.errors is not None
        assert answer.errors[0].original_error is error


async def test_an_error_in_a_query_is_a_top_level_error(schema: strawberry.Schema) -> None:
    error = errors.StoreUnavailable()
    answer = await schema.execute('{ job(id: "x") { id } }', context_value=context(error=error))
    assert answer.data == {"job": None} and answer.errors is not None
    assert answer.errors[0].original_error is error


async def test_a_missing_thing_in_a_query_is_null(schema: strawberry.Schema) -> None:
    answer = await schema.execute('{ job(id: "x") { id } }', context_value=context())
    assert answer.data == {"job": None} and answer.errors is None
