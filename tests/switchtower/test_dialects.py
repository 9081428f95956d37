"""A priority means the same job order in every dialect, and comes back as it was given."""

from __future__ import annotations

import math

import pytest

from switchtower.dialects import Dialect, priority_of, rank_of, whole_priority
from switchtower.errors import InvalidInput
from switchtower.jobs import NewJob

DEFAULTS = {Dialect.DISPATCH: 0, Dialect.DISPATCHED: 0, Dialect.ASYNCMQ: 5, Dialect.CONVEYOR: 0}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_priority_comes_back(dialect: Dialect) -> None:
    for priority in (-(2**31), -7, 0, 1, 5, 2**31 - 1):
        assert priority_of(dialect, rank_of(dialect, priority)) == priority
    assert rank_of(dialect, DEFAULTS[dialect]) == 0, "every dialect's default stands beside the others'"


def test_only_dispatch_runs_high_numbers_first() -> None:
    first = {dialect: rank_of(dialect, 1) < rank_of(dialect, 2) for dialect in Dialect}
    assert [dialect for dialect, low in first.items() if not low] == [Dialect.DISPATCH]


@pytest.mark.parametrize(
    ("rank", "whole"),
    [(0, 0), (-0.5, 0), (0.5, 1), (1.4, 1), (-2.6, -3), (1e300, 2**31 - 1), (-1e300, -(2**31)), (2**40, 2**31 - 1)],
)
def test_a_whole_priority_stands_for_a_rank(rank: float, whole: int) -> None:
    assert whole_priority(rank) == whole


@pytest.mark.parametrize("rank", [math.nan, math.inf, -math.inf, True, "1"])
def test_what_does_not_order_is_refused(rank: float) -> None:
    with pytest.raises(InvalidInput, match="finite number"):
        NewJob(name="x", rank=rank).check()


def test_options_are_bounded_as_payloads_are() -> None:
    for opts in ({"x": math.nan}, {"x": 2**63}, {"x": "y" * 70_000}):
        with pytest.raises(InvalidInput, match="opts"):
            NewJob(name="x", dialect=Dialect.CONVEYOR, opts=opts).check()
    with pytest.raises(InvalidInput, match="must be a Dialect"):
        NewJob(name="x", dialect="conveyor").check()  # type: ignore[arg-type]
