"""What do workers ask, and what becomes of them?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switchtower.clock import from_ms
from switchtower.engine import Engine
from switchtower.jobs import ClaimedJob, ErrorKind, JobError
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.model.account.entries import ModelWorker, Refused, Violation
from tests.model.model import Model
from tests.model.operations.base import HOUR_MS, QUEUES, SHARED, Answer, Documents, Operation, ask

FAILURE = JobError(ErrorKind.EXCEPTION, "ValueError", "no", None, "f" * 16)


_CLAIMED: dict[tuple[str, str], ClaimedJob] = {}
"""The jobs as they were claimed, by id and token: a worker reports with them, whatever happened since."""


@dataclass
class Claim(Operation):
    """`fresh` is a claim by a process that knows nothing of the queue yet; otherwise half a second's knowledge may be
    old, so that it may find less than there is, and never more."""

    worker: str
    queue: str
    names: frozenset[str] | None = None
    limit: int = 1
    fresh: bool = True

    async def run(self, engine: Engine) -> Answer:
        if self.fresh:
            engine.claims._queues.clear()
            engine.claims._queues[self.queue, None].hot = self.limit > 1
        names = None if self.names is None else sorted(self.names)
        answer = await ask(engine.claims.claim(self.worker, [self.queue], names=names, limit=self.limit))
        if answer.error:
            return answer
        _CLAIMED.update({(job.id, job.token): job for job in answer.value})
        return Answer([(job.id, job.token) for job in answer.value])

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        for job in model.jobs.values():
            document = settled.get(job.id)
            if job.state != "waiting" or job.queue != self.queue or job.parked is not None or document is None:
                continue
            reason = model.reason_to_park(job, self.names)
            looked = self.fresh and self.queue not in model.paused and (self.names or self.names is None)
            probed = self.names is not None or any(queue == self.queue for queue, _ in model.paused_names)
            all_paused = self.names is not None and all((self.queue, n) in model.paused_names for n in self.names)
            if reason is not None and (document.get("parked") == reason or (looked and probed and not all_paused)):
                job.parked = reason
            held_back = self.queue in model.paused or (self.queue, job.name) in model.paused_names
            held_back = held_back or self.queue in model.limits
            if held_back and not self.fresh and job.last_report and not _remembers(document, job.last_report[0]):
                # It was won on old knowledge and given back at once: that is its last report now.
                job.last_report = None
        place = {id: (document["rank"], document["order"], document["seq"]) for id, document in settled.items()}
        eligible = [job.id for job in model.jobs.values() if model.may_claim(job, self.queue, self.names)]
        eligible.sort(key=lambda id: place[id])
        eligible = eligible[: model.room(self.queue)]
        won = [id for id, _ in answer.value]
        if len({id for id in won}) != len(won) or len(won) > self.limit or not set(won) <= set(eligible):
            raise Violation(f"{self} won {won} of the eligible {eligible}")
        if self.fresh and won != eligible[: self.limit]:
            raise Violation(f"{self} won {won}, and the first of the queue are {eligible[: self.limit]}")
        for id, token in answer.value:
            model.claim(id, token, self.worker)


def _remembers(document: Mapping[str, Any], token: str) -> bool:
    kept: dict[str, str] = document.get("reported", {})
    return kept.get("token") == hashlib.sha256(token.encode()).hexdigest()[:24]


@dataclass
class Start(Operation):
    id: str
    token: str

    async def run(self, engine: Engine) -> Answer:
        lost = await engine.claims.start([(self.id, self.token)])
        return Answer(error="LeaseLost") if lost else Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.start(self.id, self.token)


@dataclass
class Report(Operation):
    """`alone` is the way of GraphQL workers (`report_one`), otherwise it goes as a batch of one."""

    kind: OutcomeKind
    id: str
    token: str
    wait: bool = False
    alone: bool = False

    async def run(self, engine: Engine) -> Answer:
        outcome = Outcome(
            self.id,
            self.token,
            self.kind,
            result={"sum": "$token"} if self.kind is OutcomeKind.COMPLETE and self.wait else None,
            error=FAILURE if self.kind in (OutcomeKind.FAIL, OutcomeKind.BURY) else None,
            wait_ms=HOUR_MS if self.wait else 0,
            claimed=_CLAIMED.get((self.id, self.token)),
        )
        if self.alone:
            answer = await ask(engine.claims.report_one(outcome))
            return answer if answer.error else Answer()
        return Answer(error="LeaseLost") if await engine.claims.report([outcome]) else Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.report(self.kind.value, self.id, self.token, wait=self.wait, alone=self.alone)


@dataclass
class Progress(Operation):
    id: str
    token: str

    async def run(self, engine: Engine) -> Answer:
        first = await ask(engine.claims.progress(self.id, self.token, "$worker_id"))
        second = await ask(engine.claims.log(self.id, self.token, [("info", "$name")]))
        if first != second:
            raise Violation(f"progress was answered {first}, log {second}")
        return first

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.held(self.id, self.token)


@dataclass
class Register(Operation):
    worker: str
    names: frozenset[str]
    queues: frozenset[str] = frozenset((*QUEUES, SHARED))

    async def run(self, engine: Engine) -> Answer:
        info = WorkerInfo(id=self.worker, queues=sorted(self.queues), names=sorted(self.names))
        await engine.workers.register(info)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        known = model.workers.get(self.worker)
        if known is None or known.gone:
            model.take_back(self.worker)
        model.workers[self.worker] = ModelWorker(self.names, self.queues)
        model.unpark("no_handler", self.queues, self.names or None)


@dataclass
class Renew(Operation):
    worker: str

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.workers.renew(self.worker))
        return answer if answer.error else Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        worker = model.workers.get(self.worker)
        if worker is None or worker.gone:
            raise Refused("NotFound")
        worker.lapsed = False


@dataclass
class Lapse(Operation):
    """Time passes: a worker's lease is over, and nobody has noticed yet."""

    worker: str

    async def run(self, engine: Engine) -> Answer:
        await engine._store.workers.update_one({"_id": self.worker}, {"$set": {"expires_at": from_ms(0)}})
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.workers[self.worker].lapsed = True


@dataclass
class Depart(Operation):
    """A worker's process died in its supervisor's sight (or it said goodbye: its jobs go back the same way)."""

    worker: str
    politely: bool = False

    async def run(self, engine: Engine) -> Answer:
        await (engine.workers.retire if self.politely else engine.workers.bury_dead)(self.worker)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        worker = model.workers[self.worker]
        if worker.gone and self.politely:
            return
        worker.gone = True
        model.take_back(self.worker)
