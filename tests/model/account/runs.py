"""What becomes of a run's steps, and who gets an event?"""

from __future__ import annotations

from typing import Any

from tests.model.account.entries import FINAL, ModelEvent, ModelJob, ModelStep, Refused
from tests.model.account.operators import Operating
from tests.model.account.workers import Working


class Running(Working, Operating):
    """Checkpoints under a lease, events that are consumed once, and runs that run again from a step on."""

    def resume(self, id: str, token: str) -> list[tuple[str, str, str, Any]]:
        job = self.held(id, token)
        if not job.run:
            if "#" not in job.name:
                raise Refused("InvalidInput")
            job.run, job.on_child_failure = True, "ignore"
        return [step.row for step in job.steps]

    def record(self, id: str, token: str, step: ModelStep, *, compensating: bool) -> None:
        job = self.held(id, token)
        job.steps = [*(one for one in job.steps if one.name != step.name), step]
        job.compensating = compensating

    def publish(self, event: ModelEvent) -> str:
        """The event that stands for this one: itself, or the first of its key."""
        for known in self.events.values():
            if event.key is not None and (known.key, known.org) == (event.key, event.org):
                return known.id
        self.events[event.id] = event
        return event.id

    def consume(self, id: str, token: str, step: ModelStep) -> tuple[str, Any] | None:
        """What this step gets: what it was given already, by whoever asked, unless that was recorded and replayed."""
        mark = f"{id}/{step.name}"
        had = [event for event in self.events.values() if event.consumed_by == mark and not event.spent]
        free = [event for event in self.events.values() if event.consumed_by is None and self._is_for(event, step)]
        if not had and not free:
            return None
        event = (had or sorted(free, key=lambda event: event.id))[0]
        try:
            self.held(id, token)
        except Refused:
            if not had:
                self.wake(event.id)
            raise
        event.consumed_by = mark
        return event.name, event.payload

    @staticmethod
    def _is_for(event: ModelEvent, step: ModelStep) -> bool:
        return event.org == "" and event.suits(step)

    def wake(self, event: str | None = None, *, job: str | None = None) -> int:
        """Runs that were put aside and wait for an event that is there go on: all, one, or those that want this one."""
        woken = 0
        free = [one for one in self.events.values() if one.consumed_by is None and event in (None, one.id)]
        for run in [one for one in self.jobs.values() if job in (None, one.id)]:
            waits = [step for step in run.steps if step.waits and not run.compensating]
            if run.state == "scheduled" and any(self._is_for(one, step) for one in free for step in waits):
                run.state, run.due = "waiting", True
                woken += 1
        return woken

    def replay_run(self, id: str, from_step: str) -> None:
        job = self._a_run(id)
        if job.state not in FINAL:
            raise Refused("InvalidTransition")
        names = [step.name for step in job.steps]
        if from_step not in names:
            raise Refused("InvalidInput")
        self.retry(id)
        kept = names[: names.index(from_step)]
        recorded = [f"{id}/{one.name}" for one in job.steps if one.name not in kept and one.was_given]
        for event in self.events.values():
            event.spent = event.spent or event.consumed_by in recorded
        job.steps = [step for step in job.steps if step.name in kept]

    def _a_run(self, id: str) -> ModelJob:
        job = self.visible(id)
        if not job.run:
            raise Refused("NotFound")
        return job

    def adopt(self, id: str, child: ModelJob) -> None:
        """A child whose id the run has recorded."""
        run = self.jobs[id]
        run.pending.add(child.id)
        if run.flow is None:
            run.flow, run.flow_root = run.id, True
        child.flow = run.flow
        self.jobs[child.id] = child
