"""Why is this job not running?"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from switchtower.jobs import Job
from switchtower.states import FINAL, JobState
from switchtower.store import queues as queue_commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import claimable
from switchtower.store.indexes import HOT

__all__ = ["Blockage", "BlockageKind", "Blockages"]


class BlockageKind(StrEnum):
    """What keeps a job from running."""

    FINISHED = "finished"
    RUNNING = "running"
    DELAYED = "delayed"
    BACKING_OFF = "backing_off"
    WAITS_FOR_JOBS = "waits_for_jobs"
    QUEUE_PAUSED = "queue_paused"
    NAME_PAUSED = "name_paused"
    NO_WORKER = "no_worker"
    NO_HANDLER = "no_handler"
    JOBS_AHEAD = "jobs_ahead"


@dataclass(frozen=True, slots=True)
class Blockage:
    """One cause: in words, until when (where that is known), and the mutation that would help."""

    kind: BlockageKind
    message: str
    until: datetime | None = None
    mutation: str | None = None


@translate_errors
class Blockages:
    """Explains, from the job and from what surrounds it now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, job: Job) -> list[Blockage]:
        """Every cause that holds the job back now; empty when it is about to run."""
        if job.state in FINAL:
            return [Blockage(BlockageKind.FINISHED, f"It is {job.state}; retry it to run it again.", None, "retryJob")]
        if job.state is JobState.ACTIVE:
            return [Blockage(BlockageKind.RUNNING, f"It is running on worker {job.worker_id}.", None, "cancelJob")]
        causes = []
        if job.state is JobState.BLOCKED:
            shown = ", ".join(job.pending[:5]) + (f" and {len(job.pending) - 5} more" if len(job.pending) > 5 else "")
            causes.append(Blockage(BlockageKind.WAITS_FOR_JOBS, f"It waits for {len(job.pending)} job(s): {shown}."))
        elif job.state is JobState.SCHEDULED:
            causes.append(
                Blockage(BlockageKind.DELAYED, f"It is due at {_shown(job.run_at)}.", job.run_at, "promoteJob")
            )
        elif job.state is JobState.RETRYING:
            causes.append(
                Blockage(
                    BlockageKind.BACKING_OFF,
                    f"Attempt {job.attempt} of {job.max_attempts} failed; the next is due at {_shown(job.run_at)}.",
                    job.run_at,
                    "promoteJob",
                )
            )
        causes += await self._queue(job)
        causes += await self._workers(job)
        if not causes and job.state is JobState.WAITING:
            causes += await self._ahead(job)
        return causes

    async def _queue(self, job: Job) -> list[Blockage]:
        controls = (await queue_commands.controls(self._store, [job.queue]))[job.queue]
        causes = []
        if controls.paused:
            causes.append(Blockage(BlockageKind.QUEUE_PAUSED, f"Queue {job.queue!r} is paused.", None, "resumeQueue"))
        if job.name in controls.paused_names:
            message = f"Jobs named {job.name!r} are paused in queue {job.queue!r}."
            causes.append(Blockage(BlockageKind.NAME_PAUSED, message, None, "resumeQueue"))
        return causes

    async def _workers(self, job: Job) -> list[Blockage]:
        rows = await self._store.workers.find(
            {"state": {"$in": ["live", "draining"]}}, {"queues": 1, "names": 1}
        ).to_list(1_000)
        here = [row for row in rows if job.queue in row["queues"]]
        if not here:
            others = sorted({queue for row in rows for queue in row["queues"]})
            serve = f" Live workers serve: {', '.join(others[:5])}." if others else " No worker is live at all."
            message = f"No live worker serves queue {job.queue!r}.{serve} Start one for it."
            return [Blockage(BlockageKind.NO_WORKER, message)]
        names = {name for row in here for name in row["names"]}
        if all(row["names"] for row in here) and job.name not in names:
            near = difflib.get_close_matches(job.name, names, 1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            same = {"queue": job.queue, "name": job.name, "state": "waiting"}
            waiting = await self._store.jobs.count_documents(same, limit=10_000)
            message = f"No worker has the handler {job.name!r}{guess}; {waiting} job(s) wait for it."
            return [Blockage(BlockageKind.NO_HANDLER, message)]
        return []

    async def _ahead(self, job: Job) -> list[Blockage]:
        row = await self._store.jobs.find_one({"_id": job.id}, {"rank": 1, "order": 1, "seq": 1})
        if row is None:
            return []
        before = {
            "$or": [
                {"rank": {"$lt": row["rank"]}},
                {"rank": row["rank"], "order": {"$lt": row["order"]}},
                {"rank": row["rank"], "order": row["order"], "seq": {"$lt": row["seq"]}},
            ]
        }
        ahead = await self._store.jobs.count_documents({**claimable(job.queue), **before}, limit=10_000, hint=HOT)
        if not ahead:
            return []
        count = "10,000 or more" if ahead >= 10_000 else str(ahead)
        return [Blockage(BlockageKind.JOBS_AHEAD, f"{count} job(s) of its queue go first.", None, "updateJob")]


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
