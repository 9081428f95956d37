"""Every verb from every state: what `TRANSITIONS` allows moves and stamps one event, all else changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from switchtower.deduplication import DeduplicationOptions
from switchtower.engine import Engine
from switchtower.errors import LeaseLost, SwitchtowerError
from switchtower.ids import run_id
from switchtower.jobs import JobUpdate, NewJob
from switchtower.states import REMOVED, TRANSITIONS, JobState
from switchtower.workers import OutcomeKind
from switchtower.workflows import Step, StepKind, StepStatus
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, LONG_AGO, Situation, fresh, job_in, quiet

Verb = Callable[[Situation], Awaitable[object]]


async def _add_child(s: Situation) -> None:
    await s.engine.jobs.enqueue(NewJob(name="child", queue=fresh("children"), parent_id=s.id), caller=CALLER)


async def _replace(s: Situation) -> None:
    options = DeduplicationOptions(key="k", replace=True)
    new = NewJob(name="work", queue=s.queue, payload="later", delay_ms=HOUR_MS, deduplication=options)
    await s.engine.jobs.enqueue(new, caller=CALLER)


async def _stage(s: Situation) -> None:
    await s.set(run_at=LONG_AGO)
    await s.engine.upkeep.stage()


async def _expire(s: Situation) -> None:
    await s.set(expires_at=LONG_AGO)
    await s.engine.upkeep.expire()


async def _unblock(s: Situation) -> None:
    if s.dependency is not None:
        dependency = await s.engine.jobs.promote(s.dependency, caller=CALLER)
        (claimed,) = await s.engine.claims.claim(fresh("worker"), [dependency.queue])
        await Situation(s.engine, claimed.id, claimed.queue, claimed.token).report(OutcomeKind.COMPLETE)


async def _abandon(s: Situation) -> None:
    if s.dependency is not None:
        await s.engine.jobs.cancel(s.dependency, caller=CALLER)


async def _park(s: Situation) -> None:
    await s.engine.queues.pause(s.queue, caller=CALLER, job_name="work")
    await s.engine.claims.claim(fresh("worker"), [s.queue])


async def _unpark(s: Situation) -> None:
    await s.engine.queues.resume(s.queue, caller=CALLER, job_name="work")


def _report(kind: OutcomeKind, **fields: Any) -> Verb:
    async def report(s: Situation) -> None:
        await s.report(kind, **fields)

    return report


VERBS: dict[str, Verb] = {
    "replace": _replace,
    "block": _add_child,
    "adopt": _add_child,
    "stage": _stage,
    "unblock": _unblock,
    "abandon": _abandon,
    "park": _park,
    "unpark": _unpark,
    "claim": lambda s: s.engine.claims.claim(fresh("worker"), [s.queue]),
    "start": lambda s: s.engine.claims.start([(s.id, s.token)]),
    "complete": _report(OutcomeKind.COMPLETE, result="done"),
    "backoff": _report(OutcomeKind.FAIL, error=ERROR, wait_ms=HOUR_MS),
    "bury": _report(OutcomeKind.BURY, error=ERROR),
    "snooze": _report(OutcomeKind.SNOOZE, wait_ms=HOUR_MS),
    "release": _report(OutcomeKind.RELEASE),
    "suspend": _report(OutcomeKind.SUSPEND),
    "abort": _report(OutcomeKind.ABORT),
    "rescue": lambda s: s.engine.workers.bury_dead(s.worker or "nobody"),
    "expire": _expire,
    "cancel": lambda s: s.engine.jobs.cancel(s.id, caller=CALLER),
    "request_cancel": lambda s: s.engine.jobs.cancel(s.id, caller=CALLER),
    "retry": lambda s: s.engine.jobs.retry(s.id, caller=CALLER),
    "promote": lambda s: s.engine.jobs.promote(s.id, caller=CALLER),
    "reschedule": lambda s: s.engine.jobs.reschedule(s.id, None, caller=CALLER),
    "update": lambda s: s.engine.jobs.update(s.id, JobUpdate(priority=7), caller=CALLER),
    "progress": lambda s: s.engine.claims.progress(s.id, s.token, {"at": 1}),
    "checkpoint": lambda s: s.engine.workflows.checkpoint(
        run_id(s.id), s.token, Step(name="step", kind=StepKind.STEP, status=StepStatus.COMPLETED)
    ),
    "log": lambda s: s.engine.claims.log(s.id, s.token, [("info", "a line")]),
    "remove": lambda s: s.engine.jobs.remove(s.id, caller=CALLER),
}
TWINS = {"block": "adopt", "adopt": "block", "cancel": "request_cancel", "request_cancel": "cancel"}
"""Verbs that share one call: from the states of the twin, the twin happens."""
BY_WORKER = {("expire", JobState.ACTIVE)}
"""Legal, but done by the worker's report, which the tests of reports cover."""
OPERATORS = {"block", "adopt", "cancel", "request_cancel", "retry", "promote", "reschedule", "update", "remove"}


def test_grid_knows_every_verb_of_the_table() -> None:
    assert VERBS.keys() == TRANSITIONS.keys() - {"enqueue"}


async def _situation(engine: Engine, state: JobState, verb: str) -> Situation:
    fields = {"deduplication": DeduplicationOptions(key="k")} if verb == "replace" else {}
    s = await job_in(engine, state, started=verb != "start", **fields)
    if verb == "unpark" and state is JobState.WAITING:
        await _park(s)
        assert (await s.document())["parked"] == "paused"
    return s


async def _attempted(s: Situation, verb: str) -> SwitchtowerError | None:
    try:
        await VERBS[verb](s)
    except SwitchtowerError as error:
        return error
    finally:
        await quiet(s.engine)
    return None


