"""What happens between workers and their jobs?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.operations.jobs import Enqueue, Operate
from tests.model.operations.upkeep import Rescue
from tests.model.operations.workers import Claim, Depart, Lapse, Progress, Register, Renew, Report, Start
from tests.model.rules.base import NAMES, WORKERS, Comparing, busy_queues, handlers, names, picks


class WorkerRules(Comparing):
    """Claims, reports, and workers that go."""

    @rule(
        worker=st.sampled_from(WORKERS), queue=busy_queues, names=handlers, fresh=st.sampled_from([True, True, False])
    )
    def claim(self, worker: str, queue: str, names: frozenset[str] | None, fresh: bool) -> None:
        self.do(Claim(worker, queue, names, fresh=fresh))

    @rule(worker=st.sampled_from(WORKERS), queue=busy_queues, limit=st.integers(2, 4), fresh=st.booleans())
    def claim_batch(self, worker: str, queue: str, limit: int, fresh: bool) -> None:
        self.do(Claim(worker, queue, limit=limit, fresh=fresh))

    @rule(number=picks)
    def start(self, number: int) -> None:
        if lease := self.a_lease(number):
            self.do(Start(*lease))

    @rule(number=picks, kind=st.sampled_from(list(OutcomeKind)), wait=st.booleans(), alone=st.booleans())
    def report(self, number: int, kind: OutcomeKind, wait: bool, alone: bool) -> None:
        # Retried at a time of its own, and expired: to the job that is a failure like others.
        if kind not in (OutcomeKind.RETRY_AT, OutcomeKind.EXPIRE) and (lease := self.a_lease(number)):
            self.do(Report(kind, *lease, wait=wait, alone=alone))

    @rule(number=picks, kind=st.sampled_from([OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.BURY]))
    def run_one(self, number: int, kind: OutcomeKind) -> None:
        """A job's whole life at once: without it, most examples never leave the first states."""
        answer = self.do(Claim(WORKERS[number % 3], "left"))
        for id, token in answer.value:
            if number % 2:
                self.do(Start(id, token))
            self.do(Report(kind, id, token, wait=number % 8 > 4))

    @rule(number=picks)
    def lost_reply(self, number: int) -> None:
        """The call is made twice: the caller did not see the first answer."""
        if lease := self.a_lease(number):
            call = Report(OutcomeKind.COMPLETE if number % 2 else OutcomeKind.FAIL, *lease, alone=number % 3 == 0)
            first = self.do(call)
            before = {id: document["event_seq"] for id, document in self.documents.items()}
            assert self.do(call) == first
            assert before == {id: document["event_seq"] for id, document in self.documents.items()}

    @rule(number=st.integers(0, 1_000))
    def repeat(self, number: int) -> None:
        """Any earlier call of a worker, with the token that it had then."""
        if self.calls:
            self.do(self.calls[number % len(self.calls)])

    @rule(number=picks)
    def report_progress(self, number: int) -> None:
        if lease := self.a_lease(number):
            self.do(Progress(*lease))

    @rule(worker=st.sampled_from(WORKERS), names=handlers)
    def register(self, worker: str, names: frozenset[str] | None) -> None:
        self.do(Register(worker, names or frozenset()))

    @rule(name=names)
    def handler_that_comes_late(self, name: str) -> None:
        """A job that nobody has a handler for is parked by whoever meets it, and set free by the first who has."""
        others = frozenset(NAMES) - {name}
        for worker in [*self.model.workers, "w0"]:
            self.do(Register(worker, others))
        self.do(Enqueue("left", name, priority=-9))
        self.do(Claim("w0", "left", others))
        self.do(Register("w1", frozenset({name})))

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        self.do(Renew(worker))

    @rule(worker=st.sampled_from(WORKERS), started=st.booleans(), how=st.sampled_from(["lapse", "seen", "politely"]))
    def worker_dies(self, worker: str, started: bool, how: str) -> None:
        """A worker that holds a job goes, and what it held is given to others; it does not come back by renewing."""
        if worker not in self.model.workers:
            self.do(Register(worker, frozenset()))
        answer = self.do(Claim(worker, "left"))
        if started:
            for lease in answer.value:
                self.do(Start(*lease))
        if how == "lapse":
            self.do(Lapse(worker))
            self.do(Rescue(in_grace=True))
            self.do(Rescue())
        else:
            self.do(Depart(worker, politely=how == "politely"))
        self.do(Renew(worker))
        for lease in answer.value:
            self.do(Report(OutcomeKind.COMPLETE, *lease))

    @rule(in_grace=st.booleans())
    def rescue(self, in_grace: bool) -> None:
        self.do(Rescue(in_grace=in_grace))

    @rule(
        attempts=st.integers(1, 2),
        started=st.booleans(),
        dies=st.booleans(),
        kind=st.sampled_from([OutcomeKind.FAIL, OutcomeKind.COMPLETE, OutcomeKind.RELEASE]),
    )
    def zombie(self, attempts: int, started: bool, dies: bool, kind: OutcomeKind) -> None:
        """A run that may be its job's last; where its worker is taken for dead, it reports when another has the job."""
        if run := self.a_run(max_attempts=attempts):
            if started:
                self.do(Start(*run))
            if dies:
                self.do(Depart("runner"))
                self.do(Claim("w0", "left"))
            self.do(Report(kind, *run))

    @rule(
        verb=st.sampled_from(["cancel", "cancel", "remove", "retry", "promote", "update"]),
        kind=st.sampled_from([OutcomeKind.FAIL, OutcomeKind.RELEASE, OutcomeKind.SNOOZE, OutcomeKind.ABORT, None]),
        started=st.booleans(),
    )
    def operate_on_running(self, verb: str, kind: OutcomeKind | None, started: bool) -> None:
        """An operator's verb meets a job that runs; then its run ends, or its worker dies."""
        if run := self.a_run(max_attempts=2):
            if started:
                self.do(Start(*run))
            self.do(Operate(verb, run[0]))
            self.do(Report(kind, *run, wait=started) if kind is not None else Depart("runner"))
