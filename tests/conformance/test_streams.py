"""What happened reaches every reader once and in order: events, wakes, and the counters folded from them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pymongo.errors import OperationFailure

from switchtower.callers import EVERYTHING
from switchtower.engine import Engine, Retention
from switchtower.errors import InvalidInput, StoreUnavailable, SwitchtowerError
from switchtower.events import Event, EventHub, Gap, HistoryLost, Topic
from switchtower.jobs import JobFilter, JobUpdate, NewJob
from switchtower.maintenance import Maintenance
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.states import JobState
from switchtower.store import changes, counters
from switchtower.store.changes import CURSOR_VERSION
from switchtower.store.collections import Store
from switchtower.store.driver import Database
from switchtower.store.indexes import create_indexes
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.conftest import Running
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, fresh, job_in, quiet
from tests.databases import anywhere
from tests.waiting import until


async def take(items: AsyncIterator[Event | Gap], count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            item = await anext(items)
            assert isinstance(item, Event), item
            found.append(item)
    return found


def of(*ids: str) -> Any:
    return lambda event: event.topic is Topic.JOB and event.id in ids


async def test_life_of_a_job_is_told_in_order_with_all_that_a_filter_needs(engine: Engine) -> None:
    async with engine.hub().subscribe(lambda event: event.topic is Topic.JOB) as items:
        own = fresh("mine")
        s = await job_in(engine, "active", tags=["red"], group="g", max_attempts=2, job_id=own)
        await engine.claims.progress(s.id, s.token, {"done": 3})
        await engine.claims.log(s.id, s.token, [("warning", "careful")])
        await s.report(OutcomeKind.FAIL, error=ERROR, wait_ms=HOUR_MS, ran_ms=12)
        await engine.jobs.promote(s.id, caller=CALLER)
        await s.claim()
        await s.report(OutcomeKind.COMPLETE, ran_ms=7)
        await engine.jobs.remove(s.id, caller=CALLER)
        events = await take(items, 10)
    assert [(e.type, e.from_state, e.to_state, e.attempt) for e in events] == [
        ("enqueue", None, "waiting", 0),
        ("claim", "waiting", "active", 0),
        ("start", None, None, 1),
        ("progress", None, None, 1),
        ("log", None, None, 1),
        ("backoff", "active", "retrying", 1),
        ("promote", "retrying", "waiting", 1),
        ("claim", "waiting", "active", 1),
        ("complete", "active", "completed", 2),
        ("remove", "completed", "removed", 2),
    ]
    told = {(e.id, e.custom_id, e.queue, e.name, e.group, e.tags) for e in events}
    assert told == {(s.id, own, s.queue, "work", "g", ("red",))}
    assert events[3].data["progress"] == {"done": 3}
    assert events[4].data["lines"] == [{"level": "warning", "line": "careful"}]
    assert events[5].data["error"] == {
        "kind": "exception",
        "type": "ValueError",
        "message": "it broke",
        "fingerprint": ERROR.fingerprint,
    }
    assert (events[5].data["ms"], events[8].data["ms"]) == (12, 7)
    assert [e.cursor for e in events] == sorted({e.cursor for e in events})
    assert [e.clock for e in events] == sorted(e.clock for e in events)


async def test_other_nouns_tell_what_happens_to_them_too(engine: Engine) -> None:
    async with engine.hub().subscribe(lambda event: event.topic is not Topic.JOB) as items:
        s = await job_in(engine, "failed")
        await engine.queues.pause(s.queue, caller=CALLER)
        await engine.workers.register(WorkerInfo(id=fresh("worker"), queues=["q"]))
        await engine.bulk.start("retry", JobFilter(queues=[s.queue]), caller=CALLER)
        events = await take(items, 5)
    assert [(e.topic.value, e.type) for e in events] == [
        ("dead_letter", "bury"),
        ("queue", "pause"),
        ("worker", "register"),
        ("bulk", "start"),
        ("bulk", "end"),
    ]


async def test_job_of_a_transaction_is_told_when_it_commits(engine: Engine, store: Store) -> None:
    async with engine.hub().subscribe(lambda event: event.topic is Topic.JOB) as items:
        async with store.database.transaction() as session:
            late = (await engine.jobs.enqueue(NewJob(name="late"), caller=CALLER, session=session)).job
            early = await enqueue(engine)
        events = await take(items, 2)
    assert [e.id for e in events] == [early.id, late.id]


async def _load(engine: Engine, seconds_of_work: int = 30) -> list[str]:
    """A mixed load that takes every kind of transition; returns the ids."""
    draw = random.Random(seconds_of_work)
    queues = [fresh("queue") for _ in range(3)]
    ids: list[str] = []
    held: list[Outcome] = []
    for _ in range(seconds_of_work):
        queue = draw.choice(queues)
        new = NewJob(name=draw.choice("ab"), queue=queue, delay_ms=draw.choice([None, None, HOUR_MS]))
        answers = await engine.jobs.enqueue_many([new] * draw.randint(1, 20), caller=CALLER)
        ids += [answer.job.id for answer in answers if not isinstance(answer, SwitchtowerError)]
        for job in await engine.claims.claim("w", [queue], limit=draw.choice([1, 10])):
            kind = draw.choice(list(OutcomeKind))
            held.append(Outcome(job.id, job.token, kind, error=ERROR, wait_ms=draw.choice([0, HOUR_MS]), ran_ms=5))
        if draw.random() < 0.5:
            await engine.claims.report(held)
            held.clear()
        for id in draw.sample(ids, min(3, len(ids))):
            verb = draw.choice(["cancel", "retry", "promote", "remove"])
            try:
                await getattr(engine.jobs, verb)(id, caller=CALLER)
            except SwitchtowerError:
                continue
    await quiet(engine)
    return ids


async def test_old_cursor_is_spliced_into_the_live_events_under_load(engine: Engine, store: Store) -> None:
    hub = EventHub(lambda after: changes.read(store, after=after), ring_events=40)
    await hub.start()
    begin = hub.cursor
    seen: list[list[Event]] = []

    async def follow(after: str) -> None:
        events: list[Event] = []
        seen.append(events)
        async with hub.subscribe(lambda event: event.topic is Topic.JOB, after=after, buffer=100_000) as items:
            async for item in items:
                assert isinstance(item, Event), item
                events.append(item)

    load = asyncio.create_task(_load(engine, 15))
    followers = []
    while not load.done():
        if len(followers) < 5:
            followers.append(asyncio.create_task(follow(begin)))
        await asyncio.sleep(0.05)
    await load
    rows = await store.jobs.find({}, {"event_seq": 1}).to_list(None)
    total = sum(row["event_seq"] for row in rows)
    await until(lambda: all(len(events) >= total for events in seen), timeout_seconds=60)
    await hub.close()
    await asyncio.gather(*followers)
    assert len(seen) > 1
    first = [event.cursor for event in seen[0]]
    assert first == sorted(set(first))
    assert all([event.cursor for event in events] == first for events in seen)
    assert Counter(event.id for event in seen[0]) == {row["_id"]: row["event_seq"] for row in rows}
    states: dict[str, str | None] = defaultdict(lambda: None)
    for event in seen[0]:
        if event.to_state is not None:
            assert states[event.id] == event.from_state
            states[event.id] = event.to_state


async def test_cursor_outlives_the_process_that_gave_it(engine: Engine, store: Store) -> None:
    async with engine.hub().subscribe(lambda event: event.topic is Topic.JOB) as items:
        first = await enqueue(engine)
        (event,) = await take(items, 1)
    second = await enqueue(engine)
    async with (
        Running(store, engine.url) as another,
        another.hub().subscribe(of(first.id, second.id), after=event.cursor) as items,
    ):
        third = await enqueue(engine)
        assert [event.id for event in await take(items, 1)] == [second.id]
        assert third.id not in (first.id, second.id)


async def test_malformed_cursor_is_refused(engine: Engine) -> None:
    for text in ["", "x", "3.", "3.zz", "2.82" + "0" * 30, "3.82' || 1", "3." + "A" * 600, "3.82FFFFFFFF" + "0" * 30]:
        with pytest.raises(InvalidInput, match="after"):
            engine.hub().subscribe(after=text)


async def test_cursor_that_only_looks_like_one_ends_in_a_gap_and_live_events(engine: Engine) -> None:
    for text in ["82" + "00" * 30, "82" + "6A" * 13, "8260000000" + "0" * 60]:
        assert engine.is_cursor(f"{CURSOR_VERSION}.{text}")
        async with engine.hub().subscribe(after=f"{CURSOR_VERSION}.{text}") as items:
            async with asyncio.timeout(60):
                reading = asyncio.ensure_future(anext(items))  # type: ignore[arg-type]
                while not reading.done():
                    await enqueue(engine)
                    await asyncio.wait([reading], timeout=0.1)
            assert isinstance(reading.result(), Gap)


async def test_lost_history_is_told_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (280, 286, 260, 10334):
        monkeypatch.setattr(Database, "watch", AsyncMock(side_effect=OperationFailure("gone", code)))
        with pytest.raises(HistoryLost):
            await anext(changes.read(store, after=None))


async def test_silent_stream_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        resume_token = None

        async def try_next(self) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None: ...

    async def silent(*args: Any, **kwargs: Any) -> Silent:
        return Silent()

    monkeypatch.setattr(Database, "watch", silent)
    with pytest.raises(StoreUnavailable):
        await anext(changes.read(store, after=None, silence_seconds=0.05))


async def test_cursor_of_a_reader_for_whom_nothing_happens_moves_on_all_the_same(store: Store, engine: Engine) -> None:
    stream = changes.read(store, after=None)
    async with asyncio.timeout(60):
        _, first = await anext(stream)
        await store.database["unwatched"].insert_one({})
        batch, second = await anext(stream)
        while second == first:
            batch, second = await anext(stream)
    assert batch == []
    assert second > first
    await stream.aclose()


async def test_dropped_database_is_a_gap_and_the_hub_goes_on(database: Database, mongo: Any) -> None:
    store = Store(database)
    await create_indexes(store)
    engine = Engine(store, url="", payload_limit=PAYLOAD_LIMIT, retention=Retention())
    async with engine.hub().subscribe() as items:
        await enqueue(engine)
        await take(items, 1)
        mongo.drop_database(database.name)
        async with asyncio.timeout(60):
            gap = await anext(items)
        assert isinstance(gap, Gap)
        job = await enqueue(engine)
        assert [event.id for event in await take(items, 1)] == [job.id]
    async with engine.hub().subscribe(of(job.id), after=gap.cursor) as items:
        assert [event.id for event in await take(items, 1)] == [job.id]
    await engine.hub().close()
    await engine.effects.close()


# ---- wakes


async def test_worker_is_woken_by_whatever_makes_a_job_claimable(engine: Engine) -> None:
    queue = fresh("queue")
    held = await job_in(engine, "active", queue=queue)
    due = await job_in(engine, "scheduled", queue=queue)
    parked = await job_in(engine, "waiting", queue=queue)
    await parked.set(parked="paused")
    wakes = engine.claims.wakes([queue])
    async with asyncio.timeout(60):
        assert await anext(wakes) == ""

    async def woken(happening: Any) -> None:
        await happening
        async with asyncio.timeout(60):
            assert await anext(wakes) in (queue, "")

    await woken(enqueue(engine, queue=queue))
    await woken(held.report(OutcomeKind.RELEASE))
    await woken(engine.jobs.promote(due.id, caller=CALLER))
    await woken(engine.queues.resume(queue, caller=CALLER))
    await woken(engine._store.jobs.update_one({"_id": parked.id}, {"$unset": {"parked": ""}}))
    await wakes.aclose()  # type: ignore[attr-defined]


async def test_worker_is_not_woken_by_other_queues_and_other_changes(engine: Engine) -> None:
    queue = fresh("queue")
    held = await job_in(engine, "active", queue=queue)
    wakes = engine.claims.wakes([queue])
    await anext(wakes)
    await enqueue(engine, queue=fresh("other"))
    await enqueue(engine, queue=queue, delay_ms=HOUR_MS)
    await engine.claims.progress(held.id, held.token, 1)
    await held.report(OutcomeKind.COMPLETE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(wakes), 0.2)  # type: ignore[arg-type]


# ---- counters


async def _scan(store: Store) -> dict[tuple[str, str], int]:
    rows = await store.database.aggregate(
        "jobs",
        [
            {"$match": anywhere(state={"$ne": "removed"})},
            {"$group": {"_id": {"queue": "$queue", "state": "$state"}, "n": {"$sum": 1}}},
        ],
    )
    return {(row["_id"]["queue"], row["_id"]["state"]): row["n"] for row in rows}


async def _counted(store: Store) -> dict[tuple[str, str], int]:
    found = await counters.by_queue(store, reach=EVERYTHING)
    return {(queue, state): n for queue, row in found.items() for state, n in row.items() if n}


async def _agree(store: Store) -> None:
    async def agree() -> bool:
        return await _counted(store) == await _scan(store)

    try:
        await until(agree, timeout_seconds=60)
    except AssertionError:
        assert await _counted(store) == await _scan(store)


async def test_counters_equal_a_scan_after_a_load(engine: Engine, store: Store) -> None:
    stop = asyncio.Event()
    keeping = asyncio.create_task(Maintenance(engine).run(stop))
    async with Running(store, engine.url) as other:
        await _load(other)

    async def all_taken_back() -> bool:
        return await store.jobs.find_one(anywhere(state="active")) is None

    # Nobody registered the worker that claimed: maintenance takes its jobs back, between one count and the other too.
    await until(all_taken_back)
    await _agree(store)
    totals = await engine.stats.totals(caller=CALLER)
    assert sum(totals.counts.values()) == sum((await _scan(store)).values())
    assert {state: n for state, n in (await engine.jobs.counts(caller=CALLER)).items() if n} == {
        JobState(state): sum(n for (_, s), n in (await _scan(store)).items() if s == state)
        for state in {state for _, state in await _scan(store)}
    }
    stop.set()
    await keeping


async def test_counters_equal_a_scan_after_folders_that_were_killed_in_the_middle(engine: Engine, store: Store) -> None:
    load = asyncio.create_task(_load(engine, 15))
    killed = 0
    while not load.done() or killed < 3:
        async with Running(store, engine.url) as other:
            folder = asyncio.create_task(Maintenance(other)._fold())
            await asyncio.sleep(0.15)
            folder.cancel()
            await asyncio.gather(folder, return_exceptions=True)
            killed += 1
    await load
    folder = asyncio.create_task(Maintenance(engine)._fold())
    await _agree(store)
    folder.cancel()


async def test_two_folders_count_nothing_twice(engine: Engine, store: Store) -> None:
    async with Running(store, engine.url) as other:
        folders = [asyncio.create_task(Maintenance(e)._fold()) for e in (engine, other)]
        await _load(other)
        await _agree(store)
        for folder in folders:
            folder.cancel()
        await asyncio.gather(*folders, return_exceptions=True)


async def test_folder_counts_afresh_after_lost_history_and_goes_on(engine: Engine, store: Store) -> None:
    folder = asyncio.create_task(Maintenance(engine)._fold())
    s = await job_in(engine, "waiting")
    await _agree(store)
    await store.counters.update_one({"queue": s.queue}, {"$set": {"counts.waiting": 99}})
    hub = engine.hub()
    before = hub.cursor
    hub._resync("simulated")
    assert hub._task is not None
    hub._task.cancel()
    await asyncio.gather(hub._task, return_exceptions=True)
    await hub.start()
    await enqueue(engine, queue=s.queue)
    await _agree(store)
    folder.cancel()
    await asyncio.gather(folder, return_exceptions=True)
    cursor, _ = await counters.position(store)
    assert cursor is not None and cursor > before
    await enqueue(engine, queue=s.queue)
    folder = asyncio.create_task(Maintenance(engine)._fold())
    await _agree(store)
    folder.cancel()
    await asyncio.gather(folder, return_exceptions=True)


async def test_recount_is_exact_while_jobs_keep_moving(engine: Engine, store: Store) -> None:
    for _ in range(2):
        await store.counters.delete_many({})
        async with Running(store, engine.url) as other:
            load = asyncio.create_task(_load(engine, 10))
            folder = asyncio.create_task(Maintenance(other)._fold())
            await load
            await _agree(store)
            folder.cancel()
            await asyncio.gather(folder, return_exceptions=True)


async def test_recount_counts_what_stood_at_its_cursor(engine: Engine, store: Store) -> None:
    for _ in range(8):
        s = await job_in(engine, "waiting")
        stream = changes.read(store, after=None)
        _, cursor = await anext(stream)
        await stream.aclose()
        clock = await engine.upkeep.recount(reached=cursor)
        moment = changes.moment_of(cursor)
        assert clock == (moment.time << 32) | moment.inc
        assert (await _counted(store))[s.queue, "waiting"] == 1


async def test_recount_may_take_longer_than_a_request(engine: Engine, store: Store, commands: Any) -> None:
    await engine.upkeep.recount(reached="")
    (aggregate,) = commands.named("aggregate")
    assert aggregate["maxTimeMS"] > 60_000


async def test_minutes_tell_what_happened_to_a_queue(engine: Engine, store: Store) -> None:
    folder = asyncio.create_task(Maintenance(engine)._fold())
    await until(lambda: counters.position(store))
    await until(lambda: store.counters.count_documents({}))
    queue = fresh("queue")
    await job_in(engine, "completed", queue=queue)
    await job_in(engine, "failed", queue=queue)
    await job_in(engine, "cancelled", queue=queue)
    await job_in(engine, "retrying", queue=queue)

    async def told() -> Counter[str]:
        total: Counter[str] = Counter()
        for row in await engine.metrics.buckets(queue, caller=CALLER, name="work"):
            for measure in ("enqueued", "completed", "failed", "cancelled", "retried", "claimed", "runs", "run_ms"):
                total[measure] += getattr(row, measure)
        return total

    expected = {
        "enqueued": 4, "completed": 1, "failed": 1, "cancelled": 1, "retried": 1, "claimed": 3, "runs": 3, "run_ms": 6
    }  # fmt: skip

    async def complete() -> bool:
        return await told() == expected

    await until(complete)
    assert (await engine.queues.throughput([queue], caller=CALLER))[queue] > 0
    folder.cancel()
    await asyncio.gather(folder, return_exceptions=True)


async def test_maintenance_is_done_by_one_and_taken_over_when_it_stops(engine: Engine, store: Store) -> None:
    due = await job_in(engine, "scheduled")
    first, second = Maintenance(engine), None
    stop, stop_second = asyncio.Event(), asyncio.Event()
    keeping = asyncio.create_task(first.run(stop))
    await until(lambda: first.elected)
    async with Running(store, engine.url) as other:
        second = Maintenance(other)
        waiting = asyncio.create_task(second.run(stop_second))
        await engine.jobs.update(due.id, JobUpdate(run_at=datetime(2020, 1, 1, tzinfo=UTC)), caller=CALLER)

        async def staged() -> bool:
            return await due.state() == "waiting"

        await until(staged)
        assert not second.elected
        stop.set()
        await keeping
        await until(lambda: second.elected, timeout_seconds=60)
        stop_second.set()
        await waiting
