"""`python -m bench`: measures, prints one JSON line a figure and a table, and can write the table into a page."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.benches import BENCHES, Run
from bench.figures import Figure, rates_table, ratios_table
from bench.peers import Peers
from switchtower import embedded
from switchtower.errors import SwitchtowerError

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benches; returns 0 when all could be run, whatever they found, and 1 when one broke."""
    options = _parser().parse_args(arguments)
    # An end from outside still ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, embedded.start(Path(scratch)) as database:
        figures, broken = asyncio.run(_measure(database.url, Path(scratch), options))
    print(f"\n{ratios_table(figures)}\n{rates_table(figures)}\n{time.monotonic() - began:.0f} s", flush=True)
    if options.write is not None:
        _write(options.write, figures)
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join(BENCHES)
    parser.add_argument("--only", nargs="+", choices=BENCHES, metavar="NAME", help=f"only these: {names}")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every count (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each measurement gets (default: 3)")
    parser.add_argument("--no-peers", action="store_true", help="leave other queues out; nothing is installed")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page, between its marks")
    return parser


async def _measure(url: str, scratch: Path, options: argparse.Namespace) -> tuple[list[Figure], bool]:
    peers = Peers(url, scratch=scratch)
    if options.no_peers:
        peers.leave_out("left out by --no-peers")
    else:
        await peers.install()
    run = Run(url, peers, rounds=options.rounds, scale=options.scale)
    figures: list[Figure] = []
    broken = False
    for name in options.only or BENCHES:
        try:
            found = await BENCHES[name](run)
        except (SwitchtowerError, RuntimeError, TimeoutError, AssertionError) as error:
            broken = True
            found = [Figure(bench=name, name=name, missing=f"broke: {type(error).__name__}: {error}")]
        for figure in found:
            print(figure.line(), flush=True)
        figures += found
    return figures, broken


def _write(page: Path, figures: Sequence[Figure]) -> None:
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} has no place for the tables: put {BEGIN} and {END} on lines of their own.")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n\n{ratios_table(figures)}\n{rates_table(figures)}\n{END}{tail}")


if __name__ == "__main__":
    sys.exit(main())
