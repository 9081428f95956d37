"""What operators do: to one job, to a queue, and to all jobs of a filter; what is kept and for how long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.callers import Caller
from switchtower.engine import Engine, Retention
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, NotFound
from switchtower.jobs import JobFilter, JobUpdate, NewJob, PayloadMatch
from switchtower.states import JobState
from switchtower.store import counters
from switchtower.store import jobs as job_commands
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.commands import Commands, explain
from tests.conformance.situations import (
    CALLER,
    ERROR,
    HOUR_MS,
    LONG_AGO,
    Situation,
    another,
    before,
    enqueue,
    fresh,
    job_in,
    quiet,
)
from tests.databases import anywhere
from tests.waiting import until

STRANGER = Caller("eve", org="another tenant")


SOME = {
    "cancel": {JobState.WAITING, JobState.ACTIVE, JobState.COMPLETED},
    "retry": {JobState.FAILED, JobState.SCHEDULED, JobState.WAITING},
}
"""States that a caller restricts a verb to; what the verb does not start from anyway does not begin to count."""


@pytest.mark.parametrize("verb", SOME)
async def test_verb_is_restricted_to_some_states_in_its_own_write(engine: Engine, verb: str) -> None:
    ask = getattr(engine.jobs, verb)
    allowed = {"cancel": {JobState.WAITING, JobState.ACTIVE}, "retry": {JobState.FAILED, JobState.SCHEDULED}}[verb]
    for state in JobState:
        s = await job_in(engine, state)
        stored = await s.document()
        if state in allowed:
            assert (await ask(s.id, caller=CALLER, only=SOME[verb])).id == s.id
            continue
        with pytest.raises(InvalidTransition) as refused:
            await ask(s.id, caller=CALLER, only=SOME[verb])
        assert (refused.value.state, set(refused.value.allowed)) == (state, allowed)
        assert refused.value.retry_pending == (state is JobState.RETRYING)
        assert await s.document() == stored


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_retry_of_a_final_job_begins_a_new_generation(engine: Engine, state: str) -> None:
    s = await job_in(engine, state, max_attempts=1, ttl_ms=HOUR_MS, unique_key="k")
    history = (await s.job()).attempts
    job = await engine.jobs.retry(s.id, caller=CALLER)
    assert (job.state, job.generation, job.attempt, job.claims) == ("waiting", 2, 0, 0)
    assert (job.result, job.error, job.finished_at, job.started_at) == (None, None, None, None)
    assert job.expires_at is not None and job.expires_at > job.updated_at
    assert job.attempts == history
    assert (await enqueue(engine, unique_key="k")).id == s.id
    await s.claim(start=True)
    await s.report(OutcomeKind.BURY, error=ERROR)
    assert [(row.generation, row.number) for row in (await s.job()).attempts][-1] == (2, 1)


async def test_retry_of_an_open_job_keeps_its_generation(engine: Engine) -> None:
    for state in ["scheduled", "retrying"]:
        s = await job_in(engine, state)
        attempt = (await s.job()).attempt
        job = await engine.jobs.retry(s.id, caller=CALLER)
        assert (job.state, job.generation, job.attempt) == ("waiting", 1, attempt)
        await s.claim()


async def test_retry_of_a_job_whose_unique_key_is_held_is_a_conflict(engine: Engine) -> None:
    s = await job_in(engine, "failed", unique_key="k")
    await enqueue(engine, unique_key="k")
    stored = await s.document()
    with pytest.raises(Conflict, match="unique key"):
        await engine.jobs.retry(s.id, caller=CALLER)
    assert await s.document() == stored


async def test_retry_relays_what_the_job_left_undone_first(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "active")
    dependent = await enqueue(engine, queue=fresh("queue"), depends_on=[s.id])
    await store.jobs.update_one({"_id": s.id}, {"$set": {"awaited": True}})
    await engine.claims._store.jobs.update_one({"_id": s.id}, {"$set": {"max_attempts": 1}})
    await engine.claims.report([s.outcome(OutcomeKind.FAIL, error=ERROR)])
    assert (await engine.jobs.retry(s.id, caller=CALLER)).generation == 2
    assert await store.dead_letters.count_documents({"job_id": s.id, "generation": 1}) == 1
    assert (await Situation(engine, dependent.id, dependent.queue).job()).state == "failed"


async def test_ten_retries_at_once_make_one_new_generation(engine: Engine) -> None:
    s = await job_in(engine, "failed")
    answers = await asyncio.gather(*(engine.jobs.retry(s.id, caller=CALLER) for _ in range(10)), return_exceptions=True)
    assert [type(answer) for answer in answers].count(InvalidTransition) == 9
    assert (await s.job()).generation == 2


async def test_update_changes_what_it_names_and_nothing_else(engine: Engine) -> None:
    s = await job_in(engine, "waiting", payload=1, tags=["a"])
    stored = await s.job()
    change = JobUpdate(priority=9, max_attempts=2, timeout_ms=5)
    job = await engine.jobs.update(s.id, change, caller=CALLER)
    assert (job.priority, job.max_attempts, job.timeout_ms) == (9, 2, 5)
    assert (job.payload, job.tags, job.state, job.run_at) == (1, ["a"], stored.state, stored.run_at)
    other = await enqueue(engine, queue=s.queue, priority=5)
    third = await engine.jobs.update((await enqueue(engine, queue=s.queue)).id, JobUpdate(rank=4.5), caller=CALLER)
    assert (third.rank, third.priority) == (4.5, 5)
    assert [(await engine.claims.claim("w", [s.queue]))[0].id for _ in range(2)] == [third.id, other.id]
    assert (await engine.jobs.update(s.id, JobUpdate(payload=None), caller=CALLER)).payload is None


async def test_due_time_of_a_job_that_waits_for_it_can_be_moved(engine: Engine) -> None:
    for state in ["scheduled", "retrying"]:
        s = await job_in(engine, state)
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
        assert (await engine.jobs.update(s.id, JobUpdate(run_at=at), caller=CALLER)).run_at == at
        await engine.jobs.update(s.id, JobUpdate(run_at=LONG_AGO), caller=CALLER)
        assert await engine.upkeep.stage() == 1


async def test_due_time_of_any_other_job_cannot(engine: Engine) -> None:
    for state in ("waiting", "blocked", "completed"):
        s = await job_in(engine, state)
        stored = await s.document()
        with pytest.raises(InvalidTransition, match="scheduled or retrying"):
            await engine.jobs.update(s.id, JobUpdate(run_at=LONG_AGO, priority=3), caller=CALLER)
        assert await s.document() == stored


async def test_update_that_makes_no_sense_is_refused_by_name(engine: Engine) -> None:
    s = await job_in(engine, "scheduled")
    for field, change in (
        ("input", JobUpdate()),
        ("payload", JobUpdate(payload=float("nan"))),
        ("priority", JobUpdate(priority=2**31)),
        ("maxAttempts", JobUpdate(max_attempts=0)),
        ("timeoutMs", JobUpdate(timeout_ms=0)),
        ("tags", JobUpdate(tags=["t"] * 51)),
        ("tags", JobUpdate(tags=[""])),
        ("runAt", JobUpdate(run_at=datetime(2030, 1, 1))),
    ):
        with pytest.raises(InvalidInput) as refusal:
            await engine.jobs.update(s.id, change, caller=CALLER)
        assert refusal.value.field == field


async def test_remove_answers_with_the_job_as_it_was(engine: Engine) -> None:
    s = await job_in(engine, "completed", payload="p")
    removed = await engine.jobs.remove(s.id, caller=CALLER)
    assert (removed.id, removed.state, removed.payload, removed.result) == (s.id, "completed", "p", {"answer": 42})
    document = await s.document()
    assert not document.keys() & {"payload", "result", "logs", "attempts", "custom_id"}


async def test_forced_removal_of_a_running_job_takes_its_lease(engine: Engine) -> None:
    s = await job_in(engine, "active")
    with pytest.raises(InvalidTransition, match="force"):
        await engine.jobs.remove(s.id, caller=CALLER)
    await engine.jobs.remove(s.id, caller=CALLER, force=True)
    stored = await s.document()
    assert await s.report(OutcomeKind.COMPLETE) == {s.id}
    assert await s.document() == stored


async def test_verbs_take_the_callers_own_id(engine: Engine) -> None:
    s = await job_in(engine, "scheduled", job_id="mine")
    for verb in ("promote", "cancel", "retry", "remove"):
        assert (await getattr(engine.jobs, verb)("mine", caller=CALLER)).id == s.id
        await quiet(engine)


async def test_another_tenants_job_does_not_exist(engine: Engine) -> None:
    job = (await engine.jobs.enqueue(NewJob(name="w", job_id="mine", delay_ms=1), caller=Caller("a", org="a"))).job
    stored = await Situation(engine, job.id, job.queue).document()
    for verb, id in product(("get", "cancel", "retry", "promote", "remove"), (job.id, "mine")):
        try:
            assert await getattr(engine.jobs, verb)(id, caller=STRANGER) is None
        except NotFound as refusal:
            assert id in str(refusal)
        assert await Situation(engine, job.id, job.queue).document() == stored, verb


async def test_verb_that_a_change_has_just_made_possible_happens(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = await job_in(engine, "completed")
    before(monkeypatch, job_commands, "locate", lambda: engine.jobs.retry(s.id, caller=CALLER))
    assert (await engine.jobs.cancel(s.id, caller=CALLER)).state == "cancelled"


# ---- queues


async def _one_in_each_state(engine: Engine, queue: str) -> dict[str, Situation]:
    return {state: await job_in(engine, state, queue=queue, priority=-n) for n, state in enumerate(_STATES)}


_STATES = ["active", "completed", "failed", "retrying", "cancelled", "scheduled", "blocked", "waiting"]


async def _states(store: Store, queue: str) -> set[str]:
    return set(await store.jobs.distinct("state", anywhere(queue=queue, state={"$ne": "removed"})))


async def test_drain_removes_what_has_not_begun(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await _one_in_each_state(engine, queue)
    other = await job_in(engine, "waiting")
    assert await engine.queues.drain(queue, caller=CALLER) == 4
    assert await _states(store, queue) == {"active", "completed", "failed", "cancelled"}
    assert await other.state() == "waiting"


async def test_drain_leaves_a_job_that_ran_to_its_end_meanwhile(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, left = await job_in(engine, "waiting"), await job_in(engine, "waiting")
    await left.set(queue=s.queue)
    await _runs_when_the_batch_is_read(engine, store, s, monkeypatch)
    assert await engine.queues.drain(s.queue, caller=CALLER) == 1
    assert [await s.state(), await left.state()] == ["completed", "removed"]


async def test_clean_leaves_a_job_that_was_retried_meanwhile(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = await job_in(engine, "completed")
    find = type(store.jobs).find

    def retried(collection: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = find(collection, *args, **kwargs)
        return _Late(cursor, engine.jobs.retry(s.id, caller=CALLER)) if collection == store.jobs else cursor

    await _patch_once(monkeypatch, store, retried)
    assert await engine.queues.clean(s.queue, JobState.COMPLETED, caller=CALLER) == 0
    assert await s.state() == "waiting"


class _Late:
    """A cursor that lets something happen between what it reads and what is done with it."""

    def __init__(self, cursor: Any, happening: Any) -> None:
        self.cursor, self.happening = cursor, happening

    async def to_list(self, *args: Any) -> Any:
        rows = await self.cursor.to_list(*args)
        await self.happening
        return rows


async def _patch_once(monkeypatch: pytest.MonkeyPatch, store: Store, replacement: Any) -> None:
    def once(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        return replacement(*args, **kwargs)

    monkeypatch.setattr(type(store.jobs), "find", once)


async def _runs_when_the_batch_is_read(
    engine: Engine, store: Store, s: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = type(store.jobs).find

    async def run() -> None:
        await s.claim()
        await s.report(OutcomeKind.COMPLETE)

    def running(collection: Any, *args: Any, **kwargs: Any) -> Any:
        return _Late(find(collection, *args, **kwargs), run())

    await _patch_once(monkeypatch, store, running)


async def test_clean_removes_one_state(engine: Engine, store: Store) -> None:
    queue, left = fresh("queue"), set(_STATES)
    await _one_in_each_state(engine, queue)
    for state in set(JobState) - {JobState.ACTIVE}:
        assert await engine.queues.clean(queue, state, grace_ms=60_000, caller=CALLER) == 0
        assert await engine.queues.clean(queue, state, caller=CALLER) == 1
        left.remove(state.value)
        assert await _states(store, queue) == left


async def test_clean_takes_no_more_than_its_limit_and_never_what_runs(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue)] * 30, caller=CALLER)
    assert await engine.queues.clean(queue, JobState.WAITING, limit=7, caller=CALLER) == 7
    assert await store.jobs.count_documents({"queue": queue, "state": "waiting"}) == 23
    for bad in ({"states": JobState.ACTIVE}, {"states": JobState.WAITING, "grace_ms": -1}):
        with pytest.raises(InvalidInput):
            await engine.queues.clean(queue, **bad, caller=CALLER)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        await engine.queues.clean(queue, JobState.WAITING, grace_ms=10**18, caller=CALLER)


async def test_obliterate_refuses_while_jobs_run_unless_forced(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    situations = await _one_in_each_state(engine, queue)
    await engine.queues.pause(queue, caller=CALLER)
    with pytest.raises(Conflict, match="1 active"):
        await engine.queues.obliterate(queue, caller=CALLER)
    assert await _states(store, queue) == set(_STATES)
    assert await engine.queues.obliterate(queue, force=True, caller=CALLER) == 8
    assert await _states(store, queue) == set()
    assert await store.queues.count_documents({}) == 0
    assert await situations["active"].report(OutcomeKind.COMPLETE) == {situations["active"].id}


async def test_obliterated_queue_is_not_listed_any_more(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await job_in(engine, "waiting", queue=queue)
    await counters.recount(store, reached="")
    assert [found.name for found in await engine.queues.list(caller=CALLER)] == [queue]
    await engine.queues.obliterate(queue, caller=CALLER)
    await store.counters.update_one({"queue": queue}, {"$inc": {"counts.waiting": -1}})
    assert await engine.queues.list(caller=CALLER) == []
    assert await engine.queues.get(queue, caller=CALLER) is None


async def test_drain_of_many_chunks_removes_them_all(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchtower.engine.queues.CHUNK", 10)
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue)] * 25, caller=CALLER)
    assert await engine.queues.drain(queue, caller=CALLER) == 25
    assert await _states(store, queue) == set()


async def test_drained_children_fail_their_parent(engine: Engine) -> None:
    parent = await job_in(engine, "waiting")
    child = await enqueue(engine, queue=fresh("queue"), parent_id=parent.id)
    await engine.queues.drain(child.queue, caller=CALLER)
    await quiet(engine)
    assert await parent.state() == "failed"


async def test_queue_name_that_cannot_be_is_refused(engine: Engine) -> None:
    for name in ("", "a/b", "n" * 257, "two\nlines"):
        with pytest.raises(InvalidInput):
            await engine.queues.pause(name, caller=CALLER)


# ---- all jobs of a filter


BULK = {
    "cancel": {"scheduled", "waiting", "blocked", "retrying", "active"},
    "retry": {"completed", "failed", "cancelled", "retrying", "scheduled"},
    "promote": {"scheduled", "retrying"},
    "remove": set(_STATES) - {"active"},
}


@pytest.mark.parametrize("verb", BULK)
async def test_bulk_moves_what_may_move_and_leaves_the_rest(engine: Engine, verb: str) -> None:
    queue = fresh("queue")
    situations = await _one_in_each_state(engine, queue)
    stranger = await job_in(engine, "scheduled")
    stored = {state: await s.document() for state, s in situations.items()}
    preview = await engine.bulk.start(verb, JobFilter(queues=[queue]), caller=CALLER, dry_run=True)
    assert (preview.matched, preview.changed, preview.id) == (len(BULK[verb]), 0, None)
    assert {state: await s.document() for state, s in situations.items()} == stored
    operation = await engine.bulk.start(verb, JobFilter(queues=[queue]), caller=CALLER)
    await quiet(engine)
    assert operation.done and operation.finished_at is not None
    assert (operation.matched, operation.changed, operation.failed) == (len(BULK[verb]), len(BULK[verb]), 0)
    assert operation.sample_ids == preview.sample_ids == sorted(situations[state].id for state in BULK[verb])
    for state, s in situations.items():
        assert ((await s.document())["event_seq"] > stored[state]["event_seq"]) == (state in BULK[verb]), state
    assert await stranger.state() == "scheduled"


async def test_bulk_of_2500_jobs_reaches_them_all_and_none_of_those_enqueued_later(
    engine: Engine, store: Store
) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue, delay_ms=1_000_000)] * 2_500, caller=CALLER)
    start = asyncio.create_task(engine.bulk.start("promote", JobFilter(queues=[queue]), caller=CALLER))
    await until(lambda: store.bulk_operations.count_documents({}))
    late = await enqueue(engine, queue=queue, delay_ms=1_000_000)
    operation = await start
    assert (operation.matched, operation.changed, operation.done) == (2_500, 2_500, True)
    assert await Situation(engine, late.id, queue).state() == "scheduled"


async def test_bulk_reaches_jobs_whose_ids_were_made_by_a_clock_that_is_ahead(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "scheduled")
    document = await s.document()
    await store.jobs.delete_one({"_id": s.id})
    await store.jobs.insert_one(document | {"_id": "job_7zzzzzzzzzzzzzzzzzzzzzzzzz"})
    operation = await engine.bulk.start("cancel", JobFilter(queues=[s.queue]), caller=CALLER)
    assert operation.changed == 1


async def test_bulk_retry_counts_those_whose_unique_key_is_held(engine: Engine) -> None:
    queue = fresh("queue")
    for n in range(4):
        await job_in(engine, "failed", queue=queue, unique_key=f"k{n}")
    await enqueue(engine, unique_key="k1")
    operation = await engine.bulk.start("retry", JobFilter(queues=[queue]), caller=CALLER)
    assert (operation.matched, operation.changed, operation.failed) == (4, 3, 1)


async def test_bulk_removes_what_fails_by_the_ends_that_it_tells(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's end, not told yet, fails its parent when the chunk of both is about to be removed."""
    s = await job_in(engine, "active")
    waiting = await enqueue(engine, queue=s.queue, depends_on=[s.id])
    monkeypatch.setattr(engine.effects, "kick", lambda: None)
    await engine.claims.report([s.outcome(OutcomeKind.BURY, error=ERROR)])
    operation = await engine.bulk.start("remove", JobFilter(queues=[s.queue]), caller=CALLER)
    assert (operation.matched, operation.changed, operation.failed) == (2, 2, 0)
    assert await Situation(engine, waiting.id, s.queue).state() == "removed"
    assert await engine._store.dead_letters.count_documents({"job_id": {"$in": [s.id, waiting.id]}}) == 2


