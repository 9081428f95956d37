"""What the suite reaches, by folder: lines and branches, after `make coverage`."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage
from coverage.exceptions import NoDataError

ROOT = Path(__file__).parents[1]
FOLDERS = ("switchtower/engine", "switchtower/store", "app/rest", "switchtower", "schema", "app", "workers")
"""A file counts for each of these that it lies in."""
COUNTED = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def main() -> None:
    measured = Coverage(config_file=str(ROOT / "pyproject.toml"))
    # The run's own, and what processes of its tests left beside it.
    measured.load()
    with suppress(NoDataError):
        measured.combine()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    print(f"{'':20}{'lines':>24}{'branches':>24}")
    for folder in FOLDERS:
        inside = [file["summary"] for path, file in files.items() if path.startswith(f"{folder}/")]
        if not inside:
            sys.exit(f"Nothing of {folder} was measured: run make coverage.")
        lines, all_lines, branches, all_branches = (sum(file[name] for file in inside) for name in COUNTED)
        print(f"{folder:20}{share(lines, all_lines):>24}{share(branches, all_branches):>24}")


def share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} {part / max(whole, 1):7.1%}"


if __name__ == "__main__":
    main()