async def test_verb_moves_from_its_states_and_stamps_one_event(engine: Engine) -> None:
    grid = [(verb, state) for verb in VERBS for state in sorted(TRANSITIONS[verb].sources)]
    for verb, state in grid:
        if (verb, state) in BY_WORKER:
            continue
        s, what = await _situation(engine, state, verb), f"{verb} from {state}"
        before = await s.document()
        assert await _attempted(s, verb) is None, what
        after = await s.document()
        landed = {after["state"]} | ({"same"} if after["state"] == state else set())
        assert landed & TRANSITIONS[verb].targets, f"{what} landed on {after['state']}"
        assert after["event_seq"] == before["event_seq"] + 1, what
        ((number, event),) = after["event"].items()
        assert (number, event["type"]) == (str(after["event_seq"]), verb)
        assert event["actor"], what
        assert (event["queue"], event["name"], event["org"]) == (before["queue"], before["name"], before["org"])
        assert abs((after["updated_at"] - event["at"]).total_seconds()) < 5, what
        if after["state"] != state:
            assert (event["from"], event["to"]) == (state, after["state"]), what
        else:
            assert event.get("from") == event.get("to"), what


@pytest.mark.parametrize("state", JobState)
async def test_verb_changes_nothing_from_any_other_state(engine: Engine, state: JobState) -> None:
    s = await _situation(engine, state, "replace")
    for verb in VERBS:
        if state in TRANSITIONS[verb].sources | TRANSITIONS[TWINS.get(verb, verb)].sources:
            continue
        if verb in ("stage", "expire"):
            await s.set(**{"run_at" if verb == "stage" else "expires_at": LONG_AGO})
        before = await s.document()
        error = await _attempted(s, verb)
        assert await s.document() == before, f"{verb} from {state}"
        if verb in OPERATORS:
            assert error is not None and error.code == "INVALID_TRANSITION", f"{verb} from {state} said {error!r}"
            assert state in str(error)


FENCED = sorted(name for name, transition in TRANSITIONS.items() if transition.fenced and name != "rescue")


@pytest.mark.parametrize("started", [True, False])
async def test_report_with_a_foreign_or_a_lost_token_changes_nothing(engine: Engine, started: bool) -> None:
    s = await job_in(engine, "active", started=started)
    lost = s.token
    await engine.workers.bury_dead(s.worker)
    await s.claim(start=started)
    before, right = await s.document(), s.token
    for verb in FENCED if started else ["start", "complete"]:
        for s.token in ("", "x", right[:-1], right + "x", right.swapcase(), lost):
            if verb == "start":
                assert await engine.claims.start([(s.id, s.token)]) == {s.id}
            error = await _attempted(s, verb)
            assert isinstance(error, LeaseLost) is (verb in ("progress", "log", "checkpoint")), (verb, error)
            assert await s.document() == before, (verb, s.token)


ENDS = {
    OutcomeKind.COMPLETE: {"result": 1},
    OutcomeKind.FAIL: {"error": ERROR, "wait_ms": HOUR_MS},
    OutcomeKind.BURY: {"error": ERROR},
    OutcomeKind.RETRY_AT: {"error": ERROR, "wait_ms": HOUR_MS},
    OutcomeKind.SNOOZE: {"wait_ms": HOUR_MS},
    OutcomeKind.RELEASE: {},
    OutcomeKind.SUSPEND: {},
    OutcomeKind.ABORT: {},
    OutcomeKind.EXPIRE: {"error": ERROR},
}


def test_every_way_to_end_is_replayed() -> None:
    assert ENDS.keys() == set(OutcomeKind)


async def test_winners_replay_gets_the_same_answer_and_changes_nothing(engine: Engine) -> None:
    for kind, started in product(ENDS, (True, False)):
        s = await job_in(engine, "active", started=started)
        outcome = s.outcome(kind, started=started, **ENDS[kind])
        first = await engine.claims.report_one(outcome)
        await quiet(engine)
        before = await s.document()
        again = await engine.claims.report_one(outcome)
        assert (again.id, again.state, again.event_seq) == (first.id, first.state, first.event_seq), kind
        assert await engine.claims.report([outcome]) == set(), kind
        await quiet(engine)
        assert await s.document() == before, kind


async def test_late_report_of_a_rescued_run_is_refused(engine: Engine) -> None:
    s = await job_in(engine, "active")
    await engine.workers.bury_dead(s.worker)
    before = await s.document()
    for kind, fields in ENDS.items():
        with pytest.raises(LeaseLost):
            await engine.claims.report_one(s.outcome(kind, **fields))
        assert await engine.claims.report([s.outcome(kind, **fields)]) == {s.id}
        await quiet(engine)
        assert await s.document() == before, kind


async def test_removed_job_is_gone_for_every_reader_and_verb(engine: Engine) -> None:
    s = await job_in(engine, "completed", job_id="mine")
    await engine.jobs.remove(s.id, caller=CALLER)
    before = await s.document()
    assert before["state"] == REMOVED
    assert await engine.jobs.get(s.id, caller=CALLER) is None
    assert await engine.jobs.get("mine", caller=CALLER) is None
    for verb in sorted(OPERATORS):
        error = await _attempted(s, verb)
        assert error is not None and error.code == "NOT_FOUND", verb
    assert await s.document() == before


async def test_timeline_keeps_the_last_fifty_transitions(engine: Engine) -> None:
    s = await job_in(engine, "scheduled")
    for _ in range(60):
        await engine.jobs.update(s.id, JobUpdate(priority=1), caller=CALLER)
    timeline = (await s.job()).timeline
    assert len(timeline) == 50
    assert {entry.type for entry in timeline} == {"update"}
    assert {entry.actor for entry in timeline} == {CALLER.actor}
