"""Histograms can be merged, and their percentiles are as exact as they say."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.errors import InvalidInput
from switchtower.metrics import Granularity, MetricBucket, bucket_of, check_range, merged, percentile

AT = datetime(2026, 3, 1, 12, 34, 56, 789_000, UTC)
durations = st.lists(st.integers(min_value=1, max_value=10**9), min_size=1, max_size=200)


@given(durations, st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_percentile_is_within_five_per_cent_of_the_true_one(ms: list[int], share: float) -> None:
    true = sorted(ms)[max(1, -(-len(ms) * share // 1).__int__()) - 1 if share < 1 else len(ms) - 1]
    read = percentile(Counter(map(bucket_of, ms)), share)
    assert read is not None
    assert abs(read - true) <= 0.0501 * true


@given(durations, durations)
def test_merged_histogram_is_the_histogram_of_both(some: list[int], others: list[int]) -> None:
    def bucket(ms: list[int], name: str) -> MetricBucket:
        counts = dict(Counter(map(bucket_of, ms)))
        return MetricBucket(
            AT,
            Granularity.MINUTE,
            "q",
            name,
            runs=len(ms),
            run_ms=sum(ms),
            min_ms=min(ms),
            max_ms=max(ms),
            histogram=counts,
        )

    [whole] = merged([bucket(some, "a"), bucket(others, "b")])
    assert whole.histogram == dict(Counter(map(bucket_of, some + others)))
    assert (whole.runs, whole.run_ms) == (len(some + others), sum(some + others))
    assert (whole.min_ms, whole.max_ms) == (min(some + others), max(some + others))
    assert whole.name is None


def test_zero_has_a_bucket_of_its_own() -> None:
    assert bucket_of(0) == 0
    assert percentile({0: 3}, 0.99) == 0
    assert percentile({}, 0.5) is None


@pytest.mark.parametrize(
    ("granularity", "start"),
    [(Granularity.MINUTE, AT.replace(second=0)), (Granularity.HOUR, AT.replace(minute=0, second=0))],
)
def test_a_bucket_begins_with_its_minute_or_hour(granularity: Granularity, start: datetime) -> None:
    assert granularity.start_of(AT) == start.replace(microsecond=0)


def test_ranges_are_bounded() -> None:
    check_range(Granularity.MINUTE, AT - timedelta(minutes=10_000), AT)
    with pytest.raises(InvalidInput, match="10,000"):
        check_range(Granularity.MINUTE, AT - timedelta(minutes=10_001), AT)
    with pytest.raises(InvalidInput, match="before"):
        check_range(Granularity.HOUR, AT, AT - timedelta(seconds=1))
