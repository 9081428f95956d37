"""`python -m tests.mutants [ids or areas …]`: plants each fault, and says which ones no test noticed."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.fault import Fault
from tests.mutants.faults import AREAS, FAULTS, KNOWN
from tests.mutants.lane import Lane, Verdict
from tests.mutants.results import Results, record

HERE = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the faults that are asked for. Returns 1 when one survived that may not, or could not be judged."""
    options = _parser().parse_args(arguments)
    chosen = _chosen(options.names)
    if options.list:
        for fault in chosen:
            print(f"{fault.id:<36} {fault.path:<36} {fault.says}")
        return 0
    checkout = Path(options.checkout).resolve()
    results = Results(checkout)
    verdicts = {} if options.again else {f.id: known for f in chosen if (known := results.of(f)) is not None}
    left = [fault for fault in chosen if fault.id not in verdicts]
    if left:
        print(f"{len(left)} faults to plant, {len(verdicts)} are known.", flush=True)
        with tempfile.TemporaryDirectory(prefix="switchtower-mutants-") as folder:
            _run(left, verdicts, results, options, checkout, Path(folder))
    if options.record:
        record(verdicts, KNOWN)
    return _tell(chosen, verdicts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Seeded faults, and who notices them.")
    parser.add_argument("names", nargs="*", help="faults or areas by name; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="how many lanes (default: 2)")
    parser.add_argument("--again", action="store_true", help="plant those too whose verdict is known")
    parser.add_argument("--list", action="store_true", help="name the faults, and plant none")
    parser.add_argument("--record", action="store_true", help="write tests/mutants/caught.txt")
    parser.add_argument("--trust", action="store_true", help="believe that a test that failed passes without the fault")
    parser.add_argument("--checkout", default=str(HERE), help="the checkout whose product and tests are meant")
    parser.add_argument("--prefix", default="", help="a command that each run of the tests is started through")
    return parser


def _chosen(names: Sequence[str]) -> list[Fault]:
    known = AREAS | {fault.id: [fault] for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"There is no fault or area {unknown[0]!r}; the areas are {', '.join(AREAS)}.")
    return list(dict.fromkeys(fault for name in names or AREAS for fault in known[name]))


def _run(
    left: Sequence[Fault],
    verdicts: dict[str, Verdict],
    results: Results,
    options: argparse.Namespace,
    checkout: Path,
    folder: Path,
) -> None:
    """Has every lane take the next fault until none is left."""
    waiting: SimpleQueue[Fault | None] = SimpleQueue()
    for fault in [*left, *[None] * options.jobs]:
        waiting.put(fault)
    telling = threading.Lock()

    def work(number: int) -> None:
        root = folder / f"lane{number}"
        root.mkdir()
        lane = Lane(root, checkout, prefix=shlex.split(options.prefix))
        lane.prepare()
        while (fault := waiting.get()) is not None:
            verdict = lane.judge(fault, trust=options.trust)
            with telling:
                verdicts[fault.id] = verdict
                results.add(fault, verdict)
                said = " ".join(filter(None, (verdict.by, verdict.detail)))
                print(f"{verdict.outcome:<9} {fault.id:<36} {verdict.seconds:>6.1f} s  {said}", flush=True)

    with ThreadPoolExecutor(options.jobs) as lanes:
        for done in [lanes.submit(work, number) for number in range(options.jobs)]:
            done.result()


def _tell(chosen: Sequence[Fault], verdicts: dict[str, Verdict]) -> int:
    """The survivors, and how many there are of each outcome in each area."""
    print()
    for area, faults in AREAS.items():
        counts = Counter(verdicts[fault.id].outcome for fault in faults if fault.id in verdicts)
        if counts:
            print(f"{area:<12} " + "  ".join(f"{counts[outcome]:>3} {outcome}" for outcome in sorted(counts)))
    bad = [fault for fault in chosen if verdicts[fault.id].outcome != "caught" and fault.id not in KNOWN]
    for fault in bad:
        verdict = verdicts[fault.id]
        print(f"\n{verdict.outcome.upper()} {fault.id}: {fault.path}: {fault.says}")
        if verdict.detail:
            print(f"  {verdict.by} {verdict.detail}".rstrip())
    for id, reason in KNOWN.items():
        if id in verdicts:
            print(f"\nmay survive: {id}: {reason}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
