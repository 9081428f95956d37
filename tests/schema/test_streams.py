"""Subscriptions on the real change stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from switchtower.engine import Engine
from tests.schema.conftest import Graph, fail_for_good, worker
from tests.waiting import until

EVENTS = """subscription($filter: JobEventFilter, $after: String) { jobEvents(filter: $filter, after: $after) {
  __typename
  ... on JobTransition { cursor at type jobId jobName queue from to attempt actor group tags parentId scope { org } }
  ... on JobProgress { cursor jobId progress } ... on JobLogged { cursor jobId lines { line level } }
  ... on StreamGap { cursor reason } } }"""


class Reader:
    """Reads a subscription in the background; `next` waits for one more item."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._stream = stream
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for item in self._stream:
                self.items.put_nowait(item)
        finally:
            self.ended.set()

    async def next(self) -> Any:
        return await asyncio.wait_for(self.items.get(), 60)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def claim(graph: Graph) -> str:
    """The lease token of the job that is next in the default queue."""
    claimed = await graph(
        """mutation { claimJobs(input: {workerId: "w", queues: ["default"]}) {
             ... on ClaimedJobs { jobs { leaseToken } } } }"""
    )
    return str(claimed["jobs"][0]["leaseToken"])


async def ready(graph: Graph, subscribers: int) -> None:
    """Waits until so many subscriptions are told what happens from now on: they are counted as open before that."""
    await until(lambda: len(graph.context.engine.hub()._live) >= subscribers)


async def test_job_events_tell_a_jobs_whole_life(graph: Graph) -> None:
    async with Reader(graph.stream(EVENTS, filter={"queues": ["default"]})) as events:
        await ready(graph, 1)
        await graph.enqueue("other", queue="elsewhere")
        id = await graph.enqueue("send", tags=["t"], group="g")
        first = await events.next()
        assert (first["type"], first["jobId"], first["jobName"], first["queue"]) == ("ENQUEUE", id, "send", "default")
        assert (first["from"], first["to"], first["actor"]) == (None, "WAITING", "tester")
        assert (first["tags"], first["group"], first["scope"]) == (["t"], "g", {"org": None})
        token = await claim(graph)
        assert [(e["type"], e["from"], e["to"]) for e in (await events.next(), await events.next())] == [
            ("CLAIM", "WAITING", "ACTIVE"),
            ("START", None, None),
        ]
        variables = {"id": id, "t": token}
        for mutation in (
            "reportProgress(id: $id, leaseToken: $t, progress: {percent: 5})",
            'appendLog(id: $id, leaseToken: $t, line: "hello", level: "warning")',
            "completeJob(id: $id, leaseToken: $t)",
            "removeJob(id: $id)",
        ):
            use = "$id: ID!" if "$t" not in mutation else "$id: ID!, $t: String!"
            await graph(f"mutation({use}) {{ {mutation} {{ __typename }} }}", **variables)
        assert {k: v for k, v in (await events.next()).items() if k != "cursor"} == {
            "__typename": "JobProgress",
            "jobId": id,
            "progress": {"percent": 5},
        }
        logged = await events.next()
        assert (logged["__typename"], logged["lines"]) == ("JobLogged", [{"line": "hello", "level": "warning"}])
        done, removed = await events.next(), await events.next()
        assert (done["type"], done["to"]) == ("COMPLETE", "COMPLETED")
        assert (removed["type"], removed["from"], removed["to"]) == ("REMOVE", "COMPLETED", None)


async def test_each_filter_of_job_events(graph: Graph) -> None:
    parent = await graph.enqueue("parent", delayMs=100_000)
    filters = {
        "names": {"names": ["b"]},
        "tags": {"tags": ["t", "unused"]},
        "group": {"group": "g"},
        "to": {"to": ["SCHEDULED"]},
        "types": {"types": ["CANCEL"]},
        "parent": {"parentId": parent},
    }
    readers = {name: Reader(graph.stream(EVENTS, filter=filter)) for name, filter in filters.items()}
    await ready(graph, len(readers))
    expected = {
        "names": await graph.enqueue("b"),
        "tags": await graph.enqueue(tags=["t"]),
        "group": await graph.enqueue(group="g"),
        "to": await graph.enqueue(delayMs=100_000),
        "parent": await graph.enqueue(parentId=parent),
        "types": await graph.enqueue(),
    }
    await graph("mutation($id: ID!) { cancelJob(id: $id) { __typename } }", id=expected["types"])
    for name, reader in readers.items():
        async with reader:
            assert (await reader.next())["jobId"] == expected[name], name
            assert reader.items.empty(), name


