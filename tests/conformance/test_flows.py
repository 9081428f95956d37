"""Flows: all of one or none, in the order that its edges say, ended by its policies, handled as one."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchtower.callers import Caller
from switchtower.engine import Engine, bulk, flows
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, NotFound, StoreUnavailable
from switchtower.flows import Flow, FlowNode, node, plan
from switchtower.jobs import ChildFailure, Job, NewJob
from switchtower.states import JobState
from switchtower.store import flows as flow_commands
from switchtower.store.collections import Store
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, enqueue, fresh, quiet
from tests.databases import anywhere
from tests.mongod import fail_command

Document = dict[str, Any]
FULL = os.environ.get("SWITCHTOWER_TEST_SCALE") == "full"


def job(name: str, **fields: Any) -> NewJob:
    return NewJob(name=name, **{"queue": "flows", **fields})


async def start(engine: Engine, root: FlowNode, **options: Any) -> Flow:
    return await engine.flows.enqueue(root, caller=CALLER, **options)


@pytest.fixture(autouse=True)
async def anybody(engine: Engine) -> None:
    """A worker that has every handler, so that no job is parked for the want of one."""
    await engine.workers.register(WorkerInfo(id="anybody", queues=["flows", "elsewhere"]))


async def names(engine: Engine, flow: Flow) -> dict[str, Job]:
    """The flow's jobs by name."""
    rows = await engine._store.jobs.find({"flow_id": flow.id}, {"_id": 1}).to_list(None)
    found = await engine.jobs.get_many([row["_id"] for row in rows], caller=CALLER)
    return {job.name: job for job in found.values()}


async def states(engine: Engine, flow: Flow) -> dict[str, str]:
    return {name: job.state.value for name, job in (await names(engine, flow)).items()}


async def run_one(engine: Engine, name: str, kind: OutcomeKind = OutcomeKind.COMPLETE, queue: str = "flows") -> None:
    """Claims the job of this name, which must be claimable, and ends it."""
    (claimed,) = await engine.claims.claim(fresh("worker"), [queue], names=[name])
    outcome = Outcome(claimed.id, claimed.token, kind, result={"of": name}, error=ERROR)
    assert await engine.claims.report([outcome]) == set()
    await quiet(engine)


async def claimable(engine: Engine) -> set[str]:
    rows = await engine._store.jobs.find(anywhere(state="waiting"), {"name": 1}).to_list(None)
    return {row["name"] for row in rows}


async def test_parent_waits_for_its_children_and_reads_what_they_left(engine: Engine) -> None:
    flow = await start(engine, node(job("parent"), job("a"), node(job("b", queue="elsewhere"), job("c"))))
    assert (flow.total, flow.finished, flow.progress, flow.root.name) == (4, 0, 0.0, "parent")
    assert flow.counts[JobState.BLOCKED] == 2 and flow.counts[JobState.WAITING] == 2
    assert await claimable(engine) == {"a", "c"}
    jobs = await names(engine, flow)
    assert {found.flow_id for found in jobs.values()} == {flow.id}
    assert (jobs["a"].parent_id, jobs["c"].parent_id, jobs["parent"].parent_id) == (flow.id, jobs["b"].id, None)
    await run_one(engine, "a")
    await run_one(engine, "c")
    assert await claimable(engine) == {"b"}
    await run_one(engine, "b", queue="elsewhere")
    assert await claimable(engine) == {"parent"}
    children = await engine.flows.children(flow.id, caller=CALLER)
    assert [(child.name, child.result) for child in children] == [("a", {"of": "a"}), ("b", {"of": "b"})]
    await run_one(engine, "parent")
    done = await engine.flows.get(flow.id, caller=CALLER)
    assert done is not None and (done.finished, done.progress) == (4, 1.0)
    assert await engine.flows.get(jobs["c"].id, caller=CALLER) is not None


async def test_siblings_run_in_the_order_of_their_dependencies(engine: Engine) -> None:
    flow = await start(
        engine,
        node(
            job("root"),
            node(job("late"), key="late", depends_on=["left", "right"]),
            node(job("left"), key="left", depends_on=["first"]),
            node(job("right"), key="right", depends_on=["first"]),
            node(job("first"), key="first"),
        ),
    )
    jobs = await names(engine, flow)
    assert set(jobs["late"].depends_on) == {jobs["left"].id, jobs["right"].id}
    seen = []
    while ready := await claimable(engine):
        seen.append(sorted(ready))
        for name in sorted(ready):
            await run_one(engine, name)
    assert seen == [["first"], ["left", "right"], ["late"], ["root"]]


