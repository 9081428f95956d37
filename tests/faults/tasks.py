"""The handlers of the fault tests' workers: each writes what it does into a ledger outside the database."""

import asyncio
import ctypes
import json
import os
import signal
import time
from collections.abc import Callable

from switchtower import App, JobContext

app = App()


def note(ctx: JobContext, what: str) -> None:
    """One line, one write: the file stays whole whoever dies."""
    line = json.dumps([what, ctx.id, ctx.attempt, ctx.fence, ctx.lease_token, os.getpid(), time.time()]) + "\n"
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, line.encode())
    os.close(ledger)


@app.task
async def work(ctx: JobContext, seconds: float = 0) -> dict[str, int]:
    note(ctx, "begin")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note(ctx, "stopped")
        raise
    note(ctx, "effect")
    return {"attempt": ctx.attempt}


@app.task(batch_size=20, batch_wait_seconds=0.2)
async def work_together(jobs: list[JobContext]) -> list[int]:
    for ctx in jobs:
        note(ctx, "begin")
    await asyncio.sleep(max(ctx.payload["seconds"] for ctx in jobs))
    for ctx in jobs:
        note(ctx, "effect")
    return [len(jobs)] * len(jobs)


@app.task
async def linger(ctx: JobContext, seconds: float = 30) -> None:
    """Goes on after it was told to stop, and tries everything that only the holder of the lease may do."""
    note(ctx, "begin")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note(ctx, f"stopped {ctx.stop_reason}")
        await late_calls(ctx)
        raise
    await late_calls(ctx)
    note(ctx, "effect")


async def late_calls(ctx: JobContext) -> None:
    calls = {
        "progress": lambda: ctx.progress("late"),
        "log": lambda: ctx.log("late"),
        "child": lambda: ctx.enqueue("work", {}, queue="children"),
    }
    for name, call in calls.items():
        try:
            answer = call()
            if answer is not None:
                await answer
        except Exception as error:
            note(ctx, f"{name} {type(error).__name__}")
        else:
            note(ctx, f"{name} accepted")


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(1),
    "segmentation fault": lambda: ctypes.string_at(0),
    # As the kernel does to whoever takes too much memory.
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "blocked loop": lambda: time.sleep(3_600),
}


@app.task
async def poison(ctx: JobContext, way: str, after_seconds: float = 0) -> None:
    """Takes its process with it."""
    note(ctx, "begin")
    await asyncio.sleep(after_seconds)
    DEATHS[way]()
