"""What do operators' verbs and maintenance's rounds do?"""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.account.entries import FINAL, OPEN, ModelJob, Refused
from tests.model.account.ledger import Ledger


class Operating(Ledger):
    """Verbs on one job, on a queue, and the rounds of maintenance."""

    def _refuse(self, job: ModelJob) -> Refused:
        """A verb that the state forbids changes nothing, but what the job had declared is carried out by then; where
        that removes it (a failed child whose parent discards it), it is not there any more."""
        if job.outbox:
            self.relay(job.id)
        self.visible(job.id)
        return Refused("InvalidTransition")

    def cancel(self, id: str) -> None:
        job = self.visible(id)
        if job.state in FINAL:
            raise self._refuse(job)
        if job.state == "active":
            job.cancel_requested = True
        else:
            job.finish("cancelled")

    def retry(self, id: str) -> None:
        job = self.jobs.get(id)
        if job is not None and job.outbox:
            self.relay(id)
        job = self.visible(id)
        if job.state not in FINAL | {"retrying", "scheduled"}:
            raise Refused("InvalidTransition")
        if job.state in FINAL:
            if self.wants_its_key(job):
                if any(other.hold and other.unique_key == job.unique_key for other in self.jobs.values()):
                    raise Refused("Conflict")
                job.hold = True
            job.generation += 1
            job.attempt = job.claims = 0
            job.start_over()
        job.state, job.due, job.over, job.cancelling = "waiting", True, False, False

    @staticmethod
    def wants_its_key(job: ModelJob) -> bool:
        """Whether a job that starts over must have its unique key back."""
        return job.unique_key is not None and not job.hold and job.dedup in (None, "simple")

    def promote(self, id: str) -> None:
        job = self.visible(id)
        if job.state not in ("scheduled", "retrying"):
            raise self._refuse(job)
        job.state, job.due = "waiting", True

    def remove(self, id: str, *, force: bool = False) -> None:
        job = self.jobs.get(id)
        if job is not None and job.outbox:
            self.relay(id)
        job = self.visible(id)
        if job.state == "active" and not force:
            raise Refused("InvalidTransition")
        last = job.state
        if last in FINAL:
            told = last != "completed" and (job.parent is not None or job.awaited)
            hold = job.hold
            job.unlease()
            job.pending.clear()
            job.outbox = {"settle"} if told else set()
            job.hold = hold and job.outlived
        else:
            job.finish("failed", dead_letter=False)
            job.outbox.discard("dead_letter")
        job.state, job.last_state = "removed", last
        job.custom_id = None

    def update(self, id: str, priority: int) -> None:
        job = self.visible(id)
        if job.state == "active":
            raise Refused("InvalidTransition")
        job.priority = priority

    def stage(self) -> None:
        for job in self.jobs.values():
            if job.state in ("scheduled", "retrying") and job.due:
                job.state = "waiting"

    def expire(self) -> None:
        for job in self.jobs.values():
            if job.over and job.state in OPEN - {"active"}:
                job.finish("failed")

    def let_go(self) -> None:
        """Keys whose time has passed are free."""
        for job in self.jobs.values():
            job.hold = job.hold and not job.hold_over

    def clear(self, queue: str, states: set[str]) -> int:
        """Drain and clean: removes every job of a queue in these states."""
        chosen = [job.id for job in self.jobs.values() if job.queue == queue and job.state in states]
        for id in chosen:
            self.remove(id)
        return len(chosen)

    def prune(self) -> None:
        """Tombstones that nothing refers to are deleted."""
        awaited = {id for job in self.jobs.values() for id in job.pending}
        for job in list(self.jobs.values()):
            kept = job.outbox or job.idempotency_key is not None or job.hold or job.id in awaited
            if job.state == "removed" and not kept:
                del self.jobs[job.id]
                self.deleted.add(job.id)

    def unpark(self, parked: str, queues: Iterable[str], names: Iterable[str] | None) -> None:
        for job in self.jobs.values():
            if job.parked == parked and job.queue in set(queues) and (names is None or job.name in set(names)):
                job.parked = None
