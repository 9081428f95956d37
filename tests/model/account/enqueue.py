"""What comes of an enqueue?"""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.account.entries import FINAL, OPEN, ModelJob, Refused, Violation
from tests.model.account.ledger import Ledger


class Enqueuing(Ledger):
    """Keys, parents and dependencies of a new job."""

    def holders(self, new: ModelJob) -> set[str]:
        """The jobs that an enqueue of `new` may be answered with instead of making one."""
        found = set()
        for job in self.jobs.values():
            same_unique = new.unique_key is not None and job.hold and job.unique_key == new.unique_key
            same_idempotency = new.idempotency_key is not None and job.idempotency_key == new.idempotency_key
            same_custom = new.custom_id is not None and (job.custom_id, job.queue) == (new.custom_id, new.queue)
            if same_unique or same_idempotency or same_custom:
                found.add(job.id)
        return found

    def enqueue(
        self, new: ModelJob, *, depends_on: Iterable[str], answered: str | None, lease: str | None = None
    ) -> None:
        """`answered` is the id that the caller got (None: an error); `new.id` is ignored."""
        holders = self.holders(new)
        if new.dedup and self._replace(new, holders, answered):
            return
        if holders:
            if answered not in holders:
                raise Violation(f"{answered} was answered although {holders} hold its key")
            return
        awaited = {self.visible(id).id for id in depends_on}
        parent = None
        if new.parent is not None:
            parent = self.visible(new.parent)
            if parent.id in self._waits_for(awaited):
                raise Refused("InvalidInput")
            if lease is not None and parent.token != lease:
                raise Refused("LeaseLost")
            if parent.state in FINAL:
                raise Refused("InvalidTransition")
        if answered is None:
            raise Violation("an enqueue that nothing forbids was refused")
        if answered in self.jobs or answered in self.deleted:
            raise Violation(f"the enqueue was answered with {answered}, which does not hold its key")
        new.id = answered
        new.hold = new.unique_key is not None
        new.depends_on = tuple(sorted(awaited))
        self.jobs[new.id] = new
        if parent is not None:
            self._block(parent, new)
        if awaited:
            new.state = "blocked"
            new.pending = set(awaited)
            for id in sorted(awaited):
                if self.jobs[id].state in OPEN:
                    self.jobs[id].awaited = True
            for job in [self.jobs[id] for id in sorted(awaited) if self.jobs[id].state not in OPEN]:
                if job.outbox:
                    self.relay(job.id)
                else:
                    self._settle([job])
        else:
            new.state = "waiting" if new.due else "scheduled"

    def _replace(self, new: ModelJob, holders: set[str], answered: str | None) -> bool:
        """Takes the key from who has no right to it any more; replaces, where that is asked for, the job that waits for
        its time under it."""
        for job in [self.jobs[id] for id in holders]:
            if job.idempotency_key is not None and job.idempotency_key == new.idempotency_key:
                continue
            if job.lapsed:
                holders.remove(job.id)
                job.hold = False
                continue
            if not (new.dedup == "debounce" or new.replaces) or job.state != "scheduled" or job.last_report:
                continue
            if answered != job.id:
                raise Violation(f"{answered} was answered although {job.id} waits under its key")
            job.name, job.priority, job.max_attempts = new.name, new.priority, new.max_attempts
            job.ttl, job.over, job.due = new.ttl, False, new.due
            job.state = "waiting" if new.due else "scheduled"
            return True
        return False

    def _waits_for(self, ids: set[str]) -> set[str]:
        """These jobs and everything that they wait for."""
        found = set(ids)
        while more := {id for job in found & self.jobs.keys() for id in self.jobs[job].pending} - found:
            found |= more
        return found

    def _block(self, parent: ModelJob, child: ModelJob) -> None:
        if parent.state != "active":
            parent.state = "blocked"
            parent.parked = None
        parent.pending.add(child.id)
        if parent.flow is None:
            parent.flow, parent.flow_root = parent.id, True
        child.flow = parent.flow
