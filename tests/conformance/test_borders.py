"""What is the same in two queues, or of two tenants, is not mixed up; and nobody passes on what they have not."""

from __future__ import annotations

import pytest

from switchtower.access import NewApiKey, Scope
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.errors import Forbidden
from switchtower.flows import node
from switchtower.jobs import Deduplication, NewJob
from switchtower.limits import Limit, QueueLimits
from switchtower.store import workflows
from tests.conformance.situations import CALLER, enqueue, fresh


async def test_an_id_that_is_used_in_two_queues_stands_for_the_job_of_each(engine: Engine) -> None:
    one, two = [await enqueue(engine, queue=queue, job_id="same") for queue in ("one", "two")]
    assert one.id != two.id
    for queue, job in (("two", two), ("one", one)):
        again = await engine.jobs.enqueue(NewJob(name="work", queue=queue, job_id="same"), caller=CALLER)
        assert (again.job.id, again.deduplication) == (job.id, Deduplication.JOB_ID)


async def test_two_tenants_flows_may_have_the_same_key(engine: Engine) -> None:
    tenants = [Caller(org, org=org) for org in ("acme", "bolt", "cogs")]
    root = node(NewJob(name="root", queue="flows"), NewJob(name="leaf", queue="flows"))
    made = [await engine.flows.enqueue(root, caller=tenant, idempotency_key="k") for tenant in tenants]
    again = [await engine.flows.enqueue(root, caller=tenant, idempotency_key="k") for tenant in tenants]
    assert [flow.id for flow in again] == [flow.id for flow in made]


async def test_a_key_passes_on_no_scope_that_it_has_not(engine: Engine) -> None:
    for org in [None, "acme"]:
        admin = Caller("admin", org=org, scopes=frozenset({Scope.ADMIN, Scope.OPERATE, Scope.READ}))
        with pytest.raises(Forbidden, match="it lacks work"):
            await engine.keys.create(NewApiKey(name="worker", scopes=[Scope.WORK]), caller=admin)


async def test_a_key_that_was_revoked_was_one(engine: Engine) -> None:
    assert await engine.keys.none_exists()
    made = await engine.keys.create(NewApiKey(name="first", scopes=[Scope.READ]), caller=CALLER)
    await engine.keys.revoke(made.key.id, caller=CALLER)
    assert not await engine.keys.none_exists()


async def test_two_tenants_events_may_have_the_same_key(engine: Engine) -> None:
    store, now = engine._store, engine.clock.now()

    async def publish(org: str) -> str:
        event = await workflows.publish(store, "paid", None, org=org, actor=org, now=now, key="k")
        return str(event["_id"])

    made = [await publish(org) for org in ("acme", "bolt", "cogs")]
    assert [await publish(org) for org in ("acme", "bolt", "cogs")] == made


async def test_two_tenants_groups_of_one_name_are_limited_each_alone(engine: Engine) -> None:
    queue = fresh("queue")
    await engine.queues.set_limits(queue, QueueLimits(per_group=Limit(concurrency=1)), caller=CALLER)
    for org in ("acme", "bolt", "acme", "bolt"):
        await engine.jobs.enqueue(NewJob(name="work", queue=queue, group="g"), caller=Caller(org, org=org))
    won = await engine.claims.claim("w", [queue], limit=4)
    won += await engine.claims.claim("w", [queue], limit=4)
    assert sorted(job.org for job in won) == ["acme", "bolt"]