@st.composite
def dags(draw: st.DrawFn) -> FlowNode:
    """A tree of up to twelve nodes, any of which may depend on nodes that come behind it in the tree's order."""
    size = draw(st.integers(1, 12))
    parents = [draw(st.integers(0, max(0, n - 1))) for n in range(size)]
    nodes = [FlowNode(job=job(f"n{n}"), key=f"n{n}") for n in range(size)]
    for n in range(1, size):
        nodes[parents[n]].children = [*nodes[parents[n]].children, nodes[n]]
    for n in range(size):
        nodes[n].depends_on = [f"n{m}" for m in draw(st.sets(st.integers(0, size - 1), max_size=3)) if m > n]
    return nodes[0]


@given(dags())
@settings(max_examples=15 if FULL else 5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_dag_runs_each_job_once_behind_all_that_it_waits_for(engine: Engine, root: FlowNode) -> None:
    planned = plan(root)
    waits = {p.node.job.name: {planned[other].node.job.name for other in p.waits_for} for p in planned}
    await engine._store.jobs.delete_many({})
    flow = await start(engine, root)
    done: list[str] = []
    while ready := await claimable(engine):
        for name in sorted(ready):
            assert waits[name] <= set(done), f"{name} is claimable before {waits[name] - set(done)}"
            await run_one(engine, name)
            done.append(name)
    assert sorted(done) == sorted(waits)
    assert set((await states(engine, flow)).values()) == {"completed"}


REFUSED: list[tuple[FlowNode, str]] = [
    (node(job("r"), depends_on=["x"]), "flow.dependsOn"),
    (node(job("r"), node(job("a"), key="k"), node(job("b"), key="k")), "flow.key"),
    (node(job("r"), node(job("a"), key="a", depends_on=["b"]), node(job("b"), key="b", depends_on=["a"])), "cycle"),
    (node(job("r"), node(job("a"), depends_on=["r"]), key="r"), "cycle"),
    (node(job("r"), node(job("a"), key="a", depends_on=["a"])), "cycle"),
    (node(job("r", parent_id="job_x")), "parentId"),
    (node(job("r", depends_on=["job_x"])), "dependsOn"),
    (node(job("r"), job("a", idempotency_key="k")), "idempotencyKey"),
    (node(job("r", idempotency_key="k")), "idempotencyKey"),
    (node(job("r"), job("")), "name"),
    (node(job("r"), job("a", payload={"x": object()})), "payload"),
]


async def test_what_cannot_be_a_flow_is_refused_and_leaves_nothing(engine: Engine) -> None:
    for root, words in REFUSED:
        with pytest.raises(InvalidInput, match=words):
            await start(engine, root, idempotency_key="flow")
    assert await engine._store.jobs.count_documents({}) == 0


async def test_flows_are_bounded(engine: Engine) -> None:
    deep = node(job("n"))
    for _ in range(50):
        deep = node(job("n"), deep)
    with pytest.raises(InvalidInput, match="50 levels"):
        await start(engine, deep)
    with pytest.raises(InvalidInput, match="10,000"):
        await start(engine, node(job("n"), *(job("n") for _ in range(10_000))))
    twice = node(job("n"))
    with pytest.raises(InvalidInput, match="two places"):
        await start(engine, node(job("r"), twice, twice))


async def test_job_that_cannot_be_makes_none(engine: Engine) -> None:
    await enqueue(engine, unique_key="held")
    with pytest.raises(Conflict, match="unique key"):
        await start(engine, node(job("r"), *(job(f"c{n}") for n in range(30)), job("last", unique_key="held")))
    assert await engine._store.jobs.count_documents({}) == 1


async def test_repeated_call_answers_with_the_first_flow(engine: Engine) -> None:
    def root() -> FlowNode:
        return node(job("r"), job("a", job_id="mine", unique_key="u"), job("b"))

    again = root()
    first = await start(engine, again, idempotency_key="k")
    assert (await start(engine, again, idempotency_key="k")).id == first.id
    answers = await asyncio.gather(*(start(engine, root(), idempotency_key="k") for _ in range(20)))
    assert {flow.id for flow in answers} == {first.id}
    assert answers[0].total == 3
    assert await engine._store.jobs.count_documents({}) == 3


async def test_twenty_callers_with_one_new_key_make_one_flow(engine: Engine) -> None:
    roots = [node(job("r"), *(job(f"c{n}") for n in range(5))) for _ in range(20)]
    answers = await asyncio.gather(*(start(engine, root, idempotency_key="k") for root in roots))
    assert len({flow.id for flow in answers}) == 1
    assert await engine._store.jobs.count_documents({}) == 6


async def test_key_of_a_job_that_is_no_flow_is_a_conflict(engine: Engine) -> None:
    await enqueue(engine, idempotency_key="k")
    with pytest.raises(Conflict, match="not a flow"):
        await start(engine, node(job("r"), job("a")), idempotency_key="k")


UNKNOWN: dict[str, tuple[list[str], Document, int]] = {
    "insert lost": (["insert"], {"closeConnection": True}, 1),
    "second chunk lost": (["insert"], {"closeConnection": True}, 2),
    "commit lost": (["commitTransaction"], {"closeConnection": True}, 1),
    "commit lost twice": (["commitTransaction"], {"closeConnection": True}, 2),
    "committed, reply lost": (
        ["commitTransaction"],
        {"writeConcernError": {"code": 64, "errmsg": "executed, then lost"}},
        1,
    ),
    "write conflict": (["insert"], {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}, 1),
}


@pytest.mark.parametrize(
    ("fault", "key"), [*((fault, "k") for fault in UNKNOWN), ("insert lost", None), ("commit lost twice", None)]
)
async def test_flow_whose_answer_is_lost_exists_exactly_once(
    engine: Engine, store: Store, mongodb_url: str, monkeypatch: pytest.MonkeyPatch, fault: str, key: str | None
) -> None:
    monkeypatch.setattr(flow_commands, "CHUNK", 20)
    commands, data, times = UNKNOWN[fault]
    root = node(job("r"), *(job(f"c{n}") for n in range(30)))
    flow = None
    with fail_command(mongodb_url, commands, times=times, appName="switchtower-client", **data):
        for _ in range(3 if key else 1):
            try:
                flow = await start(engine, root, idempotency_key=key)
                break
            except StoreUnavailable:
                assert key is not None, "without a key nobody could ask again"
    assert flow is not None
    assert await store.jobs.count_documents({}) == await store.jobs.count_documents({"flow_id": flow.id}) == 31
    assert await store.jobs.count_documents({"flow_root": True}) == 1


# ---- how flows end


POLICIES: dict[ChildFailure | None, str] = {
    None: "failed",
    ChildFailure.FAIL: "failed",
    ChildFailure.IGNORE: "waiting",
    ChildFailure.REMOVE: "waiting",
}


@pytest.mark.parametrize("how", ["fail", "cancel", "remove", "expire"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_child_that_does_not_complete(engine: Engine, policy: ChildFailure | None, how: str) -> None:
    flow = await start(engine, node(job("parent", on_child_failure=policy), job("bad", max_attempts=1), job("good")))
    bad = (await names(engine, flow))["bad"]
    match how:
        case "fail":
            await run_one(engine, "bad", OutcomeKind.BURY)
        case "cancel":
            await engine.jobs.cancel(bad.id, caller=CALLER)
        case "remove":
            await engine.jobs.remove(bad.id, caller=CALLER)
        case _:
            await engine._store.jobs.update_one({"_id": bad.id}, {"$set": {"expires_at": bad.created_at}})
            await engine.upkeep.expire()
    await quiet(engine)
    parent = (await names(engine, flow))["parent"]
    if POLICIES[policy] == "failed":
        assert parent.state == "failed" and parent.error is not None
        assert parent.error.kind == "dependency" and bad.id in parent.error.message
    else:
        assert parent.state == "blocked"
        await run_one(engine, "good")
        assert (await names(engine, flow))["parent"].state == "waiting"
    left = await engine.jobs.get(bad.id, caller=CALLER)
    if how == "remove" or (policy is ChildFailure.REMOVE and how in ("fail", "cancel", "expire")):
        assert left is None
    else:
        assert left is not None and left.state in ("failed", "cancelled")


async def test_child_is_removed_though_its_teller_dies_before_its_parent_knows(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        pass

    flow = await start(engine, node(job("parent", on_child_failure=ChildFailure.REMOVE), job("bad"), job("good")))
    (claimed,) = await engine.claims.claim("w", ["flows"], names=["bad"])
    monkeypatch.setattr(engine.effects, "kick", lambda: None)
    await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.BURY, error=ERROR)])
    update_many = store.jobs.update_many
    for left in range(3):
        writes = iter(range(left))

        async def dying(*args: Any, writes: Any = writes, **options: Any) -> Any:
            if next(writes, None) is None:
                raise Dead
            return await update_many(*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(store.jobs, "update_many", dying, raising=False)
            with pytest.raises(Dead):
                await engine.effects.relay()
    await quiet(engine)
    assert await engine.jobs.get(claimed.id, caller=CALLER) is None
    assert (await states(engine, flow)).keys() == {"parent", "good"}
    assert await store.dead_letters.count_documents({"job_id": claimed.id}) == 1
    await run_one(engine, "good")
    assert await claimable(engine) == {"parent"}


async def test_job_that_removes_what_failed_before_it_came_leaves_its_dead_letter_and_its_parent_told(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await start(engine, node(job("parent"), job("bad", payload={"n": 1})))
    (claimed,) = await engine.claims.claim("w", ["flows"], names=["bad"])
    with monkeypatch.context() as patched:
        patched.setattr(engine.effects, "kick", lambda: None)
        await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.BURY, error=ERROR)])
        late = await enqueue(engine, queue="flows", depends_on=[claimed.id], on_child_failure=ChildFailure.REMOVE)
    await quiet(engine)
    letters = await store.dead_letters.find({"job_id": claimed.id}).to_list(None)
    assert [letter.get("payload") for letter in letters] == [{"n": 1}], "a tombstone has none any more"
    assert await states(engine, flow) == {"parent": "failed"}
    found = await engine.jobs.get(late.id, caller=CALLER)
    assert found is not None and found.state == "waiting"


