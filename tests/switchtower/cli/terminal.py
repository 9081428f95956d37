"""Runs the command line in this process, as a shell would."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import orjson

from switchtower.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [orjson.loads(line) for line in self.out.splitlines()]


async def switchtower(*arguments: str, stdin: str = "") -> Outcome:
    """What `switchtower ARGUMENT...` ends with; it runs in a thread, off a terminal."""
    return await asyncio.to_thread(_run, arguments, stdin)


def _run(arguments: tuple[str, ...], stdin: str) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with _process(["switchtower", *arguments], stdin), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())


@contextmanager
def _process(argv: list[str], stdin: str) -> Iterator[None]:
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = argv, io.StringIO(stdin)
    try:
        yield
    finally:
        sys.argv, sys.stdin = before
