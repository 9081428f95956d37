"""The process that `tests.faults.processes` talks to: one order a line, one forked worker or server an order."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from switchtower import failpoints

PROGRAMS = {
    "worker": ("switchtower.runner", "switchtower.worker", "switchtower.engine.heartbeat"),
    "server": ("app.__main__",),
}
"""What is imported once for all forks; the first has the `main` that each of them runs."""


def serve(program: str) -> None:
    program_itself, *_ = [import_module(name) for name in PROGRAMS[program]]
    main = program_itself.main
    # Nobody waits for the forks: the kernel takes them away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(main, order)
        print(pid, flush=True)


def become(main: Callable[[list[str]], int], order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    failpoints._CHOSEN = order["die_at"]
    code = 1
    try:
        code = main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
