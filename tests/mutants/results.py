"""What is known of each fault: kept between runs, so that an interrupted one goes on, and written down for reviews."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.mutants.fault import Fault
from tests.mutants.faults import AREAS
from tests.mutants.lane import Verdict

KEPT = Path(".mutants/results.jsonl")
RECORD = Path(__file__).parent / "caught.txt"


def digest(fault: Fault, checkout: Path) -> str:
    """The fault, its file, and the tests that should notice it: while all are the same, so is the verdict."""
    found = hashlib.sha256(json.dumps(asdict(fault)).encode())
    for name in (fault.path, *(test.partition("::")[0] for test in fault.tests)):
        path = checkout / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes() if file.is_file() else b"")
    return found.hexdigest()[:24]


class Results:
    """The verdicts of one checkout, in a file that git ignores."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._file = checkout / KEPT
        self._rows: dict[str, tuple[str, Verdict]] = {}
        if self._file.is_file():
            for line in self._file.read_text().splitlines():
                row = json.loads(line)
                self._rows[row["id"]] = (row["digest"], Verdict(**row["verdict"]))

    def of(self, fault: Fault) -> Verdict | None:
        """The verdict on a fault, if it is one, and nothing that it depends on has changed since."""
        key, verdict = self._rows.get(fault.id, ("", None))
        if verdict is None or verdict.outcome == "broken" or key != digest(fault, self._checkout):
            return None
        return verdict

    def add(self, fault: Fault, verdict: Verdict) -> None:
        """Keeps a verdict at once."""
        key = digest(fault, self._checkout)
        self._rows[fault.id] = (key, verdict)
        self._file.parent.mkdir(exist_ok=True)
        with self._file.open("a") as file:
            file.write(json.dumps({"id": fault.id, "digest": key, "verdict": asdict(verdict)}) + "\n")


def record(verdicts: Mapping[str, Verdict], known: Iterable[str]) -> None:
    """Writes down which test catches each fault; what was not run now stays as it was."""
    before = dict(line.split("  ", 1) for line in RECORD.read_text().splitlines()) if RECORD.is_file() else {}
    lines = []
    for area, faults in AREAS.items():
        for fault in faults:
            name = f"{area}/{fault.id}"
            verdict = verdicts.get(fault.id)
            if verdict is None:
                said = before.get(name, "not run")
            elif verdict.outcome == "caught":
                said = verdict.by or verdict.detail
            else:
                said = "may survive" if fault.id in known else verdict.outcome.upper()
            lines.append(f"{name}  {said}\n")
    RECORD.write_text("".join(lines))
