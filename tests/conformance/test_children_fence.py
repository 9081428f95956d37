"""A run adds children only while it holds its job: the parent's lease decides in the write that adds the child."""

from __future__ import annotations

import pytest

from switchtower.engine import Engine
from switchtower.errors import LeaseLost
from switchtower.jobs import JobFilter, NewJob
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, Situation, job_in


async def children(engine: Engine, parent: Situation) -> int:
    return (await engine.jobs.count(JobFilter(parent_id=parent.id), caller=CALLER)).value


async def test_the_holder_adds_a_child(engine: Engine) -> None:
    parent = await job_in(engine, "active")
    child = NewJob(name="child", queue=parent.queue, parent_id=parent.id)
    made = await engine.jobs.enqueue(child, caller=CALLER, lease=parent.token)
    assert made.job.parent_id == parent.id
    assert (await parent.document())["pending"] == [made.job.id]


async def test_a_stranger_adds_none_and_changes_nothing(engine: Engine) -> None:
    parent = await job_in(engine, "active")
    before = await parent.document()
    with pytest.raises(LeaseLost):
        await engine.jobs.enqueue(NewJob(name="child", parent_id=parent.id), caller=CALLER, lease="another")
    assert await parent.document() == before
    assert await children(engine, parent) == 0


async def test_a_run_that_has_ended_adds_none(engine: Engine) -> None:
    parent = await job_in(engine, "active")
    await parent.report(OutcomeKind.RELEASE)
    with pytest.raises(LeaseLost):
        await engine.jobs.enqueue(NewJob(name="child", parent_id=parent.id), caller=CALLER, lease=parent.token)
    assert await parent.state() == "waiting"
    assert await children(engine, parent) == 0
