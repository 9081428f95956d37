"""Plain updates: what is claimed and completed by them is told and shown as it is after a pipeline."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.events import Event, Topic
from switchtower.jobs import ClaimedJob, Job, JobUpdate, NewJob
from switchtower.store import claims as commands
from switchtower.store import operations, transitions
from switchtower.store.documents import claimed_from, job_from
from switchtower.workers import Outcome, OutcomeKind
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, Situation, enqueue, fresh, quiet
from tests.conformance.test_streams import take

KINDS: dict[str, dict[str, Any]] = {
    "bare": {},
    "full": {
        "tags": ["red", "$blue"],
        "group": "$g",
        "priority": 3,
        "lifo": True,
        "ttl_ms": HOUR_MS,
        "job_id": "their-own",
        "idempotency_key": "once",
        "timeout_ms": 5_000,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
    "tagged": {"tags": ["red", "$blue"], "group": "$g", "ttl_ms": HOUR_MS, "idempotency_key": "once", "lifo": True},
    "removed at its end": {"remove_on_complete": True},
    "under a unique key": {"unique_key": "k", "unique_for_ms": HOUR_MS},
    "odd names": {"name": "$name", "payload": {"$set": {"a.b": "$token"}, "": [None, 1.5]}},
}
RESULTS: list[Any] = [None, 0, "$token", {"$set": {"a.b": ["$$NOW"]}, "": {"$literal": 1}}, [{"$ref": 1}]]


async def claimed(engine: Engine, queue: str, *, whole: bool, count: int = 1) -> list[ClaimedJob]:
    """Claims a head that was read whole, by plain updates; else by a pipeline."""
    token = fresh("token")
    head = await commands.head(engine._store, queue, count, names=None, whole=whole, lane=await lane_in(engine, queue))
    rows = await commands.claim_batch(engine._store, head, token=token, worker_id="$worker")
    assert (rows is not None) == whole
    if rows is None:
        rows = await commands.read_back(engine._store, token, "$worker", acknowledged=True)
    return [claimed_from(row) for row in rows]


async def lane_in(engine: Engine, queue: str) -> str:
    document = await engine._store.jobs.find_one({"queue": queue, "state": "waiting"}, {"lane": 1})
    assert document is not None
    return str(document["lane"])


def outcome(job: ClaimedJob, *, plain: bool, **fields: Any) -> Outcome:
    return Outcome(job.id, job.token, OutcomeKind.COMPLETE, claimed=job if plain else None, **fields)


def without_its_own(value: Any) -> Any:
    """An event, a job or a part of one without what two of a kind never share."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = {field.name for field in dataclasses.fields(value)}
        times = {name for name in names if name.endswith("_at") or name in ("at", "run_at")}
        own = {"id", "queue", "cursor", "clock", "custom_id", "unique_key", "worker_id"}
        return {name: without_its_own(getattr(value, name)) for name in sorted(names - times - own)} | {
            name: getattr(value, name) is not None for name in sorted(names & (times | own))
        }
    if isinstance(value, Mapping):
        return {key: without_its_own(each) for key, each in value.items() if key not in ("id", "wait_ms")}
    if isinstance(value, list | tuple):
        return [without_its_own(each) for each in value]
    return value


async def life(engine: Engine, kind: str, *, plain: bool, result: Any = None, org: str = "") -> tuple[Job, list[Event]]:
    """A job of this kind, claimed and completed; and the events of both."""
    caller = Caller("olga", org=org or None)
    queue = fresh("queue")
    fields = {"name": "work", **KINDS[kind], "queue": queue}
    for key in ("job_id", "idempotency_key", "unique_key"):
        if key in fields:
            fields[key] = fresh(fields[key])
    async with engine.hub().subscribe(lambda event: event.topic is Topic.JOB and event.queue == queue) as items:
        job = (await engine.jobs.enqueue(NewJob(**fields), caller=caller)).job
        (won,) = await claimed(engine, queue, whole=plain)
        assert await engine.claims.report([outcome(won, plain=plain, result=result, ran_ms=7)]) == set()
        _, *events = await take(items, 3)
    return job_from(await Situation(engine, job.id, queue).document()), events


