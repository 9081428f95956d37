"""Crons: one job a slot however many schedulers run, and what becomes of slots that nobody made in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.clock import to_ms
from switchtower.crons import CatchUp, Cron, NewCron, Overlap, Schedule
from switchtower.engine import Engine
from switchtower.engine import crons as scheduling
from switchtower.errors import Conflict, InvalidInput, NotFound
from switchtower.jobs import NewJob
from switchtower.retry import Backoff, BackoffKind
from switchtower.store import crons as commands
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, Situation, another, enqueue, fresh, quiet
from tests.databases import anywhere
from tests.mongod import fail_command
from tests.waiting import until

HOURLY = Schedule("0 * * * *")
YEARLY = Schedule("0 0 1 1 *")


def new(**fields: Any) -> NewCron:
    fields.setdefault("name", fresh("cron"))
    fields.setdefault("schedule", HOURLY)
    fields.setdefault("job", NewJob(name="tick", queue="crons"))
    return NewCron(**fields)


async def made(engine: Engine, **fields: Any) -> Cron:
    return await engine.crons.create(new(**fields), caller=CALLER)


async def read(engine: Engine, cron: Cron) -> Cron:
    found = await engine.crons.get(cron.id, caller=CALLER)
    assert found is not None
    return found


async def rewind(engine: Engine, cron: Cron, to: datetime) -> None:
    """As if nobody had scheduled since the slot `to`."""
    await engine._store.crons.update_one({"_id": cron.id}, {"$set": {"next_at": to}})


async def owe(engine: Engine, cron: Cron, *slots: datetime) -> None:
    """As if a scheduler had taken these slots and died."""
    await engine._store.crons.update_one(
        {"_id": cron.id}, {"$set": {"due": [{"slot": slot} for slot in slots]}, "$inc": {"fired": len(slots)}}
    )


def hour(ago: int = 0) -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=ago)


async def jobs_of(store: Store, cron: Cron) -> list[dict[str, Any]]:
    return list(await store.jobs.find(anywhere(cron_id=cron.id), sort=[("run_at", 1), ("_id", 1)]).to_list(None))


async def test_slot_makes_its_job_with_everything_that_the_cron_says(engine: Engine, store: Store) -> None:
    backoff = Backoff(BackoffKind.FIXED, base_ms=50)
    template = NewJob(
        name="tick",
        queue="q",
        payload={"a": [1]},
        priority=3,
        max_attempts=9,
        backoff=backoff,
        timeout_ms=5,
        tags=["t"],
    )
    cron = await made(engine, job=template, schedule=YEARLY)
    assert cron.next_at is not None
    slot = hour()
    await rewind(engine, cron, slot)
    assert await engine.crons.tick() == 1
    assert await engine.crons.tick() == 0
    (row,) = await jobs_of(store, cron)
    assert row["custom_id"] == f"{cron.id}@{to_ms(slot)}"
    job = await engine.jobs.get(row["_id"], caller=CALLER)
    assert job is not None
    assert (job.name, job.queue, job.payload, job.priority, job.max_attempts) == ("tick", "q", {"a": [1]}, 3, 9)
    assert (job.backoff, job.timeout_ms, job.tags, job.state, job.cron_id) == (backoff, 5, ["t"], "waiting", cron.id)
    assert job.timeline[0].actor == f"cron:{cron.name}"
    after = await read(engine, cron)
    assert (after.fired, after.last_fired_at) == (1, slot)
    assert [(fire.slot, fire.outcome, fire.job_id) for fire in after.fires] == [(slot, "fired", job.id)]
    assert after.next_at is not None and after.next_at > datetime.now(UTC)


async def test_same_definition_again_is_the_same_cron(engine: Engine, store: Store) -> None:
    paris = timezone(timedelta(hours=2))
    given = {
        "name": "nightly",
        "schedule": Schedule(every_ms=60_000),
        "starts_at": datetime(2030, 1, 1, 2, 0, 0, 1_234, tzinfo=paris),
        "job": NewJob(name="tick", payload={"b": 1, "a": 2**40}, tags=("x",)),
        "limit": 5,
    }
    first = await engine.crons.create(new(**given), caller=CALLER)
    assert (await engine.crons.create(new(**given), caller=CALLER)).id == first.id
    answers = await asyncio.gather(
        *(engine.crons.create(new(**given | {"name": "many"}), caller=CALLER) for _ in range(10))
    )
    assert len({cron.id for cron in answers}) == 1
    with pytest.raises(Conflict) as refused:
        await engine.crons.create(new(**given | {"limit": 6}), caller=CALLER)
    assert refused.value.holder == first.id
    other = await engine.crons.create(new(**given | {"limit": 6}), caller=Caller("t", "tenant"))
    assert other.id != first.id
    assert await store.crons.count_documents({}) == 3


async def test_declared_cron_is_made_as_the_code_says_and_stays_disabled(engine: Engine) -> None:
    first = await engine.crons.declare(new(name="c", job=NewJob(name="a")), caller=CALLER)
    await engine.crons.disable(first.id, caller=CALLER)
    wanted = new(name="c", job=NewJob(name="b"), schedule=Schedule("5 * * * *"), overlap=Overlap.SKIP)
    answers = await asyncio.gather(*(another(engine).crons.declare(wanted, caller=CALLER) for _ in range(8)))
    assert {cron.id for cron in answers} == {first.id}
    now = await read(engine, first)
    assert (now.job.name, now.overlap, now.enabled, now.next_at) == ("b", Overlap.SKIP, False, None)
    row = await engine._store.crons.find_one({"_id": first.id})
    assert row is not None and row["event_seq"] == 3, "declaring what is there already changed it"


async def test_eight_schedulers_at_once_make_one_job_a_slot(engine: Engine, store: Store) -> None:
    cron = await made(engine, catch_up=CatchUp.ALL, overlap=Overlap.SKIP)
    for n in range(10):
        await rewind(engine, cron, hour(n % 3))
        await asyncio.gather(*(another(engine).crons.tick() for _ in range(8)))
    rows = await jobs_of(store, cron)
    assert len(rows) == len({row["custom_id"] for row in rows}) <= 3
    found = await read(engine, cron)
    fired = [fire for fire in found.fires if fire.outcome == "fired" and fire.job_id]
    assert {fire.job_id for fire in fired} == {row["_id"] for row in rows}


async def test_scheduler_that_dies_anywhere_leaves_the_slot_to_the_next(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        pass

    async def die(*args: Any, **kwargs: Any) -> Any:
        raise Dead

    cron = await made(engine, job=NewJob(name="tick", remove_on_complete=True), schedule=YEARLY)
    points: list[tuple[Any, str]] = [(commands, "settle"), (type(engine.jobs), "enqueue_as"), (commands, "take_slots")]
    for n, (where, name) in enumerate(points):
        slot = hour() - timedelta(milliseconds=n)
        await (rewind if name == "take_slots" else owe)(engine, cron, slot)
        with monkeypatch.context() as patched:
            patched.setattr(where, name, die)
            with pytest.raises(Dead):
                await engine.crons.tick()
        assert await another(engine).crons.tick() == 1
    assert await store.jobs.count_documents(anywhere(cron_id=cron.id)) == 3
    found = await read(engine, cron)
    assert found.fired == 3 and {fire.outcome for fire in found.fires} == {"fired"}


async def test_job_of_a_slot_that_is_done_and_removed_is_not_made_again(engine: Engine, store: Store) -> None:
    cron = await made(engine, job=NewJob(name="tick", queue="crons", remove_on_complete=True))
    await rewind(engine, cron, hour())
    stale = await commands.find(store, cron.id, CALLER)
    assert await engine.crons.tick() == 1
    (claimed,) = await engine.claims.claim("w", ["crons"])
    await Situation(engine, claimed.id, "crons", claimed.token).report(OutcomeKind.COMPLETE)
    assert stale is not None
    fire = await engine.crons._make(commands.cron_from(stale), hour(), None, None)
    assert fire.job_id == claimed.id
    assert await store.jobs.count_documents(anywhere(cron_id=cron.id, state="waiting")) == 0


LOST: dict[str, Any] = {"writeConcernError": {"code": 64, "errmsg": "lost"}}


@pytest.mark.parametrize(
    ("command", "fault"),
    [("insert", LOST), ("update", LOST), ("findAndModify", LOST), ("insert", {"closeConnection": True})],
)
async def test_lost_answers_make_no_second_job(
    engine: Engine, store: Store, mongodb_url: str, command: str, fault: dict[str, Any]
) -> None:
    cron = await made(engine)
    await rewind(engine, cron, hour())
    with fail_command(mongodb_url, [command], times=2, appName="switchtower-client", **fault):
        for _ in range(4):
            try:
                await engine.crons.tick()
            except Exception as error:
                assert "unavailable" in type(error).__name__.lower(), error
    assert len(await jobs_of(store, cron)) == 1
    assert (await read(engine, cron)).fired == 1


# ---- slots that came while nobody scheduled


@pytest.mark.parametrize(("policy", "expected"), [(CatchUp.ALL, [4, 3, 2, 1, 0]), (CatchUp.ONE, [0])])
async def test_outage_is_made_up_for_as_the_policy_says(
    engine: Engine, store: Store, policy: CatchUp, expected: list[int]
) -> None:
    cron = await made(engine, catch_up=policy)
    await rewind(engine, cron, hour(4))
    await engine.crons.tick()
    rows = await jobs_of(store, cron)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"{cron.id}@{to_ms(hour(n))}" for n in expected)
    assert (await read(engine, cron)).fired == len(expected)


async def test_skipped_outage_fires_nothing_unless_a_slot_is_just_due(engine: Engine, store: Store) -> None:
    yearly = await made(engine, schedule=Schedule("0 0 1 1 *"), catch_up=CatchUp.SKIP)
    await rewind(engine, yearly, datetime(2020, 1, 1, tzinfo=UTC))
    await engine.crons.tick()
    assert await jobs_of(store, yearly) == []
    assert (await read(engine, yearly)).next_at == datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
    often = await made(engine, schedule=Schedule(every_ms=10_000), catch_up=CatchUp.SKIP)
    assert often.next_at is not None
    await rewind(engine, often, often.next_at - timedelta(hours=1))
    await engine.crons.tick()
    assert len(await jobs_of(store, often)) == 1


async def test_schedulers_that_keep_up_make_every_slot_whatever_the_policy(engine: Engine, store: Store) -> None:
    crons = [await made(engine, schedule=Schedule(every_ms=100), catch_up=policy) for policy in CatchUp]
    rows: dict[str, list[dict[str, Any]]] = {}

    async def several() -> bool:
        await engine.crons.tick()
        rows.update({cron.id: await jobs_of(store, cron) for cron in crons})
        return all(len(found) >= 6 for found in rows.values())

    await until(several)
    for found in rows.values():
        times = [int(row["custom_id"].split("@")[1]) for row in found]
        assert {later - earlier for earlier, later in pairwise(times)} == {100}


async def test_making_up_is_bounded(engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scheduling.CATCH_UP_LIMIT == 1_000
    monkeypatch.setattr(scheduling, "CATCH_UP_LIMIT", 20)
    long_ago = datetime.now(UTC) - timedelta(days=3_000)
    every = Schedule(every_ms=100)
    cron = await made(engine, schedule=every, catch_up=CatchUp.ALL, starts_at=long_ago)
    assert cron.next_at is not None
    await rewind(engine, cron, cron.next_at - timedelta(days=30))
    await engine.crons.tick()
    found = await read(engine, cron)
    assert found.next_at is not None and datetime.now(UTC) - found.next_at < timedelta(minutes=2)
    # On a slow machine a tick leaves slots that it took to the next one.
    await engine.crons.disable(cron.id, caller=CALLER)
    while await engine.crons.tick():
        pass
    assert len(await jobs_of(store, cron)) == 20
    for cron in (
        await made(engine, schedule=every, catch_up=CatchUp.ONE, starts_at=long_ago),
        await made(engine, schedule=Schedule("* * * * * *"), catch_up=CatchUp.ONE),
    ):
        assert cron.next_at is not None
        await rewind(engine, cron, cron.next_at - timedelta(days=2_000))
        await engine.crons.tick()
        assert len(await jobs_of(store, cron)) == 1


# ---- overlap


async def _slot_behind_an_open_job(engine: Engine, overlap: Overlap) -> tuple[Cron, str]:
    cron = await made(engine, overlap=overlap)
    await owe(engine, cron, hour(2))
    await engine.crons.tick()
    first = (await read(engine, cron)).fires[-1].job_id
    assert first is not None
    await owe(engine, cron, hour(1))
    await engine.crons.tick()
    await quiet(engine)
    return cron, first


async def test_allowed_overlap_makes_the_job_all_the_same(engine: Engine, store: Store) -> None:
    cron, _ = await _slot_behind_an_open_job(engine, Overlap.ALLOW)
    assert [row["state"] for row in await jobs_of(store, cron)] == ["waiting", "waiting"]


async def test_skipped_overlap_makes_none_and_says_why(engine: Engine, store: Store) -> None:
    cron, first = await _slot_behind_an_open_job(engine, Overlap.SKIP)
    assert [row["_id"] for row in await jobs_of(store, cron)] == [first]
    found = await read(engine, cron)
    assert (found.fired, found.fires[-1].outcome, found.fires[-1].job_id) == (1, "skipped", None)
    assert first in (found.fires[-1].reason or "")
    await engine.jobs.cancel(first, caller=CALLER)
    await owe(engine, cron, hour())
    await engine.crons.tick()
    assert (await read(engine, cron)).fires[-1].outcome == "fired"


async def test_replacing_overlap_cancels_the_open_job(engine: Engine, store: Store) -> None:
    cron, first = await _slot_behind_an_open_job(engine, Overlap.REPLACE)
    rows = {row["_id"]: row["state"] for row in await jobs_of(store, cron)}
    assert rows.pop(first) == "cancelled"
    assert list(rows.values()) == ["waiting"]


async def test_schedulers_that_see_different_moments_agree_on_a_skip(engine: Engine, store: Store) -> None:
    cron, first = await _slot_behind_an_open_job(engine, Overlap.SKIP)
    slot = hour() - timedelta(milliseconds=5)
    await store.crons.update_one({"_id": cron.id}, {"$set": {"due": [{"slot": slot}]}})
    stale = await commands.find(store, cron.id, CALLER)
    assert stale is not None
    saw_it_open = await engine.crons._make(commands.cron_from(stale), slot, first, None)
    await engine.jobs.cancel(first, caller=CALLER)
    saw_it_ended = await another(engine).crons._make(commands.cron_from(stale), slot, first, None)
    assert (saw_it_open.outcome, saw_it_ended.outcome) == ("skipped", "skipped")
    assert len(await jobs_of(store, cron)) == 1


async def test_slot_is_not_lost_to_a_reading_of_the_clock_that_is_behind(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cron = await made(engine, schedule=YEARLY)
    slot = datetime.now(UTC).replace(microsecond=0)
    await rewind(engine, cron, slot)
    monkeypatch.setattr(store.clock, "now", lambda: slot - timedelta(milliseconds=3))
    assert await engine.crons.tick() == 0
    monkeypatch.undo()
    assert await engine.crons.tick() == 1
    assert [row["custom_id"] for row in await jobs_of(store, cron)] == [f"{cron.id}@{to_ms(slot)}"]


async def test_slot_whose_unique_key_is_held_is_skipped(engine: Engine) -> None:
    held = await enqueue(engine, unique_key="k")
    cron = await made(engine, job=NewJob(name="tick", unique_key="k"))
    await rewind(engine, cron, hour())
    await engine.crons.tick()
    (fire,) = (await read(engine, cron)).fires
    assert fire.outcome == "skipped" and held.id in (fire.reason or "")


# ---- bounds


async def test_limit_ends_a_cron_and_a_skipped_slot_does_not_count(engine: Engine, store: Store) -> None:
    held = await enqueue(engine, unique_key="k")
    cron = await made(engine, job=NewJob(name="tick", unique_key="k"), limit=1)
    assert len(cron.next_slots(5, moment=datetime.now(UTC))) == 1
    await rewind(engine, cron, hour())
    await engine.crons.tick()
    skipped = await read(engine, cron)
    assert skipped.fired == 0 and skipped.next_at is not None
    await engine.jobs.cancel(held.id, caller=CALLER)
    await rewind(engine, cron, hour() - timedelta(milliseconds=1))
    await engine.crons.tick()
    ended = await read(engine, cron)
    assert (ended.fired, ended.next_at, ended.next_slots(5, moment=datetime.now(UTC))) == (1, None, [])
    more = await engine.crons.update(cron.id, {"limit": 3}, caller=CALLER)
    assert more.next_at is not None and len(more.next_slots(9, moment=datetime.now(UTC))) == 2


async def test_scheduler_that_dies_behind_a_skipped_slot_leaves_the_cron_its_next_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        pass

    settle = commands.settle

    async def last_words(*args: Any, **kwargs: Any) -> Any:
        await settle(*args, **kwargs)
        raise Dead

    await enqueue(engine, unique_key="k")
    cron = await made(engine, job=NewJob(name="tick", unique_key="k"), limit=1)
    await rewind(engine, cron, hour())
    with monkeypatch.context() as patched:
        patched.setattr(commands, "settle", last_words)
        with pytest.raises(Dead):
            await engine.crons.tick()
    left = await read(engine, cron)
    assert (left.fired, left.fires[-1].outcome) == (0, "skipped")
    assert left.next_at is not None and left.next_at > hour()


async def test_slots_left_out_behind_the_end_of_a_limited_cron_are_no_fault(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    cron = await made(engine, ends_at=hour(5), starts_at=hour(9), limit=3, catch_up=CatchUp.SKIP)
    await rewind(engine, cron, hour(9))
    await engine.crons.tick()
    assert (await read(engine, cron)).next_at is None
    assert not [record for record in caplog.records if "could not fire" in record.getMessage()]


async def test_limit_holds_while_making_up(engine: Engine, store: Store) -> None:
    cron = await made(engine, catch_up=CatchUp.ALL, limit=3)
    await rewind(engine, cron, hour(9))
    await engine.crons.tick()
    assert len(await jobs_of(store, cron)) == 3
    assert (await read(engine, cron)).next_at is None


async def test_no_slot_lies_before_the_start_or_behind_the_end(engine: Engine, store: Store) -> None:
    start, end = hour() + timedelta(days=2), hour() + timedelta(days=2, hours=2)
    cron = await made(engine, starts_at=start, ends_at=end)
    assert cron.next_at == start
    assert cron.next_slots(9, moment=datetime.now(UTC)) == [start, start + timedelta(hours=1), end]
    every = await made(engine, schedule=Schedule(every_ms=3_600_000), starts_at=start, ends_at=end)
    assert every.next_slots(9, moment=datetime.now(UTC)) == [start, start + timedelta(hours=1), end]
    over = await made(engine, starts_at=hour(9), ends_at=hour(2), catch_up=CatchUp.ONE)
    assert over.next_at is None
    await rewind(engine, over, hour(9))
    await engine.crons.tick()
    assert [row["custom_id"] for row in await jobs_of(store, over)] == [f"{over.id}@{to_ms(hour(2))}"]
    assert (await read(engine, over)).next_at is None


async def test_jitter_delays_the_job_and_not_the_slot(engine: Engine, store: Store) -> None:
    cron = await made(engine, jitter_ms=24 * 3_600_000)
    await rewind(engine, cron, hour())
    await engine.crons.tick()
    (row,) = await jobs_of(store, cron)
    due = hour() + cron.delay_of(hour())
    assert row["run_at"] == due or (row["run_at"] > due and row["state"] == "waiting")
    assert (await read(engine, cron)).fires[-1].slot == hour()


# ---- operators


async def test_disabled_cron_makes_nothing_and_makes_nothing_up(engine: Engine, store: Store) -> None:
    cron = await made(engine, catch_up=CatchUp.ALL)
    off = await engine.crons.disable(cron.id, caller=CALLER)
    assert (off.enabled, off.next_at, off.next_slots(3, moment=datetime.now(UTC))) == (False, None, [])
    assert (await engine.crons.disable(cron.id, caller=CALLER)).updated_at == off.updated_at
    await rewind(engine, cron, hour(3))
    assert await engine.crons.tick() == 0
    on = await engine.crons.enable(cron.id, caller=CALLER)
    assert on.next_at is not None and on.next_at > datetime.now(UTC)
    assert await engine.crons.tick() == 0
    assert await jobs_of(store, cron) == []


async def test_change_takes_effect_from_the_next_slot_on(engine: Engine) -> None:
    cron = await made(engine)
    changed = await engine.crons.update(
        cron.id, {"schedule": Schedule("30 4 1 1 *", timezone="Asia/Kolkata"), "name": "other"}, caller=CALLER
    )
    assert changed.name == "other" and changed.next_at is not None
    assert (changed.next_at.hour, changed.next_at.minute) == (23, 0)
    same = await engine.crons.update(cron.id, {"name": "other"}, caller=CALLER)
    assert same.updated_at == changed.updated_at
    taken = await made(engine)
    with pytest.raises(Conflict, match="named"):
        await engine.crons.update(cron.id, {"name": taken.name}, caller=CALLER)
    for given in ({}, {"fired": 0}, {"name": ""}, {"limit": 0}, {"job": NewJob(name="a", delay_ms=1)}):
        with pytest.raises(InvalidInput):
            await engine.crons.update(cron.id, given, caller=CALLER)


async def test_interval_keeps_its_beat_through_a_change_of_something_else(engine: Engine) -> None:
    cron = await made(engine, schedule=Schedule(every_ms=3_600_000))
    changed = await engine.crons.update(cron.id, {"schedule": Schedule(every_ms=3_600_000), "limit": 7}, caller=CALLER)
    assert changed.next_at == cron.next_at


async def test_trigger_makes_a_job_beside_the_slots(engine: Engine, store: Store) -> None:
    cron = await made(engine, enabled=False)
    first = await engine.crons.trigger(cron.id, caller=CALLER, idempotency_key="k")
    again = await engine.crons.trigger(cron.id, caller=CALLER, idempotency_key="k")
    assert first.job.id == again.job.id and again.deduplication is not None
    assert (first.job.name, first.job.cron_id, first.job.timeline[0].actor) == ("tick", cron.id, CALLER.actor)
    assert (await read(engine, cron)).fired == 0
    assert len(await jobs_of(store, cron)) == 1


async def test_deleted_cron_is_gone_and_its_jobs_stay(engine: Engine, store: Store) -> None:
    cron = await made(engine)
    await engine.crons.trigger(cron.id, caller=CALLER)
    assert (await engine.crons.delete(cron.id, caller=CALLER)).name == cron.name
    assert await engine.crons.get(cron.id, caller=CALLER) is None
    assert len(await jobs_of(store, cron)) == 1
    crons = engine.crons
    for verb in (crons.delete, crons.enable, crons.disable, crons.trigger):
        with pytest.raises(NotFound):
            await verb(cron.id, caller=CALLER)
    with pytest.raises(NotFound):
        await crons.update(cron.id, {"limit": 1}, caller=CALLER)
    await made(engine, name=cron.name)


async def test_tenants_see_their_own_crons_only(engine: Engine) -> None:
    mine, other = Caller("a", "mine", "app"), Caller("b", "other")
    cron = await engine.crons.create(new(), caller=mine)
    assert await engine.crons.get(cron.id, caller=other) is None
    assert await engine.crons.get_many([cron.id], caller=other) == {}
    assert (await engine.crons.page(caller=other)).items == []
    assert (await engine.crons.count(caller=other)).value == 0
    queues = [cron.job.queue for cron in await engine.crons.offset_page(caller=CALLER)]
    for queue in {*queues, "nowhere"}:
        found = await engine.crons.offset_page(caller=CALLER, queue=queue)
        assert [cron.job.queue for cron in found] == [queue] * queues.count(queue)
        assert (await engine.crons.count(caller=CALLER, queue=queue)).value == queues.count(queue)
    for verb in (engine.crons.delete, engine.crons.enable, engine.crons.disable, engine.crons.trigger):
        with pytest.raises(NotFound):
            await verb(cron.id, caller=other)
    await rewind(engine, cron, hour())
    await engine.crons.tick()
    job = (await engine.crons.trigger(cron.id, caller=CALLER)).job
    assert (job.org, job.app) == ("mine", "app")
    assert {row["org"] for row in await jobs_of(engine._store, cron)} == {"mine"}


async def test_one_cron_that_cannot_be_read_does_not_stop_the_others(engine: Engine, store: Store) -> None:
    broken, zoneless, fine = [await made(engine) for _ in range(3)]
    await store.crons.update_one({"_id": broken.id}, {"$unset": {"schedule": ""}})
    await store.crons.update_one({"_id": zoneless.id}, {"$set": {"schedule.timezone": "Mars/Olympus"}})
    for n, cron in enumerate((broken, zoneless, fine)):
        await rewind(engine, cron, hour(2 - n))
    assert await engine.crons.tick() == 1
    assert len(await jobs_of(store, fine)) == 1


async def test_history_keeps_fifty_fires(engine: Engine) -> None:
    cron = await made(engine, catch_up=CatchUp.ALL)
    await rewind(engine, cron, hour(59))
    await engine.crons.tick()
    found = await read(engine, cron)
    assert found.fired == 60 and len(found.fires) == 50
    assert found.fires[-1].slot == hour()


async def test_tick_reads_nothing_but_what_is_due(engine: Engine, commands: Any) -> None:
    for _ in range(5):
        await made(engine)
    commands.clear()
    assert await engine.crons.tick() == 0
    assert commands.names == ["find"]
