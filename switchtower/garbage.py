"""How often does a process of ours look for garbage that only the cycle collector finds?"""

from __future__ import annotations

import gc

__all__ = ["relax"]

YOUNG = 10_000
"""Allocations between two looks at the youngest objects; Python's own default is 700."""


def relax() -> None:
    """Takes everything that is there out of the collector's sight, and has it look less often from now on.

    For a process that has imported what it needs and now works: a batch of jobs or of events is tens of thousands of
    objects that no cycle holds, and looking through them took an eighth of a worker's and of maintenance's time
    (docs/decisions/0011-garbage.md). Never in a user's own process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
