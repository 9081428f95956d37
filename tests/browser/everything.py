"""One of each thing that pages show, named by texts of the test's own, and the addresses of all pages."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import httpx2

from app.rest.asyncmq import ASYNCMQ
from switchtower.crons import NewCron, Schedule
from switchtower.engine import Engine
from switchtower.flows import FlowNode
from switchtower.ids import run_id
from switchtower.jobs import JobFilter, NewJob
from switchtower.workers import WorkerInfo
from switchtower.workflows import NewRun
from tests.browser.working import enqueue, run
from tests.conformance.situations import CALLER

NO_PAGES = {"/login", "/events/history"}


def queue_of(text: str) -> str:
    """The nearest name that a queue can have, which holds no slash."""
    return text.replace("/", "\N{DIVISION SLASH}")


async def everything(engine: Engine, http: httpx2.Client, texts: Sequence[str]) -> list[str]:
    """Makes a failed job with its dead letter, a flow, a cron, a worker and a run of each text. Returns the address of
    every page, on whichever of them."""
    for text in texts:
        queue = queue_of(text)
        payload = {text: [text], "path": text}
        enqueue(http, text, queue, payload=payload, tags=[text], group=text, maxAttempts=1, uniqueKey=text)
        working = run(http, queue)
        working.report(50, text)
        working.fail(text)
        job = NewJob(name=text, queue=queue, payload=payload)
        cron = await engine.crons.create(NewCron(name=text, schedule=Schedule("0 9 1 1 *"), job=job), caller=CALLER)
        await engine.workers.register(WorkerInfo(id=f"wkr_{text}", queues=[queue], names=[text], hostname=text))
        flow = await engine.flows.enqueue(FlowNode(job=job, children=[FlowNode(job=job)]), caller=CALLER)
        new = NewRun(workflow=text.replace("#", ""), version=1, queue=queue, input=payload, tags=[text])
        started = (await engine.workflows.start(new, caller=CALLER)).job
        await engine.queues.pause(queue, caller=CALLER, job_name=text)
    bulk = await engine.bulk.start("promote", JobFilter(queues=[queue]), caller=CALLER)
    ids = {"jobs": working.id, "crons": cron.id, "flows": flow.id, "runs": run_id(started.id), "bulk": str(bulk.id)}
    routes = [route for route in (*ASYNCMQ.routes, *ASYNCMQ.pages) if route.method == "GET" and route.page is not None]
    return [
        route.path.format(name=quote(queue, safe=""), job_id=working.id, id=ids.get(route.path.split("/")[1], ""))
        for route in routes
        if route.path not in NO_PAGES
    ]