async def test_failure_climbs_to_the_first_parent_that_tolerates_it(engine: Engine) -> None:
    flow = await start(
        engine,
        node(job("root", on_child_failure=ChildFailure.IGNORE), node(job("middle"), node(job("low"), job("leaf")))),
    )
    await run_one(engine, "leaf", OutcomeKind.BURY)
    await quiet(engine)
    assert await states(engine, flow) == {"root": "waiting", "middle": "failed", "low": "failed", "leaf": "failed"}


async def test_dependent_of_a_failed_sibling_fails_and_others_go_on(engine: Engine) -> None:
    flow = await start(
        engine,
        node(
            job("root", on_child_failure=ChildFailure.IGNORE),
            node(job("a"), key="a"),
            node(job("b"), depends_on=["a"]),
            job("c"),
        ),
    )
    await run_one(engine, "a", OutcomeKind.BURY)
    assert await states(engine, flow) == {"root": "blocked", "a": "failed", "b": "failed", "c": "waiting"}
    await run_one(engine, "c")
    assert (await states(engine, flow))["root"] == "waiting"


async def test_child_with_attempts_left_fails_nobody(engine: Engine) -> None:
    flow = await start(engine, node(job("root"), job("a", max_attempts=2)))
    await run_one(engine, "a", OutcomeKind.FAIL)
    assert (await states(engine, flow))["root"] == "blocked"
    await run_one(engine, "a")
    assert (await states(engine, flow))["root"] == "waiting"


