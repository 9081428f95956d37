"""`python -m tests.nightly [parts …]`: the long tests, part by part; goes on where it was stopped.

`python -m tests.nightly report` writes docs/reliability.md from what was counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.nightly.counting import RESULTS
from tests.nightly.goals import GOALS, NOT_COUNTED
from tests.nightly.parts import PARTS, Step

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".nightly"
KEPT = ROOT / "docs" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
SEED = re.compile(r"@seed\((\d+)\)|randomly_seed=(\d+)")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are asked for. Returns 1 when a step failed."""
    options = _parser().parse_args(arguments)
    if options.parts == ["report"]:
        PAGE.write_text(page(json.loads(KEPT.read_text())))
        return 0
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        sys.exit(f"There is no part {', '.join(sorted(unknown))}. Parts: {' '.join(PARTS)}")
    STATE.mkdir(exist_ok=True)
    commit = _commit()
    ends_at = time.monotonic() + options.minutes * 60
    failed = 0
    for part in options.parts or PARTS:
        before = {row["step"]: row for row in results(part) if counts_for(row, commit, options)}
        exactly = [step for step in PARTS[part] if step.name == options.step]
        for step in exactly or [step for step in PARTS[part] if options.step in step.name]:
            if step.name in before:
                print(f"{part}: {step.name}: passed at {before[step.name]['commit']}", flush=True)
                continue
            if time.monotonic() > ends_at:
                print(f"{part}: {step.name}: left for the next run, the time is up", flush=True)
                continue
            failed += not _run(part, step, commit)
        _tell(part)
    keep()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{' '.join(PARTS)}, or report; all parts unless given")
    parser.add_argument("--again", action="store_true", help="run the steps too that passed at this commit")
    parser.add_argument("--any-commit", action="store_true", help="leave out what passed at another commit too")
    parser.add_argument("--step", default="", help="run only the step of this name, or those that have it in theirs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no step after so long")
    return parser


def counts_for(row: Row, commit: str, options: argparse.Namespace) -> bool:
    """Whether a step need not be run again for this result."""
    return bool(row["ok"]) and not options.again and (options.any_commit or row["commit"] == commit)


def results(part: str) -> list[Row]:
    """The results of a part that are kept in this checkout, the oldest first."""
    path = STATE / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _run(part: str, step: Step, commit: str) -> bool:
    """Runs one step and appends its result. Returns whether it passed."""
    counts = STATE / "counts"
    counts.unlink(missing_ok=True)
    log = STATE / f"{part}.log"
    print(f"{part}: {step.name}", flush=True)
    began = time.monotonic()
    with log.open("a") as output:
        output.write(f"\n== {step.name} ({commit})\n")
        output.flush()
        place = output.tell()
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), RESULTS: str(counts)} | step.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    said = log.read_text(errors="replace")[place:]
    counted: dict[str, int] = defaultdict(int)
    for line in counts.read_text().splitlines() if counts.is_file() else ():
        row = json.loads(line)
        counted[f"{row['goal']} {row['what']}"] += row["count"]
    result: Row = {
        "part": part,
        "step": step.name,
        "commit": commit,
        "ok": code == 0,
        "seconds": round(time.monotonic() - began, 1),
        "says": said.strip().splitlines()[-1][:200] if said.strip() else "",
        "seeds": sorted({*step.seeds, *(seed for found in SEED.findall(said) for seed in found if seed)}),
        "counts": counted,
        "command": f"make nightly ARGS=\"{part} --again --step '{step.name}'\"",
    }
    with (STATE / f"{part}.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(f"    {'passed' if code == 0 else f'FAILED, see {log}'} in {result['seconds']:.0f} s", flush=True)
    return code == 0


def _tell(part: str) -> None:
    counted = totals(latest(results(part)))
    for goal in GOALS:
        if goal.part == part:
            number = counted[goal.key]
            print(f"    {goal.id} {goal.what}: {number:,} of {goal.wanted:,}: {goal.verdict(number)}", flush=True)


def totals(rows: list[Row]) -> dict[str, int]:
    """What the steps that passed have counted, by the goal's key."""
    counted: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["ok"]:
            for key, number in row["counts"].items():
                counted[key] += number
    return counted


def latest(rows: list[Row]) -> list[Row]:
    """The last result of each step."""
    return list({key(row): row for row in rows}.values())


def key(row: Row) -> tuple[str, str]:
    return row["part"], row["step"]


def keep() -> None:
    """Adds what this checkout found to the committed results, and writes the page."""
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else []
    rows = latest([*kept, *(row for part in PARTS for row in results(part))])
    places = {
        (part, step.name): (number, place)
        for number, part in enumerate(PARTS)
        for place, step in enumerate(PARTS[part])
    }
    # A step that is no more says nothing of this tree.
    rows = sorted((row for row in rows if key(row) in places), key=lambda row: places[key(row)])
    KEPT.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))


def page(rows: list[Row]) -> str:
    """docs/reliability.md."""
    counted = totals(rows)
    lines = [
        "# Reliability: what was tried",
        "",
        "Written by `make nightly`, from [reliability.json](reliability.json); anew by `make nightly ARGS=report`.",
        "A count that is short of its goal is said to be short; a goal without a count was not tried yet.",
        "",
        "| goal | promise | counted | wanted in a night | part | |",
        "|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        number = counted[goal.key]
        counts = f"{number:,} {goal.what} | {goal.wanted:,}"
        lines.append(f"| {goal.id} | {goal.says} | {counts} | {goal.part} | {goal.verdict(number)} |")
    lines += ["", *(f"- {gap}" for gap in NOT_COUNTED)]
    lines += ["", "| part | step | result | seconds | seeds | commit | command |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        outcome = row["says"].strip("= ") if row["ok"] else f"**failed**: {row['says'].strip('= ')}"
        outcome = outcome.replace("|", "\\|")
        seeds = ", ".join(row["seeds"]) or "fixed"
        lines.append(
            f"| {row['part']} | {row['step']} | {outcome} | {row['seconds']:,.0f} | {seeds} | {row['commit']} "
            f"| `{row['command']}` |"
        )
    return "\n".join(lines) + "\n"


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
