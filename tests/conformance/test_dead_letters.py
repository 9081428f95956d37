"""Dead letters: exactly one for each generation that failed for good, and what can be done with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.dialects import Dialect
from switchtower.engine import DeadLetter, DeadLetterFilter, Engine
from switchtower.errors import InvalidInput, NotFound
from switchtower.jobs import Deduplication, NewJob
from switchtower.retry import Backoff, BackoffKind
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, ERROR, LONG_AGO, Situation, fresh, job_in, quiet


async def _entries(engine: Engine, **filter: Any) -> list[DeadLetter]:
    return (await engine.dead_letters.page(DeadLetterFilter(**filter), caller=CALLER)).items


async def test_every_failed_generation_leaves_one_entry(engine: Engine) -> None:
    s = await job_in(engine, "waiting", payload={"a": 1}, max_attempts=1, tags=["t"], group="g", priority=4)
    for generation in (1, 2, 3):
        await s.claim(start=True)
        await s.report(OutcomeKind.FAIL, error=ERROR)
        if generation < 3:
            await engine.jobs.retry(s.id, caller=CALLER)
    job = await s.job()
    entries = await _entries(engine, job_id=s.id)
    assert sorted(entry.generation for entry in entries) == [1, 2, 3]
    for entry in entries:
        assert (entry.job_id, entry.name, entry.queue, entry.payload) == (s.id, "work", s.queue, {"a": 1})
        assert (entry.error, entry.attempt, entry.max_attempts, entry.priority) == (ERROR, 1, 1, 4)
        assert (entry.tags, entry.group, entry.replayed_at, entry.replay_job_ids) == (["t"], "g", None, [])
        assert entry.created_at == job.created_at
    assert max(entry.failed_at for entry in entries) == job.finished_at


async def test_what_did_not_fail_leaves_none(engine: Engine) -> None:
    for kind in [OutcomeKind.COMPLETE, OutcomeKind.ABORT, OutcomeKind.RELEASE, OutcomeKind.SNOOZE]:
        s = await job_in(engine, "active")
        await s.report(kind)
        assert await _entries(engine) == []


async def test_twenty_relays_of_one_failure_leave_one_entry(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "failed")
    outbox = {"$set": {"outbox": ["dead_letter"]}}
    for _ in range(4):
        await store.jobs.update_one({"_id": s.id}, outbox)
        await asyncio.gather(*(engine.effects.relay() for _ in range(5)))
    assert len(await _entries(engine, job_id=s.id)) == 1
    assert "outbox" not in await s.document()


async def test_failure_whose_process_died_is_relayed_by_maintenance(engine: Engine, store: Store) -> None:
    s = await job_in(engine, "failed")
    await store.dead_letters.delete_many({})
    await s.set(outbox=["dead_letter"])
    assert await engine.upkeep.relay() == 1
    assert len(await _entries(engine, job_id=s.id)) == 1


async def test_replay_is_a_new_job_with_what_the_failed_one_had(engine: Engine) -> None:
    fields: dict[str, Any] = {
        "payload": [1], "priority": 2, "max_attempts": 7, "timeout_ms": 10, "ttl_ms": 10**10, "group": "g",
        "tags": ["t"], "lifo": True, "unique_key": "k", "backoff": Backoff(BackoffKind.FIXED, base_ms=9),
        "remove_on_complete": True,
    }  # fmt: skip
    s = await job_in(engine, "failed", **fields, job_id=fresh("mine"))
    (entry,) = await _entries(engine, job_id=s.id)
    first = await engine.dead_letters.replay(entry.id, caller=CALLER)
    assert first.job.id != s.id and first.job.state == "waiting"
    assert {name: getattr(first.job, name) for name in fields} == fields
    found = await engine.dead_letters.get(entry.id, caller=CALLER)
    assert found is not None
    assert found.replayed_at is not None and found.replay_job_ids == [first.job.id]
    assert (await s.job()).state == "failed"


async def test_replay_with_changes_takes_the_rest_from_the_failed_job(engine: Engine) -> None:
    s = await job_in(engine, "failed", priority=7, timeout_ms=5_000, max_attempts=2, group="g")
    entry = (await engine.dead_letters.for_jobs([s.id], caller=CALLER))[s.id]
    changes = {"priority": 0, "timeout_ms": None}
    job = (await engine.dead_letters.replay(entry.id, caller=CALLER, changes=changes)).job
    assert (job.priority, job.timeout_ms, job.max_attempts, job.group) == (0, None, 2, "g")
    other = await job_in(engine, "failed", priority=7)
    made, errors = await engine.dead_letters.replay_all(DeadLetterFilter(), caller=CALLER, changes=changes)
    assert [each.job.priority for each in made] == [0] and errors == [] and made[0].job.queue == other.queue


async def test_replay_keeps_what_the_dialect_of_the_failed_job_knows(engine: Engine) -> None:
    s = await job_in(engine, "failed", rank=1.75, dialect=Dialect.CONVEYOR, opts={"priority": 1.75})
    entry = (await engine.dead_letters.for_jobs([s.id], caller=CALLER))[s.id]
    job = (await engine.dead_letters.replay(entry.id, caller=CALLER)).job
    assert (job.rank, job.priority, job.dialect, job.opts) == (1.75, 2, "conveyor", {"priority": 1.75})


async def test_dead_letters_by_offset_begin_with_the_oldest(engine: Engine) -> None:
    jobs = [(await job_in(engine, "failed")).id for _ in range(4)]
    for offset in range(5):
        found = await engine.dead_letters.offset_page(DeadLetterFilter(), caller=CALLER, offset=offset, limit=2)
        assert [entry.job_id for entry in found] == jobs[offset : offset + 2]


async def test_replay_with_a_key_makes_one_job_however_often_it_is_asked_for(engine: Engine) -> None:
    s = await job_in(engine, "failed")
    (entry,) = await _entries(engine, job_id=s.id)
    replay = engine.dead_letters.replay
    answers = await asyncio.gather(*(replay(entry.id, caller=CALLER, idempotency_key="k") for _ in range(20)))
    assert len({answer.job.id for answer in answers}) == 1
    assert {answer.deduplication for answer in answers} == {None, Deduplication.IDEMPOTENCY_KEY}
    found = await engine.dead_letters.get(entry.id, caller=CALLER)
    assert found is not None and len(found.replay_job_ids) == 1
    assert (await replay(entry.id, caller=CALLER)).job.id != answers[0].job.id


async def test_replay_all_takes_each_once_and_those_that_match_only(engine: Engine) -> None:
    queue = fresh("queue")
    for _ in range(5):
        await job_in(engine, "failed", queue=queue)
    other = await job_in(engine, "failed")
    filter = DeadLetterFilter(queues=[queue])
    replay_all = engine.dead_letters.replay_all
    answers = await asyncio.gather(*(replay_all(filter, caller=CALLER) for _ in range(3)))
    ids = {answer.job.id for jobs, errors in answers for answer in jobs if not errors}
    assert len(ids) == 5
    assert (await replay_all(filter, caller=CALLER))[0] == []
    assert [entry.job_id for entry in await _entries(engine, replayed=False)] == [other.id]


async def test_replay_belongs_to_the_tenant_of_the_failed_job(engine: Engine) -> None:
    tenant = Caller("ann", org="acme", app="shop")
    queue = fresh("queue")
    job = (await engine.jobs.enqueue(NewJob(name="work", queue=queue, max_attempts=1), caller=tenant)).job
    s = Situation(engine, job.id, queue)
    await s.claim(start=True)
    await s.report(OutcomeKind.FAIL, error=ERROR)
    (entry,) = await _entries(engine, job_id=job.id)
    replayed = (await engine.dead_letters.replay(entry.id, caller=CALLER)).job
    assert (replayed.org, replayed.app) == ("acme", "shop")
    stranger = Caller("eve", org="other")
    assert await engine.dead_letters.get(entry.id, caller=stranger) is None
    with pytest.raises(NotFound):
        await engine.dead_letters.replay(entry.id, caller=stranger)
    assert await engine.dead_letters.remove([entry.id], caller=stranger) == 0
    assert (await engine.dead_letters.count(DeadLetterFilter(), caller=stranger)).value == 0


async def test_pages_of_entries_meet_each_once_both_ways(engine: Engine, store: Store) -> None:
    for _ in range(7):
        await job_in(engine, "failed")
    await store.dead_letters.update_many({}, {"$set": {"failed_at": LONG_AGO}})
    for ascending in (False, True):
        forwards, after = [], None
        while True:
            page = await engine.dead_letters.page(
                DeadLetterFilter(), caller=CALLER, first=3, after=after, ascending=ascending
            )
            forwards += [entry.id for entry in page.items]
            if not page.has_next:
                break
            after = page.cursors[-1]
        assert forwards == sorted(forwards, reverse=not ascending)
        assert len(set(forwards)) == 7
        backwards, before = [], None
        while True:
            page = await engine.dead_letters.page(
                DeadLetterFilter(), caller=CALLER, last=3, before=before, ascending=ascending
            )
            backwards = [entry.id for entry in page.items] + backwards
            if not page.has_previous:
                break
            before = page.cursors[0]
        assert backwards == forwards


async def test_filters_of_entries_narrow_and_combine(engine: Engine) -> None:
    a, b = await job_in(engine, "failed", name="alpha"), await job_in(engine, "failed", name="beta")
    for filter, expected in (
        ({"names": ["alpha"]}, {a.id}),
        ({"queues": [b.queue]}, {b.id}),
        ({"names": ["alpha"], "queues": [b.queue]}, set()),
        ({"ids": []}, set()),
        ({"text": "ALPH"}, {a.id}),
        ({"text": "IT BROKE"}, {a.id, b.id}),
        ({"text": ".*"}, set()),
        ({"text": a.id}, {a.id}),
        ({"fingerprint": ERROR.fingerprint}, {a.id, b.id}),
        ({"fingerprint": "none"}, set()),
        ({"replayed": True}, set()),
        ({"failed_before": LONG_AGO}, set()),
        ({"failed_after": LONG_AGO}, {a.id, b.id}),
    ):
        assert {entry.job_id for entry in await _entries(engine, **filter)} == expected, filter


async def test_malformed_cursor_of_entries_is_refused(engine: Engine) -> None:
    for cursor in ["", "x", "🎲", "WzFd", "W10", "bnVsbA", "WyJ4IiwgMV0", "WzFlOTksICJ4Il0"]:
        with pytest.raises(InvalidInput):
            await engine.dead_letters.page(DeadLetterFilter(), caller=CALLER, after=cursor)


async def test_text_with_nul_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidInput):
        await _entries(engine, text="a\0b")


async def test_purge_deletes_what_is_older_and_remove_what_is_named(engine: Engine, store: Store) -> None:
    old, young, named = [await job_in(engine, "failed") for _ in range(3)]
    await store.dead_letters.update_one({"job_id": old.id}, {"$set": {"failed_at": LONG_AGO}})
    assert await engine.dead_letters.purge(older_than_ms=3_600_000, caller=CALLER) == 1
    (entry,) = await _entries(engine, job_id=named.id)
    assert await engine.dead_letters.remove([entry.id, "dlq_unknown"], caller=CALLER) == 1
    assert [left.job_id for left in await _entries(engine)] == [young.id]
    assert await old.state() == "failed"
    assert await engine.dead_letters.purge(older_than_ms=10**18, caller=CALLER) == 0
    with pytest.raises(InvalidInput):
        await engine.dead_letters.purge(older_than_ms=-1, caller=CALLER)
    await quiet(engine)
