"""How soon does a browser show each page of the dashboard, on a million jobs? `python -m bench.painting [--jobs N]`.

Beside the jobs there are a hundred workers, a thousand crons, a flow of a thousand jobs among small ones, and two
thousand runs, one of them with a hundred steps.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from playwright.async_api import async_playwright

from app.main import create_app
from app.server import Server, bind, configure
from app.settings import ServerSettings
from bench.searching import CALLER, fill
from bench.waiting import until
from switchtower import embedded
from switchtower.attempts import ErrorKind, JobError, fingerprint
from switchtower.crons import NewCron, Schedule
from switchtower.engine import Engine
from switchtower.flows import FlowNode
from switchtower.ids import run_id
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.store.documents import error_document
from switchtower.workers import WorkerInfo
from switchtower.workflows import NewRun, Step, StepKind, StepStatus

ROUNDS = 5
FRAME_BYTES = 2 * 1024 * 1024
DATABASE = "painting"
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
PAGES = (
    "/",
    "/queues",
    "/queues/orders",
    "/queues/orders/jobs",
    "/queues/orders/jobs?state=completed",
    f"/queues/orders/jobs?q={quote('user31@example.org')}",
    "/queues/rare/jobs/{job}",
    "/jobs/{job}",
    "/queues/orders/dlq",
    "/queues/orders/repeatables",
    "/queues/orders/repeatables/new",
    "/jobs",
    "/jobs?state=failed&by=error",
    "/jobs?text=user31",
    "/jobs?path=order.id&value=31",
    "/jobs?queue=rare",
    "/jobs?name=ship&state=waiting",
    "/dead-letters",
    "/crons",
    "/crons/{cron}",
    "/crons/new",
    "/flows",
    "/flows/{flow}",
    "/runs",
    "/runs/{run}",
    "/workers",
    "/metrics",
    "/audit",
    "/search",
    f"/search?q={quote('user31@example.org')}",
    "/keys",
    "/enqueue",
    "/graphql",
)
COUNTED = "{ stats { jobs } }"
TARGET_MS = 1_000
COMPLETED_OF, FAILED_OF, FAULTS = 5, 20, 40
WORKERS, CRONS, FLOWS, LARGE_FLOW, RUNS, STEPS = 100, 1_000, 300, 1_000, 2_000, 100
HOUR_SECONDS = 3_600
DAILY = Schedule("0 3 * * *")
# The paint is reported a moment after the load.
PAINTED = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    const [entry] = list.getEntriesByName('first-contentful-paint');
    if (entry) resolve(entry.startTime);
  }).observe({ type: 'paint', buffered: true });
})"""


@contextmanager
def serving(mongodb_url: str) -> Iterator[str]:
    """The server on a free port, in a thread of its own."""
    app = create_app(ServerSettings(mongodb_url=mongodb_url, database=DATABASE))
    sock = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(configure(app, frame_bytes=FRAME_BYTES), on_ready=ready.set, on_closing=app.state.closing.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    ready.wait(60)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


def worked_on(number: int, document: dict[str, Any]) -> None:
    """Makes most of the jobs what they are in a queue of some age: many completed, some failed, a few dozen faults."""
    if number % FAILED_OF == 1:
        fault = number // FAILED_OF % FAULTS
        message = f"Shop {fault} does not answer"
        error = JobError(
            ErrorKind.EXCEPTION, "ConnectionError", message, None, fingerprint("ConnectionError", str(fault))
        )
        document |= {"state": JobState.FAILED.value, "error": error_document(error)}
    elif number % COMPLETED_OF:
        document |= {"state": JobState.COMPLETED.value, "result": {"shipped": True}}
    else:
        return
    document |= {"attempt": 1, "started_at": document["created_at"], "finished_at": document["created_at"]}


def leaf() -> FlowNode:
    """A job of a flow that waits for nothing."""
    return FlowNode(job=NewJob(name="part", queue="flows"))


async def furnish(engine: Engine) -> dict[str, str]:
    """Makes workers, crons, flows and runs; returns the ids of a cron, a flow and a run that a page shows."""
    for number in range(WORKERS):
        await engine.workers.register(
            WorkerInfo(
                id=f"worker-{number}", queues=["orders", "runs"], names=["ship"], concurrency=10, hostname="host"
            )
        )
        await engine.workers.renew(f"worker-{number}", lease_seconds=HOUR_SECONDS)
    for number in range(CRONS):
        report = NewJob(name="report", queue="reports", payload={"shop": number})
        cron = await engine.crons.create(NewCron(name=f"report-{number}", schedule=DAILY, job=report), caller=CALLER)
    for children in (*(6 for _ in range(FLOWS)), LARGE_FLOW):
        root = FlowNode(job=NewJob(name="whole", queue="flows"), children=[leaf() for _ in range(children)])
        flow = await engine.flows.enqueue(root, caller=CALLER)
    for _ in range(RUNS):
        await engine.workflows.start(NewRun(workflow="order", version=1, queue="runs"), caller=CALLER)
    (job,) = await engine.claims.claim("worker-0", ["runs"])
    for number in range(STEPS):
        step = Step(name=f"step-{number}", kind=StepKind.STEP, status=StepStatus.COMPLETED, result={"n": number})
        await engine.workflows.checkpoint(run_id(job.id), job.token, step)
    return {"cron": cron.id, "flow": flow.id, "run": run_id(job.id)}


async def prepare(url: str, jobs: int) -> dict[str, str]:
    """Fills the database; returns the ids that stand in paths."""
    engine = await Engine.connect(url, database=DATABASE)
    began = time.monotonic()
    middle = await fill(engine._store, jobs, worked_on)
    await engine.prepare()
    ids = await furnish(engine)
    await engine.close()
    print(f"{jobs:,} jobs in {time.monotonic() - began:.0f} s", flush=True)
    return {"job": middle, **ids}


async def counted(url: str, jobs: int) -> None:
    """Waits until the server has counted what was there when it started."""
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:

        async def are_all() -> bool:
            answer = await http.post("/graphql", json={"query": COUNTED})
            return bool(answer.json()["data"]["stats"]["jobs"] >= jobs)

        await until(are_all, every_seconds=1)


async def measure(url: str, ids: dict[str, str]) -> bool:
    """Prints the first contentful paint of each page, as a visitor's browser reports it; whether all are in time."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    slow = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for path in PAGES:
            times = []
            for _ in range(ROUNDS):
                page = await browser.new_page()
                answer = await page.goto(url + path.format(**ids))
                assert answer is not None and answer.ok, path
                times.append(float(await page.evaluate(PAINTED)))
                await page.close()
            if max(times) >= TARGET_MS:
                slow.append(path)
            said = (
                f"median {statistics.median(times):6.0f} ms  slowest {max(times):6.0f} ms  fastest {min(times):6.0f} ms"
            )
            print(f"{path:<48} {said}", flush=True)
        await browser.close()
    print(f"over {TARGET_MS:,} ms: {', '.join(slow) or 'none'}", flush=True)
    return not slow


def main() -> int:
    """Measures on a database of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.painting", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, embedded.start(Path(scratch)) as database:
        ids = asyncio.run(prepare(database.url, options.jobs))
        with serving(database.url) as url:
            asyncio.run(counted(url, options.jobs))
            in_time = asyncio.run(measure(url, ids))
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