async def test_job_that_is_removed_when_it_completes_frees_its_parent(engine: Engine) -> None:
    flow = await start(engine, node(job("root"), job("a", remove_on_complete=True)))
    await run_one(engine, "a")
    assert await states(engine, flow) == {"root": "waiting"}


async def test_parent_with_a_delay_is_scheduled_when_its_children_are_done(engine: Engine) -> None:
    flow = await start(engine, node(job("root", delay_ms=3_600_000), job("a")))
    assert (await states(engine, flow))["root"] == "blocked"
    await run_one(engine, "a")
    assert (await states(engine, flow))["root"] == "scheduled"


async def test_many_children_free_their_parent_once(engine: Engine, store: Store, commands: Any) -> None:
    flow = await start(engine, node(job("root"), *(job("c") for _ in range(300))))
    assert flow.total == 301
    ended = 0
    while claimed := await engine.claims.claim("w", ["flows"], names=["c"], limit=100):
        outcomes = [Outcome(one.id, one.token, OutcomeKind.COMPLETE) for one in claimed]
        await engine.claims.report(outcomes)
        ended += len(claimed)
        root = await engine.jobs.get(flow.id, caller=CALLER)
        assert root is not None
    await quiet(engine)
    assert ended == 300
    document = await store.jobs.find_one({"_id": flow.id})
    assert document is not None and document["state"] == "waiting" and "pending" not in document
    assert Counter(row["type"] for row in document["timeline"]) == {"enqueue": 1, "unblock": 1}
    pulls = [c for c in commands.named("update") if "pending" in c["updates"][0]["q"]]
    assert len(pulls) < 15, "every child wrote its parent by itself"


