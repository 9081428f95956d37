"""The state machine against its model, on the real engine and database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from pymongo import MongoClient

from tests.model.machine import BulkJobs, Flows, Groups, QueueMachine, Runs, Schedules, SingleJobs, World
from tests.model.mutants import MUTANTS, Mutant
from tests.model.mutants_of_groups import MUTANTS_OF_GROUPS
from tests.model.mutants_of_many import MUTANTS_OF_BULK, MUTANTS_OF_CRONS, MUTANTS_OF_FLOWS
from tests.model.mutants_of_runs import MUTANTS_OF_RUNS
from tests.model.rules.base import Comparing
from tests.nightly.counting import count
from tests.nightly.scale import SEED

EXAMPLES = {"ci": 6, "full": 400}
GATE_EXAMPLES = 100
GATE_SEEDS = (1, 2, 3, 4)
"""How often a rule is drawn differs much from seed to seed; a race may also be won by the wrong side throughout."""


def budget(examples: int, *, steps: int = 50) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


@pytest.fixture
def world(mongodb_url: str, database_name: str, mongo: MongoClient[dict[str, Any]]) -> Iterator[World]:
    opened = World.open(mongodb_url, database_name, mongo[database_name])
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.timeout(14_000)
def test_queue_does_what_the_model_says(world: World, scale: str) -> None:
    machine = type("Machine", (QueueMachine,), {"world": world})
    seed(20_000 + SEED)(machine)
    try:
        run_state_machine_as_test(machine, settings=budget(EXAMPLES[scale]))
    finally:
        if world.failures:
            pytest.fail(world.failures[0])
    assert world.steps > EXAMPLES[scale] * 50
    count("G9", "steps", world.steps)


# A fault is looked for by the rules of its noun: among all rules, they would come too seldom for a quick gate.
GATES: list[tuple[type[Comparing], Mutant, int]] = [
    *((SingleJobs, mutant, 50) for mutant in MUTANTS),
    *((Flows, mutant, 12) for mutant in MUTANTS_OF_FLOWS),
    *((BulkJobs, mutant, 12) for mutant in MUTANTS_OF_BULK),
    *((Schedules, mutant, 12) for mutant in MUTANTS_OF_CRONS),
    *((Runs, mutant, 12) for mutant in MUTANTS_OF_RUNS),
    *((Groups, mutant, 12) for mutant in MUTANTS_OF_GROUPS),
]
"""The steps of an example with them: a rule of flows, bulk operations, crons, runs or groups is a story of its own."""


QUICK = ("report_by_state_only", "report_by_id_only", "rescue_without_the_seen_token")
"""Faults that the first examples notice: the gate itself is tried in every run of the suite, and whole at night."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "mutant", "steps"),
    [
        pytest.param(*gate, id=gate[1].__name__, marks=[] if gate[1].__name__ in QUICK else pytest.mark.nightly)
        for gate in GATES
    ],
)
def test_model_finds_a_seeded_fault(world: World, rules: type[Comparing], mutant: Mutant, steps: int) -> None:
    with mutant() as dropped:
        if isinstance(dropped, tuple):
            collection, index = dropped
            world.view[collection].drop_index(index)
        for number in GATE_SEEDS:
            machine = type("Machine", (rules,), {"world": world})
            seed(number)(machine)
            with suppress(Exception):
                run_state_machine_as_test(machine, settings=budget(GATE_EXAMPLES, steps=steps))
            if world.failures:
                break
    count("G9", "mutants caught", bool(world.failures))
    assert world.failures, f"{len(GATE_SEEDS) * GATE_EXAMPLES} examples did not notice it"
