"""Groups that take only so many waiting jobs: however many are added at once, and from wherever."""

from __future__ import annotations

import asyncio

import pytest

from switchtower.engine import Engine
from switchtower.errors import Conflict
from switchtower.jobs import Deduplication, Enqueued, JobFilter, NewJob
from switchtower.limits import Limit, QueueLimits
from switchtower.store.collections import Store
from tests.conformance.situations import CALLER, enqueue, fresh

MOST = 5


def bounded(queue: str, most: int = MOST, **fields: object) -> NewJob:
    return NewJob(**{"name": "work", "queue": queue, "group": "g", "group_max": most, **fields})  # type: ignore[arg-type]


async def waiting(engine: Engine, queue: str) -> int:
    found = await engine.jobs.page(JobFilter(queues=[queue]), caller=CALLER, first=500)
    return len(found.items)


async def test_a_group_takes_no_more_than_its_bound(engine: Engine) -> None:
    queue = fresh("queue")
    for _ in range(2):
        await enqueue(engine, queue=queue, group="g", group_max=2)
    with pytest.raises(Conflict, match="2 jobs waiting"):
        await engine.jobs.enqueue(bounded(queue, 2), caller=CALLER)
    await enqueue(engine, queue=queue, group="other", group_max=2)
    await enqueue(engine, queue=queue, group="g")
    await engine.claims.claim("w", [queue], limit=4)
    await enqueue(engine, queue=queue, group="g", group_max=2)


@pytest.mark.parametrize("engines", [1, 3])
async def test_adds_at_the_same_moment_fill_it_exactly(
    mongodb_url: str, database_name: str, driver: str, engines: int
) -> None:
    opened = [await Engine.connect(mongodb_url, database=database_name, driver=driver) for _ in range(engines)]
    try:
        await opened[0].prepare()
        queue = fresh("queue")
        adds = [opened[n % engines].jobs.enqueue(bounded(queue), caller=CALLER) for n in range(24)]
        answers = await asyncio.gather(*adds, return_exceptions=True)
        assert sum(isinstance(answer, Enqueued) for answer in answers) == MOST
        assert sum(isinstance(answer, Conflict) for answer in answers) == 24 - MOST, answers
        assert await waiting(opened[0], queue) == MOST
    finally:
        for engine in opened:
            await engine.close()


async def test_of_many_at_once_each_has_its_own_answer(engine: Engine) -> None:
    queue = fresh("queue")
    plain = NewJob(name="work", queue=queue, group="g")
    news = [plain, *(bounded(queue, 3) for _ in range(4)), NewJob(name="work", queue=queue), bounded(queue, 3)]
    answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    assert [isinstance(answer, Enqueued) for answer in answers] == [True, True, True, False, False, True, False]
    assert isinstance(answers[3], Conflict) and await waiting(engine, queue) == 4


async def test_what_is_there_already_is_found_in_a_full_group(engine: Engine) -> None:
    queue = fresh("queue")
    new = bounded(queue, 1, idempotency_key=fresh("key"))
    first = await engine.jobs.enqueue(new, caller=CALLER)
    again = await engine.jobs.enqueue(new, caller=CALLER)
    assert (again.job.id, again.deduplication) == (first.job.id, Deduplication.IDEMPOTENCY_KEY)


async def test_a_place_whose_holder_was_refused_is_free_again(engine: Engine) -> None:
    queue = fresh("queue")
    with pytest.raises(Exception, match="job_0000"):
        await engine.jobs.enqueue(bounded(queue, 1, parent_id="job_" + "0" * 26), caller=CALLER)
    await engine.jobs.enqueue(bounded(queue, 1), caller=CALLER)


async def test_a_place_of_one_that_died_holds(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
    (row,) = await store.permits.find({}).to_list(None)
    dead = {"token": "job_dead", "jobs": 1}
    pipeline = [{"$set": {"reserved": [{**dead, "until": {"$add": ["$$NOW", 60_000]}}]}}]
    await store.permits.update_one({"_id": row["_id"]}, pipeline)
    await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
    with pytest.raises(Conflict):
        await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
    pipeline = [{"$set": {"reserved": [{**dead, "until": {"$subtract": ["$$NOW", 1]}}]}}]
    await store.permits.update_one({"_id": row["_id"]}, pipeline)
    await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)


async def test_jobs_that_were_moved_aside_count(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.queues.set_limits(queue, QueueLimits(names={"work": Limit(concurrency=1)}), caller=CALLER)
    for _ in range(2):
        await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
    await engine.claims.claim("w", [queue], limit=1)
    await engine.claims.claim("w", [queue], limit=1)
    for _ in range(2):
        await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
    with pytest.raises(Conflict):
        await engine.jobs.enqueue(bounded(queue, 3), caller=CALLER)