async def test_a_cursor_resumes_with_nothing_missed(graph: Graph) -> None:
    async with Reader(graph.stream(EVENTS)) as events:
        await ready(graph, 1)
        await graph.enqueue("first")
        cursor = (await events.next())["cursor"]
    ids = [await graph.enqueue(f"n{i}") for i in range(20)]
    async with Reader(graph.stream(EVENTS, after=cursor)) as events:
        seen = [(await events.next())["jobId"] for _ in ids]
    assert seen == ids


async def test_a_cursor_that_is_none_is_refused(graph: Graph) -> None:
    for after in ("", "zzz", "3.zz", "9." + "A" * 40):
        results = await graph.schema.subscribe(EVENTS, {"after": after}, context_value=graph.context)
        async with aclosing(results) as stream:
            first = await anext(stream)
        assert first.errors is not None and first.errors[0].original_error.field == "after"


async def test_a_tenant_sees_only_its_own_events(graph: Graph) -> None:
    us, them = graph.as_tenant("us"), graph.as_tenant("them")
    async with Reader(us.stream(EVENTS)) as ours, Reader(graph.stream(EVENTS)) as everyones:
        await ready(graph, 2)
        other = await them.enqueue()
        mine = await us.enqueue()
        assert [(await everyones.next())["jobId"] for _ in range(2)] == [other, mine]
        assert (await ours.next())["jobId"] == mine
        cursor = (await ours.next()) if not ours.items.empty() else None
        assert cursor is None


JOB = "subscription($id: ID!) { job(id: $id) { id state progress logs { line } worker { id } } }"


async def test_job_follows_a_job_to_its_end(graph: Graph) -> None:
    id = await graph.enqueue(jobId="mine")
    async with Reader(graph.stream(JOB, id="mine")) as job:
        assert (await job.next())["state"] == "WAITING"
        token = await claim(graph)
        seen = await job.next()
        while seen["worker"] is None:
            seen = await job.next()
        assert (seen["state"], seen["worker"]) == ("ACTIVE", {"id": "w"})
        await graph(
            "mutation($id: ID!, $t: String!) { reportProgress(id: $id, leaseToken: $t, progress: 9) { __typename } }",
            id=id,
            t=token,
        )
        while seen["progress"] != 9:
            seen = await job.next()
        await graph(
            "mutation($id: ID!, $t: String!) { completeJob(id: $id, leaseToken: $t) { __typename } }", id=id, t=token
        )
        while seen["state"] != "COMPLETED":
            seen = await job.next()
        await asyncio.wait_for(job.ended.wait(), 60)


async def test_job_ends_with_null_where_there_is_none(graph: Graph) -> None:
    assert [job async for job in graph.stream(JOB, id="nope")] == [None]
    id = await graph.enqueue()
    assert [job async for job in graph.as_tenant("t").stream(JOB, id=id)] == [None]
    async with Reader(graph.stream(JOB, id=id)) as job:
        assert (await job.next())["id"] == id
        await graph("mutation($id: ID!) { removeJob(id: $id) { __typename } }", id=id)
        assert await job.next() is None
        await asyncio.wait_for(job.ended.wait(), 60)