async def test_both_ways_tell_and_show_the_same(engine: Engine) -> None:
    for org in ["", "acme"]:
        for kind in KINDS:
            (job, events), (expected, told) = [
                await life(engine, kind, plain=plain, org=org) for plain in (True, False)
            ]
            for field, value in without_its_own(expected).items():
                assert without_its_own(job)[field] == value, field
            assert without_its_own(events) == without_its_own(told)
            claim, end = events
            assert [entry.at for entry in job.timeline[1:]] == [claim.at, end.at]
            assert (job.attempts[-1].ended_at, job.attempts[-1].worker_id) == (end.at, "$worker")
            assert job.started_at == end.at - timedelta(milliseconds=7) == job.attempts[-1].started_at
            assert 0 <= claim.data["wait_ms"] < HOUR_MS


async def test_results_are_stored_as_they_are(engine: Engine) -> None:
    for result in RESULTS:
        job, _ = await life(engine, "bare", plain=True, result=result)
        assert job.result == result


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_plain_is_written_by_a_plain_update(engine: Engine, kind: str) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, **{**KINDS[kind], "queue": queue})
    (won,) = await claimed(engine, queue, whole=True)
    await engine.claims.report([outcome(won, plain=True)])
    document = await Situation(engine, job.id, queue).document()
    assert won.plain == (not KINDS[kind].keys() & {"remove_on_complete", "unique_key", "job_id"})
    assert ("ran" in document) == won.plain
    assert not document.keys() & {
        "token",
        "worker_id",
        "expires_at",
        "limited",
        "started",
        "error",
        "cancel_requested_at",
    }


async def plainly_completed(engine: Engine) -> tuple[Situation, Job]:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    (won,) = await claimed(engine, queue, whole=True)
    assert await engine.claims.report([outcome(won, plain=True, result=1, ran_ms=1_234)]) == set()
    s = Situation(engine, job.id, queue)
    assert "ran" in await s.document()
    return s, await s.job()


LEFT = {"ran", "worker_id", "claimed_at"}


@pytest.mark.parametrize("verb", ["retry", "update"])
async def test_what_follows_writes_the_run_down(engine: Engine, verb: str) -> None:
    s, before = await plainly_completed(engine)
    if verb == "retry":
        await engine.jobs.retry(s.id, caller=CALLER)
    else:
        await engine.jobs.update(s.id, JobUpdate(priority=9), caller=CALLER)
    document, after = await s.document(), await s.job()
    assert not document.keys() & LEFT
    assert after.attempts == before.attempts and len(document["attempts"]) == 1
    assert after.timeline[:-1] == before.timeline and len(document["timeline"]) == 4
    assert after.started_at == (None if verb == "retry" else before.started_at)
    if verb == "retry":
        (again,) = await claimed(engine, s.queue, whole=True)
        await engine.claims.report([outcome(again, plain=True, ran_ms=5)])
        assert [(row.generation, row.number, row.outcome) for row in (await s.job()).attempts] == [
            (1, 1, "completed"),
            (2, 1, "completed"),
        ]


async def test_tombstone_keeps_the_history(engine: Engine) -> None:
    s, before = await plainly_completed(engine)
    await engine.jobs.remove(s.id, caller=CALLER)
    document = await s.document()
    assert not document.keys() & LEFT
    assert [row["type"] for row in document["timeline"]] == [*(row.type for row in before.timeline), "remove"]


async def test_rows_of_attempts_before_it_stand_before_it(engine: Engine) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    (first,) = await claimed(engine, queue, whole=True)
    await engine.claims.report([Outcome(job.id, first.token, OutcomeKind.FAIL, error=ERROR)])
    (second,) = await claimed(engine, queue, whole=True)
    assert second.number == 2
    await engine.claims.report([outcome(second, plain=True, ran_ms=3)])
    after = await Situation(engine, job.id, queue).job()
    assert [(row.number, row.outcome) for row in after.attempts] == [(1, "failed"), (2, "completed")]
    assert [row.type for row in after.timeline] == ["enqueue", "claim", "backoff", "claim", "complete"]
    assert [row.attempt for row in after.timeline] == [0, 0, 1, 1, 2]
    assert (after.error, after.attempt, after.event_seq) == (None, 2, 5)


