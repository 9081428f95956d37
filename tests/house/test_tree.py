"""The house rules that a reader would otherwise have to trust: sizes, names, waits, what must not be written."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("switchtower", "schema", "app", "workers")
LINES = 600
SLEEP_SECONDS = 0.2


@cache
def project_files() -> tuple[Path, ...]:
    """What belongs to the project: tracked, or new and not ignored; in an unpacked archive, everything."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        skipped = {".venv", "node_modules", "__pycache__", ".git", ".switchtower"}
        paths = [path for path in ROOT.rglob("*") if not skipped & set(path.relative_to(ROOT).parts)]
    return tuple(path for path in paths if path.is_file())


def python_files(*folders: str) -> list[Path]:
    return [p for p in project_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders]


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_project_files_are_found() -> None:
    # Every other test here passes on an empty list.
    assert {"switchtower", "tests"} <= {path.relative_to(ROOT).parts[0] for path in project_files()}
    assert len(python_files(*PACKAGES)) > 20


def test_no_module_is_longer_than_a_reader_holds_in_mind() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in python_files(*PACKAGES, "bench")}
    assert {str(path): lines for path, lines in lengths.items() if lines > LINES} == {}


def test_every_module_says_which_question_it_answers() -> None:
    undocumented = [
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES)
        if path.read_text().strip() and not ast.get_docstring(syntax(path))
    ]
    assert undocumented == []


def test_tests_are_packages() -> None:
    # Without its __init__.py, tests/schema would shadow schema.
    folders = {path.parent for path in python_files("tests")}
    assert sorted(str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()) == []


def test_names_of_grab_bags_are_not_used() -> None:
    words = {"utils", "util", "common", "helpers", "helper", "manager", "service", "misc"}
    assert [str(p.relative_to(ROOT)) for p in python_files(*PACKAGES, "tests", "bench") if p.stem in words] == []


def test_no_machine_and_no_registry_is_named() -> None:
    # Spelled so that this file does not contain what it forbids.
    machine = re.compile(r"(?<![\w.-])/" + r"(?:work|farm)/[a-z]\w*")
    registry = re.compile(r"(?:files\.pythonhosted|registry\.(?:npmjs|yarnpkg))" + r"\.(?:org|com)|\"resolved\":")
    found = []
    for path in project_files():
        if path.suffix in {".png", ".ico", ".jpg", ".woff2"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if (machine.search(line) or registry.search(line)) and path != Path(__file__):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_tests_wait_for_conditions_not_for_time() -> None:
    sleeping = []
    for path in python_files("tests"):
        for node in ast.walk(syntax(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "sleep"
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, int | float)
                and node.args[0].value > SLEEP_SECONDS
                # A handler that would run for ever is what a timeout, a cancel or a kill is tested on.
                and node.args[0].value < 30
            ):
                sleeping.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert sleeping == []


@pytest.mark.parametrize("package", ["mongomock", "mongomock_motor"])
def test_the_imitation_database_serves_reading_only(package: str) -> None:
    # It drops $$NOW in silence and knows no sessions, change streams or bulk updates: a transition that passes on it
    # proves nothing.
    allowed = {"test_listing.py", "test_wire.py"}
    users = [path for path in python_files("tests") if any(n.split(".")[0] == package for n in imports(syntax(path)))]
    assert [str(path.relative_to(ROOT)) for path in users if path.name not in allowed] == []


def test_store_takes_its_time_from_the_database() -> None:
    # Lease arithmetic on a worker's clock steals live jobs: an hour's difference took 50 of 50.
    found = []
    for path in python_files("switchtower"):
        if path.relative_to(ROOT).parts[1] != "store":
            continue
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "datetime.now",
                "datetime.utcnow",
                "datetime.datetime.now",
                "time.time",
            }:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_unfinished_work_is_not_committed() -> None:
    marks = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|NotImplemented" + r"Error")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(*PACKAGES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []
