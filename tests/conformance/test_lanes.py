"""Whose turn it is: no lane is passed over while others are served again, whatever limits let in."""

from __future__ import annotations

import pytest

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.limits import Limit, QueueLimits
from switchtower.workers import OutcomeKind
from tests.conformance.situations import CALLER, Situation, enqueue, fresh


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("tenants", [False, True])
async def test_a_limit_that_lets_one_in_at_a_time_starves_no_lane(engine: Engine, size: int, tenants: bool) -> None:
    """A claimer asks for more than there is room for: whoever got none of it is next, and not passed over."""
    queue, lanes = fresh("queue"), ["a", "b", "c", "d"]
    for lane in lanes * 3:
        if tenants:
            await engine.jobs.enqueue(NewJob(name="work", queue=queue), caller=Caller("key", org=lane))
        else:
            await enqueue(engine, queue=queue, group=lane)
    await engine.queues.set_limits(queue, QueueLimits(Limit(concurrency=1)), caller=CALLER)
    if not tenants:
        await enqueue(engine, queue=queue, group="bb")
        await engine.queues.pause(queue, caller=CALLER, group="bb")
    served = []
    for _ in range(8):
        (claimed,) = await engine.claims.claim("w", [queue], limit=size)
        served.append(claimed.org if tenants else claimed.group)
        assert await engine.claims.claim("other", [queue], limit=size) == [], "and nobody's turn is over by that"
        await Situation(engine, claimed.id, queue, claimed.token).report(OutcomeKind.COMPLETE)
    assert served == lanes * 2


async def test_a_paused_group_does_not_take_its_tenants_turn(engine: Engine) -> None:
    queue = fresh("queue")
    for org in ("big", "small"):
        for group in ("a", "b", "c"):
            for _ in range(3):
                await engine.jobs.enqueue(NewJob(name="work", queue=queue, group=group), caller=Caller("key", org=org))
    for group in ("a", "c"):
        await engine.queues.pause(queue, caller=Caller("key", org="small"), group=group)
    served = [(await engine.claims.claim("w", [queue], limit=1))[0].org for _ in range(6)]
    assert served == ["big", "small"] * 3
