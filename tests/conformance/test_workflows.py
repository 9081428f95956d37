"""Workflow runs: checkpoints under the lease, events consumed once, waking, replay, cancel."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from switchtower.callers import Caller, Reach
from switchtower.engine import Engine
from switchtower.errors import InvalidInput, InvalidTransition, LeaseLost, NotFound
from switchtower.ids import JOB, new_id, run_id
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.states import JobState
from switchtower.store.workflows import STEPS_BYTES, publish
from switchtower.workers import OutcomeKind, WorkerInfo
from switchtower.workflows import NewRun, RunState, Step, StepKind, StepStatus, WorkflowRun
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, Situation, fresh, quiet

TENANT = Caller("key", org="acme")


def step(name: str, result: Any = None, **fields: Any) -> Step:
    return Step(**{"name": name, "kind": StepKind.STEP, "status": StepStatus.COMPLETED, "result": result, **fields})


def wait(name: str, *events: str, **fields: Any) -> Step:
    return Step(name=name, kind=StepKind.WAIT, status=StepStatus.WAITING, events=events or (name,), **fields)


class Run(Situation):
    """A run under lease."""

    async def checkpoint(self, step: Step, **options: Any) -> None:
        await self.engine.workflows.checkpoint(run_id(self.id), self.token, step, **options)

    async def read(self) -> WorkflowRun:
        run = await self.engine.workflows.get(self.id, caller=CALLER)
        assert run is not None
        return run

    async def consume(self, step: Step) -> tuple[str, Any] | None:
        return await self.engine.workflows.consume(await self.read(), self.token, step)

    async def park(self, wait_ms: int = HOUR_MS) -> None:
        assert await self.report(OutcomeKind.SNOOZE, wait_ms=wait_ms) == set()


async def started(engine: Engine, *, caller: Caller = CALLER, claim: bool = True, **fields: Any) -> Run:
    queue = fresh("queue")
    new = NewRun(**{"workflow": "close", "version": 1, "queue": queue, "input": {"month": "01"}, **fields})
    answer = await engine.workflows.start(new, caller=caller)
    run = Run(engine, answer.job.id, queue)
    if claim:
        await run.claim(start=True)
    return run


async def finished(engine: Engine, kind: OutcomeKind, *steps: Step) -> Run:
    run = await started(engine)
    for one in steps:
        await run.checkpoint(one)
    await run.report(kind, error=ERROR)
    return run


async def test_run_is_a_job_with_its_version(engine: Engine) -> None:
    run = await started(engine, claim=False)
    read = await engine.workflows.get(run_id(run.id), caller=CALLER)
    assert read is not None
    assert (read.id, read.workflow, read.version, read.state) == (run_id(run.id), "close", 1, RunState.RUNNING)
    assert (read.input, read.job.name, read.job.max_attempts) == ({"month": "01"}, "close#1", 100)
    assert await engine.workflows.get(run_id(run.id), caller=TENANT) is None


async def test_newest_live_version_and_its_queue_are_chosen(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="no live worker"):
        await engine.workflows.start(NewRun(workflow="bill"), caller=CALLER)
    info = WorkerInfo(id="w", queues=("money", "other"), names=("bill#2", "bill#10", "send"))
    await engine.workers.register(info)
    assert await engine.workflows.names() == {"bill": [2, 10]}
    run = (await engine.workflows.start(NewRun(workflow="bill"), caller=CALLER)).job
    assert (run.name, run.queue) == ("bill#10", "money")


async def test_a_run_goes_where_a_worker_that_its_starter_sees_takes_it(engine: Engine) -> None:
    workflow, org, seen = fresh("workflow"), fresh("org"), fresh("queue")
    for queues, owner in (([fresh("a-queue")], "bravo"), ([fresh("a-queue"), seen], org)):
        await engine.workers.register(
            WorkerInfo(id=new_id("wkr"), queues=queues, names=[f"{workflow}#1"], org=owner, lease_seconds=30)
        )
    limited = Caller("key", org=org, queues=frozenset({seen}))
    assert (await engine.workflows.start(NewRun(workflow=workflow), caller=limited)).job.queue == seen
    elsewhere = Caller("key", org=fresh("org"))
    assert (await engine.workflows.start(NewRun(workflow=workflow, version=1), caller=elsewhere)).job.queue == "default"


async def test_only_a_workers_own_tenant_sees_its_workflows(engine: Engine) -> None:
    await engine.workers.register(WorkerInfo(id="a", queues=("q",), names=("theirs#1",), org="other"))
    await engine.workers.register(WorkerInfo(id="b", queues=("q",), names=("ours#1",)))
    assert await engine.workflows.names(reach=Reach("acme")) == {"ours": [1]}


async def test_checkpoint_is_refused_to_a_lost_lease(engine: Engine) -> None:
    run = await started(engine)
    await run.checkpoint(step("a", 1))
    stale = run.token
    await run.park(0)
    await run.claim(start=True)
    with pytest.raises(LeaseLost):
        await engine.workflows.checkpoint(run_id(run.id), stale, step("b", 2))
    with pytest.raises(LeaseLost):
        await engine.workflows.resume(run_id(run.id), stale)
    resumed = await engine.workflows.resume(run_id(run.id), run.token)
    assert [(one.name, one.result) for one in resumed.steps] == [("a", 1)]
    assert (resumed.current_step, resumed.state) == ("a", RunState.RUNNING)


async def test_checkpoint_takes_the_place_of_the_one_that_waited(engine: Engine) -> None:
    run = await started(engine)
    await run.checkpoint(wait("go"))
    await run.checkpoint(step("a"))
    document = await run.document()
    assert document["awaiting"] == ["go"], "a step beside the wait keeps it"
    await run.checkpoint(replace(wait("go"), status=StepStatus.COMPLETED))
    document = await run.document()
    assert [row["name"] for row in document["steps"]] == ["a", "go"]
    assert "awaiting" not in document


async def test_results_are_kept_literally(engine: Engine) -> None:
    for value in ["$token", {"$literal": 1}, {"a.b": {"$set": 1}}, [], None, 2**63 - 1]:
        run = await started(engine)
        await run.checkpoint(step("$worker_id", value))
        (read,) = (await run.read()).steps
        assert (read.name, read.result) == ("$worker_id", value)


async def test_all_steps_together_are_bounded(engine: Engine) -> None:
    run = await started(engine)
    with pytest.raises(InvalidInput, match="result of step 'big'"):
        await run.checkpoint(step("big", "x" * 2_000_000))
    written = 0
    with pytest.raises(InvalidInput, match="8 MiB"):
        for number in range(20):
            await run.checkpoint(step(f"s{number}", "x" * 900_000))
            written += 1
    assert written == STEPS_BYTES // 900_000
    await run.checkpoint(step("s0", "small"))
    await run.checkpoint(step("more", "x" * 800_000))


async def test_event_is_consumed_once_by_racing_runs(engine: Engine) -> None:
    runs = [await started(engine) for _ in range(8)]
    for _ in range(3):
        await engine.workflows.publish("go", {"x": 1}, caller=CALLER)
    given = await asyncio.gather(*(run.consume(wait("go")) for run in runs))
    assert sum(one is not None for one in given) == 3
    again = await asyncio.gather(*(run.consume(wait("go")) for run in runs))
    assert again == given, "who was given one is given it again, and nobody else"


async def test_event_matches_by_payload_and_tenant(engine: Engine) -> None:
    run = await started(engine, caller=TENANT)
    read = await engine.workflows.get(run.id, caller=TENANT)
    assert read is not None
    match = engine.workflows.conditions({"order.id": 7})
    waiting = wait("paid", match=match)
    await engine.workflows.publish("paid", {"order": {"id": 7}}, caller=CALLER)
    await engine.workflows.publish("paid", {"order": {"id": 8}}, caller=TENANT)
    assert await engine.workflows.consume(read, run.token, waiting) is None
    await engine.workflows.publish("paid", {"order": {"id": 7, "n": 1}}, caller=TENANT)
    assert await engine.workflows.consume(read, run.token, waiting) == ("paid", {"order": {"id": 7, "n": 1}})


async def test_event_key_publishes_once(engine: Engine) -> None:
    first = await engine.workflows.publish("go", 1, caller=CALLER, idempotency_key="k")
    assert await engine.workflows.publish("go", 2, caller=CALLER, idempotency_key="k") == first
    run = await started(engine)
    assert await run.consume(wait("go")) == ("go", 1)
    assert await run.consume(wait("go2", "go")) is None


async def test_publisher_wakes_the_run_that_waits(engine: Engine) -> None:
    run, other = await started(engine), await started(engine)
    await run.checkpoint(wait("go", match=engine.workflows.conditions({"x": 1})))
    await other.checkpoint(wait("go", match=engine.workflows.conditions({"x": 2})))
    await run.park()
    await other.park()
    assert (await run.read()).state is RunState.WAITING
    await engine.workflows.publish("go", {"x": 1}, caller=CALLER)
    assert (await run.state(), await other.state()) == ("waiting", "scheduled")


async def test_a_run_is_woken_however_many_wait_for_another_event(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switchtower.store.workflows.RUNS", 10)
    name, queue = fresh("event"), fresh("queue")
    runs = await asyncio.gather(*(started(engine, claim=False, queue=queue) for _ in range(11)))
    tokens: dict[str, str] = {}
    while len(tokens) < len(runs):
        tokens |= {job.id: job.token for job in await engine.claims.claim("w", [queue], limit=100)}

    async def park(run: Run, wanted: int) -> None:
        run.token = tokens[run.id]
        await run.checkpoint(wait("go", name, match=engine.workflows.conditions({"x": wanted})))
        await run.park()

    await asyncio.gather(*(park(run, wanted) for wanted, run in enumerate(sorted(runs, key=lambda run: run.id))))
    last = max(runs, key=lambda run: run.id)
    await engine.workflows.publish(name, {"x": 10}, caller=CALLER)
    assert await last.state() == "waiting"
    assert [await run.state() for run in runs].count("scheduled") == 10
    # A publisher that dies before it tells anybody.
    await publish(engine._store, name, {"x": 9}, org="", actor="p", now=engine.clock.now())
    assert await engine.workflows.wake() == 1
    assert [await run.state() for run in runs].count("scheduled") == 9


async def test_a_run_that_is_retried_in_its_wait_is_woken(engine: Engine) -> None:
    run = await started(engine)
    await run.checkpoint(wait("go"))
    await run.park()
    await engine.workflows.cancel(run.id, caller=CALLER)
    await engine.jobs.retry(run.id, caller=CALLER)
    await run.claim(start=True)
    # Its wait is recorded already: it is not recorded again.
    assert await run.consume(wait("go")) is None
    await run.park()
    assert (await run.read()).state is RunState.WAITING
    await engine.workflows.publish("go", 1, caller=CALLER)
    assert await run.state() == "waiting"


async def test_who_has_lost_the_lease_consumes_nothing(engine: Engine) -> None:
    run, other = await started(engine), await started(engine)
    stale, seen = run.token, await run.read()
    await run.checkpoint(wait("go"))
    await run.park(0)
    await run.claim(start=True)
    await run.park()
    await engine.workflows.publish("go", 1, caller=CALLER)
    await run.claim(start=True)
    await run.park()
    with pytest.raises(LeaseLost):
        await engine.workflows.consume(seen, stale, wait("go"))
    assert await run.state() == "waiting", "the event is there, and the run is told again"
    assert await other.consume(wait("go")) == ("go", 1)
    await run.claim(start=True)
    assert await run.consume(wait("go")) is None
    await engine.workflows.publish("go", 2, caller=CALLER)
    assert await run.consume(wait("go")) == ("go", 2)
    with pytest.raises(LeaseLost):
        await engine.workflows.consume(seen, stale, wait("go"))
    assert await run.consume(wait("go")) == ("go", 2), "what its next worker took stays taken"
    assert await other.consume(wait("go2", "go")) is None


async def test_run_looks_again_after_it_was_put_aside(engine: Engine) -> None:
    run = await started(engine)
    await run.checkpoint(wait("go"))
    # Published between the run's last look and its being put aside: the publisher saw no run that waits.
    await engine.workflows.publish("go", None, caller=CALLER)
    await run.park()
    assert await run.state() == "scheduled"
    assert await engine.workflows.recheck(run_id(run.id))
    assert await run.state() == "waiting"
    assert not await engine.workflows.recheck(run_id(run.id))


async def test_maintenance_wakes_what_nobody_told(engine: Engine) -> None:
    run = await started(engine)
    await run.checkpoint(wait("go"))
    await engine.workflows.publish("go", None, caller=CALLER)
    await run.park()
    assert await engine.workflows.wake() == 1
    assert await run.state() == "waiting"


async def test_children_are_waited_for_from_before_they_exist(engine: Engine) -> None:
    run = await started(engine)
    read = await engine.workflows.resume(run_id(run.id), run.token)
    ids = tuple(new_id(JOB) for _ in range(3))
    await run.checkpoint(Step(name="c", kind=StepKind.FAN_OUT, status=StepStatus.WAITING, children=ids), adopt=ids)
    jobs = [(id, NewJob(name="work", queue=run.queue)) for id in ids]
    for _ in range(2):
        await engine.workflows.enqueue_children(read, jobs, caller=CALLER, linked=True)
    await run.report(OutcomeKind.SUSPEND)
    assert await run.state() == "blocked"
    for claimed in await engine.claims.claim("other", [run.queue], limit=3):
        outcome = OutcomeKind.BURY if claimed.id == ids[1] else OutcomeKind.COMPLETE
        situation = Situation(engine, claimed.id, run.queue, claimed.token)
        await situation.report(outcome, error=ERROR)
    assert await run.state() == "waiting", "a child that failed holds up no run"
    children = (await engine.jobs.children_of([run.id], caller=CALLER))[run.id].items
    assert [child.id for child in children] == sorted(ids)
    assert {child.flow_id for child in children} == {run.id}


async def test_ended_jobs_do_not_hold_a_run_up(engine: Engine) -> None:
    run = await started(engine)
    id = new_id(JOB)
    read = await engine.workflows.resume(run_id(run.id), run.token)
    spawned = [(id, NewJob(name="work", queue="spawned"))]
    await engine.workflows.enqueue_children(read, spawned, caller=CALLER, linked=False)
    await engine.jobs.cancel(id, caller=CALLER)
    await quiet(engine)
    await run.checkpoint(Step(name="a", kind=StepKind.CHILD, status=StepStatus.WAITING, children=(id,)), adopt=(id,))
    await engine.workflows.settle([id])
    await run.report(OutcomeKind.SUSPEND)
    assert await run.state() == "waiting"


async def test_replay_keeps_the_steps_before(engine: Engine) -> None:
    for kind in [OutcomeKind.COMPLETE, OutcomeKind.BURY]:
        run = await finished(engine, kind, step("a", 1), step("b", 2), step("c", 3))
        again = await engine.workflows.replay(run_id(run.id), "b", caller=CALLER)
        assert [one.name for one in again.steps] == ["a"]
        assert (again.state, again.job.generation, again.job.attempt) == (RunState.RUNNING, 2, 0)
        with pytest.raises(InvalidTransition):
            await engine.workflows.replay(run_id(run.id), "a", caller=CALLER)


async def test_replay_names_a_step_that_there_is(engine: Engine) -> None:
    run = await finished(engine, OutcomeKind.COMPLETE, step("a"))
    with pytest.raises(InvalidInput, match="'z' is no step"):
        await engine.workflows.replay(run_id(run.id), "z", caller=CALLER)
    with pytest.raises(NotFound):
        await engine.workflows.replay(run_id(run.id), "a", caller=TENANT)


async def test_retry_runs_again_what_failed_or_was_undone(engine: Engine) -> None:
    error = JobError(ErrorKind.EXCEPTION, "E", "m")
    undo = {"kind": StepKind.COMPENSATE}
    run = await finished(
        engine,
        OutcomeKind.BURY,
        step("kept"),
        step("undone", 1),
        step("failed", status=StepStatus.FAILED, error=error),
        step("survived", status=StepStatus.FAILED, error=error),
        step("compensate", "failed", error=error, **undo),
        step("compensate:undone", **undo),
    )
    await engine.jobs.retry(run.id, caller=CALLER)
    read = await run.read()
    assert [(one.name, str(one.status), one.attempts) for one in read.steps] == [
        ("kept", "completed", 1),
        ("undone", "waiting", 0),
        ("survived", "failed", 1),
    ]
    assert read.state is RunState.RUNNING


@pytest.mark.parametrize("waited", [True, False])
@pytest.mark.parametrize("again", ["retry", "replay"])
async def test_event_that_was_not_recorded_is_still_to_come(engine: Engine, waited: bool, again: str) -> None:
    run, other = await started(engine), await started(engine)
    await run.checkpoint(step("first"))
    if waited:
        await run.checkpoint(wait("go"))
    await engine.workflows.publish("go", 1, caller=CALLER)
    assert await run.consume(wait("go")) == ("go", 1)
    await run.report(OutcomeKind.BURY, error=ERROR)
    if again == "retry":
        await engine.jobs.retry(run.id, caller=CALLER)
    else:
        await engine.workflows.replay(run.id, "first", caller=CALLER)
    await run.claim(start=True)
    assert await other.consume(wait("go")) is None
    assert await run.consume(wait("go")) == ("go", 1)


async def test_event_of_a_caller_who_sees_few_queues_is_for_runs_in_these(engine: Engine) -> None:
    waiting = [await started(engine) for _ in range(3)]
    for run in waiting:
        await run.checkpoint(wait("go"))
        await run.park()
    few = replace(CALLER, queues=frozenset({waiting[0].queue, waiting[2].queue}))
    for _ in range(3):
        await engine.workflows.publish("go", 1, caller=few)
    assert [(await run.read()).state for run in waiting] == [RunState.RUNNING, RunState.WAITING, RunState.RUNNING]
    assert await engine.workflows.wake() == 0
    for run in (waiting[0], waiting[2]):
        await run.claim(start=True)
        assert await run.consume(wait("go")) == ("go", 1)
    late = await started(engine)
    assert await late.consume(wait("go")) is None
    await engine.workflows.publish("go", 2, caller=CALLER)
    assert await late.consume(wait("go")) == ("go", 2)


async def test_consumed_event_is_a_generations(engine: Engine) -> None:
    run = await started(engine)
    await engine.workflows.publish("go", 1, caller=CALLER)
    assert await run.consume(wait("go")) == ("go", 1)
    await run.checkpoint(replace(wait("go"), status=StepStatus.COMPLETED))
    await run.report(OutcomeKind.COMPLETE)
    again = await engine.workflows.replay(run.id, "go", caller=CALLER)
    assert await engine.workflows.consume(again, run.token, wait("go")) is None


async def test_cancel(engine: Engine) -> None:
    run = await started(engine)
    assert (await engine.workflows.cancel(run_id(run.id), caller=CALLER)).state is RunState.RUNNING
    await run.report(OutcomeKind.ABORT)
    assert (await run.read()).state is RunState.CANCELLED
    sleeping = await started(engine)
    await sleeping.checkpoint(Step(name="sleep", kind=StepKind.SLEEP, status=StepStatus.WAITING))
    await sleeping.park()
    assert (await sleeping.read()).state is RunState.SLEEPING
    assert (await engine.workflows.cancel(sleeping.id, caller=CALLER)).state is RunState.CANCELLED
    with pytest.raises(InvalidTransition):
        await engine.workflows.cancel(sleeping.id, caller=CALLER)


async def test_plain_job_of_a_workflows_name_becomes_a_run(engine: Engine) -> None:
    queue = fresh("queue")
    job = (await engine.jobs.enqueue(NewJob(name="close#3", queue=queue), caller=CALLER)).job
    run = Run(engine, job.id, queue)
    await run.claim(start=True)
    read = await engine.workflows.resume(job.id, run.token)
    assert (read.workflow, read.version, read.job.on_child_failure) == ("close", 3, "ignore")
    other = (await engine.jobs.enqueue(NewJob(name="plain", queue=queue), caller=CALLER)).job
    plain = Run(engine, other.id, queue)
    await plain.claim()
    with pytest.raises(InvalidInput, match="no workflow"):
        await engine.workflows.resume(other.id, plain.token)


async def test_list_by_workflow_and_state(engine: Engine) -> None:
    first = await started(engine, workflow="a", claim=False)
    second = await started(engine, workflow="b")
    await second.checkpoint(step("x"), compensating=True)
    third = await finished(engine, OutcomeKind.COMPLETE, step("x"))
    await engine.jobs.enqueue(NewJob(name="plain"), caller=CALLER)

    async def ids(**filter: Any) -> list[str]:
        page = await engine.workflows.page(caller=CALLER, **filter)
        count = await engine.workflows.count(caller=CALLER, **filter)
        assert count.value == len(page.items)
        return [run.job.id for run in page.items]

    assert await ids() == [third.id, second.id, first.id]
    assert await ids(workflow="a") == [first.id]
    assert await ids(states=[RunState.COMPENSATING]) == [second.id]
    assert await ids(states=[RunState.RUNNING, RunState.COMPLETED]) == [third.id, first.id]
    assert await ids(states=[]) == []
    assert (await engine.workflows.page(caller=TENANT)).items == []
    many = await engine.workflows.get_many([run_id(third.id), run_id(first.id), "run_none"], caller=CALLER)
    assert {run.job.id: len(run.steps) for run in many.values()} == {third.id: 1, first.id: 0}


async def test_bad_starts_are_refused(engine: Engine) -> None:
    for bad in [
        {"workflow": "a#b"},
        {"workflow": ""},
        {"version": 0},
        {"version": 10**7},
        {"max_attempts": 0},
        {"queue": "a/b"},
        {"input": float("nan")},
    ]:
        with pytest.raises(InvalidInput):
            await engine.workflows.start(NewRun(**{"workflow": "w", "version": 1, **bad}), caller=CALLER)


async def test_same_key_starts_one_run(engine: Engine) -> None:
    new = NewRun(workflow="w", version=1, idempotency_key="k")
    one, two = await asyncio.gather(*(engine.workflows.start(new, caller=CALLER) for _ in range(2)))
    assert one.job.id == two.job.id
    assert {one.job.state, two.job.state} == {JobState.WAITING}
