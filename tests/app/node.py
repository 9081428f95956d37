"""Runs one of the scripts of tests/js with Node, against a served application."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "js"


def node(script: str, *arguments: str, timeout_seconds: float = 60) -> list[dict[str, Any]]:
    """The JSON objects that the script printed, one a line. Skips the test where Node or its packages are missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    if not (SCRIPTS / "node_modules").is_dir():
        pytest.skip("tests/js has no node_modules: run npm ci there")
    done = subprocess.run(
        [program, script, *arguments], cwd=SCRIPTS, capture_output=True, text=True, timeout=timeout_seconds
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
