"""What is generated and committed is what the code generates now; what is exported is what is promised."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import switchtower

ROOT = Path(__file__).parents[2]


def printed_by(module: str) -> str:
    outcome = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_schema_file_is_fresh() -> None:
    assert (ROOT / "schema.graphql").read_text() == printed_by("schema.export"), "run: make schema"


def test_states_page_is_fresh() -> None:
    assert (ROOT / "docs" / "states.md").read_text() == printed_by("switchtower.states"), "run: make docs"


def test_what_the_package_exports_exists_and_is_sorted() -> None:
    assert sorted(switchtower.__all__) == list(switchtower.__all__)
    for name in switchtower.__all__:
        assert getattr(switchtower, name) is not None


# A `__main__` is a program: importing it runs it.
MODULES = sorted(path for path in (ROOT / "switchtower").rglob("*.py") if path.stem != "__main__")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_all_names_what_its_module_has(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), f"{name}.__all__ names {exported}"


def test_version_is_one() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared
    assert f"## {declared[1]}" in (ROOT / "CHANGELOG.md").read_text(), "the changelog does not speak of this version"
