"""What has this id?"""

from __future__ import annotations

from typing import Any

from schema.context import Context
from schema.resolvers import crons, dead_letters, jobs, workers, workflows
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.ids import CRON, DEAD_LETTER, JOB, RUN

__all__ = ["get"]


@needs(Scope.READ)
async def get(context: Context, id: str, *, with_: frozenset[str] | None = None) -> Any | None:
    """The job, dead letter, cron, workflow run or worker with this id; None where the caller can see none."""
    match id.partition("_")[0]:
        case str(prefix) if prefix == JOB:
            return await jobs.get(context, id, with_=with_)
        case str(prefix) if prefix == DEAD_LETTER:
            return await dead_letters.get(context, id)
        case str(prefix) if prefix == CRON:
            return await crons.get(context, id)
        case str(prefix) if prefix == RUN:
            return await workflows.get(context, id)
        case _:
            # A worker over GraphQL may have chosen its own id, in any form.
            return await workers.get(context, id)
