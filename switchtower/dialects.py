"""Which dialect created a job, and what does a priority mean in it?

Every priority is kept as one number, the rank: lower runs first. Each dialect's own priority is worked out of it, so
that a job is right in all of them.
"""

from __future__ import annotations

import math
from enum import StrEnum

__all__ = ["Dialect", "priority_of", "rank_of", "whole_priority"]

INT32 = range(-(2**31), 2**31)
NORMAL_IN_ASYNCMQ = 5


class Dialect(StrEnum):
    """The REST dialects that jobs are created through."""

    DISPATCH = "dispatch"
    DISPATCHED = "dispatched"
    ASYNCMQ = "asyncmq"
    CONVEYOR = "conveyor"


def rank_of(dialect: Dialect, priority: float) -> float:
    """The rank of a job that has this priority in the dialect's own sense; 0 is everybody's default."""
    match dialect:
        case Dialect.DISPATCH:
            return -priority
        case Dialect.ASYNCMQ:
            return priority - NORMAL_IN_ASYNCMQ
        case Dialect.DISPATCHED | Dialect.CONVEYOR:
            return priority


def priority_of(dialect: Dialect, rank: float) -> float:
    """The priority that a job of this rank has in the dialect's own sense, whoever created it."""
    match dialect:
        case Dialect.DISPATCH:
            return -rank
        case Dialect.ASYNCMQ:
            return rank + NORMAL_IN_ASYNCMQ
        case Dialect.DISPATCHED | Dialect.CONVEYOR:
            return rank


def whole_priority(rank: float) -> int:
    """The whole number of 32 bits nearest to a rank: what stands for it where fractions cannot."""
    return max(INT32.start, min(INT32.stop - 1, math.floor(rank + 0.5)))
