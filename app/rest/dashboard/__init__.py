"""Which pages has our dashboard besides those on AsyncMQ's map? Each module is a noun: what is shown, and done."""

from typing import Final

from app.rest.dashboard import bulk, crons, dead_letters, enqueue, flows, jobs, keys, queues, runs, search
from app.rest.dialect import Route

__all__ = ["PAGES"]

PAGES: Final[tuple[Route, ...]] = (
    *bulk.ROUTES,
    *jobs.ROUTES,
    *dead_letters.ROUTES,
    *crons.ROUTES,
    *flows.ROUTES,
    *runs.ROUTES,
    *queues.ROUTES,
    *search.ROUTES,
    *keys.ROUTES,
    *enqueue.ROUTES,
)