async def test_bulk_operation_of_a_dead_process_is_finished_by_another(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue, delay_ms=HOUR_MS)] * 2_500, caller=CALLER)
    dying = another(engine)
    chunk = dying.bulk._chunk
    chunks = 0

    async def dies(id: str) -> bool:
        nonlocal chunks
        chunks += 1
        if chunks == 2:
            await asyncio.Event().wait()
        return await chunk(id)

    dying.bulk._chunk = dies  # type: ignore[method-assign]
    task = asyncio.create_task(dying.bulk.start("cancel", JobFilter(queues=[queue]), caller=CALLER))
    await until(lambda: chunks == 2)
    task.cancel()
    await dying.bulk.close()
    await dying.effects.close()
    (row,) = await store.bulk_operations.find().to_list(None)
    assert (row["matched"], row["done"]) == (1_000, False)
    await engine.upkeep.resume_bulk()
    operation = await engine.bulk.get(row["_id"], caller=CALLER)
    assert operation is not None
    assert (operation.matched, operation.changed, operation.done) == (2_500, 2_500, True)
    assert await store.jobs.count_documents({"queue": queue, "state": "cancelled", "event_seq": 2}) == 2_500


async def test_bulk_filter_survives_being_stored(engine: Engine) -> None:
    s = await job_in(engine, "scheduled", payload={"x": {"$gt": 1, "a.b": [{"$in": []}]}})
    filter = JobFilter(
        queues=[s.queue],
        payload=[PayloadMatch("x", {"$gt": 1, "a.b": [{"$in": []}]})],
        created_after=LONG_AGO,
        text="work",
    )
    assert (await engine.bulk.start("cancel", filter, caller=CALLER)).changed == 1


