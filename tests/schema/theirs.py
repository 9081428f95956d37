"""One of everything that belongs to somebody else, with a word in all of it that must not be seen by others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pymongo import MongoClient

from switchtower.access import NewApiKey, Scope
from switchtower.callers import Caller
from switchtower.crons import NewCron, Schedule
from switchtower.dead_letters import DeadLetterFilter
from switchtower.engine import Engine
from switchtower.flows import FlowNode
from switchtower.ids import run_id
from switchtower.jobs import ErrorKind, JobError, JobFilter, NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from switchtower.workflows import NewRun
from tests.conformance.situations import quiet
from tests.databases import anywhere
from tests.waiting import until

SECRET = "classified"
BRAVO = Caller("key of bravo", "bravo")
KEPT = ("jobs", "queues", "dead_letters", "crons", "bulk_operations", "workers")


@dataclass(frozen=True)
class Theirs:
    """What the other tenant has."""

    ids: tuple[str, ...]
    names: tuple[str, ...]


async def acquire(engine: Engine) -> Theirs:
    """A job in every interesting state, a dead letter, a cron, a flow, a run, a bulk operation, a worker and a key."""
    new = NewJob(
        name=f"{SECRET}-name", payload={"note": f"{SECRET} payload"}, job_id="their-own-id", tags=[f"{SECRET}-tag"]
    )
    failing = (await engine.jobs.enqueue(new, caller=BRAVO)).job
    worker = WorkerInfo(
        id="their-worker",
        queues=["default"],
        org="bravo",
        hostname=f"{SECRET}-host",
        names=[f"{SECRET}-name", f"{SECRET}-workflow#1"],
        lease_seconds=3_600,
    )
    await engine.workers.register(worker)
    (claimed,) = await engine.claims.claim(worker.id, ["default"])
    error = JobError(ErrorKind.FATAL, f"{SECRET}Error", f"{SECRET} message", None, f"{SECRET}-print")
    await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.BURY, error=error)])
    running = (await engine.jobs.enqueue(replace(new, job_id=None), caller=BRAVO)).job
    (claimed,) = await engine.claims.claim(worker.id, ["default"])
    await engine.claims.start([claimed])
    await engine.claims.progress(claimed.id, claimed.token, f"{SECRET} progress")
    await engine.claims.log(claimed.id, claimed.token, [("info", f"{SECRET} line")])
    waiting = (await engine.jobs.enqueue(replace(new, job_id=None, group=f"{SECRET}-group"), caller=BRAVO)).job
    later = (await engine.jobs.enqueue(replace(new, job_id=None, delay_ms=3_600_000), caller=BRAVO)).job
    only = (await engine.jobs.enqueue(replace(new, job_id=None, queue=f"{SECRET}-queue"), caller=BRAVO)).job
    cron = await engine.crons.create(
        NewCron(name=f"{SECRET}-cron", schedule=Schedule("0 0 1 1 *"), job=replace(new, job_id=None)), caller=BRAVO
    )
    flow = await engine.flows.enqueue(
        FlowNode(job=replace(new, job_id=None), children=[FlowNode(job=replace(new, job_id=None))]), caller=BRAVO
    )
    run = await engine.workflows.start(
        NewRun(workflow=f"{SECRET}-workflow", version=1, input=f"{SECRET} input"), caller=BRAVO
    )
    bulk = await engine.bulk.start("cancel", JobFilter(names=["none"]), caller=BRAVO)
    key = (await engine.keys.create(NewApiKey(name=f"{SECRET}-key", scopes=[Scope.READ]), caller=BRAVO)).key
    await engine.queues.pause("default", caller=BRAVO, job_name=f"{SECRET}-paused")

    async def dead_letter() -> Any:
        return (await engine.dead_letters.page(DeadLetterFilter(), caller=BRAVO, first=10)).items

    (entry,) = await until(dead_letter, timeout_seconds=60)
    # Nothing of what they have changes by itself from here on.
    await quiet(engine)
    jobs = [failing.id, running.id, waiting.id, later.id, only.id, flow.id, run.job.id]
    ids = [*jobs, run_id(run.job.id), cron.id, bulk.id or "", key.id, entry.id]
    return Theirs((*ids, "their-worker", "their-own-id"), ("default", f"{SECRET}-queue", f"{SECRET}-name", SECRET))


def possessions(mongo: MongoClient[dict[str, Any]], database_name: str) -> dict[str, list[Any]]:
    """All that the other tenant has, as it is stored."""
    database = mongo[database_name]
    kept = {name: list(database[name].find(anywhere(org="bravo"), sort=[("_id", 1)])) for name in KEPT}
    kept["keys"] = list(database.keys.find(anywhere(tenant="bravo")))
    return kept
