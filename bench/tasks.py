"""Which handlers does a measured worker run? One that does nothing, and one that tells when it started."""

from __future__ import annotations

import os
import time

import switchtower

app = switchtower.App()


@app.task(name="noop")
async def noop(i: int = 0) -> None:
    """Does nothing."""


@app.task(name="tell")
async def tell(i: int = 0) -> None:
    """Prints when it started, in nanoseconds of the machine's clock."""
    os.write(1, b"%d %d\n" % (i, time.time_ns()))