CHANGES = ("start", "progress", "cancel", "child", "awaited")


@pytest.mark.parametrize("change", CHANGES)
async def test_job_that_changed_since_is_completed_by_the_pipeline(engine: Engine, change: str) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    beside = await enqueue(engine, queue=queue)
    won = await claimed(engine, queue, whole=True, count=2)
    s = Situation(engine, job.id, queue, token=won[0].token)
    follower = None
    match change:
        case "start":
            await engine.claims.start(won[:1])
        case "progress":
            await engine.claims.progress(s.id, s.token, 0.5)
        case "cancel":
            await engine.jobs.cancel(s.id, caller=CALLER)
        case "child":
            await enqueue(engine, parent_id=s.id, queue=fresh("queue"), delay_ms=HOUR_MS)
        case _:
            follower = await enqueue(engine, depends_on=[s.id], queue=fresh("queue"))
    assert await engine.claims.report([outcome(each, plain=True, ran_ms=5) for each in won]) == set()
    await quiet(engine)
    document = await s.document()
    assert (document["state"], "ran" in document) == ("completed", False)
    assert "ran" in await Situation(engine, beside.id, queue).document()
    after = await s.job()
    assert [row.outcome for row in after.attempts] == ["completed"]
    assert [row.type for row in after.timeline].count("claim") == 1
    if follower is not None:
        freed = await engine.jobs.get(follower.id, caller=CALLER)
        assert freed is not None and freed.state == "waiting"


async def test_report_is_fenced_and_its_repeat_is_known(engine: Engine) -> None:
    queue = fresh("queue")
    job = await enqueue(engine, queue=queue)
    (won,) = await claimed(engine, queue, whole=True)
    stolen = dataclasses.replace(won, token="another")
    assert await engine.claims.report([outcome(stolen, plain=True)]) == {job.id}
    assert await Situation(engine, job.id, queue).state() == "active"
    for _ in range(2):
        assert await engine.claims.report([outcome(won, plain=True)]) == set()
    assert await engine.claims.report([outcome(stolen, plain=True)]) == {job.id}
    document = await Situation(engine, job.id, queue).document()
    assert (document["event_seq"], document["claims"]) == (3, 1)


@pytest.mark.parametrize("histories", [1, 20])
async def test_head_of_many_kinds_is_claimed_all_the_same(engine: Engine, histories: int) -> None:
    queue = fresh("queue")
    made = [await enqueue(engine, queue=queue, tags=[f"t{n}"]) for n in range(20)]
    for n, job in enumerate(made):
        for _ in range(n if histories > 1 else 0):
            await engine.jobs.update(job.id, JobUpdate(priority=0), caller=CALLER)
    head = await commands.head(engine._store, queue, 20, names=None, whole=True)
    rows = await commands.claim_batch(engine._store, head, token="many", worker_id="w")
    assert (rows is None) == (histories > 1), "what many kinds are is to be read back"
    if rows is None:
        rows = await commands.read_back(engine._store, "many", "w", acknowledged=True)
    assert {row["_id"] for row in rows} == {job.id for job in made}
    await engine.claims.report([outcome(claimed_from(row), plain=True) for row in rows])
    assert {(await Situation(engine, job.id, queue).job()).state for job in made} == {"completed"}


def test_only_transitions_that_leave_completed_write_a_run_down() -> None:
    pipelines = {
        name: re.findall(r"\$ran\.", repr(pipeline))
        for name, pipeline in {
            "retry": operations.retry("a"),
            "update": operations.update("a", {}),
            "remove": operations.remove("a"),
            "stage": transitions.stage(),
        }.items()
    }
    assert {name for name, found in pipelines.items() if found} == {"retry", "update", "remove"}
