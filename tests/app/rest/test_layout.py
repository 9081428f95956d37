"""A dialect reaches what it shows through resolvers, and decides nothing itself."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REST = ROOT / "app" / "rest"
DASHBOARD = ROOT / "app" / "dashboard"
TYPES = {"switchtower.engine"}
"""What pages name in their annotations alone: import-linter sees to that."""
OURS = ("app", "schema", "switchtower", "workers")


def vocabulary() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each for each in contracts if each["type"] == "layers" and each.get("containers"))["layers"]
    return {f"switchtower.{name}" for name in layers[-1].split(" : ")}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from schema.resolvers import jobs` imports a module.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module in OURS else {node.module}
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("path", sorted(REST.rglob("*.py")), ids=lambda path: str(path.relative_to(REST)))
def test_what_a_dialect_imports(path: Path) -> None:
    allowed = vocabulary() | {"schema.context", "app.limits"}
    if path.parent == REST:
        allowed |= {"app.auth", "app.strict", "app.forms", "app.sessions", "app.visit"}
    reached = ["schema.resolvers", "app.rest"]
    if path.parent.name in ("asyncmq", "dashboard"):
        allowed |= {"app.sessions", "app.strict", "app.visit"}
        reached.append("app.dashboard")
    for name in imported(path) - TYPES:
        assert name in allowed or name.startswith(tuple(reached)), name


@pytest.mark.parametrize("path", sorted(DASHBOARD.glob("*.py")), ids=lambda path: path.name)
def test_what_the_dashboard_imports(path: Path) -> None:
    allowed = vocabulary() | {"schema.context", "app.visit", "app.front_door", "app.limits", "app.forms"}
    for name in imported(path) - TYPES:
        assert name in allowed or name.startswith(("schema.resolvers", "app.dashboard")), name


@pytest.mark.parametrize("path", sorted(REST.glob("*/*.py")), ids=lambda path: str(path.relative_to(REST)))
def test_a_dialect_does_not_branch_on_states(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If | ast.While | ast.Match):
            test = node.subject if isinstance(node, ast.Match) else node.test
            assert "JobState" not in ast.dump(test) and ".state" not in ast.unparse(test), ast.unparse(test)