# ---- children of a running handler


async def test_suspended_parent_comes_back_when_its_children_have_ended(engine: Engine) -> None:
    root = await enqueue(engine, queue="flows", name="root")
    (claimed,) = await engine.claims.claim("w", ["flows"])
    for n in range(2):
        await enqueue(engine, queue="flows", name=f"c{n}", parent_id=root.id)
    assert await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.SUSPEND)]) == set()
    flow = await engine.flows.get(root.id, caller=CALLER)
    assert flow is not None and flow.total == 3
    assert (flow.root.state, flow.root.attempt, flow.root.claims) == ("blocked", 0, 0)
    await run_one(engine, "c0")
    assert (await states(engine, flow))["root"] == "blocked"
    await run_one(engine, "c1")
    (again,) = await engine.claims.claim("w", ["flows"])
    assert (again.id, again.number, again.recovered) == (root.id, 1, False)


async def test_parent_that_suspends_behind_its_last_child_can_run_at_once(engine: Engine) -> None:
    root = await enqueue(engine, queue="flows", name="root")
    (claimed,) = await engine.claims.claim("w", ["flows"])
    await enqueue(engine, queue="flows", name="c", parent_id=root.id)
    await run_one(engine, "c")
    assert await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.SUSPEND)]) == set()
    assert await claimable(engine) == {"root"}


async def test_parent_that_returns_without_waiting_completes(engine: Engine) -> None:
    root = await enqueue(engine, queue="flows", name="root")
    (claimed,) = await engine.claims.claim("w", ["flows"])
    await enqueue(engine, queue="flows", name="c", parent_id=root.id)
    await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.COMPLETE)])
    await run_one(engine, "c")
    found = await engine.jobs.get(root.id, caller=CALLER)
    assert found is not None and (found.state, found.pending) == ("completed", [])


async def test_suspended_parent_whose_cancel_was_requested_is_cancelled(engine: Engine) -> None:
    root = await enqueue(engine, queue="flows", name="root")
    (claimed,) = await engine.claims.claim("w", ["flows"])
    await enqueue(engine, queue="flows", name="c", parent_id=root.id)
    await engine.jobs.cancel(root.id, caller=CALLER)
    await engine.claims.report([Outcome(claimed.id, claimed.token, OutcomeKind.SUSPEND)])
    found = await engine.jobs.get(root.id, caller=CALLER)
    assert found is not None and found.state == "cancelled"


# ---- as one


async def test_cancel_ends_what_is_open_and_asks_what_runs(engine: Engine) -> None:
    flow = await start(engine, node(job("root"), job("done"), job("runs"), node(job("middle"), job("leaf"))))
    await run_one(engine, "done")
    (running,) = await engine.claims.claim("w", ["flows"], names=["runs"])
    operation = await engine.flows.cancel(flow.id, caller=CALLER)
    assert operation.done and operation.matched == 4
    await quiet(engine)
    found = await states(engine, flow)
    assert found == {
        "root": "cancelled",
        "middle": "cancelled",
        "leaf": "cancelled",
        "runs": "active",
        "done": "completed",
    }
    assert await engine.claims.cancel_requests("w") == {running.id}
    await engine.claims.report([Outcome(running.id, running.token, OutcomeKind.ABORT)])
    with pytest.raises(InvalidTransition):
        await engine.flows.cancel(flow.id, caller=CALLER)
    with pytest.raises(NotFound):
        await engine.flows.cancel("job_nothing", caller=CALLER)


