"""What a job may be made of, and how equal faults are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.errors import InvalidInput
from switchtower.ids import JOB, attempt_id, new_id
from switchtower.jobs import ClaimedJob, JobUpdate, NewJob, fingerprint
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.retry import DEFAULT_BACKOFF

IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("name", {"name": ""}),
    ("name", {"name": "n" * 257}),
    ("name", {"name": "two\nlines"}),
    ("name", {"name": "\ud800"}),
    ("name", {"name": 5}),
    ("queue", {"queue": ""}),
    ("queue", {"queue": "a/b"}),
    ("queue", {"queue": "__all__"}),
    ("queue", {"queue": None}),
    ("payload", {"payload": "x" * PAYLOAD_LIMIT}),
    ("payload", {"payload": float("nan")}),
    ("payload", {"payload": 2**63}),
    ("payload", {"payload": "\ud800"}),
    ("payload", {"payload": {"\0": 1}}),
    ("payload", {"payload": {1: 1}}),
    ("payload", {"payload": {"set"}}),
    ("payload", {"payload": b"bytes"}),
    ("priority", {"priority": 2**31}),
    ("priority", {"priority": "high"}),
    ("priority", {"priority": 1.5}),
    ("priority", {"priority": True}),
    ("delayMs", {"delay_ms": -1}),
    ("delayMs", {"delay_ms": 10**15}),
    ("maxAttempts", {"max_attempts": 0}),
    ("maxAttempts", {"max_attempts": None}),
    ("timeoutMs", {"timeout_ms": 0}),
    ("ttlMs", {"ttl_ms": 0}),
    ("uniqueForMs", {"unique_for_ms": 0, "unique_key": "k"}),
    ("uniqueForMs", {"unique_for_ms": 5}),
    ("runAt", {"run_at": IN_AN_HOUR, "delay_ms": 5}),
    ("runAt", {"run_at": datetime(2030, 1, 1)}),
    ("runAt", {"run_at": "tomorrow"}),
    ("group", {"group": "g" * 513}),
    ("uniqueKey", {"unique_key": ""}),
    ("uniqueKey", {"unique_key": {"$gt": ""}}),
    ("idempotencyKey", {"idempotency_key": "i" * 513}),
    ("jobId", {"job_id": "j" * 257}),
    ("jobId", {"job_id": new_id(JOB)}),
    ("tags", {"tags": ["t"] * 51}),
    ("tags", {"tags": [""]}),
    ("tags", {"tags": [{"$ne": 1}]}),
    ("tags", {"tags": "text"}),
    ("dependsOn", {"depends_on": ["d"] * 1_001}),
    ("dependsOn", {"depends_on": [{"$gt": ""}]}),
    ("dependsOn", {"depends_on": "job"}),
    ("parentId", {"parent_id": {"$gt": ""}}),
    ("traceparent", {"traceparent": "t" * 513}),
    ("traceparent", {"traceparent": "\ud800"}),
    ("backoff", {"backoff": "exponential"}),
    ("webhook", {"webhook": True, "workflow": ("w", 1)}),
]


@pytest.mark.parametrize(
    ("field", "fields"), REFUSED, ids=[f"{field}-{number}" for number, (field, _) in enumerate(REFUSED)]
)
def test_what_cannot_be_stored_is_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        NewJob(**{"name": "work", **fields}).check()
    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field}: ")


def test_what_can_be_stored_is_taken() -> None:
    NewJob(
        name="n" * 256, queue="q" * 256, priority=-(2**31), tags=["t"] * 50, job_id="my own", run_at=IN_AN_HOUR
    ).check()


def test_payload_limit_is_the_callers() -> None:
    NewJob(name="work", payload="x" * 98).check(payload_limit=100)
    with pytest.raises(InvalidInput, match="101 bytes") as refusal:
        NewJob(name="work", payload="x" * 99).check(payload_limit=100)
    assert refusal.value.too_large


@given(st.integers(0, 10**9), st.text(st.characters(categories=("L", "N")), max_size=20))
def test_fingerprint_ignores_numbers_ids_and_quoted_values(number: int, text: str) -> None:
    message = f"user {number} sent '{text}' as 0x{number:x}"
    assert fingerprint("ValueError", message, "f") == fingerprint("ValueError", "user 7 sent 'x' as 0xff", "f")


def test_fingerprint_tells_type_place_and_message_apart() -> None:
    prints = {
        fingerprint(*parts)
        for parts in (
            ("A", "m", "f"),
            ("B", "m", "f"),
            ("A", "n", "f"),
            ("A", "m", "g"),
            ("A", "", ""),
            ("Am", "", "f"),
        )
    }
    assert len(prints) == 6
    assert all(len(text) == 16 for text in prints)


def test_update_without_a_field_is_empty_and_a_null_payload_is_not() -> None:
    assert JobUpdate().is_empty
    assert not JobUpdate(payload=None).is_empty
    assert not JobUpdate(tags=[]).is_empty


def test_attempt_of_a_claimed_job_has_the_id_of_its_history() -> None:
    id = new_id(JOB)
    now = datetime.now(UTC)
    claimed = ClaimedJob(
        id=id, name="n", queue="q", payload=None, token="t", number=2, generation=3, max_attempts=4,
        backoff=DEFAULT_BACKOFF, fence=1, org="", app="", timeout_ms=None, expires_at=None, created_at=now, run_at=now,
    )  # fmt: skip
    assert claimed.attempt_id == attempt_id(id, 3, 2)
