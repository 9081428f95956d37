"""What users pass in comes back as it was: no value is read as an operator, a field or a variable of the database."""

from __future__ import annotations

from typing import Any

from switchtower.callers import Caller
from switchtower.engine import DeadLetterFilter, Engine
from switchtower.jobs import ErrorKind, JobError, JobFilter, JobUpdate, NewJob, PayloadMatch
from switchtower.workers import OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, HOUR_MS, Situation, enqueue, fresh, job_in, quiet

VALUES: list[Any] = [
    "$token",
    "$$ROOT",
    "$$NOW",
    "$payload.secret",
    "",
    "__proto__",
    {"$gt": 1},
    {"$ne": None},
    {"$literal": 1},
    {"$function": {"body": "f", "args": [], "lang": "js"}},
    {"a.b": 1, "": 2, "__proto__": 3, "$token": "$token", "$$ROOT": ["$$ROOT"], "$ref": "x", "_id": 1},
    ["$_id", {"$set": {"state": "completed"}}],
    {"deep": {"deep": [[["$claims"]]]}},
    2**63 - 1,
    -(2**63),
    0.1,
    1e300,
    "\x00",
    "emoji 🎲 and \u2028",
    [],
    {},
    False,
    0,
    None,
]
TEXTS = ["$token", "$$ROOT", "$payload.secret", "a.b", "__proto__", "{$gt: 1}", "x' || 1", "🎲"]


def same(found: Any, value: Any) -> bool:
    return bool(found == value) and isinstance(found, type(value))


async def test_value_comes_back_identical_wherever_it_is_stored(engine: Engine) -> None:
    for value in VALUES:
        s = await job_in(engine, "active", payload=value)
        assert same((await s.job()).payload, value)
        await engine.claims.progress(s.id, s.token, value)
        assert same((await s.job()).progress, value)
        await s.report(OutcomeKind.COMPLETE, result=value)
        assert same((await s.job()).result, value)
        await engine.jobs.update(s.id, JobUpdate(payload=value), caller=CALLER)
        assert same((await s.job()).payload, value)


async def test_values_of_a_report_a_dead_letter_and_its_replay_come_back_identical(engine: Engine) -> None:
    all_of_them = {"values": VALUES}
    s = await job_in(engine, "active")
    await s.report(OutcomeKind.COMPLETE, result=all_of_them, progress=all_of_them)
    job = await s.job()
    assert job.result == job.progress == all_of_them
    s = await job_in(engine, "failed", payload=all_of_them)
    (entry,) = (await engine.dead_letters.page(DeadLetterFilter(job_id=s.id), caller=CALLER)).items
    assert entry.payload == all_of_them
    assert (await engine.dead_letters.replay(entry.id, caller=CALLER)).job.payload == all_of_them


async def test_payload_filter_compares_and_never_interprets(engine: Engine) -> None:
    queue = fresh("queue")
    made = [await enqueue(engine, queue=queue, payload={"x": value}) for value in (*VALUES, {"$gt": 2}, "other")]
    for job, value in zip(made, VALUES, strict=False):
        filter = JobFilter(queues=[queue], payload=[PayloadMatch("x", value)])
        assert [found.id for found in (await engine.jobs.page(filter, caller=CALLER)).items] == [job.id], value


async def test_texts_of_a_job_come_back_identical(engine: Engine) -> None:
    for text in TEXTS:
        caller = Caller(text, app=text)
        new = NewJob(name=text, queue=fresh(text), tags=[text], group=text, unique_key=text, job_id=text)
        job = (await engine.jobs.enqueue(new, caller=caller)).job
        s = Situation(engine, job.id, job.queue)
        found = await s.job()
        assert (found.name, found.queue, found.tags, found.group) == (text, new.queue, [text], text)
        assert (found.unique_key, found.custom_id, found.app) == (text, text, text)
        (claimed,) = await engine.claims.claim(text, [new.queue], names=[text])
        assert claimed.name == text
        running = await s.job()
        assert running.worker_id == text
        assert running.timeline[-1].actor == text
        await engine.claims.start([claimed])
        error = JobError(ErrorKind.EXCEPTION, text, text, text, text)
        s.token = claimed.token
        await engine.claims.log(s.id, s.token, [(text, text)])
        await s.report(OutcomeKind.FAIL, error=error, wait_ms=HOUR_MS, logs=[(text, text)])
        found = await s.job()
        assert found.error == found.attempts[-1].error == error
        assert [line.line for line in found.logs] == [text, text]
        assert found.attempts[-1].worker_id == text


