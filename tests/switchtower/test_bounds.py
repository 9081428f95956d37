"""The values at the edge of what is allowed, one by one."""

from __future__ import annotations

import math

import pytest

from switchtower.errors import InvalidInput
from switchtower.limits import Limit, QueueLimits
from switchtower.payloads import check_value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_cannot_be_kept(number: float) -> None:
    with pytest.raises(InvalidInput, match="not finite"):
        check_value("payload", [number])


def test_each_part_of_the_limits_bounds_something_alone() -> None:
    one = Limit(concurrency=1)
    parts = [
        QueueLimits(queue=one),
        QueueLimits(per_group=one),
        QueueLimits(names={"n": one}),
        QueueLimits(groups={"g": one}),
    ]
    assert all(parts)
    assert not QueueLimits() and not QueueLimits(names={"n": Limit()}, groups={"g": Limit()})
