"""A prepared input type gives what Strawberry's own conversion gives, field by field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from strawberry.types.arguments import convert_argument

from schema.build import build_schema
from schema.inputs import BackoffInput, EnqueueJobInput
from switchtower.jobs import ChildFailure
from switchtower.retry import BackoffKind

EVERYTHING = {
    "name": "send",
    "payload": {"to": ["a", {"b": None}], "delayMs": 1},
    "queue": None,
    "priority": -3,
    "delayMs": 5,
    "runAt": datetime(2026, 1, 2, tzinfo=UTC),
    "maxAttempts": 2,
    "backoff": {"kind": BackoffKind.TABLE, "waitsMs": [1, 2], "jitter": 0.5},
    "timeoutMs": 1,
    "ttlMs": 2,
    "group": "g",
    "uniqueKey": "u",
    "uniqueForMs": 3,
    "tags": ["x", "y"],
    "lifo": True,
    "parentId": "job_1",
    "dependsOn": ["job_2"],
    "onChildFailure": next(iter(ChildFailure)),
    "removeOnComplete": True,
    "removeOnFail": False,
    "jobId": "mine",
    "idempotencyKey": "once",
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "send"},
        {"name": "send", "payload": None, "backoff": None, "tags": None},
        {"name": "send", "backoff": {}, "tags": []},
        EVERYTHING,
    ],
)
def test_as_strawberry_itself_converts(value: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    converter = build_schema().schema_converter

    def convert() -> Any:
        return convert_argument(value, EnqueueJobInput, converter.scalar_registry, converter.config)

    ours = convert()
    definition: Any = EnqueueJobInput.__strawberry_definition__  # type: ignore[attr-defined]
    assert definition.from_input is not None
    monkeypatch.setattr(definition, "from_input", None)
    assert vars(ours) == vars(convert())
    if "backoff" in value and value["backoff"] is not None:
        assert isinstance(ours.backoff, BackoffInput)


def test_lists_are_copied() -> None:
    # graphql-core gives one default list to every request.
    converter = build_schema().schema_converter
    tags = ["x"]
    converted: Any = convert_argument(
        {"name": "send", "tags": tags}, EnqueueJobInput, converter.scalar_registry, converter.config
    )
    assert converted.tags == tags
    assert converted.tags is not tags
