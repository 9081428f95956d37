"""Which job follows one that repeats?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from switchtower.clock import to_ms
from switchtower.dialects import Dialect
from switchtower.ids import JOB, settled_id
from switchtower.jobs import NewJob
from switchtower.repeats import Repeat
from switchtower.store import jobs as commands
from switchtower.store.collections import Store
from switchtower.store.documents import backoff_from, job_document

__all__ = ["continued", "follow"]

Document = dict[str, Any]

_KEPT = ("name", "queue", "payload", "priority", "max_attempts", "timeout_ms", "ttl_ms", "group", "tags", "lifo")
_FLAGS = ("remove_on_complete", "remove_on_fail")


async def follow(store: Store, jobs: Sequence[Document]) -> None:
    """Creates the jobs that follow these, as far as they completed and repeat; harmless to repeat.

    The new job's id is that of the run it follows: whoever relays an outbox a second time finds it there.
    """
    now_ms = store.clock.now_ms()
    found = [document for job in jobs if (document := continued(job, now_ms=now_ms)) is not None]
    if found:
        await commands.insert_many(store, found)


def continued(job: Mapping[str, Any], *, now_ms: int) -> Document | None:
    """The document of the job that follows one; None where none does."""
    completed = "completed" in (job["state"], job.get("last_state"))
    if not completed or "repeat" not in job:
        return None
    ended_at = job["finished_at"]
    following = Repeat(**job["repeat"]).following(ended_at)
    if following is None:
        return None
    due, left = following
    new = NewJob(
        **{field: job[field] for field in (*_KEPT, *_FLAGS) if field in job},
        run_at=due,
        backoff=backoff_from(job.get("backoff")),
        rank=job["rank"],
        dialect=Dialect(job["dialect"]) if "dialect" in job else None,
        opts=_opts(job, left),
        repeat=left,
    )
    id = settled_id(JOB, to_ms(ended_at), f"repeat {job['_id']} {job['generation']}")
    return job_document(new, id=id, org=job["org"], app=job.get("app", ""), actor="system", now_ms=now_ms, pending=[])


def _opts(job: Mapping[str, Any], left: Repeat) -> Mapping[str, Any] | None:
    opts = job.get("opts")
    if opts is None or left.limit is None:
        return opts
    return {**opts, "repeat": {**opts.get("repeat", {}), "limit": left.limit}}
