"""What the hot paths cost: how many round trips, which index, how many documents looked at, how long at most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.engine import DeadLetterFilter, Engine, JobOrder
from switchtower.jobs import JobFilter, NewJob
from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.store.indexes import HOT
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from switchtower.workflows import NewRun, RunState
from tests.conformance.commands import Commands, explain, stages
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, fresh, job_in, quiet
from tests.databases import anywhere

Document = dict[str, Any]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
async def full(store: Store, engine: Engine, commands: Commands) -> str:
    """A small queue beside one of 2,000 jobs in all states; returns the small one's name."""
    crowd, small = fresh("crowd"), fresh("small")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=crowd)] * 2_000, caller=CALLER)
    for n, state in enumerate(JobState):
        ids = [row["_id"] async for row in store.jobs.find(anywhere(queue=crowd), {"_id": 1}, skip=n * 200, limit=200)]
        change: Document = {"state": state.value}
        if state is JobState.ACTIVE:
            change |= {"worker_id": "w", "token": "t"}
        await store.jobs.update_many({"_id": {"$in": ids}}, {"$set": change})
    await engine.jobs.enqueue_many([NewJob(name="work", queue=small)] * 5, caller=CALLER)
    await engine.jobs.enqueue_many([NewJob(name="work", queue=small, delay_ms=HOUR_MS)] * 5, caller=CALLER)
    commands.clear()
    return small


async def test_round_trips_of_the_hot_paths(engine: Engine, commands: Commands) -> None:
    queue = fresh("queue")

    async def cost(call: Awaitable[Any]) -> list[str]:
        commands.clear()
        await call
        return list(commands.names)

    assert await cost(enqueue(engine, queue=queue)) == ["insert"]
    assert await cost(engine.jobs.enqueue_many([NewJob(name="w", queue=queue)] * 500, caller=CALLER)) == ["insert"]
    assert await cost(engine.claims.claim("w", [queue])) == ["find", "findAndModify", "find"]
    assert await cost(engine.claims.claim("w", [queue])) == ["findAndModify", "find"]
    assert await cost(engine.claims.claim("w", [queue], limit=200)) == ["find", "update", "find"]
    claimed = await engine.claims.claim("w", [queue], limit=100)
    assert await cost(engine.claims.start(claimed)) == ["update"]
    outcomes = [Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in claimed]
    assert (await cost(engine.claims.report(outcomes)))[:1] == ["update"]
    assert len(commands.named("update")[0]["updates"]) == 1
    await quiet(engine)
    idle = fresh("idle")
    await engine.claims.claim("w", [idle])
    assert await cost(engine.claims.claim("w", [idle])) == ["findAndModify"]
    s = await job_in(engine, "waiting")
    assert await cost(engine.jobs.cancel(s.id, caller=CALLER)) == ["findAndModify"]
    await quiet(engine)
    assert await cost(engine.jobs.get(s.id, caller=CALLER)) == ["find"]
    await engine.workers.register(WorkerInfo(id="w", queues=[queue]))
    await quiet(engine)
    assert await cost(engine.workers.renew("w")) == ["findAndModify"]


async def test_mixed_report_of_a_batch_is_one_command(engine: Engine, commands: Commands) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue)] * 200, caller=CALLER)
    await engine.claims.claim("w", [queue])
    claimed = await engine.claims.claim("w", [queue], limit=150)
    kinds = [OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.SNOOZE, OutcomeKind.RELEASE]
    outcomes = [
        Outcome(job.id, job.token, kinds[n % 4], result=n, error=ERROR, wait_ms=HOUR_MS)
        for n, job in enumerate(claimed)
    ]
    commands.clear()
    await engine.claims.report(outcomes)
    (update,) = commands.named("update")[:1]
    assert len(update["updates"]) > 100


def _used(plan: Document) -> tuple[set[str], set[str]]:
    found = stages(plan)
    return {stage["stage"] for stage in found}, {stage["indexName"] for stage in found if "indexName" in stage}


async def test_claim_walks_the_hot_index_in_its_order(
    engine: Engine, full: str, store: Store, commands: Commands, mongo: MongoClient[Document]
) -> None:
    crowd = next(queue for queue in await store.jobs.distinct("queue") if queue != full)
    for names in (None, ["work", "other"]):
        for limit in (1, 50):
            for _ in range(3):
                assert await engine.claims.claim("w", [crowd], names=names, limit=limit)
    heads = [find for find in commands.named("find") if find["find"] == "jobs" and find.get("hint") == HOT]
    for command in [*commands.named("findAndModify"), *heads]:
        plan = explain(mongo, commands.database, command)
        names_of_stages, indexes = _used(plan["queryPlanner"]["winningPlan"])
        assert indexes == {HOT}, command
        assert not names_of_stages & {"SORT", "COLLSCAN"}, names_of_stages
        assert plan["executionStats"]["totalDocsExamined"] <= command.get("limit", 1), command


