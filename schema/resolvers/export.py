"""How does a caller get all the jobs that a filter means, however many?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta

from schema.context import Context
from schema.resolvers.authority import needs
from schema.resolvers.bounds import check_filter
from switchtower.access import Scope
from switchtower.engine import JobOrder
from switchtower.jobs import Job, JobFilter

__all__ = ["jobs"]

FIRST_PAGE = 20
MAX_PAGE = 500


class Sizes:
    """How many jobs to read at once: few of large ones, so that a page is about `page_bytes`."""

    def __init__(self, page_bytes: int = 2**20) -> None:
        self.page = FIRST_PAGE
        self._page_bytes = page_bytes

    def observe(self, jobs: int, size: int) -> None:
        """Takes in how many bytes the jobs of a page were; the next is at most four times as many jobs."""
        fitting = self._page_bytes * jobs // max(size, 1)
        self.page = max(1, min(MAX_PAGE, 4 * self.page, fitting))


@needs(Scope.READ)
async def jobs(context: Context, filter: JobFilter, sizes: Sizes) -> AsyncGenerator[list[Job], None]:
    """Pages of the jobs that match and were there when this began, oldest first, with all that is kept of them.

    Nothing is held in the database between two pages: whoever stops reading leaves nothing behind there.

    Raises:
        InvalidInput: a filter out of bounds. StoreUnavailable: what was given so far is not all.
    """
    check_filter(filter)
    # Whoever enqueues may be a little ahead of this process in what they take for the database's time.
    begun = context.engine.clock.now() + timedelta(seconds=1)
    until = begun if filter.created_before is None else min(begun, filter.created_before)
    after: str | None = None
    while True:
        page = await context.engine.jobs.page(
            replace(filter, created_before=until),
            caller=context.caller,
            order=JobOrder.CREATED_ASC,
            first=sizes.page,
            after=after,
        )
        if page.items:
            yield page.items
            after = page.cursors[-1]
        if not page.has_next:
            return
