"""Deduplication: which enqueue wins, for how long, and what a later one does to it; a duplicate is an answer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.engine import DeadLetterFilter, Engine
from switchtower.errors import Conflict, InvalidInput
from switchtower.flows import node
from switchtower.jobs import Deduplication, Enqueued, NewJob
from switchtower.store.collections import Store
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, LONG_AGO, Situation, another, enqueue, fresh, job_in
from tests.mongod import fail_command

SIMPLE = DeduplicationOptions(key="k")
BRIEF = DeduplicationOptions(key="k", ttl_ms=HOUR_MS)
THROTTLE = DeduplicationOptions(mode=DeduplicationMode.THROTTLE, key="k", ttl_ms=HOUR_MS)
DEBOUNCE = DeduplicationOptions(mode=DeduplicationMode.DEBOUNCE, key="k")
MODES = {"simple": SIMPLE, "brief": BRIEF, "throttle": THROTTLE, "debounce": DEBOUNCE}
OPEN = ["scheduled", "waiting", "active", "retrying"]
ENDED = ["completed", "failed", "cancelled"]


async def ask(engine: Engine, options: DeduplicationOptions, **fields: Any) -> Enqueued:
    if options.mode is DeduplicationMode.DEBOUNCE:
        fields.setdefault("delay_ms", HOUR_MS)
    new = NewJob(**{"name": "work", "deduplication": options, **fields})
    return await engine.jobs.enqueue(new, caller=CALLER)


@pytest.mark.parametrize("mode", MODES)
async def test_options_round_trip_and_the_key_is_per_queue_and_tenant(engine: Engine, mode: str) -> None:
    made = await ask(engine, MODES[mode], queue="a")
    job = await engine.jobs.get(made.job.id, caller=CALLER)
    assert job is not None and made.deduplication is None
    assert (job.deduplication, job.unique_key) == (MODES[mode], "k")
    assert (await ask(engine, MODES[mode], queue="a")).job.id == job.id
    assert (await ask(engine, MODES[mode], queue="b")).job.id != job.id
    new = NewJob(name="work", queue="a", delay_ms=HOUR_MS, deduplication=MODES[mode])
    other = await engine.jobs.enqueue(new, caller=Caller("eve", org="other"))
    assert other.deduplication is None
    assert (await enqueue(engine, queue="a", unique_key="k")).id != job.id


@pytest.mark.parametrize("mode", ["simple", "brief", "throttle"])
async def test_open_job_stands_for_later_ones(engine: Engine, mode: str) -> None:
    for state in OPEN:
        s = await job_in(engine, state, deduplication=MODES[mode])
        before = await s.document()
        again = await ask(engine, MODES[mode], queue=s.queue, payload="later")
        assert (again.job.id, again.deduplication) == (s.id, Deduplication(MODES[mode].mode)), state
        assert await s.document() == before


@pytest.mark.parametrize("mode", MODES)
async def test_end_of_the_job_lets_go_unless_it_throttles(engine: Engine, mode: str) -> None:
    for state in ENDED:
        made = await ask(engine, MODES[mode], queue=fresh("queue"), delay_ms=HOUR_MS)
        s = Situation(engine, made.job.id, made.job.queue)
        if state == "cancelled":
            await engine.jobs.cancel(s.id, caller=CALLER)
        else:
            await engine.jobs.promote(s.id, caller=CALLER)
            await s.claim(start=True)
            await s.report(OutcomeKind.COMPLETE if state == "completed" else OutcomeKind.BURY, error=ERROR)
        assert ((await ask(engine, MODES[mode], queue=s.queue)).job.id == s.id) is (mode == "throttle"), state


async def test_time_ends_the_hold_of_open_and_ended_jobs(engine: Engine) -> None:
    for state, mode, upkeep in product(("active", "completed"), ("brief", "throttle"), (True, False)):
        key = fresh("key")
        s = await job_in(engine, state, deduplication=MODES[mode], idempotency_key=key)
        await s.set(unique_until=LONG_AGO, release_at=LONG_AGO)
        if upkeep:
            assert await engine.upkeep.let_go() == 1
            document = await s.document()
            assert "unique_hold" not in document
            assert document["release_at"] == document["idempotency_until"]
        again = await ask(engine, MODES[mode], queue=s.queue)
        assert (again.job.id == s.id, again.deduplication) == (False, None), (state, mode, upkeep)
        assert (await enqueue(engine, idempotency_key=key)).id == s.id
        await s.set(release_at=datetime(2100, 1, 1, tzinfo=UTC))


async def test_throttle_lasts_its_time_from_the_first_unless_it_is_extended(engine: Engine) -> None:
    first = await ask(engine, THROTTLE)
    s = Situation(engine, first.job.id, "default")
    until = (await s.document())["unique_until"]
    assert until - first.job.created_at == timedelta(hours=1)
    soon = until - timedelta(minutes=30)
    await s.set(unique_until=soon, release_at=soon)
    await ask(engine, THROTTLE)
    assert (await s.document())["unique_until"] == soon
    longer = DeduplicationOptions(mode=THROTTLE.mode, key="k", ttl_ms=HOUR_MS, extend=True)
    assert (await ask(engine, longer)).deduplication is Deduplication.THROTTLE
    document = await s.document()
    assert document["unique_until"] >= until
    assert document["release_at"] == document["unique_until"]


async def test_payload_is_the_key_where_none_is_given(engine: Engine) -> None:
    by_payload = DeduplicationOptions()
    first = await ask(engine, by_payload, payload={"a": 1, "b": [2]})
    assert (await ask(engine, by_payload, payload={"b": [2], "a": 1})).job.id == first.job.id
    assert (await ask(engine, by_payload, payload={"a": 1, "b": [3]})).job.id != first.job.id
    assert (await ask(engine, by_payload, name="other", payload={"a": 1, "b": [2]})).job.id != first.job.id
    assert first.job.deduplication == by_payload


async def test_debounce_makes_the_delayed_job_what_the_last_one_asked_for(engine: Engine) -> None:
    first = await ask(engine, DEBOUNCE, payload=1, tags=["old"], timeout_ms=5, group="g", idempotency_key="one")
    s = Situation(engine, first.job.id, "default")
    await s.set(run_at=LONG_AGO + timedelta(days=365 * 30))
    again = await ask(
        engine, DEBOUNCE, name="later", payload={"$set": "$token"}, priority=4, max_attempts=9, idempotency_key="two"
    )
    assert (again.job.id, again.deduplication) == (first.job.id, Deduplication.REPLACED)
    job = await s.job()
    assert job == again.job
    assert (job.name, job.payload, job.priority, job.max_attempts) == ("later", {"$set": "$token"}, 4, 9)
    assert (job.tags, job.timeout_ms, job.group) == ([], None, None)
    assert (job.created_at, job.state, job.attempt, job.generation) == (first.job.created_at, "scheduled", 0, 1)
    assert abs(job.run_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)
    assert [(row.type, row.from_state, row.to_state) for row in job.timeline][-1] == (
        "replace",
        "scheduled",
        "scheduled",
    )
    document = await s.document()
    assert (document["rank"], document["order"]) == (4, int(job.run_at.timestamp() * 1000))
    for key in ("one", "two"):
        found = await enqueue(engine, idempotency_key=key)
        assert found.id == job.id


@pytest.mark.parametrize("state", ["waiting", "active", "retrying", "completed", "snoozed"])
async def test_debounce_that_left_its_delay_is_followed_by_a_new_one(engine: Engine, state: str) -> None:
    first = await ask(engine, DEBOUNCE, payload=1)
    s = Situation(engine, first.job.id, "default")
    await engine.jobs.promote(s.id, caller=CALLER)
    if state != "waiting":
        await s.claim(start=True)
    if state == "completed":
        await s.report(OutcomeKind.COMPLETE)
    elif state == "retrying":
        await s.report(OutcomeKind.FAIL, error=ERROR, wait_ms=HOUR_MS)
    elif state == "snoozed":
        await s.report(OutcomeKind.SNOOZE, wait_ms=HOUR_MS)
    second = await ask(engine, DEBOUNCE, payload=2)
    assert (second.job.id == first.job.id, second.deduplication, second.job.payload) == (False, None, 2)
    assert (await s.job()).payload == 1
    assert (await ask(engine, DEBOUNCE, payload=3)).job.id == second.job.id


async def test_time_bounds_how_long_a_debounce_is_replaced(engine: Engine) -> None:
    options = DeduplicationOptions(mode=DEBOUNCE.mode, key="k", ttl_ms=HOUR_MS)
    first = await ask(engine, options)
    assert (await ask(engine, options)).job.id == first.job.id
    s = Situation(engine, first.job.id, "default")
    await s.set(unique_until=LONG_AGO, release_at=LONG_AGO)
    assert (await ask(engine, options)).job.id != first.job.id
    assert (await s.job()).state == "scheduled"


async def test_replacement_without_a_delay_runs_now(engine: Engine) -> None:
    options = DeduplicationOptions(key="k", replace=True)
    first = await ask(engine, options, delay_ms=HOUR_MS)
    again = await ask(engine, options, payload="now")
    assert (again.job.id, again.job.state, again.deduplication) == (first.job.id, "waiting", Deduplication.REPLACED)
    (claimed,) = await engine.claims.claim(fresh("worker"), ["default"])
    assert claimed.payload == "now"
    assert (await ask(engine, options)).deduplication is Deduplication.SIMPLE


@pytest.mark.parametrize("mode", MODES)
async def test_fifty_at_once_from_many_processes_make_one_job(engine: Engine, store: Store, mode: str) -> None:
    engines = [another(engine) for _ in range(10)]
    answers = await asyncio.gather(*(ask(e, MODES[mode], payload=n) for e in engines for n in range(5)))
    assert len({answer.job.id for answer in answers}) == 1
    reasons = [answer.deduplication for answer in answers]
    assert reasons.count(None) == 1
    assert set(reasons) == {None, Deduplication.REPLACED if mode == "debounce" else Deduplication(MODES[mode].mode)}
    assert await store.jobs.count_documents({}) == 1


async def test_debounces_that_race_with_their_due_time_lose_no_last_word(engine: Engine) -> None:
    """Whatever was enqueued last has run, or is in a job that will."""
    last: Any = None
    for number in range(30):
        made, *_ = await asyncio.gather(
            ask(engine, DEBOUNCE, payload=number),
            *(engine.jobs.promote(last.job.id, caller=CALLER) for _ in [0] if last and number % 2),
            return_exceptions=True,
        )
        assert isinstance(made, Enqueued)
        job = await engine.jobs.get(made.job.id, caller=CALLER)
        assert job is not None and job.payload == number
        last = made


async def test_many_at_once_are_answered_one_by_one(engine: Engine) -> None:
    news = [NewJob(name="work", payload=n, delay_ms=HOUR_MS, deduplication=DEBOUNCE) for n in range(5)]
    answers = await engine.jobs.enqueue_many(news, caller=CALLER)
    assert [isinstance(a, Enqueued) and a.deduplication for a in answers] == [None, *[Deduplication.REPLACED] * 4]
    job = await engine.jobs.get(answers[0].job.id, caller=CALLER) if isinstance(answers[0], Enqueued) else None
    assert job is not None and job.payload == 4


@pytest.mark.parametrize(("mode", "times"), [("throttle", 1), ("debounce", 1), ("debounce", 2)])
async def test_lost_replies_change_nothing(engine: Engine, mongodb_url: str, mode: str, times: int) -> None:
    lost = {"writeConcernError": {"code": 64, "errmsg": "executed, then lost"}}
    for number in range(3):
        with fail_command(mongodb_url, ["insert", "findAndModify"], times=times, appName="switchtower-client", **lost):
            answer = await ask(engine, MODES[mode], payload=number)
        job = await engine.jobs.get(answer.job.id, caller=CALLER)
        assert job is not None
        assert job.payload == (number if mode == "debounce" else 0)
        assert answer.deduplication == (
            None if not number else Deduplication.REPLACED if mode == "debounce" else Deduplication.THROTTLE
        )
        assert [row.type for row in job.timeline].count("replace") == (number if mode == "debounce" else 0)
    assert await engine._store.jobs.count_documents({}) == 1


@pytest.mark.parametrize(("mode", "held"), [("simple", True), ("throttle", False), ("debounce", False)])
async def test_retry_of_an_ended_job_holds_its_key_again_only_while_open_jobs_do(
    engine: Engine, mode: str, held: bool
) -> None:
    made = await ask(engine, MODES[mode], delay_ms=1)
    s = Situation(engine, made.job.id, "default")
    await engine.jobs.cancel(s.id, caller=CALLER)
    if mode == "throttle":
        await s.set(unique_until=LONG_AGO, release_at=LONG_AGO)
        await engine.upkeep.let_go()
    await engine.jobs.retry(s.id, caller=CALLER)
    assert ("unique_hold" in await s.document()) is held
    await engine.jobs.cancel(s.id, caller=CALLER)
    await ask(engine, MODES[mode])
    if held:
        with pytest.raises(Conflict):
            await engine.jobs.retry(s.id, caller=CALLER)
    else:
        await engine.jobs.retry(s.id, caller=CALLER)


async def test_replay_of_a_dead_letter_stands_for_no_other_enqueue(engine: Engine) -> None:
    s = await job_in(engine, "failed", deduplication=SIMPLE)
    page = await engine.dead_letters.page(DeadLetterFilter(), caller=CALLER)
    await ask(engine, SIMPLE, queue=s.queue)
    replayed = await engine.dead_letters.replay(page.items[0].id, caller=CALLER)
    assert (replayed.deduplication, replayed.job.unique_key) == (None, None)


async def test_a_hold_whose_time_has_passed_does_not_abort_a_transaction(engine: Engine) -> None:
    made = await ask(engine, DEBOUNCE)
    await engine.jobs.promote(made.job.id, caller=CALLER)
    async with engine._store.database.transaction() as session:
        new = NewJob(name="work", delay_ms=HOUR_MS, deduplication=DEBOUNCE)
        answer = await engine.jobs.enqueue(new, caller=CALLER, session=session)
    assert answer.job.id != made.job.id


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "deduplication.ttlMs": ({"mode": DeduplicationMode.THROTTLE}, {}),
    "deduplication.mode": ({"mode": DeduplicationMode.DEBOUNCE}, {}),
    "deduplication.key": ({"key": ""}, {}),
    "deduplication.extend": ({"extend": True}, {}),
    "deduplication": ({}, {"unique_key": "k"}),
    "jobId": ({"replace": True}, {"job_id": "mine"}),
}


async def test_what_makes_no_sense_is_refused_by_name(engine: Engine) -> None:
    for field, (options, fields) in WRONG.items():
        with pytest.raises(InvalidInput) as refused:
            await enqueue(engine, deduplication=DeduplicationOptions(**options), **fields)
        assert refused.value.field == field
    for ttl in (0, -1, 2**60, 1.5, True):
        with pytest.raises(InvalidInput):
            await enqueue(engine, deduplication=DeduplicationOptions(ttl_ms=ttl))  # type: ignore[arg-type]


async def test_flows_and_parents_refuse_what_could_replace_their_jobs(engine: Engine) -> None:
    parent = await enqueue(engine)
    with pytest.raises(InvalidInput, match="deduplication"):
        await ask(engine, DEBOUNCE, parent_id=parent.id)
    with pytest.raises(InvalidInput, match="deduplication"):
        await engine.flows.enqueue(node(NewJob(name="work", deduplication=SIMPLE)), caller=CALLER)
    assert (await ask(engine, SIMPLE, parent_id=parent.id)).deduplication is None
    assert (await ask(engine, SIMPLE, parent_id=parent.id)).deduplication is Deduplication.SIMPLE
