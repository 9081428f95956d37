"""What may workers take, and what do their reports come to?"""

from __future__ import annotations

from tests.model.account.entries import Lane, ModelJob, Refused, Violation
from tests.model.account.ledger import Ledger

CLAIM_ALLOWANCE = 5
SAID = {
    "complete": "completed",
    "abort": "cancelled",
    "snooze": "snoozed",
    "release": "released",
    "suspend": "suspended",
}


class Working(Ledger):
    """Claims, reports, and workers that go."""

    def may_claim(self, job: ModelJob, queue: str, names: frozenset[str] | None) -> bool:
        return (
            job.state == "waiting"
            and job.queue == queue
            and job.parked is None
            and queue not in self.paused
            and (queue, job.name) not in self.paused_names
            and (queue, job.group) not in self.paused_groups
            and (names is None or job.name in names)
        )

    def room(self, queue: str) -> int | None:
        """How many more jobs of a queue may run; None: any number."""
        most = self.limits.get(queue)
        active = sum(job.state == "active" and job.queue == queue for job in self.jobs.values())
        return None if most is None else max(0, most - active)

    def room_of(self, job: ModelJob) -> int:
        """How many more jobs of a job's group may run."""
        most = self.group_limits.get(job.queue)
        if most is None or job.group is None:
            return len(self.jobs)
        kin = [one for one in self.jobs.values() if (one.queue, one.org, one.group) == (job.queue, job.org, job.group)]
        return max(0, most - sum(one.state == "active" for one in kin))

    def take_turns(self, waiting: set[Lane], served: list[Lane]) -> None:
        """Nobody is served twice while another waits: of the lanes of each tenant, and of the tenants, as long as no
        lane is full: one that is met takes its tenant's turn."""
        tenants = set() if self.group_limits else {(org, "*") for org, _ in waiting}
        before = {lane: self.passed_over.get(lane, set()) for lane in waiting | tenants}
        self._turn(before, tenants, list(dict.fromkeys((org, "*") for org, _ in served)))
        for org in {org for org, _ in waiting}:
            lanes = {lane for lane in waiting if lane[0] == org}
            self._turn(before, lanes, [lane for lane in served if lane in lanes])
        self.passed_over = before

    @staticmethod
    def _turn(passed_over: dict[Lane, set[Lane]], waiting: set[Lane], served: list[Lane]) -> None:
        for place, lane in enumerate(served if waiting else ()):
            for other in waiting - set(served[: place + 1]):
                if lane in passed_over[other]:
                    raise Violation(f"{lane} was served again while {other} waits")
                passed_over[other] = passed_over[other] | {lane}
            passed_over[lane] = set()

    def served(self, queue: str) -> set[str] | None:
        """The names that present workers of a queue handle; None: any."""
        present = [worker for worker in self.workers.values() if not worker.gone and queue in worker.queues]
        if any(not worker.names for worker in present):
            return None
        return {name for worker in present for name in worker.names}

    def reason_to_park(self, job: ModelJob, names: frozenset[str] | None) -> str | None:
        """Why a claimer with these handlers parks a waiting job that it meets."""
        if (job.queue, job.name) in self.paused_names:
            return "paused"
        if names is None or job.name in names:
            return None
        served = self.served(job.queue)
        return "no_handler" if served is not None and job.name not in served else None

    def claim(self, id: str, token: str, worker: str) -> None:
        job = self.jobs[id]
        job.state, job.token, job.worker = "active", token, worker
        job.claims += 1
        job.started = False

    def held(self, id: str, token: str) -> ModelJob:
        """The job under this very lease, or LeaseLost."""
        job = self.jobs.get(id)
        if job is None or job.state != "active" or job.token != token:
            raise Refused("LeaseLost")
        return job

    def start(self, id: str, token: str) -> None:
        job = self.held(id, token)
        if not job.started:
            job.started = True
            job.attempt += 1

    def report(self, verb: str, id: str, token: str, *, wait: bool = False, alone: bool = False) -> None:
        """One run's end. The same said again under the token that ended a run is answered, and changes nothing; a batch
        does not even look at what is said."""
        job = self.jobs.get(id)
        said = SAID.get(verb, "failed")
        if job is not None and job.token != token and job.last_report is not None:
            known_token, known = job.last_report
            both_failed = {said, known} <= {"failed", "cancelled"}
            if known_token == token and (not alone or said == known or both_failed):
                return
        job = self.held(id, token)
        job.last_report = (token, said)
        began, charged = job.started, job.attempt + (not job.started)
        cancelled = job.cancel_requested
        if verb in ("complete", "fail", "bury", "abort"):
            job.attempt = charged
            if verb == "complete":
                job.finish("completed")
            elif verb == "abort" or cancelled:
                job.finish("cancelled")
            elif verb == "bury" or charged >= job.max_attempts:
                job.finish("failed")
            else:
                job.unlease()
                job.state, job.due = ("retrying", False) if wait else ("waiting", True)
            return
        # Snooze, release and suspend give the attempt back.
        job.attempt -= began
        job.claims -= 1
        if cancelled:
            job.finish("cancelled")
            return
        job.unlease()
        job.state = "scheduled" if verb == "snooze" and wait else "waiting"
        if verb == "suspend" and job.pending:
            job.state = "blocked"
        if verb == "snooze":
            job.due = not wait

    def take_back(self, worker: str) -> None:
        """A gone worker's jobs go to others; those that it had begun are charged, and may be spent by that."""
        for job in self.jobs.values():
            if job.worker != worker or job.state != "active":
                continue
            left = job.max_attempts - job.attempt if job.started else 1
            spent = left <= 0 or job.claims >= job.max_attempts + CLAIM_ALLOWANCE
            if job.cancel_requested:
                job.finish("cancelled")
            elif spent:
                job.finish("failed")
            else:
                job.unlease()
                job.state = "waiting"

    def lose(self, *, in_grace: bool) -> None:
        """The rescuer's round: workers whose lease has passed, then the jobs of every worker that is not present."""
        for worker in self.workers.values():
            if worker.lapsed and not worker.gone and not in_grace:
                worker.gone = True
        for id in {job.worker for job in self.jobs.values() if job.worker is not None}:
            if id not in self.workers or self.workers[id].gone:
                self.take_back(id)
