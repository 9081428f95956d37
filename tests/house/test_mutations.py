"""Every mutation says which scope it needs, and every action of an operator leaves a row when it is refused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SCHEMA = Path(__file__).parents[2] / "schema"

# What brings work in, or reports on it, is told by the job's own events; only actions upon what is there are audited.
NOT_AUDITED = {
    "enqueue_job",
    "enqueue_jobs",
    "enqueue_flow",
    "start_workflow",
    "publish_event",
    "claim_jobs",
    "extend_leases",
    "complete_job",
    "fail_job",
    "release_job",
    "report_progress",
    "append_log",
}


def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(), str(path))
    return {n.name: n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}


def decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    calls = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return [node.id for node in calls if isinstance(node, ast.Name)]


def mutations() -> Iterator[tuple[str, str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each mutation, with the resolver that it calls and where that stands."""
    for path in sorted(SCHEMA.glob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        aliases = {
            (alias.asname or alias.name): alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "schema.resolvers"
            for alias in node.names
        }
        for name, function in functions(path).items():
            if "mutation" not in decorators(function):
                continue
            for call in ast.walk(function):
                called = call.func if isinstance(call, ast.Call) else None
                if (
                    isinstance(called, ast.Attribute)
                    and isinstance(called.value, ast.Name)
                    and called.value.id in aliases
                    and called.attr in (found := functions(SCHEMA / "resolvers" / f"{aliases[called.value.id]}.py"))
                ):
                    yield name, called.attr, found[called.attr]


FOUND = list(mutations())


def test_every_mutation_of_the_schema_was_found() -> None:
    text = (SCHEMA.parent / "schema.graphql").read_text()
    fields = text.partition("type Mutation {")[2].partition("\n}")[0]
    in_text, count = False, 0
    depth = 0
    for line in fields.splitlines():
        stripped = line.strip()
        if stripped.startswith('"""') and not (len(stripped) > 3 and stripped.endswith('"""')):
            in_text = not in_text
            continue
        if in_text or stripped.startswith('"""'):
            continue
        count += depth == 0 and (stripped.endswith("(") or "(" in stripped or ": " in stripped)
        depth += stripped.count("(") - stripped.count(")")
    assert len({name for name, _, _ in FOUND}) == count


@pytest.mark.parametrize(("mutation", "resolver"), [(name, resolver) for name, resolver, _ in FOUND])
def test_mutation_needs_a_scope_and_is_audited(mutation: str, resolver: str) -> None:
    function = next(f for name, called, f in FOUND if (name, called) == (mutation, resolver))
    marks = decorators(function)
    assert "needs" in marks, f"{resolver} of {mutation} does not say which scope it needs"
    if mutation not in NOT_AUDITED:
        assert marks[:2] == ["audited", "needs"], f"{resolver} of {mutation} must be @audited, above @needs"


def test_the_exceptions_are_mutations_still() -> None:
    assert {name for name, _, _ in FOUND} >= NOT_AUDITED
