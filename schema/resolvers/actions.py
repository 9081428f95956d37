"""What becomes of an action on one job when there is nothing left to do to it, or when it is none that we know?

A dashboard acts on what it showed a moment ago. A job that has gone, or moved on, since then is as its operator wanted
it: the action counts as done, and its row in the audit trail says that nothing changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from switchtower.access import Scope
from switchtower.errors import InvalidInput, InvalidTransition, NotFound, SwitchtowerError
from switchtower.jobs import Job, JobFilter
from switchtower.states import JobState

__all__ = ["VERBS", "act", "check", "refuse"]

MOST_NAMED: Final = 64


async def _retry(context: Context, id: str, action: str) -> Job:
    jobs = context.engine.jobs
    failed = frozenset({JobState.FAILED})
    return await jobs.retry(id, caller=context.caller, only=failed, keep_attempts=True, action=action)


async def _remove(context: Context, id: str, action: str) -> Job:
    return await context.engine.jobs.remove(id, caller=context.caller, force=True, action=action)


async def _cancel(context: Context, id: str, action: str) -> Job:
    return await context.engine.jobs.cancel(id, caller=context.caller, discard=True)


VERBS: Final[Mapping[str, Callable[[Context, str, str], Awaitable[Job]]]] = {
    "retry": _retry,
    "remove": _remove,
    "cancel": _cancel,
}
"""Retry: a failed job runs again, and the attempts that it has used stay used. Remove: whatever its state. Cancel: an
open job; what a running handler still returns is discarded."""


def check(verb: str) -> str:
    """The verb. Raises InvalidInput where there is none of that name."""
    if verb not in VERBS:
        raise InvalidInput("action", f"{verb[:MOST_NAMED]!r} is not known here; use {', '.join(VERBS)}.")
    return verb


@audited(lambda given: _name(given.get("noun", "job"), given["verb"]), job_id="id", queue="queue")
@needs(Scope.OPERATE)
async def act(context: Context, verb: str, id: str, *, queue: str, noun: str = "job") -> bool:
    """Retries, removes or cancels a job of a queue; answers with whether that changed anything.

    Raises:
        InvalidInput: no such verb. Conflict: another job holds its unique key.
    """
    check(verb)
    filter = JobFilter(ids=[id], queues=[queue])
    found = await context.engine.jobs.page(filter, caller=context.caller, first=1, with_=frozenset())
    name = _name(noun, verb)
    try:
        if not found.items:
            raise NotFound("Job", id)
        await VERBS[verb](context, found.items[0].id, name)
    except (NotFound, InvalidTransition) as error:
        audit = context.engine.audit
        details = {"unchanged": error.message}
        await audit.noted(name, caller=context.caller, queue=queue, job_id=id, details=details)
        return False
    return True


async def refuse(
    context: Context, action: str, error: SwitchtowerError, *, queue: str | None = None, job_id: str | None = None
) -> None:
    """Writes down a request for an action that was refused before any resolver was asked. Changes nothing else."""
    await context.engine.audit.refused(_cut(action), error, caller=context.caller, queue=queue, job_id=job_id)


def _name(noun: str, verb: str) -> str:
    return _cut(f"{noun}.{verb}")


def _cut(text: str) -> str:
    return text[:MOST_NAMED].encode("utf-8", "replace").decode()
