"""When the database is gone, every public call says so, in time; when it is back, so does everything else."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from switchtower.engine import DeadLetterFilter, Engine
from switchtower.errors import ConfigurationError, StoreUnavailable
from switchtower.jobs import JobFilter, JobUpdate, NewJob
from switchtower.states import JobState
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, Situation, enqueue, job_in
from tests.mongod import ReplicaSet

OUTCOME = Outcome("job_x", "t", OutcomeKind.COMPLETE)
QUESTIONS: dict[str, Any] = {
    "jobs.enqueue": lambda e: e.jobs.enqueue(NewJob(name="w"), caller=CALLER),
    "jobs.get": lambda e: e.jobs.get("x", caller=CALLER),
    "jobs.get_many": lambda e: e.jobs.get_many(["x"], caller=CALLER),
    "jobs.page": lambda e: e.jobs.page(JobFilter(queues=["q"]), caller=CALLER),
    "jobs.offset_page": lambda e: e.jobs.offset_page(JobFilter(queues=["q"]), caller=CALLER, offset=7),
    "jobs.count": lambda e: e.jobs.count(JobFilter(text="x"), caller=CALLER),
    "jobs.counts": lambda e: e.jobs.counts(caller=CALLER),
    "jobs.children_of": lambda e: e.jobs.children_of(["x"], caller=CALLER),
    "jobs.cancel": lambda e: e.jobs.cancel("x", caller=CALLER),
    "jobs.retry": lambda e: e.jobs.retry("x", caller=CALLER),
    "jobs.promote": lambda e: e.jobs.promote("x", caller=CALLER),
    "jobs.remove": lambda e: e.jobs.remove("x", caller=CALLER),
    "jobs.update": lambda e: e.jobs.update("x", JobUpdate(priority=1), caller=CALLER),
    "jobs.error_clusters": lambda e: e.jobs.error_clusters(JobFilter(), caller=CALLER),
    "claims.start": lambda e: e.claims.start([("x", "t")]),
    "claims.report": lambda e: e.claims.report([OUTCOME]),
    "claims.report_one": lambda e: e.claims.report_one(OUTCOME),
    "claims.progress": lambda e: e.claims.progress("x", "t", 1),
    "claims.log": lambda e: e.claims.log("x", "t", [("info", "l")]),
    "claims.cancel_requests": lambda e: e.claims.cancel_requests("w"),
    "queues.get": lambda e: e.queues.get("q", caller=CALLER),
    "queues.list": lambda e: e.queues.list(caller=CALLER),
    "queues.pause": lambda e: e.queues.pause("q", caller=CALLER),
    "queues.resume": lambda e: e.queues.resume("q", caller=CALLER),
    "queues.drain": lambda e: e.queues.drain("q", caller=CALLER),
    "queues.clean": lambda e: e.queues.clean("q", JobState.FAILED, caller=CALLER),
    "queues.obliterate": lambda e: e.queues.obliterate("q", caller=CALLER),
    "dead_letters.get": lambda e: e.dead_letters.get("x", caller=CALLER),
    "dead_letters.page": lambda e: e.dead_letters.page(DeadLetterFilter(), caller=CALLER),
    "dead_letters.offset_page": lambda e: e.dead_letters.offset_page(DeadLetterFilter(), caller=CALLER),
    "crons.offset_page": lambda e: e.crons.offset_page(caller=CALLER),
    "workflows.offset_page": lambda e: e.workflows.offset_page(caller=CALLER),
    "dead_letters.replay": lambda e: e.dead_letters.replay("x", caller=CALLER),
    "dead_letters.purge": lambda e: e.dead_letters.purge(older_than_ms=0, caller=CALLER),
    "workers.register": lambda e: e.workers.register(WorkerInfo(id="w", queues=["q"])),
    "workers.renew": lambda e: e.workers.renew("w"),
    "workers.retire": lambda e: e.workers.retire("w"),
    "workers.bury_dead": lambda e: e.workers.bury_dead("w"),
    "workers.list": lambda e: e.workers.list(caller=CALLER),
    "bulk.start": lambda e: e.bulk.start("cancel", JobFilter(), caller=CALLER),
    "bulk.get": lambda e: e.bulk.get("x", caller=CALLER),
    "stats.totals": lambda e: e.stats.totals(caller=CALLER),
    "upkeep.stage": lambda e: e.upkeep.stage(),
    "upkeep.rescue": lambda e: e.upkeep.rescue(),
    "upkeep.prune": lambda e: e.upkeep.prune(),
    "upkeep.elect": lambda e: e.upkeep.elect("d", "h", 1_000),
    "ping": lambda e: e.ping(),
    "wakes": lambda e: anext(e.claims.wakes(["q"])),
}


@pytest.fixture(scope="module")
async def lonely(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReplicaSet]:
    with ReplicaSet(Path(tmp_path_factory.mktemp("lonely")), 1) as replicas:
        yield replicas


@pytest.mark.slow
async def test_every_call_says_that_the_database_is_gone_and_goes_on_when_it_is_back(
    lonely: ReplicaSet, driver: str
) -> None:
    url = f"{lonely.url}&timeoutMS=1000"
    engine = await Engine.connect(url, database=f"gone_{driver}", driver=driver)
    await engine.prepare()
    s = await job_in(engine, "active")
    waiting = await enqueue(engine, queue="q")
    lonely.members[0].kill()
    begun = time.monotonic()
    answers = await asyncio.gather(*(ask(engine) for ask in QUESTIONS.values()), return_exceptions=True)
    assert {
        name: repr(a) for name, a in zip(QUESTIONS, answers, strict=True) if not isinstance(a, StoreUnavailable)
    } == {}
    assert time.monotonic() - begun < 60
    with pytest.raises(StoreUnavailable):
        await Engine.connect(f"{lonely.url}&timeoutMS=500", driver=driver)
    lonely.members[0].start()
    lonely.wait_healthy()
    assert await s.report(OutcomeKind.COMPLETE) == set()
    assert await Situation(engine, waiting.id, "q").state() == "waiting"
    assert [claimed.id for claimed in await engine.claims.claim("w", ["q"])] == [waiting.id]
    await engine.close()


def test_every_noun_is_asked() -> None:
    asked = {name.partition(".")[0] for name in QUESTIONS}
    assert {"jobs", "claims", "queues", "dead_letters", "workers", "bulk", "stats", "upkeep"} <= asked
    assert inspect.iscoroutinefunction(Engine.ping)


async def test_url_that_would_lose_jobs_or_cannot_be_read_is_refused(driver: str) -> None:
    for url, says in [
        ("mongodb://127.0.0.1:1/?w=1", "w=1"),
        ("mongodb://127.0.0.1:1/?w=0", "w=0"),
        ("mongodb://127.0.0.1:1/?journal=false", "journal=false"),
        ("http://example.org", "cannot be read"),
        ("mongodb://", "cannot be read"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            await Engine.connect(url, driver=driver)


async def test_unknown_driver_is_refused(mongodb_url: str) -> None:
    with pytest.raises(ConfigurationError, match="pymongo"):
        await Engine.connect(mongodb_url, driver="pymssql")


async def test_nobody_answers_is_said_in_time(driver: str) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await Engine.connect("mongodb://127.0.0.1:1/?timeoutMS=300", driver=driver)
    assert time.monotonic() - begun < 30


async def test_prepare_can_be_repeated_and_checked(engine: Engine) -> None:
    await asyncio.gather(engine.prepare(), engine.prepare())
    assert await engine.missing_indexes() == []
    findings = {finding.name: finding.level for finding in await engine.check()}
    assert findings["indexes"] == "ok"
    assert "error" not in findings.values()
    assert await engine.ping() < 1
