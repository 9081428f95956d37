"""A write whose answer is lost happened or did not: whichever it was, everything happens exactly once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable, SwitchtowerError
from switchtower.jobs import Enqueued, NewJob
from switchtower.store import claims as commands
from switchtower.store.collections import Store
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, ERROR, Situation, enqueue, fresh, job_in, quiet
from tests.databases import anywhere
from tests.mongod import fail_command

LOST_REPLY = {"writeConcernError": {"code": 64, "errmsg": "executed, then lost"}}
RETRYABLE = LOST_REPLY | {"errorLabels": ["RetryableWriteError"]}
CLOSED = {"closeConnection": True}
FAULTS = {
    "executed, reply lost": (LOST_REPLY, 1),
    "executed twice, replies lost": (LOST_REPLY, 2),
    "executed, driver repeats": (RETRYABLE, 1),
    "connection closed": (CLOSED, 1),
    "connection closed, also on the repeat": (CLOSED, 2),
}
FEW = ["executed, reply lost", "executed twice, replies lost"]
"""For what takes the same way as something that meets all of them: a closed connection costs half a second."""
WRITES = ["insert", "update", "findAndModify"]
few_faults = pytest.mark.parametrize("fault", FEW, indirect=True)


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, mongodb_url: str, store: Store) -> Any:
    data, times = FAULTS[request.param]

    @contextmanager
    def failing(names: list[str] = WRITES) -> Iterator[None]:
        with fail_command(mongodb_url, names, times=times, appName="switchtower-client", **data):
            yield

    return failing


async def repeated(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer of an idempotent call that is repeated while its outcome is unknown."""
    for _ in range(3):
        try:
            return await call()
        except StoreUnavailable:
            continue
    raise AssertionError("no answer")


async def test_enqueue_makes_exactly_one_job(engine: Engine, store: Store, fault: Any) -> None:
    with fault():
        answer = await engine.jobs.enqueue(NewJob(name="work", unique_key="k", job_id="mine"), caller=CALLER)
    assert answer.deduplication is None
    assert [row["_id"] async for row in store.jobs.find()] == [answer.job.id]


@few_faults
async def test_bulk_enqueue_makes_each_job_exactly_once(engine: Engine, store: Store, fault: Any) -> None:
    news = [NewJob(name=f"{n}", idempotency_key=f"{n}") for n in range(50)]
    with fault():
        answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    jobs = [answer.job for answer in answers if isinstance(answer, Enqueued) and answer.deduplication is None]
    assert [job.name for job in jobs] == [new.name for new in news]
    assert await store.jobs.count_documents({}) == 50


async def test_linked_item_of_a_bulk_that_finds_no_database_costs_the_others_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*args: Any, **kwargs: Any) -> Any:
        raise AutoReconnect("gone")

    monkeypatch.setattr("switchtower.store.jobs.locate", gone)
    news = [NewJob(name="a"), NewJob(name="b", depends_on=["x"]), NewJob(name="c")]
    first, second, third = await engine.jobs.enqueue_many(news, caller=CALLER)
    assert isinstance(first, Enqueued) and isinstance(second, StoreUnavailable) and isinstance(third, Enqueued)


async def test_linked_enqueue_makes_exactly_one_job(engine: Engine, fault: Any) -> None:
    parent = await job_in(engine, "waiting")
    dependency = await job_in(engine, "scheduled")
    new = NewJob(name="child", parent_id=parent.id, depends_on=[dependency.id], idempotency_key="k")
    with fault():
        answer = await repeated(lambda: engine.jobs.enqueue(new, caller=CALLER))
    assert (await parent.job()).state == "blocked"
    assert answer.job.pending == [dependency.id]
    assert await engine._store.jobs.count_documents({"name": "child"}) == 1


@pytest.mark.parametrize("limit", [1, 20])
async def test_claim_hands_out_each_job_once_and_orphans_none(engine: Engine, fault: Any, limit: int) -> None:
    queue = fresh("queue")
    ids = {(await enqueue(engine, queue=queue)).id for _ in range(20)}
    held = list(await engine.claims.claim("w", [queue], limit=limit))
    with fault():
        held += await engine.claims.claim("w", [queue], limit=limit)
    active = [row async for row in engine._store.jobs.find(anywhere(state="active"))]
    assert {job.id for job in held} == {row["_id"] for row in active}
    assert len(held) == len(active)
    assert {row["claims"] for row in active} == {1}
    while more := await engine.claims.claim("w", [queue], limit=limit):
        held += more
    assert ({job.id for job in held}, len(held)) == (ids, 20)


