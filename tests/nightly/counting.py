"""What a test counted: told to the nightly run, and to nobody else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

RESULTS = "SWITCHTOWER_TEST_RESULTS"
"""The file that counts are appended to; without it nothing is kept."""

Count = Callable[[str, str, int], None]


def count(goal: str, what: str, number: int) -> None:
    """Notes that a test did `number` of `what` for a goal or fault of the nightly table (`tests.nightly.goals`)."""
    if path := os.environ.get(RESULTS):
        with open(path, "a") as file:
            file.write(json.dumps({"goal": goal, "what": what, "count": number}) + "\n")
