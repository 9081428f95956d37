"""What are jobs that were made together, and are cancelled and retried together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.model.account.bulk import InBulk, ModelBulk
from tests.model.account.entries import OPEN, ModelJob, Refused, Violation


@dataclass(frozen=True)
class Node:
    """One job of a flow to be; others are named by their places. The first is the root."""

    parent: int = 0
    depends_on: tuple[int, ...] = ()
    on_child_failure: str | None = None
    unique_key: str | None = None
    delayed: bool = False


class Flowing(InBulk):
    """Flows: made at once, ended by policy, handled as one."""

    def start_flow(
        self, nodes: Sequence[Node], *, queue: str, key: str | None, made: Sequence[str], answered: str | None
    ) -> None:
        """All of its jobs or none; `made` are their ids, in the order of the nodes."""
        taken = [node.unique_key for node in nodes if node.unique_key is not None]
        held = any(job.hold and job.unique_key in taken for job in self.jobs.values())
        holders = [job for job in self.jobs.values() if key is not None and job.idempotency_key == key]
        if holders or held or len(set(taken)) < len(taken):
            flow = self._root_of(holders[0]) if holders else None
            if flow is None:
                raise Refused("Conflict")
            if answered != flow.id:
                raise Violation(f"{answered} was answered although flow {flow.id} has its key")
            return
        if len(made) != len(nodes):
            raise Violation(f"{len(made)} of the flow's {len(nodes)} jobs are there")
        waits = [{*node.depends_on, *_children(nodes, place)} for place, node in enumerate(nodes)]
        for place, node in enumerate(nodes):
            pending = {made[other] for other in waits[place]}
            self.jobs[made[place]] = ModelJob(
                id=made[place],
                queue=queue,
                name="a",
                state="blocked" if pending else "scheduled" if node.delayed else "waiting",
                max_attempts=1,
                priority=-99,
                unique_key=node.unique_key,
                hold=node.unique_key is not None,
                idempotency_key=None if place else key,
                parent=made[node.parent] if place else None,
                on_child_failure=node.on_child_failure,
                depends_on=tuple(made[other] for other in node.depends_on),
                flow=made[0],
                flow_root=not place,
                due=not node.delayed,
                pending=pending,
                awaited=any(place in other for other in waits),
            )

    def _root_of(self, job: ModelJob) -> ModelJob | None:
        """The root of a job's flow, where both are there for their readers."""
        root = self.jobs.get(job.flow or job.id)
        return root if root is not None and root.state != "removed" and root.flow is not None else None

    def whole_flow(self, id: str) -> list[ModelJob]:
        """The jobs of the flow that a job belongs to, the root's readers' view of it."""
        job = self.visible(id)
        root = self._root_of(job)
        if job.flow is None or root is None:
            raise Refused("NotFound")
        return [one for one in self.jobs.values() if one.flow == job.flow and one.state != "removed"]

    def begin_cancel_of_flow(self, id: str) -> ModelBulk:
        """Its open jobs know of the cancel before the first of them is cancelled."""
        jobs = self.whole_flow(id)
        if not any(job.state in OPEN for job in jobs):
            raise Refused("InvalidTransition")
        for job in jobs:
            job.cancelling = job.cancelling or job.state in OPEN
        return self.begin_bulk("cancel", flow=jobs[0].flow)

    def retry_flow(self, id: str) -> None:
        """What failed or was cancelled runs again, each behind all below it that has not completed. All or none."""
        jobs = {job.id: job for job in self.whole_flow(id)}
        flow = next(iter(jobs.values())).flow
        while untold := [job.id for job in self.jobs.values() if job.flow == flow and job.outbox]:
            for one in untold:
                self.relay(one)
        jobs = {job.id: job for job in self.jobs.values() if job.flow == flow and job.state != "removed"}
        again = [job for job in jobs.values() if job.state in ("failed", "cancelled")]
        keys = [job.unique_key for job in again if self.wants_its_key(job)]
        if len(set(keys)) < len(keys) or any(job.hold and job.unique_key in keys for job in self.jobs.values()):
            raise Refused("Conflict")
        if not again:
            raise Refused("InvalidTransition")
        below = {
            job.id: {
                other.id
                for other in jobs.values()
                if other.state != "completed" and (other.parent == job.id or other.id in job.depends_on)
            }
            for job in again
        }
        for job in again:
            self.retry(job.id)
            job.pending = below[job.id]
            job.state = "blocked" if job.pending else "waiting"


def _children(nodes: Sequence[Node], parent: int) -> set[int]:
    return {place for place, node in enumerate(nodes) if place and node.parent == parent}
