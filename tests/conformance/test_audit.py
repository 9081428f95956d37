"""What an operator does leaves one row in the audit trail, whatever happens to the folder that writes it."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest

from switchtower.audit import AuditFilter, AuditRow, AuditStatus
from switchtower.callers import Caller
from switchtower.crons import NewCron, Schedule
from switchtower.engine import DeadLetterFilter, Engine
from switchtower.engine.refusals import told_elsewhere
from switchtower.errors import InvalidInput, NotFound, SwitchtowerError
from switchtower.flows import FlowNode
from switchtower.jobs import ErrorKind, JobError, JobFilter, JobUpdate, NewJob
from switchtower.maintenance import Maintenance
from switchtower.states import JobState
from switchtower.store import changes, counters
from switchtower.store.collections import Store
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import quiet
from tests.waiting import until

OLGA = Caller("olga", source="graphql")
EVERYTHING = AuditFilter()


@contextlib.asynccontextmanager
async def maintained(engine: Engine) -> Any:
    stop = asyncio.Event()
    running = asyncio.create_task(Maintenance(engine).run(stop))

    async def counted() -> bool:
        return (await engine.upkeep.fold_position())[0] is not None

    # What happens before the first count is no folder's to tell.
    await until(lambda: counted())
    yield
    stop.set()
    await running


async def rows(engine: Engine, filter: AuditFilter = EVERYTHING, *, caller: Caller = OLGA) -> list[AuditRow]:
    return (await engine.audit.page(filter, caller=caller, first=500)).items


async def awaited(engine: Engine, *actions: str) -> list[AuditRow]:
    """The rows, oldest first, once there are as many as actions."""

    async def there() -> list[AuditRow] | None:
        found = await rows(engine)
        return found if len(found) >= len(actions) else None

    found = list(reversed(await until(lambda: there(), timeout_seconds=60)))
    assert sorted(row.action for row in found) == sorted(actions)
    return found


async def _new(engine: Engine, caller: Caller = OLGA, **fields: Any) -> str:
    return (await engine.jobs.enqueue(NewJob(name="work", **fields), caller=caller)).job.id


async def test_actions_on_jobs_have_rows_and_enqueues_have_none(engine: Engine) -> None:
    async with maintained(engine):
        id = await _new(engine, delay_ms=3_600_000, priority=3, tags=["a"])
        await engine.jobs.update(id, JobUpdate(priority=7, tags=["b"], payload={"secret": "s" * 1000}), caller=OLGA)
        await engine.jobs.promote(id, caller=OLGA)
        await engine.jobs.cancel(id, caller=OLGA)
        await engine.jobs.retry(id, caller=OLGA)
        await engine.jobs.remove(id, caller=OLGA)
        found = await awaited(engine, "job.update", "job.promote", "job.cancel", "job.retry", "job.remove")
    assert [row.action for row in found] == ["job.update", "job.promote", "job.cancel", "job.retry", "job.remove"]
    for row in found:
        assert (row.actor, row.source, row.status) == ("olga", "graphql", AuditStatus.SUCCESS)
        assert (row.job_id, row.queue, row.error) == (id, "default", None)
    update, promote = found[0].details, found[1].details
    assert update["fields"] == ["payload", "priority", "tags"]
    assert (update["before"], update["after"]) == (
        {"priority": 3, "tags": ["a"]},
        {"priority": 7, "tags": ["b"]},
    )
    assert (promote["before"], promote["after"]) == ({"state": "scheduled"}, {"state": "waiting"})


async def test_an_action_may_have_another_name_and_one_that_changed_nothing_is_noted(engine: Engine) -> None:
    async with maintained(engine):
        id = await _new(engine)
        await engine.jobs.cancel(id, caller=OLGA)
        await engine.jobs.retry(id, caller=OLGA, action="dlq.retry")
        await engine.jobs.remove(id, caller=OLGA, action="dlq.remove")
        await engine.audit.noted("job.remove", caller=OLGA, details={"unchanged": "x"}, queue="q", job_id=id)
        found = await awaited(engine, "job.cancel", "dlq.retry", "dlq.remove", "job.remove")
    assert {(row.action, row.status, row.job_id) for row in found} == {
        (action, AuditStatus.SUCCESS, id) for action in ("job.cancel", "dlq.retry", "dlq.remove", "job.remove")
    }
    details = {row.action: row.details for row in found}
    assert details["job.remove"] == {"unchanged": "x"} and "action" not in details["dlq.retry"]


async def test_what_the_queue_does_by_itself_has_no_row(engine: Engine) -> None:
    async with maintained(engine):
        id = await _new(engine)
        await engine.workers.register(WorkerInfo(id="wkr_a", queues=["default"]))
        (claimed,) = await engine.claims.claim("wkr_a", ["default"])
        await engine.claims.report([Outcome(id, claimed.token, OutcomeKind.COMPLETE)])
        worker = Caller("worker:wkr_a", source="worker")
        other = await _new(engine, worker)
        await engine.jobs.cancel(other, caller=worker)
        await engine.queues.pause("default", caller=OLGA)
        (row,) = await awaited(engine, "queue.pause")
    assert row.queue == "default" and row.job_id is None


async def test_actions_on_queues_crons_and_many_jobs(engine: Engine) -> None:
    async with maintained(engine):
        await engine.queues.pause("q", caller=OLGA)
        await engine.queues.resume("q", caller=OLGA)
        await engine.queues.pause("q", caller=OLGA, job_name="work")
        for _ in range(3):
            await _new(engine, queue="q")
        assert await engine.queues.drain("q", caller=OLGA) == 3
        ids = [await _new(engine, delay_ms=3_600_000, tags=["many"]) for _ in range(5)]
        operation = await engine.bulk.start("cancel", JobFilter(tags=["many"]), caller=OLGA)
        assert operation.changed == len(ids)
        new = NewCron(name="nightly", schedule=Schedule("0 3 * * *"), job=NewJob(name="tidy"))
        cron = await engine.crons.create(new, caller=OLGA)
        await engine.crons.update(cron.id, {"jitter_ms": 5}, caller=OLGA)
        await engine.crons.disable(cron.id, caller=OLGA)
        job = (await engine.crons.trigger(cron.id, caller=OLGA)).job
        await engine.crons.delete(cron.id, caller=OLGA)
        found = await awaited(
            engine,
            *("queue.pause", "queue.resume", "queue.pause", "queue.drain", "bulk.cancel", "bulk.cancel"),
            *("cron.create", "cron.update", "cron.disable", "cron.trigger", "cron.delete"),
        )
    pause, resume, name, drain, start, end, create, update, disable, trigger, delete = found
    assert (pause.details["before"], pause.details["after"]) == ({"paused": False}, {"paused": True})
    assert (resume.details["before"], resume.details["after"]) == ({"paused": True}, {"paused": False})
    assert name.details["job_name"] == "work"
    assert drain.details["removed"] == 3
    assert start.details["phase"] == "start" and start.target == operation.id
    assert end.details | {"name": None} == {"phase": "end", "matched": 5, "changed": 5, "failed": 0, "name": None}
    assert (end.actor, end.source) == ("olga", "graphql")
    assert {create.target, update.target, disable.target, trigger.target, delete.target} == {cron.id}
    assert (update.details["before"]["jitter_ms"], update.details["after"]["jitter_ms"]) == (0, 5)
    assert trigger.job_id == job.id


async def test_a_flow_retried_is_one_action(engine: Engine) -> None:
    async with maintained(engine):
        children = [FlowNode(job=NewJob(name="part")) for _ in range(4)]
        flow = await engine.flows.enqueue(FlowNode(job=NewJob(name="whole"), children=children), caller=OLGA)
        await engine.flows.cancel(flow.id, caller=OLGA)
        await quiet(engine)
        await engine.flows.retry(flow.id, caller=OLGA)
        found = await awaited(engine, "flow.cancel", "flow.cancel", "flow.retry")
    assert found[2].job_id == flow.id


async def test_deletions_of_dead_letters_are_written_before_they_begin(engine: Engine, store: Store) -> None:
    id = await _new(engine)
    await engine.workers.register(WorkerInfo(id="wkr_a", queues=["default"]))
    (claimed,) = await engine.claims.claim("wkr_a", ["default"])
    error = JobError(ErrorKind.FATAL, "Boom", "no luck")
    await engine.claims.report([Outcome(id, claimed.token, OutcomeKind.BURY, error=error)])

    async def entries() -> Any:
        return (await engine.dead_letters.page(DeadLetterFilter(), caller=OLGA)).items

    (entry,) = await until(lambda: entries())
    assert await engine.dead_letters.remove([entry.id], caller=OLGA) == 1
    assert await engine.dead_letters.purge(older_than_ms=0, caller=OLGA) == 0
    purge, remove = await rows(engine)
    assert (remove.action, remove.details) == ("dead_letter.remove", {"ids": [entry.id], "removed": 1})
    assert purge.action == "dead_letter.purge" and purge.details["removed"] == 0


async def test_a_folder_that_dies_between_row_and_cursor_doubles_nothing(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, deaths = counters.commit, []

    async def dies(*args: Any, **kwargs: Any) -> bool:
        # Every second commit never comes: rows are there, the cursor stands where it stood.
        deaths.append(1)
        if len(deaths) % 2:
            raise RuntimeError("the folder died")
        return await commit(*args, **kwargs)

    async with maintained(engine):
        monkeypatch.setattr(counters, "commit", dies)
        ids = [await _new(engine, delay_ms=3_600_000) for _ in range(12)]
        for number, id in enumerate(ids):
            await engine.jobs.cancel(id, caller=OLGA)
            if number % 4 == 0:
                # Not all in one batch: several commits, several deaths.
                seen = len(deaths)
                await until(lambda: len(deaths) > seen)  # noqa: B023

        async def counted() -> bool:
            return (await engine.jobs.counts(caller=OLGA))[JobState.CANCELLED] == len(ids)

        await until(lambda: counted(), timeout_seconds=60)
    assert len(deaths) > 2
    found = await rows(engine)
    assert sorted(row.job_id or "" for row in found) == sorted(ids)
    assert {row.action for row in found} == {"job.cancel"}


async def test_a_folder_that_fell_behind_tells_what_it_did_not_see(engine: Engine) -> None:
    async with maintained(engine):
        id = await _new(engine, delay_ms=3_600_000)
    seen, _ = await engine.upkeep.fold_position()
    assert seen is not None
    await engine.jobs.promote(id, caller=OLGA)
    await engine.jobs.cancel(id, caller=OLGA)
    # A stream that opens now begins behind both; one that is open already may not have read them yet.
    async with contextlib.aclosing(changes.read(engine._store, after=None)) as batches:  # type: ignore[type-var]
        _, now = await anext(batches)
    for _ in range(2):
        await engine.upkeep.relay_unseen(after=seen, until=now)
    assert [row.action for row in await rows(engine)] == ["job.cancel", "job.promote"]


async def test_lost_history_is_told(engine: Engine) -> None:
    await engine.upkeep.relay_unseen(after="1." + "82" + "0" * 60, until="1.9")
    (row,) = await rows(engine)
    assert (row.action, row.status) == ("audit.gap", AuditStatus.FAILED)


async def test_tenants_see_their_own_rows(engine: Engine) -> None:
    acme, other = Caller("ann", org="acme", source="graphql"), Caller("bob", org="other", source="graphql")
    async with maintained(engine):
        mine = await _new(engine, acme, delay_ms=3_600_000)
        await engine.jobs.cancel(mine, caller=OLGA)
        await engine.queues.pause("q", caller=other)
        await awaited(engine, "job.cancel", "queue.pause")
    await engine.audit.refused("job.retry", NotFound("Job", mine), caller=other, job_id=mine)
    assert [row.actor for row in await rows(engine, caller=acme)] == ["olga"]
    assert [row.action for row in await rows(engine, caller=other)] == ["job.retry", "queue.pause"]
    (ours,) = await rows(engine, caller=acme)
    assert await engine.audit.get(ours.id, caller=other) is None
    assert (await engine.audit.count(EVERYTHING, caller=acme)).value == 1


async def test_filters_and_pages(engine: Engine) -> None:
    for number in range(12):
        caller = Caller(f"actor{number % 3}", source=("graphql", "cli")[number % 2])
        error = InvalidInput("priority", f"is wrong (case {number}).")
        await engine.audit.refused("job.update", error, caller=caller, queue=f"q{number % 4}", job_id=f"job_{number}")
    assert len(await rows(engine, AuditFilter(actors=["actor1"]))) == 4
    assert len(await rows(engine, AuditFilter(sources=["cli"], actors=["actor1", "actor2"]))) == 4
    assert len(await rows(engine, AuditFilter(queue="q3"))) == 3
    assert len(await rows(engine, AuditFilter(job_id="job_7"))) == 1
    assert len(await rows(engine, AuditFilter(text="CASE 11"))) == 1
    assert len(await rows(engine, AuditFilter(text=".*"))) == 0
    assert len(await rows(engine, AuditFilter(text="CLI"))) == 6, "its source"
    await engine.audit.noted(
        "cron.pause", caller=OLGA, details={"job_def": {"task_id": ["Mailer"]}}, queue=None, job_id=None
    )
    for text in ("task_id", "mailer"):
        assert [row.action for row in await rows(engine, AuditFilter(text=text))] == ["cron.pause"], text
    await engine._store.audit.delete_many({"action": "cron.pause"})
    assert len(await rows(engine, AuditFilter(statuses=[AuditStatus.SUCCESS]))) == 0
    assert len(await rows(engine, AuditFilter(actions=["job.retry"]))) == 0
    now = engine.clock.now()
    hour = timedelta(hours=1)
    assert len(await rows(engine, AuditFilter(after=now - hour, before=now + hour))) == 12
    assert await rows(engine, AuditFilter(after=now + hour)) == []
    assert await rows(engine, AuditFilter(before=now - hour)) == []
    seen: list[str] = []
    cursor = None
    while True:
        page = await engine.audit.page(EVERYTHING, caller=OLGA, first=5, after=cursor)
        seen += [row.id for row in page.items]
        if not page.has_next:
            break
        cursor = page.cursors[-1]
    assert len(seen) == len(set(seen)) == 12
    assert seen == sorted(seen, reverse=True)
    with pytest.raises(InvalidInput):
        await engine.audit.page(EVERYTHING, caller=OLGA, after="nonsense")


async def test_rows_are_forgotten_after_their_retention(engine: Engine, store: Store) -> None:
    await engine.audit.refused("job.update", InvalidInput("x", "is wrong."), caller=OLGA)
    row = await store.audit.find_one({})
    assert row["gone_at"] - row["at"] == timedelta(days=90)
    index = (await store.audit.index_information())["gone_at"]
    assert index["expireAfterSeconds"] == 0


REFUSED: dict[str, Any] = {
    "job.cancel": lambda e, c: e.jobs.cancel("job_none", caller=c),
    "job.retry": lambda e, c: e.jobs.retry("job_none", caller=c),
    "job.promote": lambda e, c: e.jobs.promote("job_none", caller=c),
    "job.remove": lambda e, c: e.jobs.remove("job_none", caller=c),
    "job.update": lambda e, c: e.jobs.update("job_none", JobUpdate(priority=1), caller=c),
    "bulk.fly": lambda e, c: e.bulk.start("fly", JobFilter(), caller=c),
    "flow.cancel": lambda e, c: e.flows.cancel("job_none", caller=c),
    "flow.retry": lambda e, c: e.flows.retry("job_none", caller=c),
    "workflow.cancel": lambda e, c: e.workflows.cancel("run_none", caller=c),
    "queue.pause": lambda e, c: e.queues.pause("a/b", caller=c),
    "dead_letter.replay": lambda e, c: e.dead_letters.replay("dlq_none", caller=c),
    "cron.enable": lambda e, c: e.crons.enable("cron_none", caller=c),
    "cron.trigger": lambda e, c: e.crons.trigger("cron_none", caller=c),
    "key.revoke": lambda e, c: e.keys.revoke("key_none", caller=c),
}


async def test_what_a_program_is_refused_leaves_one_row(engine: Engine) -> None:
    for action, ask in REFUSED.items():
        with pytest.raises(SwitchtowerError) as refused:
            await ask(engine, Caller("script"))
        for automatic in (Caller("system", source="system"), Caller("w", source="worker")):
            with pytest.raises(SwitchtowerError):
                await ask(engine, automatic)
        (row,) = await rows(engine, AuditFilter(actions=[action]))
        assert (row.status, row.actor, row.source) == (AuditStatus.FAILED, "script", "python"), action
        assert row.error == refused.value.message
        assert row.job_id or row.target or row.queue or action.startswith("bulk")
    assert len(await rows(engine)) == len(REFUSED)


async def test_what_a_surface_writes_down_itself_is_not_written_twice(engine: Engine) -> None:
    with told_elsewhere(), pytest.raises(NotFound):
        await engine.jobs.cancel("job_none", caller=OLGA)
    assert await rows(engine) == []
