"""The parts of the nightly run, each a list of steps that can be stopped between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PARTS", "Step"]

FULL = {"SWITCHTOWER_TEST_SCALE": "full"}


@dataclass(frozen=True)
class Step:
    """One command: pytest with these arguments, or another module with `module`.

    A count that would take hours is split into steps of one kind with different seeds.
    """

    name: str
    arguments: tuple[str, ...]
    module: str = "pytest"
    environment: Mapping[str, str] = field(default_factory=lambda: FULL)
    seeds: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """What is run, after the interpreter."""
        if self.module != "pytest":
            return ("-m", self.module, *self.arguments)
        everything = ("-q", "-m", "nightly or not nightly", "-p", "no:cacheprovider", "--timeout", "3600")
        return ("-m", "pytest", *everything, *self.arguments)


def tests(*paths: str, env: Mapping[str, str] = FULL) -> list[Step]:
    """A step for each file or test."""
    return [Step(path, (path,), environment=env) for path in paths]


def nights(path: str, count: int) -> list[Step]:
    """A test `count` times, each with dice of its own."""
    return [
        Step(
            f"{path} with seed {seed}",
            (path, f"--hypothesis-seed={seed}"),
            environment=FULL | {"SWITCHTOWER_TEST_SEED": str(seed)},
            seeds=(str(seed),),
        )
        for seed in range(1, count + 1)
    ]


_FAULTS = (
    *("audit", "batches", "change_streams", "clocks", "counters", "drain", "frozen_primary", "heartbeats", "limits"),
    *("lost_replies", "orphan_transactions", "poison", "races", "schedulers", "slow_subscribers", "tokens"),
    "workflow_crashes",
)
_DEATHS = "tests/faults/test_worker_deaths.py"

PARTS: dict[str, list[Step]] = {
    "faults": [
        *tests(*(f"tests/faults/test_{name}.py" for name in _FAULTS)),
        *tests(f"{_DEATHS}::test_death_at_a_point", f"{_DEATHS}::test_zombies_are_refused"),
    ],
    "chaos": [
        *nights("tests/faults/test_chaos.py", 10),
        *nights("tests/faults/test_failover.py", 3),
        *tests(f"{_DEATHS}::test_killed_workers_lose_and_double_nothing"),
        *tests("tests/faults/test_server_deaths.py", "tests/acceptance/test_composed.py"),
    ],
    "model": [
        *tests("tests/scope"),
        *nights("tests/model/test_model.py::test_queue_does_what_the_model_says", 50),
    ],
    "fuzz": [
        *nights("tests/fuzz", 10),
        *nights("tests/app/test_fuzz.py", 4),
        *tests("tests/app/rest/test_fuzz.py", "tests/app/rest/test_reach.py"),
    ],
    "motor": tests("tests/conformance", env=FULL | {"SWITCHTOWER_TEST_DRIVER": "motor"}),
    "mutants": [
        *tests("tests/model/test_model.py::test_model_finds_a_seeded_fault"),
        Step("seeded faults of the product", ("--jobs", str(os.cpu_count() or 2)), module="tests.mutants"),
    ],
    "browser": tests("tests/browser"),
    "wheel": tests("tests/acceptance"),
    "large": tests("tests/app/test_export.py", "tests/app/test_bulk_enqueue.py", "tests/app/rest/test_many_queues.py"),
    "soak": tests("tests/faults/test_soak.py"),
    "order": [
        Step("the suite in random order", ("-m", "not nightly", "-p", "randomly"), environment={}),
    ],
}
