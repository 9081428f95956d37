"""Parents and dependencies: who waits for whom, whatever ends first and whoever dies half-way."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from switchtower.engine import Engine
from switchtower.errors import InvalidInput, NotFound
from switchtower.ids import JOB, new_id
from switchtower.jobs import ErrorKind, NewJob
from switchtower.store import jobs as job_commands
from switchtower.store import outbox
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.situations import (
    CALLER,
    ERROR,
    HOUR_MS,
    LONG_AGO,
    Situation,
    before,
    enqueue,
    fresh,
    job_in,
    quiet,
)
from tests.databases import anywhere


async def _waiting_for(engine: Engine, *ids: str, **fields: Any) -> Situation:
    job = await enqueue(engine, queue=fresh("queue"), depends_on=ids, **fields)
    return Situation(engine, job.id, job.queue)


async def _end(s: Situation, how: str) -> None:
    match how:
        case "completed":
            await s.claim()
            await s.report(OutcomeKind.COMPLETE)
        case "failed":
            await s.claim()
            await s.report(OutcomeKind.BURY, error=ERROR)
        case "cancelled":
            await s.engine.jobs.cancel(s.id, caller=CALLER)
        case "removed":
            await s.engine.jobs.remove(s.id, caller=CALLER)
    await quiet(s.engine)


ENDS = ["completed", "failed", "cancelled", "removed"]


async def test_end_of_a_dependency_frees_or_fails_the_dependent(engine: Engine) -> None:
    for how in ENDS:
        dependency = await job_in(engine, "waiting")
        dependent = await _waiting_for(engine, dependency.id)
        assert (await dependent.job()).state == "blocked"
        assert (await dependent.job()).pending == (await dependent.job()).depends_on == [dependency.id]
        await _end(dependency, how)
        job = await dependent.job()
        assert job.pending == []
        assert job.state == ("waiting" if how == "completed" else "failed")
        if how != "completed":
            assert job.error is not None and job.error.kind is ErrorKind.DEPENDENCY
            assert dependency.id in job.error.message
            assert {"failed": "failed: it broke", "cancelled": "was cancelled", "removed": "was removed"}[how] in (
                job.error.message
            )


async def test_dependent_is_freed_by_its_last_dependency_only(engine: Engine) -> None:
    dependencies = [await job_in(engine, "waiting") for _ in range(3)]
    dependent = await _waiting_for(engine, *(d.id for d in dependencies))
    for dependency in dependencies:
        assert (await dependent.job()).state == "blocked"
        await _end(dependency, "completed")
    assert (await dependent.job()).state == "waiting"
    assert [entry.type for entry in (await dependent.job()).timeline] == ["enqueue", "unblock"]


async def test_freed_job_that_is_not_due_becomes_scheduled(engine: Engine) -> None:
    dependency = await job_in(engine, "waiting")
    dependent = await _waiting_for(engine, dependency.id, delay_ms=HOUR_MS)
    await _end(dependency, "completed")
    assert (await dependent.job()).state == "scheduled"


async def test_dependencies_complete_at_once_and_free_exactly_once(engine: Engine) -> None:
    dependencies = [await job_in(engine, "active") for _ in range(10)]
    dependent = await _waiting_for(engine, *(d.id for d in dependencies))
    outcomes = [d.outcome(OutcomeKind.COMPLETE) for d in dependencies]
    await asyncio.gather(*(engine.claims.report([outcome]) for outcome in outcomes))
    await asyncio.gather(*(engine.upkeep.relay() for _ in range(4)))
    await quiet(engine)
    job = await dependent.job()
    assert (job.state, job.event_seq) == ("waiting", 2)


async def test_dependency_that_ended_before_the_enqueue_counts_at_once(engine: Engine) -> None:
    for how in ("completed", "failed", "cancelled"):
        dependency = await job_in(engine, how)
        dependent = await _waiting_for(engine, dependency.id)
        assert (await dependent.job()).state == ("waiting" if how == "completed" else "failed")


async def test_dependency_that_ends_in_the_middle_of_the_enqueue_is_not_missed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in ENDS:
        dependency = await job_in(engine, "waiting")
        before(monkeypatch, job_commands, "insert_many", partial(_end, dependency, how))
        dependent = await _waiting_for(engine, dependency.id)
        assert (await dependent.job()).state == ("waiting" if how == "completed" else "failed")


async def test_dependency_that_failed_in_the_middle_of_the_enqueue_and_is_not_buried_yet_is_not_missed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dependency = await job_in(engine, "active")

    async def fails() -> None:
        with monkeypatch.context() as nobody_relays:
            nobody_relays.setattr(engine.effects, "kick", lambda: None)
            await engine.claims.report([dependency.outcome(OutcomeKind.BURY, error=ERROR)])
        assert (await dependency.document())["outbox"] == ["dead_letter"]

    before(monkeypatch, job_commands, "insert_many", fails)
    dependent = await _waiting_for(engine, dependency.id)
    assert (await dependent.job()).state == "failed"
    assert await engine._store.dead_letters.count_documents({"job_id": dependency.id}) == 1


async def test_enqueue_races_with_the_end_of_its_dependency(engine: Engine) -> None:
    for how in ENDS:
        for _ in range(4):
            dependency = await job_in(engine, "waiting")
            dependent, ended = await asyncio.gather(
                engine.jobs.enqueue(
                    NewJob(name="late", queue=fresh("queue"), depends_on=[dependency.id]), caller=CALLER
                ),
                _end(dependency, how),
                return_exceptions=True,
            )
            await quiet(engine)
            assert ended is None
            if isinstance(dependent, NotFound):
                assert how == "removed"
                continue
            assert not isinstance(dependent, BaseException)
            found = await engine.jobs.get(dependent.job.id, caller=CALLER)
            assert found is not None and found.state == ("waiting" if how == "completed" else "failed")


async def test_unknown_and_removed_relatives_are_not_found(engine: Engine) -> None:
    gone = await job_in(engine, "completed")
    await engine.jobs.remove(gone.id, caller=CALLER)
    for id in ("job_unknown", gone.id):
        with pytest.raises(NotFound):
            await enqueue(engine, depends_on=[id])
        with pytest.raises(NotFound):
            await enqueue(engine, parent_id=id)
    assert await engine._store.jobs.count_documents(anywhere(state={"$ne": "removed"})) == 0


async def test_dependency_by_the_callers_own_id_counts_once(engine: Engine) -> None:
    first = await job_in(engine, "waiting", job_id="mine")
    dependent = await _waiting_for(engine, "mine", first.id, "mine")
    assert (await dependent.job()).pending == [first.id]


async def test_parent_waits_for_its_child(engine: Engine) -> None:
    for state in ["scheduled", "waiting", "retrying"]:
        parent = await job_in(engine, state)
        child = await enqueue(engine, queue=fresh("queue"), parent_id=parent.id)
        assert child.parent_id == parent.id
        assert (await parent.job()).state == "blocked"
        assert (await parent.job()).pending == [child.id]
        await _end(Situation(engine, child.id, child.queue), "completed")
        assert (await parent.job()).state == ("waiting" if state == "waiting" else "scheduled")
        assert (await parent.job()).pending == []


async def test_active_parent_goes_on_while_its_child_runs(engine: Engine) -> None:
    parent = await job_in(engine, "active")
    child = await enqueue(engine, queue=fresh("queue"), parent_id=parent.id)
    await _end(Situation(engine, child.id, child.queue), "failed")
    assert (await parent.job()).state == "active"
    assert await parent.report(OutcomeKind.COMPLETE) == set()
    assert (await parent.job()).pending == []


async def test_parent_fails_with_its_child_and_leaves_a_dead_letter(engine: Engine, store: Store) -> None:
    for how in ("failed", "cancelled", "removed"):
        parent = await job_in(engine, "waiting")
        child = await enqueue(engine, queue=fresh("queue"), parent_id=parent.id)
        await _end(Situation(engine, child.id, child.queue), how)
        assert (await parent.job()).state == "failed", how
        assert await store.dead_letters.count_documents({"job_id": parent.id}) == 1


async def test_job_that_its_own_parent_would_wait_for_in_a_circle_is_refused(engine: Engine) -> None:
    for field in ["direct", "through another"]:
        parent = await job_in(engine, "waiting")
        waits = parent.id if field == "direct" else (await _waiting_for(engine, parent.id)).id
        before = await parent.document()
        with pytest.raises(InvalidInput, match="circle"):
            await enqueue(engine, parent_id=parent.id, depends_on=[waits])
        assert await parent.document() == before


async def test_enqueuer_died_after_the_insert_and_maintenance_frees_or_fails(engine: Engine, store: Store) -> None:
    for how in ("completed", "failed", "cancelled"):
        dependency = await job_in(engine, how)
        dependent = await _waiting_for(engine, (await job_in(engine, "scheduled")).id)
        await dependent.set(pending=[dependency.id], updated_at=LONG_AGO)
        await engine.upkeep.repair_blocked()
        await quiet(engine)
        assert (await dependent.job()).state == ("waiting" if how == "completed" else "failed")


async def test_enqueuer_died_before_it_marked_the_dependency_and_its_end_is_told_all_the_same(
    engine: Engine, store: Store
) -> None:
    dependency = await job_in(engine, "waiting")
    dependent = await _waiting_for(engine, dependency.id)
    await store.jobs.update_one({"_id": dependency.id}, {"$unset": {"awaited": ""}})
    await dependent.set(updated_at=LONG_AGO)
    await engine.upkeep.repair_blocked()
    await _end(dependency, "completed")
    assert (await dependent.job()).state == "waiting"


async def test_repair_goes_round_in_portions(engine: Engine, store: Store) -> None:
    blocked = [await job_in(engine, "blocked") for _ in range(5)]
    for s in blocked:
        await s.set(pending=[new_id(JOB)], updated_at=LONG_AGO)
    after = ""
    for _ in range(3):
        after = await outbox.repair_blocked(store, after=after, limit=2)
    assert after == ""
    assert {(await s.job()).state for s in blocked} == {"waiting"}


async def test_tombstone_is_kept_while_somebody_waits_for_it(engine: Engine, store: Store) -> None:
    dependency = await job_in(engine, "completed")
    dependent = await _waiting_for(engine, (await job_in(engine, "scheduled")).id)
    await engine.jobs.remove(dependency.id, caller=CALLER)
    await quiet(engine)
    await dependent.set(pending=[dependency.id])
    await store.jobs.update_one({"_id": dependency.id}, {"$set": {"removed_at": LONG_AGO}})
    assert await engine.upkeep.prune() == 0
    await dependent.set(updated_at=LONG_AGO)
    await engine.upkeep.repair_blocked()
    await quiet(engine)
    assert await engine.upkeep.prune() == 1
