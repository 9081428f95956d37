"""CPU-bound tasks: their processes import this module by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

from switchtower import App, Fail, JobContext, RetryAt

app = App()


@app.task(cpu_bound=True)
def square(ctx: JobContext, n: int) -> dict[str, int]:
    for step in range(5):
        ctx.log(f"step {step}")
        ctx.progress(step * 25)
    return {"square": n * n, "pid": os.getpid()}


@app.task(cpu_bound=True, max_attempts=1)
def breaks(how: str) -> None:
    if how == "exit":
        os._exit(9)
    if how == "fail":
        raise Fail("not again")
    if how == "later":
        raise RetryAt(3600, "much later")
    raise ValueError(f"it broke: {how}")


@app.task(cpu_bound=True, max_attempts=1)
def spin(path: str) -> None:
    """Deaf to everything but a kill; shows its process id first."""
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)
