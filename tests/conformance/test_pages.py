"""Pages in any order: each job once, none left out, and nothing promised behind the last."""

from __future__ import annotations

from switchtower.engine import Engine, JobOrder
from switchtower.jobs import JobFilter
from tests.conformance.situations import CALLER, fresh, job_in


async def test_pages_have_every_job_once_and_end_with_the_last(engine: Engine) -> None:
    queue = fresh("queue")
    states = ("completed", "failed", "completed", "waiting", "waiting", "scheduled")
    made = {(await job_in(engine, state, queue=queue, priority=n % 2)).id for n, state in enumerate(states)}
    filter = JobFilter(queues=[queue])
    for order in JobOrder:
        for size in (1, 2, 3, 6, 7):
            seen: list[str] = []
            after, pages = None, 0
            while after is not None or not pages:
                page = await engine.jobs.page(filter, caller=CALLER, order=order, first=size, after=after)
                assert page.has_previous is (pages > 0), (order, size)
                seen += [job.id for job in page.items]
                after, pages = page.cursors[-1] if page.has_next else None, pages + 1
            assert (len(seen), set(seen), pages) == (len(made), made, -(-len(made) // size)), (order, size)
