"""What users name cannot write lines of its own into our logs, nor talk to a terminal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, structlog
from switchtower.instrument import configure_logging

configure_logging(as_json={as_json})
EVIL = "mail\\r\\n2026-01-01 [info] all is well \\x1b[2J\\x9b31m\\x7f"
structlog.get_logger("switchtower.rest").error("request failed", path="/v1/\\x1b[31mred", queue=EVIL)
structlog.get_logger("switchtower.rest").error(EVIL)
logging.getLogger("library").warning("the job %s failed", EVIL)
structlog.get_logger("switchtower.rest").error("long", name="x" * 1_000_000)
"""


def logged(as_json: bool) -> list[str]:
    program = PROGRAM.format(as_json=as_json)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    return ran.stderr.decode().removesuffix("\n").split("\n")


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
def test_a_log_line_is_one_line_of_bounded_length(as_json: bool) -> None:
    lines = logged(as_json)
    assert len(lines) == 4
    for line in lines:
        assert line.isprintable() and len(line) < 5_000, line
    assert all("all is well" in line for line in lines[:3]), "it is shown, and harmless"
    if as_json:
        assert [json.loads(line)["level"] for line in lines] == ["error", "error", "warning", "error"]


def test_a_traceback_does_not_talk_to_the_terminal() -> None:
    program = """
import logging
from switchtower.instrument import configure_logging
configure_logging(as_json=False)
try:
    raise ValueError("red \\x1b[31m")
except ValueError:
    logging.getLogger("library").exception("failed")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    lines = ran.stderr.decode().rstrip("\n").split("\n")
    assert lines[-1] == "ValueError: red \\x1b[31m" and all(line.isprintable() for line in lines)
