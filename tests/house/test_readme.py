"""The README's code is code: every Python block compiles and its imports exist, the self-contained ones run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from graphql import LoneAnonymousOperationRule, build_schema, parse, specified_rules, validate

from app.rest import DIALECTS

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[str]:
    return [code for found, code in BLOCK.findall((ROOT / "README.md").read_text()) if found == language]


def test_there_is_something_to_check() -> None:
    assert blocks("python") and blocks("graphql")


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_python_blocks_run_as_a_users_module(code: str, tmp_path: Path) -> None:
    ast.parse(code)
    (tmp_path / "tasks.py").write_text(code)
    outcome = subprocess.run([sys.executable, "-c", "import tasks"], cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.parametrize("code", blocks("graphql"), ids=range(len(blocks("graphql"))))
def test_graphql_blocks_are_valid_against_the_schema(code: str) -> None:
    schema = build_schema((ROOT / "schema.graphql").read_text())
    # A block may show several operations, each to be tried alone.
    rules = [rule for rule in specified_rules if rule is not LoneAnonymousOperationRule]
    assert validate(schema, parse(code), rules) == []


RUN_TASK = """
import asyncio, json, sys
import tasks
from switchtower import testing
outcome = asyncio.run(testing.run(getattr(tasks, sys.argv[1]), json.loads(sys.argv[2])))
print(outcome.kind, json.dumps(outcome.result))
"""


def test_task_it_shows_runs_with_the_arguments_it_shows(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"switchtower enqueue (\w+) ((?:\w+=\S+ ?)+)", text)
    assert shown, "the README shows no enqueue command"
    payload = dict(pair.split("=", 1) for pair in shown[2].split())
    (code,) = (block for block in blocks("python") if f"def {shown[1]}(" in block)
    (tmp_path / "tasks.py").write_text(code)
    outcome = subprocess.run(
        [sys.executable, "-c", RUN_TASK, shown[1], json.dumps(payload)], cwd=tmp_path, capture_output=True, text=True
    )
    assert outcome.stdout.startswith("complete "), outcome.stdout + outcome.stderr


def test_commands_it_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^\$ |^)make ([a-z-]+)", text, re.M))
    assert named and named <= targets


def test_every_curl_it_shows_reaches_a_route() -> None:
    shown = re.findall(r"^\$ curl (.*)$", "\n".join(blocks("console")), re.M)
    dialects = set()
    for line in shown:
        method = (re.search(r"-X (\w+)", line) or ["", "GET"])[1]
        path = re.search(r"localhost:8420(/[^\s?'\"]*)", line)
        assert path, line
        found = {
            dialect.name
            for dialect in DIALECTS
            for route in dialect.routes
            if route.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route.path), path[1])
        }
        assert found, line
        dialects |= found
    assert dialects == {dialect.name for dialect in DIALECTS}