async def test_claim_that_was_carried_out_after_it_was_given_up_is_handed_out_late(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    claim_one = commands.claim_one
    tokens: list[str] = []

    async def lost(*args: Any, token: str, **kwargs: Any) -> Any:
        tokens.append(token)
        raise AutoReconnect("lost")

    monkeypatch.setattr(commands, "claim_one", lost)
    assert await engine.claims.claim("w", [queue]) == []
    monkeypatch.undo()
    await claim_one(engine._store, queue, names=None, token=tokens[0], worker_id="w")
    (late,) = await engine.claims.claim("w", [queue])
    assert (late.id, late.token) == (job.id, tokens[0])
    assert await engine.claims.claim("w", [queue]) == []


@pytest.mark.motor
@few_faults
async def test_start_is_charged_once(engine: Engine, fault: Any) -> None:
    s = await job_in(engine, "active", started=False)
    with fault():
        assert await repeated(lambda: engine.claims.start([(s.id, s.token)])) == set()
    job = await s.job()
    assert (job.attempt, len(job.attempts)) == (1, 1)


@pytest.mark.parametrize("fault", FEW[:1], indirect=True)
async def test_report_lands_once_and_is_never_taken_for_lost(engine: Engine, fault: Any) -> None:
    for kind in OutcomeKind:
        for started in (True, False):
            s = await job_in(engine, "active", started=started)
            seq = (await s.document())["event_seq"]
            outcome = s.outcome(kind, error=ERROR, wait_ms=60_000, started=started)
            with fault(["update"]):
                assert await repeated(lambda outcome=outcome: engine.claims.report([outcome])) == set()  # type: ignore[misc]
            await quiet(engine)
            after = await s.document()
            assert (after["event_seq"], "token" in after) == (seq + 1, False), (kind, started)


async def test_report_of_a_batch_lands_once(engine: Engine, fault: Any) -> None:
    queue = fresh("queue")
    for _ in range(12):
        await enqueue(engine, queue=queue)
    await engine.claims.claim("w", [queue], limit=1)
    claimed = await engine.claims.claim("w", [queue], limit=20)
    kinds = [OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.BURY, OutcomeKind.RELEASE]
    outcomes = [
        Outcome(job.id, job.token, kinds[n % 4], result=n or None, error=ERROR, wait_ms=60_000)
        for n, job in enumerate(claimed)
    ]
    with fault(["update"]):
        assert await repeated(lambda: engine.claims.report(outcomes)) == set()
    rows = await engine._store.jobs.find({"_id": {"$in": [job.id for job in claimed]}}).to_list(None)
    assert {row["event_seq"] for row in rows} == {3}


@few_faults
async def test_operators_verb_moves_once(engine: Engine, fault: Any) -> None:
    for verb in ("cancel", "retry", "promote", "remove"):
        s = await job_in(engine, "scheduled")
        seq = (await s.document())["event_seq"]
        try:
            with fault(["findAndModify"]):
                await getattr(engine.jobs, verb)(s.id, caller=CALLER)
        except StoreUnavailable:
            pass
        try:
            await getattr(engine.jobs, verb)(s.id, caller=CALLER)
        except SwitchtowerError as refusal:
            assert refusal.code in ("INVALID_TRANSITION", "NOT_FOUND")
        assert (await s.document())["event_seq"] == seq + 1, verb


@few_faults
async def test_effects_are_carried_out_once(engine: Engine, store: Store, fault: Any) -> None:
    failing = await job_in(engine, "active")
    dependent = await enqueue(engine, queue=fresh("queue"), depends_on=[failing.id])
    await engine.claims.report_one(failing.outcome(OutcomeKind.BURY, error=ERROR))
    with fault():
        await engine.effects.close()
        for _ in range(3):
            try:
                await engine.upkeep.relay()
            except StoreUnavailable:
                continue
    await quiet(engine)
    assert await store.dead_letters.count_documents({"job_id": failing.id}) == 1
    moved = await Situation(engine, dependent.id, dependent.queue).document()
    assert (moved["state"], moved["event_seq"]) == ("failed", 2)
    assert await store.jobs.count_documents({"outbox": {"$exists": True}}) == 0


@few_faults
async def test_worker_verbs_can_be_repeated(engine: Engine, fault: Any) -> None:
    info = WorkerInfo(id=fresh("worker"), queues=["q"])
    with fault(["findAndModify"]):
        worker = await repeated(lambda: engine.workers.register(info))
    with fault(["findAndModify"]):
        assert (await repeated(lambda: engine.workers.renew(info.id))).started_at == worker.started_at
    with fault(["findAndModify"]):
        await repeated(lambda: engine.workers.retire(info.id))
    assert (await engine.workers.get_many([info.id]))[info.id].state == "stopped"
