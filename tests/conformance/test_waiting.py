"""Since when the next job of each queue waits: the same whether a few queues are asked for or many."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.store import waiting
from switchtower.store.collections import Store
from switchtower.webhooks import SetWebhook, Target
from tests.conformance.commands import Commands, explain, stages
from tests.conformance.situations import CALLER, enqueue, fresh
from tests.databases import anywhere

Document = dict[str, Any]


async def test_many_queues_are_read_together_and_as_one_by_one(
    engine: Engine, store: Store, commands: Commands, mongo: MongoClient[Document]
) -> None:
    names = [fresh("queue") for _ in range(60)]
    news = [NewJob(name="work", queue=name) for name in names[:50] for _ in range(20)]
    await engine.jobs.enqueue_many(news, caller=CALLER)
    for name in names[10:15]:
        await store.jobs.update_many(anywhere(queue=name), {"$set": {"state": "completed"}})
    for name in names[15:20]:
        # A lane before and one behind those of no group, whose job is the oldest.
        for group in ("a", "z"):
            await enqueue(engine, queue=name, group=group)
        earlier = [{"$set": {"run_at": {"$add": ["$run_at", -60_000]}}}]
        await store.jobs.update_one(anywhere(queue=name, group="z"), earlier)
    await engine.webhooks.set(SetWebhook(Target(app=""), "https://example.org/"), caller=CALLER)
    for name in names[50:55]:
        await enqueue(engine, queue=name, webhook=True)
    commands.clear()
    together = await waiting.oldest(store, names)
    sent = [command for command in commands.sent if next(iter(command)) == "aggregate"]
    assert together == {name: since for name in names for since in (await waiting.oldest(store, [name])).values()}
    assert [name for name in names if together[name] is None] == [*names[10:15], *names[55:]]
    assert len(sent) == 3
    for command in sent:
        plan = explain(mongo, commands.database, command)
        assert "DISTINCT_SCAN" in {stage["stage"] for stage in stages(plan)}, plan
