"""The seeded faults fit the product as it is: each can be planted, and the tests that should notice it are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.fault import Fault
from tests.mutants.faults import FAULTS, KNOWN

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("switchtower/", "switchtower/store/", "switchtower/engine/", "switchtower/cli/", "schema/", "workers/", "app/"),
    *("app/dashboard/", "app/rest/dispatch/", "app/rest/dispatched/", "app/rest/conveyor/", "app/rest/asyncmq/"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_can_be_planted(fault: Fault) -> None:
    assert (ROOT / fault.path).read_text().count(fault.old) == 1
    assert fault.new != fault.old


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_the_tests_of_a_fault_are_there(fault: Fault) -> None:
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), test
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_there_are_many_and_everywhere() -> None:
    assert len(FAULTS) >= 80
    assert [id for id, count in Counter(fault.id for fault in FAULTS).items() if count > 1] == []
    assert [path for path, count in Counter(fault.path for fault in FAULTS).items() if count > 10] == []
    assert [folder for folder in FOLDERS if not any(fault.path.startswith(folder) for fault in FAULTS)] == []


def test_what_may_survive_is_little_and_named_with_a_reason() -> None:
    assert len(KNOWN) <= 3
    assert set(KNOWN) <= {fault.id for fault in FAULTS}
    assert all(KNOWN.values())