FILTERS: dict[str, Callable[[str], JobFilter]] = {
    "queue": lambda queue: JobFilter(queues=[queue]),
    "queue and state": lambda queue: JobFilter(queues=[queue], states=[JobState.WAITING]),
    "queue and two states": lambda queue: JobFilter(queues=[queue], states=[JobState.WAITING, JobState.SCHEDULED]),
    "queue, active and not": lambda queue: JobFilter(queues=[queue], states=[JobState.WAITING, JobState.ACTIVE]),
    "state": lambda queue: JobFilter(states=[JobState.FAILED]),
    "two states": lambda queue: JobFilter(states=[JobState.FAILED, JobState.CANCELLED]),
    "everything": lambda queue: JobFilter(),
    "a name": lambda queue: JobFilter(names=["work"]),
    "no such name": lambda queue: JobFilter(names=["nobody's"]),
    "no such name in a queue and a state": lambda queue: JobFilter(
        queues=[queue], states=[JobState.WAITING], names=["nobody's"]
    ),
    "a piece of no name": lambda queue: JobFilter(name_contains="nobody's"),
    "ids": lambda queue: JobFilter(ids=["job_unknown", "mine"]),
    "parent": lambda queue: JobFilter(parent_id="job_unknown"),
    "tag": lambda queue: JobFilter(tags=["red"]),
    "fault": lambda queue: JobFilter(error_fingerprint="f"),
    "runs again": lambda queue: JobFilter(states=[JobState.WAITING, JobState.RETRYING], retry_pending=True),
    "never ran": lambda queue: JobFilter(states=[JobState.WAITING, JobState.BLOCKED], retry_pending=False),
}


async def test_list_reads_little_more_than_its_page(
    engine: Engine, full: str, commands: Commands, mongo: MongoClient[Document]
) -> None:
    for which, make in FILTERS.items():
        for order in (JobOrder.CREATED_DESC, JobOrder.CREATED_ASC):
            commands.clear()
            page = await engine.jobs.page(make(full), caller=CALLER, order=order, first=10)
            after = (page.cursors or [None])[-1]
            await engine.jobs.page(make(full), caller=CALLER, order=order, first=10, after=after)
            sent = commands.named("find")
            assert sent
            for command in sent:
                plan = explain(mongo, commands.database, command)
                assert "COLLSCAN" not in _used(plan)[0], (which, command)
                examined = [int(part["totalDocsExamined"]) for part in _statistics(plan)]
                assert sum(examined) <= 250, (which, order, examined, command)


async def test_list_of_runs_looks_at_runs_only(
    engine: Engine, full: str, commands: Commands, mongo: MongoClient[Document]
) -> None:
    for _ in range(3):
        await engine.workflows.start(NewRun(workflow=fresh("flow"), queue=full, version=1), caller=CALLER)
    for states in (None, [RunState.RUNNING], [RunState.FAILED]):
        commands.clear()
        await engine.workflows.page(caller=CALLER, states=states, first=2)
        await engine.workflows.offset_page(caller=CALLER, states=states, offset=1, limit=2)
        await engine.workflows.count(caller=CALLER, states=states)
        sent = [c for c in (*commands.named("find"), *commands.named("aggregate")) if "jobs" in c.values()]
        assert len(sent) >= 4
        for command in sent:
            plan = explain(mongo, commands.database, command)
            assert _used(plan)[1] == {"run"}, (states, command)
            assert sum(int(part["totalDocsExamined"]) for part in _statistics(plan)) <= 30, (states, command)


def _statistics(plan: Any) -> list[Document]:
    if isinstance(plan, dict):
        own = [plan] if "totalDocsExamined" in plan else []
        return own + [found for value in plan.values() for found in _statistics(value)]
    if isinstance(plan, list):
        return [found for value in plan for found in _statistics(value)]
    return []


