"""The schema on a real engine and database, as one operator and as one tenant see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import strawberry
from pymongo import monitoring

from schema.build import build_schema
from schema.context import Context
from switchtower.callers import Caller
from switchtower.engine import Engine, bulk
from switchtower.maintenance import Maintenance
from switchtower.workers import WorkerInfo
from tests.waiting import until

READ_ONLY = ("find", "aggregate", "count", "getMore")


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent to the test's database while it listened.

    Others are none of its business: servers that other tests of the process share read their change streams meanwhile.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.listening = False
        self.database = ""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.listening and event.command_name in READ_ONLY and event.database_name == self.database:
            collection = event.command.get(event.command_name)
            self.names.append(f"{event.command_name} {collection}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    @contextmanager
    def counted(self) -> Iterator[list[str]]:
        self.names = []
        self.listening = True
        try:
            yield self.names
        finally:
            self.listening = False


COMMANDS = Commands()
monitoring.register(COMMANDS)


@pytest.fixture
def commands(database_name: str) -> Commands:
    COMMANDS.database = database_name
    return COMMANDS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation on many jobs is answered when it is done, also where that takes more than two seconds."""
    monkeypatch.setattr(bulk, "FIRST_ANSWER_SECONDS", 60.0)


@pytest.fixture(scope="session")
def schema() -> strawberry.Schema:
    return build_schema()


@pytest.fixture
async def engine(mongodb_url: str, database_name: str) -> AsyncIterator[Engine]:
    engine = await Engine.connect(mongodb_url, database=database_name, role="server")
    await engine.prepare()
    yield engine
    await engine.close()


@pytest.fixture
async def maintained(engine: Engine) -> AsyncIterator[Engine]:
    """The engine with maintenance running: due jobs are staged, counters folded, effects relayed."""
    stop = asyncio.Event()
    task = asyncio.create_task(Maintenance(engine).run(stop))
    yield engine
    stop.set()
    await task


class Graph:
    """Asks the schema as one caller."""

    def __init__(self, schema: strawberry.Schema, context: Context) -> None:
        self.schema = schema
        self.context = context

    def as_tenant(self, org: str) -> Graph:
        return Graph(self.schema, replace(self.context, caller=Caller(f"key of {org}", org), memo={}))

    async def raw(self, query: str, **variables: Any) -> Any:
        return await self.schema.execute(query, variables, context_value=self.context)

    async def __call__(self, query: str, **variables: Any) -> Any:
        """The data, or the only field of it; top-level errors fail the test."""
        answer = await self.raw(query, **variables)
        assert answer.errors is None, answer.errors
        values = list(answer.data.values())
        return values[0] if len(values) == 1 else answer.data

    async def refused(self, query: str, **variables: Any) -> Any:
        """The one top-level error of a request that must not succeed."""
        answer = await self.raw(query, **variables)
        assert answer.errors is not None and len(answer.errors) == 1, answer
        return answer.errors[0]

    async def stream(self, query: str, **variables: Any) -> Any:
        """A subscription's results: each the value of its only field."""
        results = await self.schema.subscribe(query, variables, context_value=self.context)
        async for result in results:
            assert result.errors is None, result.errors
            (value,) = result.data.values()
            yield value

    async def enqueue(self, name: str = "send", **options: Any) -> str:
        input = {"name": name, **options}
        job = await self(
            """mutation($input: EnqueueJobInput!) { enqueueJob(input: $input) {
                 ... on Job { id } ... on Error { message } } }""",
            input=input,
        )
        assert "id" in job, job
        return str(job["id"])


@pytest.fixture
def graph(schema: strawberry.Schema, engine: Engine) -> Graph:
    return Graph(schema, Context(engine=engine, caller=Caller("tester")))


async def worker(engine: Engine, id: str = "wkr_test", **info: Any) -> str:
    """A registered worker."""
    await engine.workers.register(WorkerInfo(**{"id": id, "queues": ["default"], **info}))
    return id


async def fail_for_good(engine: Engine, graph: Graph, id: str) -> str:
    """Runs a waiting job so that it leaves a dead letter; returns the dead letter's id."""
    claimed = await graph(
        """mutation { claimJobs(input: {queues: ["default"], workerId: "w", limit: 1}) {
             ... on ClaimedJobs { jobs { leaseToken job { id } } } } }"""
    )
    (leased,) = claimed["jobs"]
    assert leased["job"]["id"] == id
    failed = await graph(
        """mutation($id: ID!, $token: String!) { failJob(id: $id, leaseToken: $token,
             error: {type: "Boom", message: "no luck", retryable: false}) { ... on Job { state } } }""",
        id=id,
        token=leased["leaseToken"],
    )
    assert failed == {"state": "FAILED"}
    found = await until(lambda: graph("query($id: ID!) { job(id: $id) { deadLetter { id } } }", id=id))
    while found["deadLetter"] is None:
        await asyncio.sleep(0.01)
        found = await graph("query($id: ID!) { job(id: $id) { deadLetter { id } } }", id=id)
    return str(found["deadLetter"]["id"])
