"""How smoothly does a page move while a hundred things a second happen on it? `python -m bench.frames`."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from playwright.async_api import async_playwright

from bench.painting import ARGUMENTS, DATABASE, serving
from bench.waiting import until
from switchtower import embedded
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo

CALLER = Caller("bench")
QUEUE, WORKER = "orders", "wkr_bench"
PER_SECOND = 100
STEP_SECONDS = 0.1
TARGET = 50
PAGES = ("/", "/queues", f"/queues/{QUEUE}", f"/queues/{QUEUE}/jobs?size=100", "/jobs", "/metrics")
# The times between two frames while the page is watched, and how many things it was told of meanwhile.
WATCH = """
window.frames_ = []; window.told = 0;
const Socket = WebSocket;
window.WebSocket = class extends Socket {
  constructor(...given) {
    super(...given);
    this.addEventListener('message', ({ data }) => { if (data.includes('JobTransition')) window.told += 1; });
  }
};
let last = performance.now();
const next = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(next); };
requestAnimationFrame(next);
"""


async def work(engine: Engine, until_done: asyncio.Event) -> int:
    """Enqueues, starts and completes jobs, so that about a hundred events a second are to be shown; returns how many
    there were."""
    await engine.workers.register(WorkerInfo(id=WORKER, queues=[QUEUE]))
    events, began = 0, time.monotonic()
    while not until_done.is_set():
        # Three of each job: it came, it was taken, it was done.
        wanted = max(1, int((time.monotonic() - began) * PER_SECOND - events) // 3)
        await engine.jobs.enqueue_many(
            [NewJob(name="ship", queue=QUEUE, payload={"n": events})] * wanted, caller=CALLER
        )
        claimed = await engine.claims.claim(WORKER, [QUEUE], limit=wanted)
        await engine.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE, ran_ms=5) for job in claimed])
        events += wanted + 2 * len(claimed)
        await asyncio.sleep(STEP_SECONDS)
    return events


async def measure(url: str, engine: Engine, seconds: float) -> bool:
    """Prints the frames of each page; whether all keep up."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    kept_up = True
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        for path in PAGES:
            page = await browser.new_page(viewport={"width": 1280, "height": 860})
            await page.add_init_script(WATCH)
            await page.goto(url + path)
            await page.locator(".link", has_text="live").wait_for()
            done = asyncio.Event()
            working = asyncio.create_task(work(engine, done))
            # What the first events cost once, such as compiling, is not what is measured.
            await until(partial(page.evaluate, "window.told > 50"))
            await page.evaluate("window.frames_.length = 0; window.told = 0")
            await asyncio.sleep(seconds)
            frames, told = await page.evaluate("[window.frames_, window.told]")
            done.set()
            await working
            await page.close()
            kept_up &= _said(path, frames, told, seconds)
        await browser.close()
    return kept_up


def _said(path: str, frames: list[float], told: int, seconds: float) -> bool:
    rate = 1_000 * len(frames) / sum(frames)
    late = sum(each > 1_000 / TARGET for each in frames) / len(frames)
    slowest = max(frames)
    print(
        f"{path:<32} {rate:5.1f} frames/s, median {statistics.median(frames):4.1f} ms, slowest {slowest:5.0f} ms, "
        f"{late:5.1%} over {1_000 // TARGET} ms; {told / seconds:4.0f} events/s",
        flush=True,
    )
    return rate > TARGET


async def run(database_url: str, seconds: float) -> bool:
    engine = await Engine.connect(database_url, database=DATABASE)
    await engine.prepare()
    await engine.jobs.enqueue(NewJob(name="first", queue=QUEUE), caller=CALLER)
    with serving(database_url) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            assert (await http.get("/readyz")).status_code == 200
        kept_up = await measure(url, engine, seconds)
    await engine.close()
    return kept_up


def main() -> int:
    """Measures on a database of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.frames", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, embedded.start(Path(scratch)) as database:
        return 0 if asyncio.run(run(database.url, options.seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
