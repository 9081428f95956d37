"""Enqueue: every field round-trips, limits are named, and duplicates are answers."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from switchtower.callers import Caller
from switchtower.clock import DatabaseClock
from switchtower.dialects import Dialect
from switchtower.engine import Engine
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, NotFound, SwitchtowerError
from switchtower.jobs import Deduplication, Enqueued, Job, JobFilter, NewJob
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.retry import DEFAULT_BACKOFF, Backoff, BackoffKind
from switchtower.states import FINAL, JobState
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.commands import Commands
from tests.conformance.situations import CALLER, HOUR_MS, LONG_AGO, Situation, another, enqueue, fresh, job_in, quiet
from tests.mongod import fail_command

IN_AN_HOUR = datetime.now(UTC).replace(microsecond=123_000) + timedelta(hours=1)

FIELDS: dict[str, Any] = {
    "payload": {"a": [1, 2.5, None, "ü"]},
    "queue": "other",
    "priority": -3,
    "max_attempts": 9,
    "backoff": Backoff(BackoffKind.TABLE, waits_ms=(1, 2, 3), jitter=0.5),
    "timeout_ms": 1_234,
    "ttl_ms": 60_000,
    "group": "a group",
    "unique_key": "a key",
    "unique_for_ms": 5_000,
    "tags": ["red", "blue"],
    "lifo": True,
    "remove_on_complete": True,
    "remove_on_fail": True,
    "job_id": "mine",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "dialect": Dialect.CONVEYOR,
    "rank": -3.25,
    "opts": {"priority": -3.25, "$token": "$token", "a.b": [None]},
    "run_at": IN_AN_HOUR,
    "delay_ms": HOUR_MS,
}
SET_BY_OTHER_NOUNS = {"cron_id", "workflow", "on_child_failure", "webhook_key"}
CREATES_OTHERS = {
    "name",
    "parent_id",
    "depends_on",
    "webhook",
    "idempotency_key",
    "deduplication",
    "group_max",
    "repeat",
}


def test_round_trip_covers_every_field_of_a_new_job() -> None:
    fields = {field.name for field in dataclasses.fields(NewJob)}
    assert fields - SET_BY_OTHER_NOUNS == FIELDS.keys() | CREATES_OTHERS


async def test_every_field_round_trips(engine: Engine) -> None:
    caller = Caller("olga", org="acme", app="shop")
    for left_out in ("delay_ms", "run_at"):
        fields = FIELDS | {"queue": fresh("queue"), "job_id": fresh("mine"), "unique_key": fresh("key")}
        del fields[left_out]
        answer = await engine.jobs.enqueue(NewJob(name="work", **fields), caller=caller)
        job = await engine.jobs.get(answer.job.id, caller=caller)
        assert answer == Enqueued(job)
        assert job is not None
        assert (job.name, job.org, job.app, job.state) == ("work", "acme", "shop", "scheduled")
        for field, value in fields.items():
            if field == "delay_ms":
                assert job.run_at - job.created_at == timedelta(hours=1)
            else:
                assert getattr(job, "custom_id" if field == "job_id" else field) == value, field
        assert job.expires_at == job.created_at + timedelta(minutes=1)
        assert (job.attempt, job.claims, job.generation, job.event_seq) == (0, 0, 1, 1)
        assert [(entry.type, entry.to_state, entry.actor) for entry in job.timeline] == [
            ("enqueue", "scheduled", "olga")
        ]


async def test_defaults_are_those_of_a_new_job(engine: Engine) -> None:
    job = await enqueue(engine)
    assert (job.queue, job.priority, job.payload, job.max_attempts) == ("default", 0, None, 4)
    assert (job.backoff, job.tags, job.depends_on, job.pending) == (DEFAULT_BACKOFF, [], [], [])
    assert job.run_at == job.created_at


async def test_time_in_the_past_means_now(engine: Engine) -> None:
    job = await enqueue(engine, run_at=datetime(1, 1, 1, tzinfo=UTC))
    assert job.state == "waiting"
    assert job.run_at == job.created_at


async def test_created_at_is_the_databases_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, now = datetime.now(UTC) + timedelta(hours=1), time.monotonic()
    monkeypatch.setattr(engine._store.database, "clock", DatabaseClock())
    engine.clock.observe(ahead, sent=now, received=now)
    job = await enqueue(engine)
    assert abs(job.created_at - ahead) < timedelta(minutes=1)


async def test_refused_job_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(InvalidInput):
        await enqueue(engine, tags=[""])
    assert await engine._store.jobs.count_documents({}) == 0


async def test_payload_at_the_limit_is_taken_and_one_byte_more_is_too_large(engine: Engine) -> None:
    fits = "x" * (PAYLOAD_LIMIT - 2)
    assert (await enqueue(engine, payload=fits)).payload == fits
    with pytest.raises(InvalidInput) as refusal:
        await enqueue(engine, payload=fits + "x")
    assert refusal.value.too_large


async def test_refused_job_does_not_disturb_those_enqueued_with_it(engine: Engine) -> None:
    good, bad = await asyncio.gather(enqueue(engine), enqueue(engine, traceparent="\ud800"), return_exceptions=True)
    assert isinstance(good, Job)
    assert isinstance(bad, InvalidInput)


KEYS = {
    Deduplication.JOB_ID: {"job_id": "k"},
    Deduplication.IDEMPOTENCY_KEY: {"idempotency_key": "k"},
    Deduplication.UNIQUE_KEY: {"unique_key": "k"},
}


async def test_equal_enqueue_answers_with_the_first_job(engine: Engine) -> None:
    for reason, fields in KEYS.items():
        first = await enqueue(engine, payload=1, **fields)
        again = await engine.jobs.enqueue(NewJob(name="work", payload=2, **fields), caller=CALLER)
        assert (again.job.id, again.job.payload, again.deduplication) == (first.id, 1, reason)
        other = await engine.jobs.enqueue(NewJob(name="work", **fields), caller=Caller("eve", org="other"))
        assert other.deduplication is None
    assert await engine._store.jobs.count_documents({}) == 2 * len(KEYS)


@pytest.mark.parametrize("processes", [1, 10])
async def test_fifty_equal_enqueues_at_once_make_one_job(engine: Engine, processes: int) -> None:
    engines = [another(engine) for _ in range(processes)]
    for reason, fields in KEYS.items():
        new = NewJob(name="work", **fields)
        adds = (e.jobs.enqueue(new, caller=CALLER) for e in engines for _ in range(50 // processes))
        answers = await asyncio.gather(*adds)
        assert len({answer.job.id for answer in answers}) == 1
        assert [answer.deduplication for answer in answers].count(None) == 1
        assert {answer.deduplication for answer in answers} == {None, reason}


async def test_custom_id_is_unique_per_queue_and_free_after_removal(engine: Engine) -> None:
    first = await enqueue(engine, queue="a", job_id="mine")
    second = await enqueue(engine, queue="b", job_id="mine")
    assert first.id != second.id
    found = await engine.jobs.get("mine", caller=CALLER)
    assert found is not None and found.id == second.id
    await engine.jobs.remove(first.id, caller=CALLER)
    assert (await enqueue(engine, queue="a", job_id="mine")).id != first.id


async def test_unique_key_is_held_while_its_job_is_open(engine: Engine) -> None:
    for state in set(JobState) - {JobState.WAITING}:
        key = fresh("key")
        s = await job_in(engine, state, unique_key=key)
        assert ((await enqueue(engine, unique_key=key)).id == s.id) is (state not in FINAL), state


@pytest.mark.parametrize("upkeep", [True, False])
async def test_unique_for_holds_the_key_past_the_end_until_its_time(engine: Engine, upkeep: bool) -> None:
    for state in FINAL:
        key, other = fresh("key"), fresh("key")
        s = await job_in(engine, state, unique_key=key, unique_for_ms=HOUR_MS, idempotency_key=other)
        assert (await enqueue(engine, unique_key=key)).id == s.id
        await s.set(unique_until=LONG_AGO, release_at=LONG_AGO)
        if upkeep:
            assert await engine.upkeep.let_go() == 1
        assert (await enqueue(engine, unique_key=key)).id != s.id
        assert (await enqueue(engine, idempotency_key=other)).id == s.id
        await s.set(release_at=IN_AN_HOUR)


async def test_unique_hold_of_an_open_job_outlives_its_time(engine: Engine) -> None:
    job = await enqueue(engine, unique_key="k", unique_for_ms=1)
    await Situation(engine, job.id, job.queue).set(unique_until=LONG_AGO, release_at=LONG_AGO)
    await engine.upkeep.let_go()
    assert (await enqueue(engine, unique_key="k")).id == job.id


@pytest.mark.parametrize("upkeep", [True, False])
async def test_idempotency_key_lasts_a_day_even_past_removal(engine: Engine, upkeep: bool) -> None:
    s = await job_in(engine, "completed", idempotency_key="k", remove_on_complete=False)
    await engine.jobs.remove(s.id, caller=CALLER)
    again = await engine.jobs.enqueue(NewJob(name="work", idempotency_key="k"), caller=CALLER)
    assert (again.job.id, again.deduplication) == (s.id, Deduplication.IDEMPOTENCY_KEY)
    document = await s.document()
    assert document["idempotency_until"] - document["created_at"] == timedelta(hours=24)
    await s.set(idempotency_until=LONG_AGO, release_at=LONG_AGO)
    if upkeep:
        assert await engine.upkeep.let_go() == 1
    assert (await enqueue(engine, idempotency_key="k")).id != s.id


async def test_repeat_of_a_linked_enqueue_answers_whatever_became_of_its_relatives(engine: Engine) -> None:
    parent = await job_in(engine, "active")
    dependency = await job_in(engine, "scheduled")
    new = NewJob(
        name="work", queue=fresh("queue"), parent_id=parent.id, depends_on=[dependency.id], idempotency_key="k"
    )
    first = await engine.jobs.enqueue(new, caller=CALLER)
    await parent.report(OutcomeKind.COMPLETE)
    await engine.jobs.remove(dependency.id, caller=CALLER)
    await quiet(engine)
    again = await engine.jobs.enqueue(new, caller=CALLER)
    assert (again.job.id, again.deduplication) == (first.job.id, Deduplication.IDEMPOTENCY_KEY)


async def test_repeat_of_a_linked_enqueue_leaves_its_parent_as_it_is(engine: Engine) -> None:
    parent = await job_in(engine, "waiting")
    new = NewJob(name="work", queue=fresh("queue"), parent_id=parent.id, job_id="mine")
    await engine.jobs.enqueue(new, caller=CALLER)
    before = await parent.document()
    assert (await engine.jobs.enqueue(new, caller=CALLER)).deduplication is Deduplication.JOB_ID
    assert await parent.document() == before


async def test_bulk_gives_every_item_its_own_answer_in_order(engine: Engine) -> None:
    parent = await job_in(engine, "completed")
    held = await enqueue(engine, job_id="held")
    news = [
        NewJob(name="a"),
        NewJob(name=""),
        NewJob(name="held", job_id="held"),
        NewJob(name="twin", idempotency_key="t"),
        NewJob(name="twin", idempotency_key="t"),
        NewJob(name="orphan", parent_id="job_unknown"),
        NewJob(name="late", parent_id=parent.id),
        NewJob(name="after", depends_on=[held.id]),
        NewJob(name="z"),
    ]
    answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    shown: list[Any] = []
    for answer in answers:
        if isinstance(answer, SwitchtowerError):
            shown.append(type(answer))
        else:
            shown.append((answer.job.name, answer.job.state, answer.deduplication))
    assert shown == [
        ("a", "waiting", None),
        InvalidInput,
        ("work", "waiting", Deduplication.JOB_ID),
        ("twin", "waiting", None),
        ("twin", "waiting", Deduplication.IDEMPOTENCY_KEY),
        NotFound,
        InvalidTransition,
        ("after", "blocked", None),
        ("z", "waiting", None),
    ]


async def test_bulk_of_2500_takes_three_inserts_and_keeps_its_order(engine: Engine, commands: Commands) -> None:
    queue = fresh("queue")
    answers = await engine.jobs.enqueue_many([NewJob(name=f"{n}", queue=queue) for n in range(2_500)], caller=CALLER)
    assert commands.names == ["insert"] * 3
    assert [answer.job.name for answer in answers if isinstance(answer, Enqueued)] == [f"{n}" for n in range(2_500)]
    assert (await engine.jobs.count(JobFilter(queues=[queue], names=["7"]), caller=CALLER)).value == 1


async def test_hundred_enqueues_of_one_turn_share_an_insert(engine: Engine, commands: Commands) -> None:
    jobs = await asyncio.gather(*(enqueue(engine, payload=n) for n in range(100)))
    assert len(commands.named("insert")) <= 4
    assert commands.names == ["insert"] * len(commands.named("insert"))
    assert [job.payload for job in jobs] == list(range(100))


async def test_job_of_a_callers_transaction_appears_with_its_commit(engine: Engine, store: Store) -> None:
    async with store.database.transaction() as session:
        job = (await engine.jobs.enqueue(NewJob(name="work"), caller=CALLER, session=session)).job
        assert await engine.jobs.get(job.id, caller=CALLER) is None
    assert await engine.jobs.get(job.id, caller=CALLER) == job
    assert [claimed.id for claimed in await engine.claims.claim("w", ["default"])] == [job.id]


async def test_job_of_an_aborted_transaction_never_was(engine: Engine, store: Store) -> None:
    with pytest.raises(RuntimeError, match="business"):
        async with store.database.transaction() as session:
            await engine.jobs.enqueue(NewJob(name="work"), caller=CALLER, session=session)
            raise RuntimeError("business")
    assert await store.jobs.count_documents({}) == 0


async def test_duplicate_in_a_callers_transaction_is_a_conflict(engine: Engine, store: Store) -> None:
    await enqueue(engine, unique_key="k")
    with pytest.raises(Conflict, match="unique"):
        async with store.database.transaction() as session:
            await engine.jobs.enqueue(NewJob(name="work", unique_key="k"), caller=CALLER, session=session)
    assert await store.jobs.count_documents({}) == 1


async def test_callers_transaction_is_told_to_run_again_by_the_drivers_own_label(engine: Engine, store: Store) -> None:
    with (
        fail_command(engine.url, ["insert"], times=1, closeConnection=True),
        pytest.raises(PyMongoError) as raised,
    ):
        async with store.database.transaction() as session:
            await engine.jobs.enqueue(NewJob(name="work"), caller=CALLER, session=session)
    assert raised.value.has_error_label("TransientTransactionError")
    assert await store.jobs.count_documents({}) == 0


async def test_linked_job_cannot_be_part_of_a_transaction(engine: Engine, store: Store) -> None:
    parent = await enqueue(engine)
    async with store.database.transaction() as session:
        with pytest.raises(InvalidInput):
            await engine.jobs.enqueue(NewJob(name="work", parent_id=parent.id), caller=CALLER, session=session)


async def test_id_that_nothing_has_is_not_found(engine: Engine) -> None:
    ids = ["", "job_", "\ud800", "a\0b", "x" * 10_000, "$ne", "job_01zzzzzzzzzzzzzzzzzzzzzzzz"]
    for id, verb in product(ids, (engine.jobs.get, engine.jobs.cancel, engine.jobs.retry, engine.jobs.remove)):
        try:
            assert await verb(id, caller=CALLER) is None
        except (NotFound, InvalidInput) as refusal:
            assert (refusal.code == "VALIDATION") == (id == "\ud800")