async def test_a_subscription_that_is_left_leaves_nothing_behind(graph: Graph) -> None:
    id = await graph.enqueue()
    hub = graph.context.engine.hub()
    for query, variables in (
        (JOB, {"id": id}),
        (EVENTS, {}),
        ("subscription { queueEvents { ... on QueueEvent { type } } }", {}),
        ("subscription { deadLetters { ... on DeadLetterEvent { type } } }", {}),
        ("subscription { workers { id } }", {}),
    ):
        results = await graph.schema.subscribe(query, variables, context_value=graph.context)
        reading = asyncio.create_task(anext(results))
        await until(lambda: hub.subscribers == 1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await results.aclose()
        await until(lambda: hub.subscribers == 0)
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not any("listen" in name for name in names)


async def test_queue_events(graph: Graph) -> None:
    query = """subscription { queueEvents(name: "mail") { __typename
      ... on QueueEvent { cursor type queue jobName actor } } }"""
    async with Reader(graph.stream(query)) as events:
        await ready(graph, 1)
        for mutation in (
            'pauseQueue(name: "other")',
            'pauseQueue(name: "mail")',
            'pauseQueue(name: "mail", jobName: "send")',
            'resumeQueue(name: "mail")',
            'drainQueue(name: "mail")',
        ):
            await graph(f"mutation {{ {mutation} {{ __typename }} }}")
        seen = [await events.next() for _ in range(4)]
    assert [(e["type"], e["jobName"]) for e in seen] == [
        ("PAUSE", None),
        ("PAUSE", "send"),
        ("RESUME", None),
        ("DRAIN", None),
    ]
    assert {e["actor"] for e in seen} == {"tester"}


async def test_queue_counts_come_when_they_change(graph: Graph, maintained: Engine) -> None:
    query = 'subscription { queueCounts(names: ["q"], intervalMs: 200) { name counts { waiting total } } }'
    async with Reader(graph.stream(query)) as counts:
        assert await counts.next() == []
        await graph.enqueue(queue="q")
        await graph.enqueue(queue="not asked for")
        seen = await counts.next()
        while not seen or seen[0]["counts"]["waiting"] != 1:
            seen = await counts.next()
        assert seen == [{"name": "q", "counts": {"waiting": 1, "total": 1}}]
    results = await graph.schema.subscribe(query.replace("200", "10"), context_value=graph.context)
    async with aclosing(results) as stream:
        first = await anext(stream)
    assert first.errors[0].original_error.field == "intervalMs"


async def test_dead_letters_come_as_they_are_made_and_replayed(graph: Graph, engine: Engine) -> None:
    query = """subscription { deadLetters { __typename ... on DeadLetterEvent { type deadLetterId jobId
      deadLetter { id replayJobIds } } } }"""
    async with Reader(graph.stream(query)) as events:
        await ready(graph, 1)
        job = await graph.enqueue()
        id = await fail_for_good(engine, graph, job)
        made = await events.next()
        assert (made["type"], made["deadLetterId"], made["jobId"]) == ("BURY", id, job)
        new = await graph("mutation($id: ID!) { replayDeadLetter(id: $id) { ... on Job { id } } }", id=id)
        replayed = await events.next()
        assert (replayed["type"], replayed["jobId"]) == ("REPLAY", new["id"])
        assert replayed["deadLetter"] == {"id": id, "replayJobIds": [new["id"]]}


async def test_workers_come_and_go(graph: Graph, engine: Engine) -> None:
    async with Reader(graph.stream("subscription { workers { id state } }")) as workers:
        assert await workers.next() == []
        id = await worker(engine)
        assert await workers.next() == [{"id": id, "state": "LIVE"}]
        await engine.workers.drain(id)
        assert await workers.next() == [{"id": id, "state": "DRAINING"}]
        await engine.workers.retire(id)
        assert await workers.next() == []


async def test_a_bulk_operation_is_followed_to_its_end(graph: Graph) -> None:
    for i in range(30):
        await graph.enqueue(f"n{i}")
    started = await graph("mutation { cancelJobs(filter: {}) { ... on BulkOperation { id } } }")
    query = "subscription($id: ID!) { bulkOperation(id: $id) { done changed finishedAt } }"
    seen = [operation async for operation in graph.stream(query, id=started["id"])]
    assert seen[-1]["done"] and seen[-1]["changed"] == 30 and seen[-1]["finishedAt"] is not None
    assert [operation async for operation in graph.stream(query, id="bulk_none")] == [None]
