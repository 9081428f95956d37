"""How does a process that the command line started end with it, even when that was killed?

`python -P -m switchtower.cli.tether MODULE ARGUMENT...` runs the module as `python -m` would. Standard input is a
pipe that nobody writes to: its end says that the parent is gone, and the process is told to stop as by a SIGTERM.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["main"]

# Beyond the drain; who has not stopped by then never will.
MARGIN_SECONDS = 30


def main() -> None:
    """Runs the module that the arguments name under the watch."""
    module = sys.argv[1]
    del sys.argv[0]
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    threading.Thread(target=_watch, args=(pipe, nothing), name="tether", daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(pipe: int, nothing: int) -> None:
    while os.read(pipe, 4096):
        pass
    # The parent read what is written here; without a reader each write would fail.
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(float(os.environ.get("SWITCHTOWER_DRAIN_SECONDS") or 30) + MARGIN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
