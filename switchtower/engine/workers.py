"""Who works here, and what happens to the jobs of a worker that is gone?"""

from __future__ import annotations

from collections.abc import Sequence

from switchtower.callers import Caller
from switchtower.engine.effects import Effects
from switchtower.errors import NotFound
from switchtower.jobs import ErrorKind, Job, JobError, fingerprint
from switchtower.store import leases, listing, transitions
from switchtower.store.collections import Store
from switchtower.store.documents import job_from
from switchtower.store.driver import translate_errors
from switchtower.store.guards import parked, within
from switchtower.workers import Worker, WorkerInfo, WorkerState

__all__ = ["CLAIM_ALLOWANCE", "Workers"]

CLAIM_ALLOWANCE = 5
"""How often a job may be claimed beyond its attempts without a start on record: it kills its hosts before that."""


_WorkerList = list[Worker]
_JobsByWorker = dict[str, list[Job]]


@translate_errors
class Workers:
    """The verbs on workers and their leases."""

    def __init__(self, store: Store, effects: Effects) -> None:
        self._store = store
        self._effects = effects

    async def register(self, info: WorkerInfo, *, anew: bool = False) -> Worker:
        """Makes a worker known with a fresh lease, and unparks the jobs that waited for one of its handlers.

        What a gone worker of this id still holds goes back first: once it is present again nobody would look for it.
        `anew` says that its process has just begun and holds nothing, whatever an earlier one left under the id.
        """
        await (self.bury_dead if anew else self.take_back)(info.id)
        worker = leases.worker_from(await leases.register(self._store, info))
        match: dict[str, object] = {**parked("no_handler"), "queue": {"$in": list(info.queues)}}
        if info.names:
            match["name"] = {"$in": list(info.names)}
        await self._store.jobs.update_many(match, transitions.unpark())
        return worker

    async def renew(self, worker_id: str, *, lease_seconds: float | None = None) -> Worker:
        """Extends a worker's lease by the database's clock.

        Raises: NotFound when it is unknown, lost or stopped: it must stop what it runs, and may register anew.
        """
        row = await leases.renew(self._store, worker_id, None if lease_seconds is None else int(lease_seconds * 1000))
        if row is None:
            raise NotFound("Worker", worker_id)
        return leases.worker_from(row)

    async def drain(self, worker_id: str) -> None:
        """Shows a worker as draining: it finishes what it has and takes nothing new."""
        await leases.finish(self._store, worker_id, WorkerState.DRAINING, sources=[WorkerState.LIVE.value])

    async def retire(self, worker_id: str) -> int:
        """Says goodbye: the worker is stopped, and what it still held goes back uncharged. Returns: how many jobs."""
        row = await leases.finish(self._store, worker_id, WorkerState.STOPPED)
        return 0 if row is None else await self.take_back(worker_id)

    async def bury_dead(self, worker_id: str) -> int:
        """Its process was seen to die: lost at once, lease or not. Returns: how many jobs went back."""
        await leases.finish(self._store, worker_id, WorkerState.LOST)
        return await self.take_back(worker_id)

    async def take_back(self, worker_id: str) -> int:
        """Rescues every job of a gone worker, each by the token it was seen with; only started ones are charged.

        Harmless to repeat and to run twice at once. Guard: the worker is gone after its tokens were seen: what one of
        the same name claims later carries others. Returns: how many jobs moved.
        """
        error = JobError(
            ErrorKind.WORKER_LOST,
            "WorkerLost",
            f"Worker {worker_id} died, froze or lost its connection while it ran this job.",
            None,
            fingerprint("WorkerLost", ""),
        )
        pipeline = transitions.rescue(error, claim_allowance=CLAIM_ALLOWANCE)
        moved = 0
        while True:
            rows = await self._store.jobs.find(
                {"worker_id": worker_id, "state": "active"}, {"token": 1}, limit=1_000
            ).to_list(None)
            worker = await self._store.workers.find_one({"_id": worker_id}, {"state": 1}) if rows else None
            if not rows or (worker is not None and worker["state"] not in leases.GONE):
                break
            by_token: dict[str, list[str]] = {}
            for row in rows:
                by_token.setdefault(row["token"], []).append(row["_id"])
            for token, ids in by_token.items():
                result = await self._store.jobs.update_many(
                    {"_id": {"$in": ids}, "state": "active", "worker_id": worker_id, "token": token}, pipeline
                )
                moved += result.modified_count
        self._effects.kick()
        return moved

    async def list(self, *, caller: Caller, include_gone: bool = False) -> _WorkerList:
        """The workers that are present (with `include_gone` also those of the last day), oldest first."""
        match: dict[str, object] = {} if include_gone else {"state": {"$in": leases.PRESENT}}
        match |= leases.visible_to(caller.reach)
        rows = await self._store.workers.find(match, sort=[("_id", 1)], limit=10_000).to_list(None)
        return [leases.worker_from(row) for row in rows]

    async def get_many(self, ids: Sequence[str]) -> dict[str, Worker]:
        """Workers by id."""
        rows = await self._store.workers.find({"_id": {"$in": [*ids]}}).to_list(None)
        return {row["_id"]: leases.worker_from(row) for row in rows}

    async def current_jobs(
        self, worker_ids: Sequence[str], *, caller: Caller, with_: frozenset[str] = frozenset()
    ) -> _JobsByWorker:
        """What each worker holds now, with the heavy fields that `with_` names, at most 1,000 jobs in all."""
        match = {"worker_id": {"$in": [*worker_ids]}, "state": "active", **within(caller.reach)}
        jobs: _JobsByWorker = {}
        async for row in self._store.jobs.find(match, listing.projection(with_), limit=1_000):
            jobs.setdefault(row["worker_id"], []).append(job_from(row))
        return jobs
