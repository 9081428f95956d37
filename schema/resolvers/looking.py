"""Which jobs have something that no index and no database expression knows?

Jobs are read newest first (or oldest first) and compared one by one, for a bounded time: who looks learns whether all
of them were seen.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import check_filter, check_offset
from schema.resolvers.export import Sizes
from switchtower.access import Scope
from switchtower.engine import JobOrder
from switchtower.jobs import Job, JobFilter

__all__ = ["Seen", "look_through"]

SECONDS = 1.2
PAGE_BYTES = 256 * 1024
"""About what is compared before others get their turn."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One page of what was found: its jobs, its number (from 1), how many were found in all, how many jobs were looked
    at, and whether those are all."""

    jobs: list[Job]
    page: int
    total: int
    scanned: int
    exhaustive: bool


@needs(Scope.READ)
async def look_through(
    context: Context,
    filter: JobFilter,
    wanted: Callable[[Job], bool],
    *,
    order: JobOrder,
    page: int,
    size: int,
    with_: frozenset[str] | None = None,
    to_the_end: bool = True,
    seconds: float = SECONDS,
) -> Seen:
    """A page of the jobs that match the filter and are wanted; a page behind the last one means the last one.

    It looks for about so many `seconds`. Unless it goes `to_the_end`, it stops where the page is full: `total` is then
    what was found until there.

    Raises:
        InvalidInput: a filter or a page out of bounds.
    """
    check_filter(filter)
    check_offset((page - 1) * size, size)
    shown: list[Job] = []
    last: deque[Job] = deque(maxlen=size)
    total = scanned = 0
    sizes, after, began = Sizes(PAGE_BYTES), None, time.monotonic()
    while True:
        found = await context.engine.jobs.page(
            filter, caller=context.caller, order=order, first=sizes.page, after=after, with_=with_
        )
        for job in found.items:
            if wanted(job):
                if (page - 1) * size <= total < page * size:
                    shown.append(job)
                last.append(job)
                total += 1
        scanned += len(found.items)
        full = total >= page * size and not to_the_end
        if full or not found.has_next or time.monotonic() - began > seconds:
            break
        after = found.cursors[-1]
        weight = sum(len(orjson.dumps([job.payload, job.result], default=str)) + 1_000 for job in found.items)
        sizes.observe(len(found.items), weight)
        await asyncio.sleep(0)
    pages = max(1, -(-total // size))
    if page > pages:
        page, shown = pages, list(last)[-(total - (pages - 1) * size) :] if total else []
    return Seen(shown, page, total, scanned, not found.has_next)