async def test_bulk_is_the_tenants_own(engine: Engine) -> None:
    s = await job_in(engine, "scheduled")
    operation = await engine.bulk.start("cancel", JobFilter(queues=[s.queue]), caller=STRANGER)
    assert operation.matched == 0
    mine = await engine.bulk.start("cancel", JobFilter(queues=[s.queue]), caller=CALLER)
    assert mine.id is not None
    assert await engine.bulk.get(mine.id, caller=STRANGER) is None
    with pytest.raises(InvalidInput):
        await engine.bulk.start("explode", JobFilter(), caller=CALLER)


# ---- what is kept, and for how long


async def test_final_jobs_past_their_retention_go_and_all_others_stay(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    situations = await _one_in_each_state(engine, queue)
    young = await job_in(engine, "completed")
    await young.set(queue=queue)
    fields = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    for state, s in situations.items():
        await s.set(**fields, **({"finished_at": LONG_AGO} if state in ("completed", "failed", "cancelled") else {}))
    await counters.recount(store, reached="")
    keeps = Engine(store, url="", payload_limit=1, retention=Retention(completed_seconds=60, failed_seconds=None))
    await keeps.upkeep.prune()
    assert await _states(store, queue) == set(_STATES) - {"cancelled"} | {"completed"}
    assert await store.jobs.count_documents({"_id": situations["completed"].id, "state": "removed"}) == 1
    await quiet(keeps)
    await engine.upkeep.prune()
    assert await _states(store, queue) == set(_STATES) - {"cancelled", "failed"}
    assert await young.state() == "completed"


async def test_retention_is_counted_from_the_end_not_from_the_enqueue(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "completed")
    await s.set(created_at=LONG_AGO)
    await counters.recount(store, reached="")
    await engine.upkeep.prune()
    assert await s.state() == "completed"


async def test_retention_reads_no_more_than_what_is_past_it(
    engine: Engine, store: Store, commands: Commands, mongo: MongoClient[dict[str, Any]]
) -> None:
    queue = fresh("queue")
    await engine.jobs.enqueue_many([NewJob(name="w", queue=queue)] * 3_000, caller=CALLER)
    now = engine.clock.now()
    await store.jobs.update_many(anywhere(queue=queue), {"$set": {"state": "completed", "finished_at": now}})
    await counters.recount(store, reached="")
    commands.clear()
    await engine.upkeep.prune()
    (find,) = [find for find in commands.named("find") if find["filter"].get("state") == "completed"]
    assert explain(mongo, store.database.name, find)["executionStats"]["totalDocsExamined"] <= 1_000


async def test_tombstone_goes_when_nothing_needs_it(engine: Engine, store: Store) -> None:
    needs = ({"outbox": ["settle"]}, {"idempotency_key": "k"}, {"unique_hold": "k"}, {})
    made = [await job_in(engine, "completed") for _ in needs]
    for s in made:
        await engine.jobs.remove(s.id, caller=CALLER)
    await quiet(engine)
    assert await engine.upkeep.prune() == 0
    for s, fields in zip(made, needs, strict=True):
        await s.set(removed_at=LONG_AGO, **fields)
    assert await engine.upkeep.prune() == 1
    assert await store.jobs.count_documents({"_id": {"$in": [s.id for s in made[:-1]]}}) == 3


async def test_let_go_frees_each_key_at_its_own_time(engine: Engine) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    s = await job_in(engine, "completed", idempotency_key="i", unique_key="u", unique_for_ms=HOUR_MS)
    await s.set(unique_until=LONG_AGO, release_at=LONG_AGO)
    assert await engine.upkeep.let_go() == 1
    document = await s.document()
    assert "unique_hold" not in document and document["idempotency_key"] == "i"
    assert document["release_at"] == document["idempotency_until"]
    await s.set(idempotency_until=LONG_AGO, release_at=LONG_AGO, unique_hold="u", unique_until=soon)
    assert await engine.upkeep.let_go() == 1
    document = await s.document()
    assert "idempotency_key" not in document and document["unique_hold"] == "u"
    assert abs(document["release_at"] - soon) < timedelta(milliseconds=1)
    assert await engine.upkeep.let_go() == 0


# ---- counting


async def test_count_of_no_state_is_none_and_of_a_state_twice_is_once(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await enqueue(engine, queue=queue)
    await counters.recount(store, reached="")
    count = engine.jobs.count
    assert (await count(JobFilter(queues=[queue]), caller=CALLER)).value == 1
    assert (await count(JobFilter(queues=[queue], states=[]), caller=CALLER)).value == 0
    waiting = [JobState.WAITING, JobState.WAITING]
    assert (await count(JobFilter(queues=[queue], states=waiting), caller=CALLER)).value == 1
    assert (await count(JobFilter(queues=[]), caller=CALLER)).value == 0


async def test_list_by_state_shows_a_job_of_a_queue_that_was_never_counted(engine: Engine, store: Store) -> None:
    await enqueue(engine, queue=fresh("known"))
    await counters.recount(store, reached="")
    new = await enqueue(engine, queue=fresh("new"))
    for states in ([JobState.WAITING], [JobState.WAITING, JobState.ACTIVE]):
        found = await engine.jobs.page(JobFilter(states=states), caller=CALLER)
        assert new.id in {job.id for job in found.items}


async def test_retry_may_keep_the_attempts_that_were_used(engine: Engine) -> None:
    s = await job_in(engine, "failed", max_attempts=3)
    await s.set(attempt=3)
    job = await engine.jobs.retry(s.id, caller=CALLER, keep_attempts=True)
    assert (job.state, job.attempt, job.failures, job.error) == (JobState.WAITING, 3, 3, None)
    await s.claim(start=True)
    await s.report(OutcomeKind.FAIL, error=ERROR, wait_ms=1_000)
    after = await s.job()
    assert (after.state, after.attempt) == (JobState.FAILED, 4), "it fails for good with the next error"
