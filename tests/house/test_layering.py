"""Imports point down, never up or sideways: the contracts of pyproject.toml hold, and see every module."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_contracts_are_kept() -> None:
    outcome = lint_imports()
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("switchtower.retry", "import pymongo"),
        ("switchtower.retry", "import switchtower.store.jobs"),
        ("switchtower.worker", "import switchtower.store.jobs"),
        ("switchtower.store.jobs", "import switchtower.engine"),
        ("switchtower.engine", "import strawberry"),
        ("switchtower.engine", "import schema.context"),
        ("schema.resolvers", "import strawberry"),
        ("schema.build", "import fastapi"),
        ("schema.build", "import app.main"),
        ("app.main", "import workers.supervisor"),
        ("app.main", "import pymongo"),
        ("app.rest.dialect", "import switchtower.engine"),
        ("app.rest.dispatch.wire", "import strawberry"),
        ("workers.supervisor", "import app.settings"),
        ("workers.supervisor", "import schema.context"),
    ],
)
def test_each_forbidden_import_is_caught(tmp_path: Path, module: str, line: str) -> None:
    for package in ("switchtower", "schema", "app", "workers"):
        (tmp_path / package).symlink_to(ROOT / package)
    package, *rest = module.split(".")
    # A copy of the one package with the one line added; the others are the real ones.
    (tmp_path / package).unlink()
    _copy(ROOT / package, tmp_path / package)
    path = tmp_path.joinpath(package, *rest)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(path.read_text() + f"\n\ndef _trespass() -> None:\n    {line}\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    outcome = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "BROKEN" in outcome.stdout


def test_every_module_of_the_engine_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers" and contract.get("containers"))
    assert layers["exhaustive"] is True


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            _copy(path, target / path.name)
        elif path.suffix == ".py":
            (target / path.name).write_text(path.read_text())