async def test_cancel_in_many_chunks_fails_nothing_and_frees_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a job of an earlier chunk hears of its end before its own turn comes."""
    monkeypatch.setattr(bulk, "CHUNK", 2)
    chunk = engine.bulk._chunk

    async def told_at_once(id: str) -> bool:
        done = await chunk(id)
        while await engine.effects.relay():
            pass
        assert not await claimable(engine), "a job was set free while its flow was being cancelled"
        return done

    monkeypatch.setattr(engine.bulk, "_chunk", told_at_once)
    first = [node(job(f"a{n}", delay_ms=HOUR_MS), key=f"a{n}") for n in range(6)]
    middle = [node(job(f"b{n}"), key=f"b{n}", depends_on=[f"a{n}"]) for n in range(6)]
    last = [
        node(job(f"c{n}", on_child_failure=ChildFailure.IGNORE if n % 2 else None), depends_on=[f"b{n}", "a0"])
        for n in range(6)
    ]
    flow = await start(engine, node(job("root"), *first, *middle, *last))
    operation = await engine.flows.cancel(flow.id, caller=CALLER)
    assert operation.done
    await quiet(engine)
    assert set((await states(engine, flow)).values()) == {"cancelled"}
    assert await engine._store.dead_letters.count_documents({}) == 0
    again = await engine.flows.retry(flow.id, caller=CALLER)
    assert (again.counts[JobState.CANCELLED], again.counts[JobState.WAITING]) == (0, 6)
    await run_one(engine, "a0", OutcomeKind.BURY)
    await quiet(engine)
    assert (await states(engine, flow))["b0"] == "failed", "the cancel is forgotten once the flow was retried"


async def test_retry_right_after_a_cancel_waits_until_all_is_told(engine: Engine) -> None:
    for _ in range(2):
        flow = await start(engine, node(job("root"), *(node(job(f"m{n}"), job(f"l{n}")) for n in range(20))))
        await engine.flows.cancel(flow.id, caller=CALLER)
        again = await engine.flows.retry(flow.id, caller=CALLER)
        assert again.counts[JobState.CANCELLED] == again.counts[JobState.FAILED] == 0
        assert (again.counts[JobState.WAITING], again.counts[JobState.BLOCKED]) == (20, 21)
        await engine.flows.cancel(flow.id, caller=CALLER)


async def test_retry_of_a_flow_that_is_still_being_cancelled_is_a_conflict(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await start(engine, node(job("root"), job("leaf")))
    await engine.flows.cancel(flow.id, caller=CALLER)
    await quiet(engine)
    await engine._store.bulk_operations.update_many(anywhere(flow=flow.id), {"$set": {"done": False}})
    monkeypatch.setattr(flows, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(Conflict, match="still being cancelled"):
        await engine.flows.retry(flow.id, caller=CALLER)


async def test_retry_runs_what_failed_again_and_what_completed_stays(engine: Engine) -> None:
    flow = await start(
        engine, node(job("root"), job("good"), node(job("middle"), node(job("low"), job("leaf"), job("fine"))))
    )
    for name in ("good", "fine"):
        await run_one(engine, name)
    with pytest.raises(InvalidTransition):
        await engine.flows.retry(flow.id, caller=CALLER)
    await run_one(engine, "leaf", OutcomeKind.BURY)
    await quiet(engine)
    assert Counter((await states(engine, flow)).values()) == {"failed": 4, "completed": 2}
    again = await engine.flows.retry((await names(engine, flow))["leaf"].id, caller=CALLER)
    assert again.counts[JobState.BLOCKED] == 3 and again.counts[JobState.WAITING] == 1
    for name in ("leaf", "low", "middle", "root"):
        assert await claimable(engine) == {name}
        await run_one(engine, name)
    jobs = await names(engine, flow)
    assert {found.state for found in jobs.values()} == {JobState.COMPLETED}
    assert {name: found.generation for name, found in jobs.items()} == {
        "root": 2,
        "middle": 2,
        "low": 2,
        "leaf": 2,
        "good": 1,
        "fine": 1,
    }


async def test_retry_of_a_cancelled_flow_keeps_the_order_of_its_siblings(engine: Engine) -> None:
    flow = await start(engine, node(job("root"), node(job("a"), key="a"), node(job("b"), depends_on=["a"])))
    await engine.flows.cancel(flow.id, caller=CALLER)
    await quiet(engine)
    await engine.flows.retry(flow.id, caller=CALLER)
    for name in ("a", "b", "root"):
        assert await claimable(engine) == {name}
        await run_one(engine, name)


async def test_retry_that_a_unique_key_stops_says_so_and_moves_nothing(engine: Engine) -> None:
    flow = await start(engine, node(job("root"), node(job("b"), job("c")), job("a", unique_key="u")))
    await run_one(engine, "a", OutcomeKind.BURY)
    await quiet(engine)
    await enqueue(engine, unique_key="u")
    before = await states(engine, flow)
    with pytest.raises(Conflict, match="unique key"):
        await engine.flows.retry(flow.id, caller=CALLER)
    assert await states(engine, flow) == before
    assert (await names(engine, flow))["root"].generation == 1


@pytest.mark.parametrize(("kind", "root"), [(OutcomeKind.COMPLETE, "waiting"), (OutcomeKind.BURY, "failed")])
async def test_retry_does_not_wait_for_a_child_that_ends_while_it_is_carried_out(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch, kind: OutcomeKind, root: str
) -> None:
    flow = await start(engine, node(job("root"), job("a"), job("b")))
    await run_one(engine, "a", OutcomeKind.BURY)
    (late,) = await engine.claims.claim("w", ["flows"], names=["b"])
    update_one = store.jobs.update_one

    async def behind_its_end(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await engine.claims.report([Outcome(late.id, late.token, kind, error=ERROR)])
        await quiet(engine)
        return await update_one(*args, **options)

    monkeypatch.setattr(store.jobs, "update_one", behind_its_end, raising=False)
    await engine.flows.retry(flow.id, caller=CALLER)
    await quiet(engine)
    if kind is OutcomeKind.COMPLETE:
        await run_one(engine, "a")
    assert (await states(engine, flow))["root"] == root


async def test_retry_whose_key_is_taken_meanwhile_leaves_nobody_waiting_for_what_has_ended(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await start(engine, node(job("root"), job("a", unique_key="u")))
    await run_one(engine, "a", OutcomeKind.BURY)
    update_one = store.jobs.update_one

    async def behind_another(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await enqueue(engine, unique_key="u")
        return await update_one(*args, **options)

    monkeypatch.setattr(store.jobs, "update_one", behind_another, raising=False)
    with pytest.raises(Conflict, match="unique key"):
        await engine.flows.retry(flow.id, caller=CALLER)
    assert await states(engine, flow) == {"root": "failed", "a": "failed"}


async def test_a_child_that_is_retried_by_itself_holds_up_no_parent_that_was_told_of_its_end(engine: Engine) -> None:
    flow = await start(engine, node(job("root", on_child_failure=ChildFailure.IGNORE), job("a"), job("b")))
    await run_one(engine, "a", OutcomeKind.BURY)
    found = await names(engine, flow)
    await engine.jobs.retry(found["a"].id, caller=CALLER)
    assert (await names(engine, flow))["root"].pending == [found["b"].id]
    await run_one(engine, "b")
    assert await states(engine, flow) == {"root": "waiting", "a": "waiting", "b": "completed"}


async def test_tenants_see_their_own_flows_only(engine: Engine) -> None:
    mine, other = Caller("a", "mine"), Caller("b", "other")
    flow = await engine.flows.enqueue(node(job("r"), job("c")), caller=mine, idempotency_key="k")
    theirs = await engine.flows.enqueue(node(job("r"), job("c")), caller=other, idempotency_key="k")
    assert theirs.id != flow.id
    assert await engine.flows.get(flow.id, caller=other) is None
    assert [found.id for found in (await engine.flows.page(caller=mine)).items] == [flow.id]
    assert (await engine.flows.get_many([flow.id, theirs.id], caller=mine)).keys() == {flow.id}
    assert await engine.flows.children(flow.id, caller=other) == []
    for verb in (engine.flows.cancel, engine.flows.retry):
        with pytest.raises(NotFound):
            await verb(flow.id, caller=other)


async def test_flows_come_in_pages_by_the_states_of_their_roots(engine: Engine) -> None:
    flows = [await start(engine, node(job(f"r{n}"), job("c"))) for n in range(5)]
    alone = await start(engine, node(job("alone")))
    await enqueue(engine)
    page = await engine.flows.page(caller=CALLER, first=2)
    assert [flow.id for flow in page.items] == [alone.id, flows[4].id] and page.has_next
    rest = await engine.flows.page(caller=CALLER, first=10, after=page.cursors[-1])
    assert [flow.id for flow in rest.items] == [flow.id for flow in reversed(flows[:4])]
    blocked = await engine.flows.page(caller=CALLER, states=[JobState.BLOCKED])
    assert len(blocked.items) == 5
    assert all(flow.total == 2 for flow in blocked.items)
    back = await engine.flows.page(caller=CALLER, last=1)
    assert [flow.id for flow in back.items] == [flows[0].id]
