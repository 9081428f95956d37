"""The waits between attempts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.errors import InvalidInput
from switchtower.retry import MAX_WAIT_MS, Backoff, BackoffKind


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Backoff(BackoffKind.NONE), [0, 0, 0]),
        (Backoff(BackoffKind.FIXED, base_ms=5, jitter=0), [5, 5, 5]),
        (Backoff(BackoffKind.FIXED, base_ms=90_000, jitter=0), [90_000, 90_000, 90_000]),
        (Backoff(BackoffKind.LINEAR, base_ms=10, cap_ms=25, jitter=0), [10, 20, 25]),
        (Backoff(BackoffKind.EXPONENTIAL, base_ms=10, cap_ms=35, jitter=0), [10, 20, 35]),
        (Backoff(BackoffKind.TABLE, waits_ms=(7, 3), jitter=0), [7, 3, 3]),
    ],
)
def test_waits_follow_their_shape(backoff: Backoff, waits: list[int]) -> None:
    assert [backoff.wait_ms(retry) for retry in (1, 2, 3)] == waits


def test_jitter_takes_its_share_of_the_wait() -> None:
    half = Backoff(BackoffKind.FIXED, base_ms=100, jitter=0.5)
    assert [half.wait_ms(1, draw=draw) for draw in (0, 0.5, 1)] == [50, 75, 100]
    full = Backoff(BackoffKind.FIXED, base_ms=100, jitter=1)
    assert [full.wait_ms(1, draw=draw) for draw in (0, 0.5, 1)] == [0, 50, 100]


@given(
    st.sampled_from(BackoffKind),
    st.integers(0, MAX_WAIT_MS),
    st.integers(0, MAX_WAIT_MS),
    st.floats(0, 1),
    st.integers(-5, 10_001),
    st.floats(0, 1),
)
def test_wait_is_never_negative_nor_longer_than_its_bounds(
    kind: BackoffKind, base: int, cap: int, jitter: float, retry: int, draw: float
) -> None:
    backoff = Backoff(kind, base, cap, jitter, (base, cap))
    assert 0 <= backoff.wait_ms(retry, draw=draw) <= max(base, cap)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("backoff.baseMs", {"base_ms": -1}),
        ("backoff.baseMs", {"base_ms": MAX_WAIT_MS + 1}),
        ("backoff.capMs", {"cap_ms": -1}),
        ("backoff.jitter", {"jitter": 1.1}),
        ("backoff.jitter", {"jitter": float("nan")}),
        ("backoff.waitsMs", {"kind": BackoffKind.TABLE}),
        ("backoff.waitsMs", {"waits_ms": (-1,)}),
        ("backoff.waitsMs", {"waits_ms": (1,) * 101}),
    ],
)
def test_backoff_that_makes_no_sense_is_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Backoff(**fields)
    assert refusal.value.field == field
