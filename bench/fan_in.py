"""What does a child cost a flow, when the parent has a hundred of them, and when it has a thousand?"""

from __future__ import annotations

import time

from bench.running import CALLER, database
from switchtower.flows import node
from switchtower.jobs import NewJob
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo

__all__ = ["fan_in_cost"]

BATCH = 50


async def fan_in_cost(url: str, children: int, *, flows: int) -> float:
    """Microseconds a child, from the first claim to the moment at which the parent can run: `flows` flows of one parent
    with so many children, one after the other, each child completed in a batch of fifty and its parent told at once."""
    async with database(url) as engine:
        await engine.workers.register(WorkerInfo(id="bench", queues=["default", "roots"]))
        passed = 0.0
        for _ in range(flows):
            root = node(NewJob(name="root", queue="roots"), *(NewJob(name="leaf") for _ in range(children)))
            flow = await engine.flows.enqueue(root, caller=CALLER)
            began = time.perf_counter()
            while claimed := await engine.claims.claim("bench", ["default"], limit=BATCH):
                await engine.claims.report([Outcome(job.id, job.token, OutcomeKind.COMPLETE) for job in claimed])
                while await engine.effects.relay():
                    pass
            passed += time.perf_counter() - began
            done = await engine.jobs.get(flow.id, caller=CALLER)
            assert done is not None and done.state == "waiting", "the parent was not freed"
    return passed / (children * flows) * 1e6
