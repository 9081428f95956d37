"""What should be in the database? An independent account of the queue's rules, kept in memory.

Nothing here is taken from `switchtower.states` or the pipelines: the rules are written down a second time, as plain
Python, so that a fault in one of the two shows. What the rules forbid raises `Refused` and changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OPEN = {"scheduled", "waiting", "blocked", "active", "retrying"}
FINAL = {"completed", "failed", "cancelled"}
CLAIM_ALLOWANCE = 5
SAID = {"complete": "completed", "abort": "cancelled", "snooze": "snoozed", "release": "released"}


class Refused(Exception):
    """The answer must be this error (a class name of `switchtower.errors`)."""

    @property
    def error(self) -> str:
        return str(self.args[0])


class Violation(AssertionError):
    """The database or an answer is not what the model allows."""


@dataclass
class ModelJob:
    id: str
    queue: str
    name: str
    state: str
    max_attempts: int = 3
    priority: int = 0
    unique_key: str | None = None
    keeps_hold: bool = False
    debounced: bool = False
    """Its unique key is that of a debounce: held while it is scheduled and has not run, let go of by the next one."""
    idempotency_key: str | None = None
    custom_id: str | None = None
    parent: str | None = None
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    due: bool = True
    over: bool = False
    """Its time to live has passed."""
    ttl: bool = False
    generation: int = 1
    attempt: int = 0
    claims: int = 0
    token: str | None = None
    worker: str | None = None
    started: bool = False
    cancel_requested: bool = False
    hold: bool = False
    pending: set[str] = field(default_factory=set)
    awaited: bool = False
    parked: str | None = None
    outbox: set[str] = field(default_factory=set)
    last_state: str | None = None
    last_report: tuple[str, str] | None = None
    """The token of the last report that ended a run, and what it said."""
    completions: list[int] = field(default_factory=list)
    """The generations in which it completed."""

    @property
    def ended(self) -> str | None:
        """The final state that it reached, also where it was removed since."""
        return self.last_state if self.state == "removed" else self.state

    def unlease(self) -> None:
        self.token = self.worker = None
        self.started = self.cancel_requested = False

    def finish(self, state: str, *, dead_letter: bool = True) -> None:
        """Reaches a final state and lets go of what final jobs let go of."""
        self.unlease()
        self.state = state
        self.hold = self.hold and self.keeps_hold
        self.pending.clear()
        self.parked = None
        self.over = False
        told = self.parent is not None or self.awaited
        self.outbox = {"settle"} if told else set()
        if state == "failed" and dead_letter and not self.remove_on_fail:
            self.outbox.add("dead_letter")
        if state == "completed":
            self.completions.append(self.generation)
        if (state == "failed" and self.remove_on_fail) or (state == "completed" and self.remove_on_complete):
            self.state, self.last_state, self.custom_id = "removed", state, None


@dataclass
class ModelWorker:
    names: frozenset[str]
    """Its handlers; empty: any."""
    queues: frozenset[str]
    gone: bool = False
    lapsed: bool = False


@dataclass
class ModelLetter:
    job: str
    generation: int
    entry: ModelJob
    replays: list[str] = field(default_factory=list)


class Model:
    """Jobs, workers, queue controls and dead letters."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.paused: set[str] = set()
        self.paused_names: set[tuple[str, str]] = set()
        self.limits: dict[str, int] = {}
        """How many jobs of a queue may run at once."""
        self.letters: dict[tuple[str, int], ModelLetter] = {}
        self.deleted: set[str] = set()

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def visible(self, id: str) -> ModelJob:
        job = self.jobs.get(id)
        if job is None or job.state == "removed":
            raise Refused("NotFound")
        return job

    # Enqueue.

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

    def enqueue(self, new: ModelJob, *, depends_on: Iterable[str], answered: str | None) -> None:
        """`answered` is the id that the caller got (None: an error); `new.id` is ignored."""
        holders = self.holders(new)
        if new.debounced and self._debounce(new, holders, answered):
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
            if parent.state in FINAL:
                raise Refused("InvalidTransition")
        if answered is None:
            raise Violation("an enqueue that nothing forbids was refused")
        if answered in self.jobs or answered in self.deleted:
            raise Violation(f"the enqueue was answered with {answered}, which does not hold its key")
        new.id = answered
        new.hold = new.unique_key is not None
        self.jobs[new.id] = new
        if parent is not None:
            self._block(parent, new.id)
        if awaited:
            new.state = "blocked"
            new.pending = set(awaited)
            for id in sorted(awaited):
                if self.jobs[id].state in OPEN:
                    self.jobs[id].awaited = True
            self._settle([self.jobs[id] for id in sorted(awaited) if self.jobs[id].state not in OPEN])
        else:
            new.state = "waiting" if new.due else "scheduled"

    def _debounce(self, new: ModelJob, holders: set[str], answered: str | None) -> bool:
        """Replaces the job that waits for its time under the same key; lets go of the key of one that does not."""
        for job in [self.jobs[id] for id in holders]:
            if job.idempotency_key is not None and job.idempotency_key == new.idempotency_key:
                continue
            holders.remove(job.id)
            if job.state != "scheduled" or job.last_report is not None:
                job.hold = False
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

    def _block(self, parent: ModelJob, child: str) -> None:
        if parent.state != "active":
            parent.state = "blocked"
            parent.parked = None
        parent.pending.add(child)

    @staticmethod
    def _take_out(job: ModelJob, ids: set[str]) -> None:
        if not job.pending & ids:
            return
        job.pending -= ids
        if job.state == "blocked" and not job.pending:
            job.state = "waiting" if job.due else "scheduled"

    # Effects.

    def _settle(self, ended: Iterable[ModelJob]) -> None:
        ended = list(ended)
        done = {job.id for job in ended if job.ended == "completed"}
        for waiting in self.jobs.values():
            self._take_out(waiting, done)
        for job in ended:
            if job.id in done:
                continue
            for waiting in self.jobs.values():
                if job.id in waiting.pending:
                    if waiting.state == "blocked":
                        waiting.finish("failed")
                    waiting.pending.discard(job.id)

    def relay(self, id: str | None = None) -> None:
        """Carries out every declared effect (of one job: that job's only, once)."""
        while True:
            ready = [job for job in self.jobs.values() if job.outbox and id in (None, job.id)]
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

    # Workers.

    def may_claim(self, job: ModelJob, queue: str, names: frozenset[str] | None) -> bool:
        return (
            job.state == "waiting"
            and job.queue == queue
            and job.parked is None
            and queue not in self.paused
            and (queue, job.name) not in self.paused_names
            and (names is None or job.name in names)
        )

    def room(self, queue: str) -> int | None:
        """How many more jobs of a queue may run; None: any number."""
        most = self.limits.get(queue)
        active = sum(job.state == "active" and job.queue == queue for job in self.jobs.values())
        return None if most is None else max(0, most - active)

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
        # Snooze and release give the attempt back.
        job.attempt -= began
        job.claims -= 1
        if cancelled:
            job.finish("cancelled")
            return
        job.unlease()
        job.state = "scheduled" if verb == "snooze" and wait else "waiting"
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

    # Operators.

    def _refuse(self, job: ModelJob) -> Refused:
        """A verb that the state forbids changes nothing, but what the job had declared is carried out by then."""
        if job.outbox:
            self.relay(job.id)
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
            if job.unique_key is not None and not job.hold and not job.debounced:
                if any(other.hold and other.unique_key == job.unique_key for other in self.jobs.values()):
                    raise Refused("Conflict")
                job.hold = True
            job.generation += 1
            job.attempt = job.claims = 0
        job.state, job.due, job.over = "waiting", True, False

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
            job.hold = hold and job.keeps_hold
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

    # Comparison.

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
        }


def observed(document: dict[str, Any]) -> dict[str, Any]:
    """The same fields, as the database has them."""
    get = document.get
    return {
        "state": document["state"],
        "queue": document["queue"],
        "name": document["name"],
        "generation": document["generation"],
        "attempt": document["attempt"],
        "claims": document["claims"],
        "token": get("token"),
        "worker_id": get("worker_id"),
        "started": get("started", False),
        "cancel_requested": "cancel_requested_at" in document,
        "unique_hold": get("unique_hold"),
        "pending": sorted(get("pending", ())),
        "parked": get("parked"),
        "outbox": sorted(get("outbox", ())),
        "last_state": get("last_state"),
        "rank": document["rank"],
        "custom_id": get("custom_id"),
    }
