"""Writes `constraints.txt`: the exact versions that are tested, for every platform, of all that any extra asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADER = """\
# The versions that the tests run with; `make constraints` raises them.
"""


def main() -> None:
    answer = subprocess.run(
        [
            str(Path(sys.executable).with_name("uv")),
            "pip",
            "compile",
            "pyproject.toml",
            "--all-extras",
            "--universal",
            "--upgrade",
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--quiet",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # Nothing here runs in a browser: its packages and markers are noise.
    lines = [line.replace(" ; sys_platform != 'emscripten'", "") for line in answer.stdout.splitlines()]
    pins = [line for line in lines if "emscripten" not in line]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main()
