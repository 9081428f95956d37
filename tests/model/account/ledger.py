"""What does the account hold, and what follows in one job when another ends?"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from tests.model.account.entries import Lane, ModelCron, ModelEvent, ModelJob, ModelLetter, ModelWorker, Refused

L = TypeVar("L", bound="Ledger")


class Ledger:
    """Jobs, workers, queue controls, dead letters, crons and events."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.paused: set[str] = set()
        self.paused_names: set[tuple[str, str]] = set()
        self.limits: dict[str, int] = {}
        """How many jobs of a queue may run at once."""
        self.paused_groups: set[tuple[str, str]] = set()
        self.group_limits: dict[str, int] = {}
        """How many jobs of each group of a queue may run at once."""
        self.passed_over: dict[Lane, set[Lane]] = {}
        """Lanes that waited at the last claim, each with those that were served since it was; the lane of a whole
        tenant has no group's name."""
        self.letters: dict[tuple[str, int], ModelLetter] = {}
        self.deleted: set[str] = set()
        self.crons: dict[str, ModelCron] = {}
        self.events: dict[str, ModelEvent] = {}

    def copy(self: L) -> L:
        return copy.deepcopy(self)

    def visible(self, id: str) -> ModelJob:
        job = self.jobs.get(id)
        if job is None or job.state == "removed":
            raise Refused("NotFound")
        return job

    @staticmethod
    def _take_out(job: ModelJob, ids: set[str]) -> None:
        if not job.pending & ids:
            return
        job.pending -= ids
        if job.state == "blocked" and not job.pending:
            job.state = "waiting" if job.due else "scheduled"

    def _settle(self, ended: Iterable[ModelJob]) -> None:
        ended = list(ended)
        done = {job.id for job in ended if job.ended == "completed"}
        for waiting in self.jobs.values():
            self._take_out(waiting, done)
        for job in ended:
            if job.id in done:
                continue
            self._settle_other_end(job, [waiting for waiting in self.jobs.values() if job.id in waiting.pending])

    def _settle_other_end(self, job: ModelJob, waiting: list[ModelJob]) -> None:
        """Tells those who wait for a job that it did not complete; each does what its policy says."""
        discarded = False
        for one in waiting:
            if one.state == "blocked" and one.cancelling and job.cancelling and job.state == "cancelled":
                one.finish("cancelled")
            elif one.on_child_failure in ("ignore", "remove"):
                discarded |= one.on_child_failure == "remove"
                self._take_out(one, {job.id})
            elif one.state == "blocked":
                one.finish("failed")
            one.pending.discard(job.id)
        if discarded and job.state in ("failed", "cancelled"):
            job.discard()
            job.hold = job.hold and job.outlived

    def relay(self, id: str | None = None) -> None:
        """Carries out every declared effect (of one job: that job's only, once)."""
        while True:
            ready = [job for job in self.jobs.values() if job.outbox and id in (None, job.id)]
            # What leaves a dead letter comes first: it is told in the order of an index.
            ready.sort(key=lambda job: "dead_letter" not in job.outbox)
            if not ready:
                return
            for job in ready:
                if "dead_letter" in job.outbox:
                    key = (job.id, job.generation)
                    self.letters.setdefault(key, ModelLetter(*key, entry=copy.deepcopy(job)))
            told = [job for job in ready if "settle" in job.outbox]
            for job in ready:
                job.outbox = set()
            self._settle(told)
            if id is not None:
                return

    def expected(self, job: ModelJob) -> dict[str, Any]:
        """What a job's document must say."""
        return {
            "state": job.state,
            "queue": job.queue,
            "name": job.name,
            "generation": job.generation,
            "attempt": job.attempt,
            "claims": job.claims,
            "token": job.token,
            "worker_id": job.worker,
            "started": job.started,
            "cancel_requested": job.cancel_requested,
            "unique_hold": job.unique_key if job.hold else None,
            "pending": sorted(job.pending),
            "parked": job.parked,
            "outbox": sorted(job.outbox),
            "last_state": job.last_state,
            "rank": job.priority,
            "custom_id": job.custom_id,
            "flow_id": job.flow,
            "flow_root": job.flow_root,
            "cancelling": job.cancelling,
            "cron_id": job.cron,
            "org": job.org,
            "group": job.group,
            "lane": job.lane,
            "run": job.run,
            "steps": [step.row for step in job.steps],
            "awaiting": job.awaiting,
        }
