"""How each error of the engine reaches a client."""

from __future__ import annotations

from typing import Any

import pytest
import strawberry

from switchtower import errors
from tests.schema.fakes import context

QUERY = """mutation { retryJob(id: "x") { __typename ... on Error { code message }
  ... on NotFound { kind missingId } ... on InvalidTransition { verb currentState allowed }
  ... on ValidationError { field tooLarge } ... on Conflict { holder } ... on RateLimited { retryAfterMs } } }"""


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            errors.NotFound("Job", "x"),
            {"__typename": "NotFound", "code": "NOT_FOUND", "kind": "Job", "missingId": "x"},
        ),
        (
            errors.InvalidTransition("retry", "active", ["failed", "completed"]),
            {
                "__typename": "InvalidTransition",
                "code": "INVALID_TRANSITION",
                "verb": "retry",
                "currentState": "ACTIVE",
                "allowed": ["FAILED", "COMPLETED"],
            },
        ),
        (
            errors.InvalidTransition("retry", "removed", ["failed"]),
            {
                "__typename": "InvalidTransition",
                "code": "INVALID_TRANSITION",
                "verb": "retry",
                "currentState": None,
                "allowed": ["FAILED"],
            },
        ),
        (
            errors.InvalidInput("payload", "is large.", too_large=True),
            {"__typename": "ValidationError", "code": "VALIDATION", "field": "payload", "tooLarge": True},
        ),
        (errors.Unauthorized(), {"__typename": "Unauthorized", "code": "UNAUTHORIZED"}),
        (errors.Forbidden("Not you."), {"__typename": "Forbidden", "code": "FORBIDDEN"}),
        (errors.Conflict("Held."), {"__typename": "Conflict", "code": "CONFLICT", "holder": None}),
        (
            errors.Conflict("Held.", holder="job_2"),
            {"__typename": "Conflict", "code": "CONFLICT", "holder": "job_2"},
        ),
        (
            errors.RateLimited("Slower.", retry_after_seconds=1.5),
            {"__typename": "RateLimited", "code": "RATE_LIMITED", "retryAfterMs": 1500},
        ),
    ],
)
async def test_an_error_of_the_union_is_an_answer(
    schema: strawberry.Schema, error: errors.SwitchtowerError, shown: dict[str, Any]
) -> None:
    answer = await schema.execute(QUERY, context_value=context(error=error))
    assert answer.errors is None and answer.data is not None
    assert answer.data["retryJob"] == shown | {"message": error.message}


@pytest.mark.parametrize("error", [errors.StoreUnavailable(), errors.LeaseLost("x"), RuntimeError("a bug")])
async def test_what_the_union_does_not_have_stays_a_top_level_error(
    schema: strawberry.Schema, error: Exception
) -> None:
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
