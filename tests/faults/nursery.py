"""The process that `tests.faults.processes.Nursery` talks to: one order a line, one forked worker an order."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from switchtower import failpoints, runner, worker
from switchtower.engine import heartbeat

IMPORTED_ONCE = (worker, heartbeat)


def serve() -> None:
    # Nobody waits for the forks: the kernel takes them away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become_worker(order)
        print(pid, flush=True)


def become_worker(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    failpoints._CHOSEN = order["die_at"]
    code = 1
    try:
        code = runner.main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