async def test_actor_of_every_operator_verb_is_stamped_literally(engine: Engine) -> None:
    for text in TEXTS:
        caller = Caller(text)
        s = await job_in(engine, "scheduled")
        await engine.jobs.update(s.id, JobUpdate(tags=[text], priority=1), caller=caller)
        await engine.jobs.promote(s.id, caller=caller)
        await engine.jobs.enqueue(NewJob(name="child", queue=fresh("queue"), parent_id=s.id), caller=caller)
        await engine.jobs.cancel(s.id, caller=caller)
        await quiet(engine)
        await engine.jobs.retry(s.id, caller=caller)
        found = await s.job()
        assert [(entry.type, entry.actor) for entry in found.timeline[1:]] == [
            (verb, text) for verb in ("update", "promote", "block", "cancel", "retry")
        ]
        assert found.tags == [text]
        await engine.queues.pause(s.queue, caller=caller, job_name=text)
        queue = await engine.queues.get(s.queue, caller=CALLER)
        assert queue is not None and queue.paused_names == [text]
        await engine.jobs.remove(s.id, caller=caller)
        assert (await s.document())["timeline"][-1]["actor"] == text


async def test_worker_and_its_lists_come_back_identical(engine: Engine) -> None:
    for text in TEXTS:
        info = WorkerInfo(id=fresh(text), queues=[text], names=[text], hostname=text, kind=text)
        worker = await engine.workers.register(info)
        found = (worker.id, worker.queues, worker.names, worker.hostname, worker.kind)
        assert found == (info.id, [text], [text], text, text)


async def test_text_filter_is_a_literal(engine: Engine) -> None:
    for text in (*TEXTS, ".*", "(a+)+$", "\\", "[", "$"):
        queue = fresh("queue")
        named = await enqueue(engine, queue=queue, name=f"with {text} inside")
        paid = await enqueue(engine, queue=queue, payload={"key": ["x", {"y": f"A{text}B"}]})
        await enqueue(engine, queue=queue, payload="other")
        found = await engine.jobs.page(JobFilter(queues=[queue], text=text.upper()), caller=CALLER)
        assert {job.id for job in found.items} == {named.id, paid.id}, text


async def test_job_with_all_that_it_may_keep_stays_within_a_document(engine: Engine) -> None:
    text = "é" * 70_000
    s = await job_in(engine, "waiting", payload="x" * 1_000_000, max_attempts=60)
    await s.claim()
    error = JobError(ErrorKind.EXCEPTION, text, text, text, "f" * 16)
    assert await s.report(OutcomeKind.FAIL, error=error) == set()
    await s.set(attempts=(await s.document())["attempts"] * 50)
    await s.claim()
    await engine.claims.log(s.id, s.token, [("info", text)] * 5_000)
    assert await s.report(OutcomeKind.COMPLETE, result="y" * 5_000_000, logs=[("info", "z" * 70_000)] * 1_500) == set()
    job = await s.job()
    assert job.state == "completed"
    assert job.result["truncated"] is True
    assert (len(job.logs), len(job.attempts)) == (1_000, 50)
    assert "cut" in job.logs[-1].line


async def test_absurd_duration_leaves_a_job_that_can_be_read(engine: Engine) -> None:
    for kind in (OutcomeKind.FAIL, OutcomeKind.SNOOZE, OutcomeKind.COMPLETE):
        for wait_ms in (10**18, -5):
            s = await job_in(engine, "active", started=False)
            assert await s.report(kind, wait_ms=wait_ms, ran_ms=wait_ms) == set()
            assert (await s.job()).run_at.year < 3000
