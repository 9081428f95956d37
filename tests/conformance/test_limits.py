"""Limits: how many run at once, and how many start in an interval, whoever claims; and who waits for it."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from switchtower.access import TenantLimits
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.errors import InvalidInput
from switchtower.flows import FlowNode
from switchtower.jobs import ClaimedJob, NewJob
from switchtower.limits import Limit, QueueLimits, Rate
from switchtower.store import permits
from switchtower.store import queues as queue_commands
from switchtower.store.collections import Store
from switchtower.store.indexes import HOT
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.commands import Commands, explain, stages
from tests.conformance.situations import CALLER, HOUR_MS, another, enqueue, fresh
from tests.databases import anywhere

Document = dict[str, Any]


async def fill(engine: Engine, queue: str, jobs: int, *, caller: Caller = CALLER, **fields: Any) -> None:
    news = [NewJob(**{"name": "work", "queue": queue, **fields})] * jobs
    await engine.jobs.enqueue_many(news, caller=caller)


async def end(engine: Engine, jobs: list[ClaimedJob], kind: OutcomeKind = OutcomeKind.COMPLETE) -> None:
    assert await engine.claims.report([Outcome(job.id, job.token, kind) for job in jobs]) == set()


async def claim(engine: Engine, queue: str, limit: int = 100, **fields: Any) -> list[ClaimedJob]:
    return await engine.claims.claim("w", [queue], limit=limit, **fields)


async def limit(engine: Engine, name: str, *, caller: Caller = CALLER, **fields: Any) -> None:
    await engine.queues.set_limits(name, QueueLimits(**fields), caller=caller)


async def test_no_more_run_at_once_than_the_queue_may(engine: Engine) -> None:
    for size in [1, 100]:
        queue = fresh("queue")
        await fill(engine, queue, 10)
        await limit(engine, queue, queue=Limit(3))
        won: list[ClaimedJob] = []
        while more := await claim(engine, queue, size):
            won += more
        assert len(won) == 3
        assert await claim(another(engine), queue, size) == []
        await end(engine, won[:2])
        again = [*await claim(another(engine), queue, size), *await claim(engine, queue, size)]
        assert len(again) == 2
        assert await claim(engine, queue, size) == []


async def test_every_end_of_a_run_frees_its_place(engine: Engine) -> None:
    for kind in OutcomeKind:
        queue = fresh("queue")
        await fill(engine, queue, 2, max_attempts=1)
        await limit(engine, queue, queue=Limit(1))
        (job,) = await claim(engine, queue)
        assert await claim(engine, queue) == []
        await end(engine, [job], kind)
        row = await engine._store.jobs.find_one({"_id": job.id})
        assert "limited" not in row, kind
        assert len(await claim(engine, queue)) == 1, kind


async def test_limit_of_a_name_holds_nothing_else_back(engine: Engine) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 5, name="slow")
    await fill(engine, queue, 5, name="fast")
    await limit(engine, queue, names={"slow": Limit(1)})
    first = await claim(engine, queue)
    rest = [*first, *await claim(engine, queue), *await claim(engine, queue)]
    assert Counter(job.name for job in rest) == {"slow": 1, "fast": 5}
    await end(engine, [job for job in rest if job.name == "slow"])
    assert [job.name for job in await claim(another(engine), queue)] == ["slow"]


async def test_each_group_has_its_own_limit_and_one_may_have_another(engine: Engine) -> None:
    queue = fresh("queue")
    for group in ("a", "b", "c", None):
        await fill(engine, queue, 4, group=group)
    await limit(engine, queue, per_group=Limit(1), groups={"b": Limit(3), "c": Limit(0)})
    won: list[ClaimedJob] = []
    while more := await claim(engine, queue, 3):
        won += more
    assert Counter(job.group for job in won) == {"a": 1, "b": 3, None: 4}


async def test_tenants_limit_holds_over_all_queues(engine: Engine) -> None:
    queues = [fresh("queue") for _ in range(3)]
    acme = Caller("eve", org="acme")
    for queue in queues:
        await fill(engine, queue, 5, caller=acme)
        await fill(engine, queue, 1)
    await engine.keys.set_tenant_limits(TenantLimits("acme", jobs=Limit(4)), caller=CALLER)
    won: list[ClaimedJob] = []
    for _ in range(4):
        for queue in queues:
            won += await claim(another(engine), queue, 2)
    assert Counter(job.org for job in won) == {"acme": 4, "": 3}


async def test_tenant_limits_its_own_jobs_only(engine: Engine) -> None:
    queue = fresh("queue")
    acme = Caller("eve", org="acme")
    await fill(engine, queue, 5, caller=acme)
    await fill(engine, queue, 5, caller=Caller("bob", org="bolt"))
    await limit(engine, queue, caller=acme, queue=Limit(2))
    won: list[ClaimedJob] = []
    while more := await claim(engine, queue, 3):
        won += more
    assert Counter(job.org for job in won) == {"acme": 2, "bolt": 5}
    assert await claim(engine, queue, org="acme") == []


async def test_rate_slides(engine: Engine) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 10)
    await limit(engine, queue, queue=Limit(rate=Rate(4, HOUR_MS)))
    assert [len(await claim(engine, queue, 3)) for _ in range(3)] == [3, 1, 0]
    assert await claim(another(engine), queue) == []
    latest = engine._store.permits.with_options(read_concern=ReadConcern("local"))
    (row,) = await latest.find({}).to_list(None)
    assert sum(entry["jobs"] for entry in row["starts"]) == 4 and row["reserved"] == []
    # The first three leave the interval.
    aged = [{**entry, "at": entry["at"] - timedelta(hours=1)} for entry in row["starts"][:1]]
    left = sum(entry["jobs"] for entry in row["starts"][:1])
    await engine._store.permits.update_one({"_id": row["_id"]}, {"$set": {"starts": aged + row["starts"][1:]}})
    assert len(await claim(another(engine), queue)) == left


async def test_what_runs_when_a_limit_begins_counts(engine: Engine) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 10)
    won = await claim(engine, queue, 1) + await claim(engine, queue, 3)
    assert len(won) == 4
    await limit(engine, queue, queue=Limit(5))
    assert len(await claim(engine, queue)) == 1
    await end(engine, won)
    assert len(await claim(engine, queue)) == 4


@pytest.mark.parametrize("fields", [{"queue": Limit(3)}, {"names": {"work": Limit(3)}}, {"per_group": Limit(3)}])
async def test_racing_claimers_of_several_processes_never_exceed(engine: Engine, fields: Any) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 30, group="g")
    await limit(engine, queue, **fields)
    engines = [another(engine) for _ in range(4)]
    ended: Counter[str] = Counter()
    most = 0

    async def worker(number: int) -> None:
        nonlocal most
        own = engines[number % 4]
        while sum(ended.values()) < 30:
            won = await own.claims.claim(f"w{number}", [queue], limit=random.choice((1, 2, 10)))
            running = await engine._store.jobs.count_documents(anywhere(queue=queue, state="active"))
            most = max(most, running)
            ended.update(job.id for job in won)
            await end(own, won)

    await asyncio.gather(*(worker(number) for number in range(8)))
    assert set(ended.values()) == {1}
    assert 1 <= most <= 3


async def test_claimers_of_different_jobs_never_exceed_what_they_share(engine: Engine) -> None:
    queue = fresh("queue")
    await limit(engine, queue, queue=Limit(1))
    engines = [another(engine) for _ in range(4)]
    left = Counter({f"{n}": 8 for n in range(4)})
    for name in left:
        await engine.workers.register(WorkerInfo(id=f"w{name}", queues=[queue], names=[name]))
        await fill(engine, queue, left[name], name=name)

    async def worker(name: str) -> None:
        own = engines[int(name)]
        while left[name]:
            for job in await own.claims.claim(f"w{name}", [queue], names=[name]):
                assert await engine._store.jobs.count_documents(anywhere(queue=queue, state="active")) == 1
                left[name] -= 1
                await end(own, [job])

    await asyncio.wait_for(asyncio.gather(*(worker(name) for name in list(left))), 60)


async def test_claimer_that_dies_before_it_claims_holds_its_room_for_a_while_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 3)
    await limit(engine, queue, queue=Limit(1))

    async def dies(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(permits, "claim", dies)
        with pytest.raises(RuntimeError):
            await claim(another(engine), queue)
    assert await claim(engine, queue) == []
    passed = engine.clock.now() - timedelta(seconds=1)
    await engine._store.permits.update_one(anywhere({"reserved.jobs": 1}), {"$set": {"reserved.0.until": passed}})
    assert len(await claim(engine, queue)) == 1


async def test_claim_that_comes_after_its_reservation_ended_wins_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 3)
    await limit(engine, queue, queue=Limit(1))
    claim_now = permits.claim

    async def frozen(*args: Any, before: Any, **kwargs: Any) -> Any:
        return await claim_now(*args, before=before - timedelta(seconds=11), **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(permits, "claim", frozen)
        assert await claim(another(engine), queue) == []
    assert len(await claim(engine, queue)) == 1


async def test_count_that_is_too_old_reserves_nothing(engine: Engine) -> None:
    bound = {"k": Limit(1)}
    level = (await permits.levels(engine._store, bound))["k"]
    level.now -= timedelta(seconds=6)
    assert await permits.reserve(engine._store, level, bound["k"], token="t", jobs=1) is None
    one, two = [(await permits.levels(engine._store, bound))["k"] for _ in range(2)]
    assert await permits.reserve(engine._store, one, bound["k"], token="t", jobs=1) is not None
    assert await permits.reserve(engine._store, two, bound["k"], token="u", jobs=1) is None


async def test_count_is_refused_when_the_same_claim_reserved_again_since(engine: Engine) -> None:
    bound = {"k": Limit(concurrency=2)}

    async def reserve(token: str, jobs: int) -> bool:
        level = (await permits.levels(engine._store, bound, without=token))["k"]
        return await permits.reserve(engine._store, level, bound["k"], token=token, jobs=jobs) is not None

    assert await reserve("t", 1)
    counted = (await permits.levels(engine._store, bound))["k"]
    assert counted.room(bound["k"]) == 1
    assert await reserve("t", 2)
    assert await permits.reserve(engine._store, counted, bound["k"], token="u", jobs=1) is None


async def test_limit_that_is_lowered_while_a_claim_is_under_way_wins(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 5)
    await limit(engine, queue, queue=Limit(5))
    claim_now = permits.claim

    async def lowered_meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        await limit(another(engine), queue, queue=Limit(1))
        return await claim_now(*args, **kwargs)

    monkeypatch.setattr(permits, "claim", lowered_meanwhile)
    assert await claim(engine, queue) == []
    assert len(await claim(engine, queue)) == 1


async def test_groups_take_turns(engine: Engine) -> None:
    queue = fresh("queue")
    for group, jobs in (("a", 60), ("b", 6), ("c", 6)):
        await fill(engine, queue, jobs, group=group)
    singles = [(await claim(engine, queue, 1))[0].group for _ in range(9)]
    assert Counter(singles) == {"a": 3, "b": 3, "c": 3}
    batch = await claim(engine, queue, 9)
    assert Counter(job.group for job in batch) == {"a": 3, "b": 3, "c": 3}
    assert Counter(job.group for job in [*await claim(engine, queue, 9), *await claim(engine, queue, 9)])["a"] > 9


async def test_tenant_with_many_jobs_and_groups_does_not_starve_one_with_few(engine: Engine) -> None:
    queue = fresh("queue")
    for number in range(10):
        await fill(engine, queue, 30, caller=Caller("big", org="big"), group=f"g{number}")
    await fill(engine, queue, 5, caller=Caller("small", org="small"))
    won = [(await claim(engine, queue, 1))[0] for _ in range(10)]
    assert Counter(job.org for job in won) == {"big": 5, "small": 5}
    assert len({job.group for job in won if job.org == "big"}) == 5


async def test_tenants_claim_their_own_jobs_only(engine: Engine) -> None:
    queue = fresh("queue")
    for org in ("acme", "acme b", "a"):
        await fill(engine, queue, 3, caller=Caller("eve", org=org), group="g")
        await fill(engine, queue, 3, caller=Caller("eve", org=org))
    await fill(engine, queue, 3)
    won: list[ClaimedJob] = []
    while more := await claim(engine, queue, 2, org="acme"):
        won += more
    assert Counter(job.org for job in won) == {"acme": 6}


async def test_paused_group_starts_nothing_until_it_is_resumed(engine: Engine) -> None:
    queue = fresh("queue")
    for group in ("a", "b"):
        await fill(engine, queue, 3, group=group)
    other = another(engine)
    assert await claim(other, queue, 1)
    queues = await engine.queues.pause(queue, caller=CALLER, group="a")
    assert queues.paused_groups == ["a"] and not queues.paused
    won = [*await claim(other, queue, 1), *await claim(other, queue), *await claim(other, queue)]
    assert {job.group for job in won} == {"b"}
    groups = {group.group: group for group in await engine.queues.groups(queue, caller=CALLER)}
    assert groups["a"].paused and not groups["b"].paused
    await engine.queues.resume(queue, caller=CALLER, group="a")
    assert {job.group for job in await claim(another(engine), queue)} == {"a"}


async def test_jobs_behind_thousands_that_may_not_run_are_claimed(engine: Engine) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 5_000, name="slow")
    await fill(engine, queue, 5_000, group="g")
    await limit(engine, queue, names={"slow": Limit(1)}, per_group=Limit(1))
    for _ in range(10):
        await claim(engine, queue, 10)
    await fill(engine, queue, 20, name="fast")
    won = await claim(engine, queue, 10)
    assert {job.name for job in won} == {"fast"}


async def test_jobs_behind_more_than_one_claim_moves_aside_are_claimed_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchtower.engine.lanes.ASIDE", 3)
    monkeypatch.setattr("switchtower.engine.lanes.ASIDE_ROUNDS", 2)
    queue = fresh("queue")
    await limit(engine, queue, names={"held": Limit(0)})
    await fill(engine, queue, 40, name="held")
    await fill(engine, queue, 3, name="free")
    for names in (None, ["held", "free"]):
        (won,) = await claim(engine, queue, 1, names=names)
        assert won.name == "free"
    assert [job.name for job in await claim(engine, queue)] == ["free"]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("concurrency", {"queue": Limit(-1)}),
    ("concurrency", {"queue": Limit(10**9)}),
    ("rate.starts", {"queue": Limit(rate=Rate(-1, 1_000))}),
    ("perGroup.rate.perMs", {"per_group": Limit(rate=Rate(1, 10))}),
    ("names.name", {"names": {"": Limit(1)}}),
    ("groups.concurrency", {"groups": {"g": Limit(-5)}}),
    ("groups", {"groups": {f"{n}": Limit(1) for n in range(201)}}),
]


async def test_limits_that_make_no_sense_are_refused(engine: Engine) -> None:
    for field, fields in WRONG:
        with pytest.raises(InvalidInput) as refused:
            await limit(engine, fresh("queue"), **fields)
        assert refused.value.field == field


async def test_unlimited_queue_pays_nothing(engine: Engine, commands: Commands) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 300)
    await claim(engine, queue, 1)
    commands.clear()
    await claim(engine, queue, 1)
    assert commands.names == ["findAndModify", "find"]
    assert await enqueue(engine, queue=queue)
    assert "permits" not in str(commands.sent)


async def test_turns_and_limits_are_read_from_their_indexes(
    engine: Engine, store: Store, commands: Commands, mongo: MongoClient[Document]
) -> None:
    queue = fresh("queue")
    for group in ("a", "b", "c"):
        await fill(engine, queue, 200, group=group)
    await limit(engine, queue, per_group=Limit(5), queue=Limit(12))
    await claim(engine, queue, 9)
    commands.clear()
    await claim(engine, queue, 3)
    looked = [c for c in commands.sent if next(iter(c.values())) == "jobs" and next(iter(c)) in ("find", "aggregate")]
    assert {next(iter(command)) for command in looked} == {"find", "aggregate"}
    for command in looked:
        plan = explain(mongo, commands.database, command)
        found = stages(plan)
        assert not {stage["stage"] for stage in found} & {"SORT", "COLLSCAN"}, command
        used = {stage["indexName"] for stage in found if "indexName" in stage}
        assert used <= {HOT, "limited", "active"}, (used, command)
        statistics = str(plan)
        examined = [int(n) for n in re.findall(r"'totalDocsExamined': (\d+)", statistics)]
        assert sum(examined) <= 20, (examined, command)


async def test_queue_says_that_it_has_lanes_before_a_job_stands_in_one(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    await fill(engine, queue, 1)
    assert not (await queue_commands.all_controls(store, queue)).laned
    inserted = []
    insert = store.jobs.insert_many

    async def looked_at(*args: Any, **kwargs: Any) -> Any:
        inserted.append((await queue_commands.all_controls(store, queue)).laned)
        return await insert(*args, **kwargs)

    store.jobs = Replaced(store.jobs, insert_many=looked_at)
    try:
        await fill(engine, queue, 1, group="g")
    finally:
        store.jobs = store.jobs.whole
    assert inserted == [True]
    assert await engine.queues.names(caller=Caller("x", org="nobody")) == []


async def test_dropped_mark_of_lanes_is_made_again(engine: Engine, store: Store) -> None:
    queue = fresh("queue")
    for _ in range(2):
        await fill(engine, queue, 2, group="g")
    await store.queues.delete_many({})
    other = another(engine)
    assert [job.group for job in await claim(other, queue, 1)] == ["g"]
    assert (await queue_commands.all_controls(store, queue)).laned


class Replaced:
    """A collection with some methods of one's own."""

    def __init__(self, whole: Any, **methods: Any) -> None:
        self.whole = whole
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self.whole, name)


async def test_jobs_of_flows_and_transactions_stand_in_lanes_too(engine: Engine, store: Store) -> None:
    flow_queue, session_queue = fresh("queue"), fresh("queue")
    await engine.flows.enqueue(FlowNode(job=NewJob(name="root", queue=flow_queue, group="g")), caller=CALLER)
    async with store.database.transaction() as session:
        new = NewJob(name="work", queue=session_queue, group="g")
        await engine.jobs.enqueue(new, caller=CALLER, session=session)
    for queue in (flow_queue, session_queue):
        assert (await queue_commands.all_controls(store, queue)).laned
        assert [job.group for job in await claim(another(engine), queue, 1)] == ["g"]
