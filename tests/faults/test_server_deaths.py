"""F3 and F24: servers are killed in the middle of mutations, whose callers repeat them under the same keys."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER
from tests.faults.oracle import Ledger, drained, verify
from tests.faults.processes import Nursery, Servers
from tests.nightly.counting import count
from tests.waiting import until

CALLERS = 64
KILLS = {"ci": 2, "full": 40}
ONES = {"ci": 100, "full": 500}
MANIES = {"ci": 10, "full": 500}
FLOWS = {"ci": 16, "full": 500}
MANY = 100
NODES = 20
REPLAYS = 50
STORMS = {"ci": 4, "full": 40}

JOB = "... on Job { id deduplication } ... on Error { code message }"
ENQUEUE_JOB = f"mutation($input: EnqueueJobInput!) {{ enqueueJob(input: $input) {{ {JOB} }} }}"
ENQUEUE_JOBS = f"mutation($inputs: [EnqueueJobInput!]!) {{ enqueueJobs(inputs: $inputs) {{ items {{ {JOB} }} }} }}"
ENQUEUE_FLOW = """mutation($input: EnqueueFlowInput!) {
  enqueueFlow(input: $input) { ... on Flow { id total } ... on Error { code message } } }"""
REPLAY = f"mutation($id: ID!, $key: String) {{ replayDeadLetter(id: $id, idempotencyKey: $key) {{ {JOB} }} }}"


class Callers:
    """Send each request to whatever server there is, again and again until it is answered."""

    def __init__(self, servers: Servers, http: httpx2.AsyncClient) -> None:
        self._servers = servers
        self._http = http
        self._turns = asyncio.Semaphore(CALLERS)
        self.server = servers.start()
        self.answered = 0
        self.broken = 0

    async def ask(self, query: str, **variables: Any) -> Any:
        """The only field of the answer's data."""
        async with self._turns:
            deadline = time.monotonic() + 120
            while True:
                assert time.monotonic() < deadline, f"no answer for two minutes: {self.server.said[-2_000:]}"
                url = self.server.url
                if url is not None:
                    try:
                        answer = await self._http.post(f"{url}/graphql", json={"query": query, "variables": variables})
                    except httpx2.TransportError:
                        self.broken += 1
                    else:
                        if answer.status_code != 503:
                            body = answer.json()
                            assert answer.status_code == 200 and "errors" not in body, body
                            self.answered += 1
                            (value,) = body["data"].values()
                            return value
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kills the server; another comes at once."""
        victim, self.server = self.server, self._servers.start()
        victim.kill()


@pytest.fixture
async def callers(
    engine: Engine, tmp_path: Path, mongodb_url: str, database_name: str, quick_ends: None
) -> AsyncIterator[Callers]:
    with Servers(tmp_path, mongodb_url, database_name) as servers:
        async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=CALLERS)) as http:
            made = Callers(servers, http)
            await until(lambda: made.server.url, timeout_seconds=60)
            yield made
            assert made.server.alive
            for server in servers.forked:
                assert '"level": "error"' not in server.said, server.said[-3_000:]


@pytest.fixture
def quick_ends(view: Database[dict[str, Any]]) -> Iterator[None]:
    """A dead server's transactions are ended after seconds, not after the server's minute."""
    name = "transactionLifetimeLimitSeconds"
    admin = view.client.admin
    before = admin.command({"getParameter": 1, name: 1})[name]
    admin.command({"setParameter": 1, name: 3})
    yield
    admin.command({"setParameter": 1, name: before})


def many(n: int) -> list[dict[str, Any]]:
    return [{"name": "work", "idempotencyKey": f"many {n} {i}"} for i in range(MANY)]


def flow(n: int) -> dict[str, Any]:
    """A root, three below it, sixteen below those."""
    leaves: list[dict[str, Any]] = [{"job": {"name": "work"}} for _ in range(NODES - 4)]
    branches = [{"job": {"name": "work"}, "children": leaves[i::3]} for i in range(3)]
    return {"root": {"job": {"name": "work"}, "children": branches}, "idempotencyKey": f"flow {n}"}


@asynccontextmanager
async def watched_for_half_flows(view: Database[dict[str, Any]]) -> AsyncIterator[None]:
    """Looks at one moment of the database after the other while the block runs: each flow is there whole."""
    sizes = [
        {"$match": {"flow_id": {"$exists": True}}},
        {"$group": {"_id": "$flow_id", "n": {"$sum": 1}}},
        {"$match": {"n": {"$ne": NODES}}},
    ]
    looks = 0

    def halves() -> list[dict[str, Any]]:
        with view.client.start_session(snapshot=True) as session:
            return list(view["jobs"].aggregate(sizes, session=session))

    async def watch() -> None:
        nonlocal looks
        while True:
            assert await asyncio.to_thread(halves) == []
            looks += 1
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    (ended,) = await asyncio.gather(watching, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
    assert looks > 0


@pytest.mark.slow
@pytest.mark.timeout(3_600)
async def test_killed_servers_make_each_key_one_job_and_each_flow_whole(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, callers: Callers, scale: str
) -> None:
    dice = random.Random(3)
    ones, manies, flows = ONES[scale], MANIES[scale], FLOWS[scale]
    requests = [
        *((ENQUEUE_JOB, {"input": {"name": "work", "idempotencyKey": f"one {n}"}}) for n in range(ones)),
        *((ENQUEUE_JOBS, {"inputs": many(n)}) for n in range(manies)),
        *((ENQUEUE_FLOW, {"input": flow(n)}) for n in range(flows)),
    ]
    dice.shuffle(requests)
    nursery.start(concurrency=20, lease_seconds=60)
    async with watched_for_half_flows(view):
        asking = [asyncio.create_task(callers.ask(query, **variables)) for query, variables in requests]
        for kill in range(1, KILLS[scale] + 1):
            due = len(requests) * kill // (KILLS[scale] + 2)
            await until(lambda due=due: callers.answered >= due, timeout_seconds=120)
            await asyncio.sleep(dice.uniform(0, 0.02))
            callers.kill()
        answers = await asyncio.gather(*asking)
        await drained(engine, timeout_seconds=120)
    assert callers.broken >= KILLS[scale], "the kills hit no request: nothing is proved"

    assert view["jobs"].count_documents({}) == ones + manies * MANY + flows * NODES
    acknowledged = {id for answer in answers for id in ids_of(answer)}
    assert len(acknowledged) == ones + manies * MANY + flows
    ledger = Ledger(nursery.ledger).read()
    states = verify(view, acknowledged, ledger=ledger)
    assert states == {"completed": ones + manies * MANY + flows * NODES}
    every_flow_ran_from_below(view, ledger)
    # Whoever asks once more is told of the same jobs.
    repeated = await asyncio.gather(*(callers.ask(query, **variables) for query, variables in requests))
    assert [ids_of(answer) for answer in repeated] == [ids_of(answer) for answer in answers]
    count("F3", "servers killed", KILLS[scale])
    count("F3", "requests repeated", len(requests))
    assert view["jobs"].count_documents({}) == ones + manies * MANY + flows * NODES


def ids_of(answer: dict[str, Any]) -> list[str]:
    items = answer.get("items", [answer])
    assert all("id" in item for item in items), items
    assert answer.get("total", NODES) == NODES
    return [item["id"] for item in items]


def every_flow_ran_from_below(view: Database[dict[str, Any]], ledger: Ledger) -> None:
    """No job of a flow began before all that it waits for had ended."""
    begins = {id: min(note.at for note in notes) for id, notes in ledger.of("begin").items()}
    ends = {id: min(note.at for note in notes) for id, notes in ledger.of("effect").items()}
    links = [(row["parent_id"], row["_id"]) for row in view["jobs"].find({"parent_id": {"$exists": True}})]
    assert links
    assert [(parent, child) for parent, child in links if begins[parent] < ends[child]] == []


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
async def test_a_storm_of_replays_makes_one_job_of_a_key(
    engine: Engine, view: Database[dict[str, Any]], callers: Callers, scale: str
) -> None:
    dice = random.Random(24)
    for storm in range(STORMS[scale]):
        letter = await dead_letter(engine, view)
        answered = callers.answered
        asking = [asyncio.create_task(callers.ask(REPLAY, id=letter, key=f"storm {storm}")) for _ in range(REPLAYS)]
        due = answered + dice.randrange(REPLAYS // 2)
        await until(lambda due=due: callers.answered >= due, timeout_seconds=120)
        callers.kill()
        answers = await asyncio.gather(*asking)
        made = {id for answer in answers for id in ids_of(answer)}
        assert len(made) == 1, f"one key made {len(made)} jobs"
        assert view["jobs"].count_documents({"idempotency_key": f"storm {storm}"}) == 1
        (row,) = view["dead_letters"].find({"_id": letter})
        assert row["replay_job_ids"] == list(made)
    assert callers.broken > 0, "the kills hit no request: nothing is proved"
    # Without a key every request is one of its own.
    before = view["jobs"].count_documents({})
    answers = await asyncio.gather(*(callers.ask(REPLAY, id=letter) for _ in range(5)))
    assert len({id for answer in answers for id in ids_of(answer)}) == 5
    assert view["jobs"].count_documents({}) == before + 5
    count("F24", "replays in storms", REPLAYS * STORMS[scale])


async def dead_letter(engine: Engine, view: Database[dict[str, Any]]) -> str:
    """The id of the dead letter of a job that has just failed."""
    queue = f"failing {view['dead_letters'].count_documents({})}"
    job = (await engine.jobs.enqueue(NewJob(name="work", queue=queue, max_attempts=1), caller=CALLER)).job
    await engine.workers.register(WorkerInfo(id=f"w {queue}", queues=[queue], lease_seconds=600))
    (claimed,) = await engine.claims.claim(f"w {queue}", [queue])
    await engine.claims.start([claimed])
    error = JobError(ErrorKind.EXCEPTION, "ValueError", "no")
    await engine.claims.report_one(Outcome(job.id, claimed.token, OutcomeKind.FAIL, error=error))
    row = await until(lambda: view["dead_letters"].find_one({"job_id": job.id}), timeout_seconds=120)
    return str(row["_id"])
