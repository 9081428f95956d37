"""F28: a process is killed inside a transaction of ours, which the server keeps open for a minute and more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.engine.heartbeat import Heartbeat
from switchtower.jobs import NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.faults.conftest import CALLER
from tests.faults.processes import ROOT
from tests.nightly.counting import count

# Milliseconds each; who met the orphan's locks would wait for them until the client's own limit of five seconds.
LIMIT_SECONDS = 4.0

IN_A_TRANSACTION = """
import asyncio, os, sys
from switchtower.engine import Engine
from switchtower.store.driver import Database
from contextlib import asynccontextmanager

whole = Database.transaction

@asynccontextmanager
async def held_open(self):
    async with whole(self) as session:
        yield session
        # Every write is made and none is committed.
        print("inside", flush=True)
        await asyncio.Event().wait()

Database.transaction = held_open

async def main():
    engine = await Engine.connect(os.environ["URL"], database=os.environ["DATABASE"], role="server")
{body}

asyncio.run(main())
"""

BODIES = {
    "recount": """
    await engine.hub().start()
    await engine.upkeep.recount(reached=engine.hub().cursor)
""",
    "fold": """
    from switchtower.events import Event, Topic
    from switchtower.clock import from_ms
    seen, _ = await engine.upkeep.fold_position()
    made = {"queue": "default", "name": "work", "to_state": "waiting", "clock": 1}
    events = [Event(seen, Topic.JOB, "enqueue", "x", from_ms(1), **made)]
    await engine.upkeep.fold(events, reached=seen + "0", seen=seen)
""",
    "flow": """
    from switchtower.callers import SYSTEM
    from switchtower.flows import node
    from switchtower.jobs import NewJob
    await engine.flows.enqueue(node(NewJob(name="work"), *(NewJob(name="work") for _ in range(3))), caller=SYSTEM)
""",
}


async def timed(call: Awaitable[Any], waits: list[float]) -> Any:
    began = time.monotonic()
    answer = await call
    waits.append(time.monotonic() - began)
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("transaction", BODIES)
async def test_killed_inside_a_transaction_holds_nobody_up(
    engine: Engine, view: Database[dict[str, Any]], mongodb_url: str, database_name: str, transaction: str
) -> None:
    await engine.jobs.enqueue_many([NewJob(name="work") for _ in range(100)], caller=CALLER)
    await engine.hub().start()
    await engine.upkeep.recount(reached=engine.hub().cursor)
    await engine.workers.register(WorkerInfo(id="w", queues=["default"], lease_seconds=60))
    killed_inside(BODIES[transaction], mongodb_url, database_name)
    open_ones = view.client.admin.command("serverStatus")["transactions"]["currentOpen"]
    assert open_ones >= 1, "the server keeps no transaction open: nothing is proved"

    waits: list[float] = []
    heartbeat = Heartbeat(mongodb_url, database=database_name, worker_id="w", lease_seconds=60)
    for limit in (1, 20, 20, 1):
        jobs = await timed(engine.claims.claim("w", ["default"], limit=limit), waits)
        assert jobs, "the queue is blocked"
        assert await timed(engine.claims.start(jobs), waits) == set()
        began = time.monotonic()
        heartbeat.renew()
        waits.append(time.monotonic() - began)
        await timed(engine.claims.progress(jobs[0].id, jobs[0].token, 50), waits)
        ends = [Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in jobs]
        assert await timed(engine.claims.report(ends), waits) == set()
        answer = await timed(engine.jobs.enqueue(NewJob(name="work"), caller=CALLER), waits)
        await timed(engine.jobs.cancel(answer.job.id, caller=CALLER), waits)
        await timed(engine.upkeep.rescue(), waits)
        await timed(engine.upkeep.stage(), waits)
    heartbeat.close()
    assert max(waits) < LIMIT_SECONDS, waits
    assert view.client.admin.command("serverStatus")["transactions"]["currentOpen"] >= 1, "it did not last"
    view.client.admin.command("killAllSessions", [])
    count("F28", "orphan transactions", 1)


def killed_inside(body: str, url: str, database: str) -> None:
    environment = os.environ | {"URL": url, "DATABASE": database, "PYTHONPATH": str(Path(ROOT))}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", IN_A_TRANSACTION.replace("{body}", body)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
