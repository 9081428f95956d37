"""Claims: the order, one winner per job, what is paused stays, and nobody is met twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.jobs import ClaimedJob, Enqueued, NewJob
from switchtower.store import claims as commands
from switchtower.store import queues as queue_commands
from switchtower.store import transitions
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, HOUR_MS, Situation, another, before, enqueue, fresh, job_in, quiet
from tests.databases import anywhere
from tests.waiting import until


async def _claim_all(engine: Engine, queue: str, limit: int, **fields: Any) -> list[ClaimedJob]:
    claimed: list[ClaimedJob] = []
    while more := await engine.claims.claim("w", [queue], limit=limit, **fields):
        claimed += more
    return claimed


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_claims_go_by_priority_then_due_time_then_insertion(engine: Engine, limit: int) -> None:
    queue = fresh("queue")
    news = [
        NewJob(name="late", queue=queue, priority=5),
        NewJob(name="first", queue=queue, priority=-1),
        *(NewJob(name=f"{n}", queue=queue) for n in range(30)),
        NewJob(name="urgent", queue=queue, priority=-(2**31)),
        NewJob(name="most urgent", queue=queue, rank=-1e300),
        NewJob(name="between", queue=queue, rank=0.25),
    ]
    await engine.jobs.enqueue_many(news, caller=CALLER)
    names = [job.name for job in await _claim_all(engine, queue, limit)]
    assert names == ["most urgent", "urgent", "first", *(f"{n}" for n in range(30)), "between", "late"]


@pytest.mark.parametrize("limit", [1, 100])
async def test_lifo_jobs_go_first_and_the_newest_before_them_all(engine: Engine, limit: int) -> None:
    queue = fresh("queue")
    for name, lifo in (("a", False), ("b", True), ("c", False), ("d", True)):
        job = await enqueue(engine, queue=queue, name=name, lifo=lifo)
        await until(lambda job=job: engine.clock.now() > job.created_at)
    assert [job.name for job in await _claim_all(engine, queue, limit)] == ["d", "b", "a", "c"]


async def test_staged_job_takes_the_place_of_its_due_time(engine: Engine) -> None:
    queue = fresh("queue")
    early = await enqueue(engine, queue=queue, delay_ms=HOUR_MS)
    await enqueue(engine, queue=queue, name="second")
    due = early.created_at - timedelta(seconds=5)
    s = Situation(engine, early.id, queue)
    await s.set(run_at=due, order=int(due.timestamp() * 1000))
    assert await engine.upkeep.stage() == 1
    assert next(job.id for job in await _claim_all(engine, queue, 1)) == early.id


async def test_claim_hands_over_what_the_worker_needs(engine: Engine) -> None:
    queue = fresh("queue")
    fields: dict[str, Any] = {"payload": {"a": 1}, "max_attempts": 7, "timeout_ms": 5, "tags": ["t"], "group": "g"}
    job = await enqueue(engine, queue=queue, ttl_ms=HOUR_MS, job_id=fresh("mine"), priority=3, **fields)
    (claimed,) = await engine.claims.claim("w", [queue])
    assert {name: getattr(claimed, name) for name in fields} == fields
    assert (claimed.id, claimed.name, claimed.queue, claimed.custom_id) == (job.id, "work", queue, job.custom_id)
    assert (claimed.number, claimed.generation, claimed.priority, claimed.recovered) == (1, 1, 3, False)
    assert (claimed.created_at, claimed.run_at, claimed.expires_at) == (job.created_at, job.run_at, job.expires_at)
    assert len(claimed.token) >= 20


async def test_fence_grows_with_every_claim_and_every_claim_has_its_own_token(engine: Engine) -> None:
    s = await job_in(engine, "waiting")
    fences, tokens = [], set()
    for _ in range(4):
        claimed = await s.claim(start=True)
        fences.append(claimed.fence)
        tokens.add(claimed.token)
        await s.report(OutcomeKind.RELEASE)
    assert fences == sorted(set(fences))
    assert len(tokens) == 4


async def test_sixteen_claimers_in_four_processes_hand_out_each_of_600_jobs_once(engine: Engine) -> None:
    queue = fresh("queue")
    answers = await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 600, caller=CALLER)
    ids = {answer.job.id for answer in answers if isinstance(answer, Enqueued)}
    engines = [another(engine) for _ in range(4)]
    won: Counter[str] = Counter()

    async def claimer(number: int) -> None:
        claims = engines[number % 4].claims
        misses = 0
        while misses < 2:
            claimed = await claims.claim(f"w{number}", [queue], limit=(1, 7, 50, 200)[number // 4])
            won.update(job.id for job in claimed)
            misses = 0 if claimed else misses + 1

    await asyncio.gather(*(claimer(number) for number in range(16)))
    assert won.keys() == ids
    assert set(won.values()) == {1}
    assert await engine._store.jobs.count_documents(anywhere(queue=queue, state="active", claims=1)) == 600


async def test_job_that_comes_in_below_the_floor_is_claimed_at_the_latest_when_the_floor_is_reset(
    engine: Engine,
) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 50, caller=CALLER)
    await engine.claims.claim("w", [queue], limit=10)
    assert len(await engine.claims.claim("w", [queue], limit=10)) == 10
    urgent = await enqueue(engine, queue=queue, priority=-1)
    engine.claims._queues[queue, None].floor_at = 0.0
    assert (await engine.claims.claim("w", [queue], limit=10))[0].id == urgent.id


async def test_last_jobs_below_the_floor_are_found_when_nothing_else_is_left(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 20, caller=CALLER)
    first = await engine.claims.claim("w", [queue], limit=10)
    await engine.claims.claim("w", [queue], limit=10)
    urgent = await enqueue(engine, queue=queue, priority=-1)
    assert first and urgent.id in {job.id for job in await _claim_all(engine, queue, 10)}


async def test_queues_take_turns(engine: Engine) -> None:
    queues = [fresh("queue") for _ in range(3)]
    for queue in queues:
        await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 4, caller=CALLER)
    first = [(await engine.claims.claim("w", queues))[0].queue for _ in range(12)]
    assert Counter(first) == dict.fromkeys(queues, 4)
    assert set(first[:3]) == set(queues)


async def test_claim_of_nothing_is_nothing(engine: Engine) -> None:
    await enqueue(engine, queue="q")
    for queues, limit in (([], 1), (["q"], 0), (["q"], -1)):
        assert await engine.claims.claim("w", queues, limit=limit) == []


@pytest.mark.parametrize("limit", [1, 10])
async def test_worker_gets_only_what_it_has_a_handler_for(engine: Engine, limit: int) -> None:
    queue = fresh("queue")
    for name in ("a", "b", "c", "a"):
        await enqueue(engine, queue=queue, name=name)
    assert [job.name for job in await _claim_all(engine, queue, limit, names=["a", "c"])] == ["a", "c", "a"]
    assert await engine.claims.claim("w", [queue], names=[], limit=limit) == []


@pytest.mark.parametrize("limit", [1, 10])
async def test_nothing_of_a_paused_queue_is_claimed_until_it_is_resumed(engine: Engine, limit: int) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 4, caller=CALLER)
    assert len(await engine.claims.claim("w", [queue], limit=1)) == 1
    await engine.queues.pause(queue, caller=CALLER)
    assert await engine.claims.claim("w", [queue], limit=limit) == []
    assert await another(engine).claims.claim("w", [queue], limit=limit) == []
    assert await engine._store.jobs.count_documents({"queue": queue, "state": "waiting"}) == 3
    await engine.queues.resume(queue, caller=CALLER)
    assert len(await _claim_all(another(engine), queue, limit)) == 3


async def test_pause_that_is_acknowledged_while_a_claim_is_under_way_wins(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    before(monkeypatch, commands, "claim_one", lambda: another(engine).queues.pause(queue, caller=CALLER))
    assert await engine.claims.claim("w", [queue]) == []
    found = await Situation(engine, job.id, queue).document()
    assert (found["state"], found["attempt"], found["claims"]) == ("waiting", 0, 0)


async def test_claims_that_race_with_a_pause_return_nothing_once_it_is_acknowledged(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 300, caller=CALLER)
    acknowledged = asyncio.Event()
    late: list[ClaimedJob] = []

    async def claimer(claims: Any) -> None:
        while not acknowledged.is_set():
            begun_after = acknowledged.is_set()
            won = await claims.claim("w", [queue], limit=5)
            if begun_after:
                late.extend(won)

    claimers = [asyncio.create_task(claimer(another(engine).claims)) for _ in range(6)]
    await asyncio.sleep(0.02)
    await engine.queues.pause(queue, caller=CALLER)
    acknowledged.set()
    await asyncio.gather(*claimers)
    for _ in range(3):
        assert await another(engine).claims.claim("w", [queue], limit=5) == []
    assert late == []


@pytest.mark.parametrize("limit", [1, 10])
async def test_paused_name_is_parked_and_the_rest_goes_on(engine: Engine, limit: int) -> None:
    queue = fresh("queue")
    for n in range(12):
        await enqueue(engine, queue=queue, name="held" if n % 2 else "free")
    await engine.queues.pause(queue, caller=CALLER, job_name="held")
    other = another(engine)
    assert {job.name for job in await _claim_all(other, queue, limit)} == {"free"}
    assert await engine._store.jobs.count_documents(anywhere(queue=queue, parked="paused")) == 6
    await engine.queues.resume(queue, caller=CALLER, job_name="held")
    assert await engine._store.jobs.count_documents(anywhere(parked={"$exists": True})) == 0
    assert [job.name for job in await _claim_all(another(engine), queue, limit)] == ["held"] * 6


async def test_parked_jobs_are_met_once_and_come_back_in_their_old_place(engine: Engine) -> None:
    queue = fresh("queue")
    held = [await enqueue(engine, queue=queue, name="held") for _ in range(3)]
    await enqueue(engine, queue=queue, name="free")
    await engine.queues.pause(queue, caller=CALLER, job_name="held")
    for _ in range(4):
        await another(engine).claims.claim("w", [queue])
    rows = await engine._store.jobs.find({"queue": queue, "name": "held"}).to_list(None)
    assert {row["event_seq"] for row in rows} == {2}
    await engine.queues.resume(queue, caller=CALLER, job_name="held")
    assert [job.id for job in await _claim_all(another(engine), queue, 1)] == [job.id for job in held]


async def test_job_without_a_handler_is_parked_and_a_new_worker_with_one_unparks_it(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.workers.register(WorkerInfo(id="a", queues=[queue], names=["a"]))
    other = await enqueue(engine, queue=queue, name="b")
    mine = await enqueue(engine, queue=queue, name="a")
    assert [job.id for job in await engine.claims.claim("a", [queue], names=["a"])] == [mine.id]
    assert (await Situation(engine, other.id, queue).job()).parked == "no_handler"
    await engine.workers.register(WorkerInfo(id="b", queues=[queue], names=["b"]))
    assert (await Situation(engine, other.id, queue).job()).parked is None
    assert [job.id for job in await engine.claims.claim("b", [queue], names=["b"])] == [other.id]


@pytest.mark.parametrize("names", [["b"], []])
async def test_job_that_another_worker_has_a_handler_for_is_not_parked(engine: Engine, names: list[str]) -> None:
    queue = fresh("queue")
    await engine.workers.register(WorkerInfo(id="b", queues=[queue], names=names))
    job = await enqueue(engine, queue=queue, name="b")
    assert await engine.claims.claim("a", [queue], names=["a"]) == []
    assert (await Situation(engine, job.id, queue).job()).parked is None


async def test_worker_that_registers_while_its_jobs_are_being_parked_finds_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue, name="b")
    park = transitions.park
    registered: list[asyncio.Task[Any]] = []

    def registers_first(reason: str) -> Any:
        other = another(engine).workers
        registered.append(asyncio.ensure_future(other.register(WorkerInfo(id="b", queues=[queue], names=["b"]))))
        return park(reason)

    monkeypatch.setattr(transitions, "park", registers_first)
    await engine.claims.claim("a", [queue], names=["a"])
    monkeypatch.undo()
    await asyncio.gather(*registered)
    assert [claimed.id for claimed in await engine.claims.claim("b", [queue], names=["b"])] == [job.id]


async def test_name_that_is_resumed_before_its_jobs_are_parked_is_not_held(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue, name="held")
    await engine.queues.pause(queue, caller=CALLER, job_name="held")
    head = commands.head

    async def resumed_meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        found = await head(*args, **kwargs)
        await another(engine).queues.resume(queue, caller=CALLER, job_name="held")
        return found

    monkeypatch.setattr(commands, "head", resumed_meanwhile)
    other = another(engine)
    await other.claims.claim("w", [queue])
    assert (await Situation(engine, job.id, queue).job()).parked is None


async def test_resume_that_died_before_it_unparked_is_finished_by_maintenance(engine: Engine) -> None:
    queue = fresh("queue")
    for name in ("held", "unknown"):
        await enqueue(engine, queue=queue, name=name)
    await engine.workers.register(WorkerInfo(id="w", queues=[queue], names=["work"]))
    await engine.queues.pause(queue, caller=CALLER, job_name="held")
    await engine.claims.claim("w", [queue], names=["work"])
    assert await engine._store.jobs.count_documents(anywhere(queue=queue, parked={"$exists": True})) == 2
    assert await engine.upkeep.unpark() == 0
    await queue_commands.control(engine._store, queue, "resume", actor="olga", job_name="held")
    assert await engine.upkeep.unpark() == 1
    await engine._store.workers.update_one({"_id": "w"}, {"$set": {"names": ["unknown"]}})
    assert await engine.upkeep.unpark() == 1


async def test_thousand_foreign_jobs_do_not_stand_in_the_way(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await engine.workers.register(WorkerInfo(id="w", queues=[queue], names=["mine"]))
    await engine.jobs.enqueue_many([NewJob(name="foreign", queue=queue)] * 1_000, caller=CALLER)
    mine = await enqueue(engine, queue=queue, name="mine")
    assert [job.id for job in await engine.claims.claim("w", [queue], names=["mine"])] == [mine.id]
    assert await store.jobs.count_documents(anywhere(queue=queue, parked="no_handler")) == 1_000
    await quiet(engine)


async def test_what_a_cancelled_claim_won_is_handed_to_its_worker_with_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    controls = queue_commands.all_controls
    won = asyncio.Event()

    async def hangs_after_the_win(*args: Any, **kwargs: Any) -> Any:
        if await engine._store.jobs.count_documents(anywhere(queue=queue, state="active")):
            won.set()
            await asyncio.Event().wait()
        return await controls(*args, **kwargs)

    monkeypatch.setattr(queue_commands, "all_controls", hangs_after_the_win)
    task = asyncio.create_task(engine.claims.claim("w", [queue]))
    await asyncio.wait_for(won.wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    monkeypatch.undo()
    assert await engine.claims.claim("another", [queue]) == []
    assert [found.id for found in await engine.claims.claim("w", [queue])] == [job.id]
    assert await engine.claims.claim("w", [queue]) == []
