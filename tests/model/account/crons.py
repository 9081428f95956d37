"""Which slots of a cron make a job, and which do not?

Time is the account's own: hours behind `BASE_MS`, which the engine's schedulers are told too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from tests.model.account.entries import BASE_MS, OPEN, ModelCron, ModelJob, Refused, Violation
from tests.model.account.operators import Operating


class Scheduling(Operating):
    """Crons: one job for each slot, whoever schedules."""

    now_ms: int = BASE_MS

    def cron(self, id: str) -> ModelCron:
        if id not in self.crons:
            raise Refused("NotFound")
        return self.crons[id]

    def create_cron(self, new: ModelCron) -> None:
        """The same definition again is the same cron."""
        for there in self.crons.values():
            if there.name == new.name:
                if _definition(there) != _definition(new):
                    raise Refused("Conflict")
                if there.id != new.id:
                    raise Violation(f"cron {new.name} was made twice: {there.id}, {new.id}")
                return
        new.next_ms = new.following(self.now_ms)
        self.crons[new.id] = new

    def change_cron(self, id: str, **changes: Any) -> None:
        """Its next slot follows from now on; what passed is not made up for."""
        cron = self.cron(id)
        if all(getattr(cron, name) == value for name, value in changes.items()):
            return
        for name, value in changes.items():
            setattr(cron, name, value)
        cron.next_ms = cron.following(self.now_ms) if cron.enabled else None

    def tick(self, made: Mapping[str, str]) -> int:
        """Every slot that has come; `made` are the jobs that are there by their custom ids. Returns: how many slots."""
        dealt = 0
        for cron in sorted(self.crons.values(), key=lambda cron: cron.next_ms or 0):
            if not cron.enabled or cron.next_ms is None or cron.next_ms > self.now_ms:
                continue
            slots = cron.come(self.now_ms)
            cron.fired += len(slots)
            cron.next_ms = cron.following(self.now_ms)
            for slot in slots:
                job = self._fire(cron, slot, made)
                cron.fires.append((slot, job))
                if job is None:
                    cron.fired -= 1
                else:
                    cron.last_job = job
            if slots and cron.next_ms is None:
                # A slot that was skipped does not count: there may be one more.
                cron.next_ms = cron.following(slots[-1])
            dealt += len(slots)
        return dealt

    def _fire(self, cron: ModelCron, slot: int, made: Mapping[str, str]) -> str | None:
        before = self.jobs.get(cron.last_job or "")
        if before is not None and cron.overlap == "replace":
            with contextlib.suppress(Refused):
                self.cancel(before.id)
        if before is not None and cron.overlap == "skip" and before.state in OPEN:
            return None
        key = cron.unique_key
        if key is not None and any(job.hold and job.unique_key == key for job in self.jobs.values()):
            return None
        custom_id = f"{cron.id}@{slot}"
        if custom_id not in made or made[custom_id] in self.jobs:
            raise Violation(f"slot {custom_id} made no job of its own: {made.get(custom_id)}")
        job = ModelJob(
            id=made[custom_id],
            queue=cron.queue,
            name="a",
            state="waiting",
            max_attempts=2,
            unique_key=cron.unique_key,
            hold=cron.unique_key is not None,
            custom_id=custom_id,
            cron=cron.id,
        )
        self.jobs[job.id] = job
        return job.id

    def expected_cron(self, cron: ModelCron) -> dict[str, Any]:
        """What a cron's document must say once nothing is owed."""
        return {
            "enabled": cron.enabled,
            "next_at": cron.next_ms,
            "due": [],
            "fired": cron.fired,
            "fires": cron.fires[-50:],
            "last_job_id": cron.last_job,
        }


def _definition(cron: ModelCron) -> tuple[Any, ...]:
    return (cron.queue, cron.overlap, cron.catch_up, cron.limit, cron.ends_ms, cron.unique_key)