async def test_list_of_a_queue_shows_active_jobs_in_their_place(engine: Engine) -> None:
    queue = fresh("queue")
    ids = [(await enqueue(engine, queue=queue)).id for _ in range(9)]
    for _ in range(3):
        await engine.claims.claim("w", [queue])
    for order in (JobOrder.CREATED_ASC, JobOrder.CREATED_DESC):
        expected = ids if order is JobOrder.CREATED_ASC else ids[::-1]
        seen, after = [], None
        while True:
            page = await engine.jobs.page(JobFilter(queues=[queue]), caller=CALLER, order=order, first=2, after=after)
            seen += [job.id for job in page.items]
            if not page.has_next:
                break
            after = page.cursors[-1]
        assert seen == expected
        back = await engine.jobs.page(JobFilter(queues=[queue]), caller=CALLER, order=order, last=4)
        assert [job.id for job in back.items] == expected[-4:]
        for offset in range(11):
            filter = JobFilter(queues=[queue])
            found = await engine.jobs.offset_page(filter, caller=CALLER, order=order, offset=offset, limit=3)
            assert [job.id for job in found] == expected[offset : offset + 3]


async def test_list_sorted_by_a_time_that_active_jobs_do_not_have(engine: Engine) -> None:
    queue = fresh("queue")
    done = [(await job_in(engine, "completed", queue=queue)).id for _ in range(3)]
    held = [(await job_in(engine, "active", queue=queue)).id for _ in range(2)]
    expected = held + done
    for order, ids in ((JobOrder.FINISHED_ASC, expected), (JobOrder.FINISHED_DESC, expected[::-1])):
        for offset in range(5):
            page = await engine.jobs.offset_page(
                JobFilter(queues=[queue]), caller=CALLER, order=order, offset=offset, limit=2
            )
            assert [job.id for job in page] == ids[offset : offset + 2]


UPKEEP: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "stage": lambda engine: engine.upkeep.stage(),
    "expire": lambda engine: engine.upkeep.expire(),
    "relay": lambda engine: engine.upkeep.relay(),
    "let_go": lambda engine: engine.upkeep.let_go(),
    "rescue": lambda engine: engine.upkeep.rescue(),
}


async def test_idle_duty_looks_at_next_to_nothing(
    engine: Engine, full: str, store: Store, commands: Commands, mongo: MongoClient[Document]
) -> None:
    future = datetime.now(UTC) + timedelta(hours=1)
    await store.jobs.update_many({}, {"$set": {"run_at": future, "expires_at": future, "release_at": future}})
    await engine.workers.register(WorkerInfo(id="w", queues=["q"]))
    engine.upkeep._healthy_since -= 3_600
    for duty, run in UPKEEP.items():
        commands.clear()
        await run(engine)
        for command in commands.named("find", "update"):
            if next(iter(command.values())) == "jobs":
                plan = explain(mongo, commands.database, command)
                assert "COLLSCAN" not in _used(plan)[0], (duty, command)
                assert plan["executionStats"]["totalKeysExamined"] <= 5, (duty, command)


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.jobs.page(JobFilter(text="x"), caller=CALLER),
        lambda engine: engine.jobs.page(JobFilter(queues=["q"]), caller=CALLER),
        lambda engine: engine.jobs.offset_page(JobFilter(), caller=CALLER),
        lambda engine: engine.jobs.count(JobFilter(text="x"), caller=CALLER),
        lambda engine: engine.jobs.error_clusters(JobFilter(), caller=CALLER),
        lambda engine: engine.queues.groups("q", caller=CALLER),
        lambda engine: engine.dead_letters.page(DeadLetterFilter(), caller=CALLER),
        lambda engine: engine.dead_letters.count(DeadLetterFilter(text="x"), caller=CALLER),
        lambda engine: engine.jobs.offset_page(JobFilter(queues=["q"]), caller=CALLER, offset=9),
        lambda engine: engine.dead_letters.offset_page(DeadLetterFilter(), caller=CALLER),
        lambda engine: engine.workflows.offset_page(caller=CALLER, offset=9),
    ],
)
async def test_question_that_may_be_slow_is_bounded_to_two_seconds(
    engine: Engine, commands: Commands, ask: Callable[[Engine], Awaitable[Any]]
) -> None:
    await ask(engine)
    assert commands.sent
    assert all(0 < command["maxTimeMS"] <= 2_000 for command in commands.named("find", "aggregate", "count"))


async def test_every_command_is_bounded_in_time(engine: Engine, commands: Commands) -> None:
    s = await job_in(engine, "failed")
    await engine.jobs.retry(s.id, caller=CALLER)
    await engine.queues.pause(s.queue, caller=CALLER)
    await engine.stats.totals(caller=CALLER)
    await asyncio.gather(engine.upkeep.stage(), engine.upkeep.expire(), engine.upkeep.prune())
    unbounded = [name for command in commands.sent if "maxTimeMS" not in command and (name := next(iter(command)))]
    assert set(unbounded) <= {"getMore", "killCursors", "endSessions"}
