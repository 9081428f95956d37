"""What happens to runs of workflows, and to the events that they wait for?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.ids import JOB, new_id
from switchtower.workers import OutcomeKind
from tests.model.account.entries import FINAL, ModelStep
from tests.model.operations.jobs import Operate, TimePasses
from tests.model.operations.runs import (
    READ,
    Consume,
    FanOut,
    Publish,
    Recheck,
    Record,
    ReplayRun,
    Resume,
    StartRun,
    Wake,
)
from tests.model.operations.upkeep import Duty, Then
from tests.model.operations.workers import Claim, Depart, Register, Report
from tests.model.rules.base import Comparing, picks, seldom

GO = ModelStep("go", "wait", "waiting", events=("go",), match=(("x", 1),))
ANY = ModelStep("any", "wait", "waiting", events=("go", "stop"))
NAP = ModelStep("nap", "sleep", "waiting")
PROGRAM = (ModelStep("a", result=1), GO, ModelStep("b", result=2), NAP, ANY, ModelStep("c", result=3))
"""The workflow that all runs are of."""
NAMES = [step.name for step in PROGRAM]
Lease = tuple[str, str]

events = st.sampled_from(["go", "go", "stop"])
lags = st.sampled_from([0.0, 0.002, 0.004])


def ended(step: ModelStep, result: object = None) -> ModelStep:
    return ModelStep(step.name, step.kind, "completed", result, step.events, step.match)


class RunRules(Comparing):
    """Runs that are started, put aside, woken, replayed, and taken over by other workers."""

    def a_claimed_run(self) -> Lease | None:
        """A run under a new lease, as its worker reads it; None when something else came first."""
        self.do(Register("runner", frozenset()))
        for id, token in self.do(Claim("runner", "right")).value:
            if self.model.jobs[id].name.endswith("#1"):
                self.do(Resume(id, token))
                return id, token
            self.do(Report(OutcomeKind.COMPLETE, id, token))
        return None

    def a_new_run(self) -> Lease | None:
        self.do(StartRun())
        return self.a_claimed_run()

    def got(self, lease: Lease, step: ModelStep) -> bool:
        """Whether the run has the event that a step waits for, which is recorded then."""
        answer = self.do(Consume(*lease, step))
        if answer.error or answer.value is None:
            return False
        name, payload = answer.value
        self.do(Record(*lease, ended(step, {"name": name, "payload": payload})))
        return True

    def put_aside(self, lease: Lease) -> None:
        self.do(Report(OutcomeKind.SNOOZE, *lease, wait=True))
        self.do(Recheck(lease[0]))

    def go_on(self, lease: Lease, steps: int) -> str:
        """Does what the durable code does, from the first step that has not ended: at most so many steps."""
        rows = {step.name: step for step in self.model.jobs[lease[0]].steps}
        for step in PROGRAM:
            row = rows.get(step.name)
            if row is not None and row.status == "completed":
                continue
            if not steps:
                return "dies"
            steps -= 1
            if step.kind == "step":
                self.do(Record(*lease, ended(step, step.result)))
            elif step.kind == "sleep":
                if row is None:
                    self.do(Record(*lease, step))
                    self.do(Report(OutcomeKind.SNOOZE, *lease, wait=True))
                    return "put aside"
                self.do(Record(*lease, ended(step)))
            elif not self.got(lease, step):
                if row is None:
                    self.do(Record(*lease, step))
                    if self.got(lease, step):
                        continue
                self.put_aside(lease)
                return "put aside"
        return "ended"

    def a_parked_run(self) -> str | None:
        """A run that waits for `go`."""
        if lease := self.a_new_run():
            self.go_on(lease, 2)
            return lease[0]
        return None

    def a_run_of(self, number: int, states: set[str]) -> str | None:
        return self.pick(number, lambda job: job.run and job.state in states)

    @rule(key=st.sampled_from([None, None, "run"]), custom=seldom)
    def start_run(self, key: str | None, custom: bool) -> None:
        call = StartRun(key=None if custom else key, custom_id="own" if custom else None)
        self.do(call)
        if key or custom:
            self.do(call)

    @rule(
        new=st.booleans(),
        steps=st.integers(0, 6),
        dies=st.booleans(),
        kind=st.sampled_from([OutcomeKind.FAIL, OutcomeKind.BURY, OutcomeKind.RELEASE, OutcomeKind.ABORT]),
    )
    def run_goes_on(self, new: bool, steps: int, dies: bool, kind: OutcomeKind) -> None:
        """Some steps of a run; then its worker dies, or it ends."""
        lease = self.a_new_run() if new else self.a_claimed_run()
        if lease is None:
            return
        how = self.go_on(lease, steps)
        if how == "ended":
            self.do(Report(OutcomeKind.COMPLETE, *lease))
        elif how == "dies":
            self.do(Depart("runner") if dies else Report(kind, *lease))

    @rule(name=events, x=st.integers(1, 2), key=st.sampled_from([None, None, "p"]), org=seldom, dies=seldom)
    def publish(self, name: str, x: int, key: str | None, org: bool, dies: bool) -> None:
        call = Publish(name, x, key, "acme" if org else None, dies)
        self.do(call)
        if key:
            self.do(call)

    @rule()
    def wake(self) -> None:
        self.do(Wake())

    @rule(count=st.integers(1, 2), before=st.booleans(), x=st.integers(1, 2))
    def event_for_one_of_two(self, count: int, before: bool, x: int) -> None:
        """Two runs wait, or come to their wait later, and there is one event or two."""
        if not before:
            self.a_parked_run()
            self.a_parked_run()
        for _ in range(count):
            self.do(Publish("go", x))
        for _ in range(2):
            if lease := self.a_new_run() if before else self.a_claimed_run():
                self.go_on(lease, 3)

    @rule(number=picks, woken=st.booleans())
    def nap_ends(self, number: int, woken: bool) -> None:
        if id := self.pick(number, lambda job: job.run and job.state == "scheduled" and not job.due):
            self.do(TimePasses(id, "run_at"))
            self.do(Duty("stage"))
            if woken and (lease := self.a_claimed_run()):
                self.go_on(lease, 2)

    @rule(number=picks, verb=st.sampled_from(["cancel", "cancel", "retry", "promote", "remove"]))
    def operate_on_run(self, number: int, verb: str) -> None:
        if id := self.pick(number, lambda job: job.run):
            self.do(Operate(verb, id))

    @rule(steps=st.integers(1, 6), name=st.sampled_from([*NAMES, "none"]), again=st.integers(0, 6))
    def replay_run(self, steps: int, name: str, again: int) -> None:
        """A run that ended runs again from a step on."""
        if lease := self.a_new_run():
            self.go_on(lease, steps)
            self.do(Operate("cancel", lease[0]))
            self.do(Report(OutcomeKind.ABORT, *lease))
            self.do(ReplayRun(lease[0], name))
            if lease := self.a_claimed_run():
                self.go_on(lease, again)

    @rule(x=st.integers(1, 2), waited=st.booleans(), verb=st.sampled_from(["retry", "a", "go"]))
    def dies_with_an_event(self, x: int, waited: bool, verb: str) -> None:
        """A run that is buried between taking an event and recording it still has it when it runs again."""
        if lease := self.a_new_run():
            self.go_on(lease, 1)
            if waited:
                self.do(Record(*lease, GO))
            self.do(Publish("go", x))
            self.do(Consume(*lease, GO))
            self.do(Report(OutcomeKind.BURY, *lease))
            self.do(Operate("retry", lease[0]) if verb == "retry" else ReplayRun(lease[0], verb))
            if lease := self.a_claimed_run():
                self.go_on(lease, 3)

    @rule(number=picks, place=picks)
    def replay_any(self, number: int, place: int) -> None:
        if id := self.a_run_of(number, FINAL | {"scheduled"}):
            names = [step.name for step in self.model.jobs[id].steps] or ["none"]
            self.do(ReplayRun(id, names[place % len(names)]))

    @rule(again=st.integers(0, 3), x=st.integers(1, 2))
    def retried_in_its_wait(self, again: int, x: int) -> None:
        """A run that is cancelled while it waits, and retried, waits on."""
        if id := self.a_parked_run():
            self.do(Operate("cancel", id))
            self.do(Operate("retry", id))
            if lease := self.a_claimed_run():
                self.go_on(lease, again)
            self.do(Publish("go", x))

    @rule(undone=st.booleans(), fatal=st.sampled_from(["b", None]), x=st.integers(1, 2))
    def run_is_compensated(self, undone: bool, fatal: str | None, x: int) -> None:
        """A run that fails beside a wait is undone; it is retried, and waits for what it waited for."""
        if lease := self.a_new_run():
            self.do(Record(*lease, ended(PROGRAM[0], 1)))
            self.do(Record(*lease, GO))
            self.do(Record(*lease, ModelStep("b", status="failed")))
            self.do(Record(*lease, ModelStep("compensate", "compensate", result=fatal), compensating=True))
            if undone:
                self.do(Record(*lease, ModelStep("compensate:a", "compensate"), compensating=True))
            self.do(Report(OutcomeKind.BURY, *lease))
            self.do(Operate("retry", lease[0]))
            if lease := self.a_claimed_run():
                self.put_aside(lease)
            self.do(Publish("go", x))

    @rule(ends=st.text("cf", min_size=2, max_size=2), dies=st.booleans(), told=st.booleans())
    def run_waits_for_children(self, ends: str, dies: bool, told: bool) -> None:
        lease = self.a_new_run()
        if lease is None:
            return
        self.do(FanOut(*lease, [new_id(JOB) for _ in ends], dies))
        self.do(Report(OutcomeKind.SUSPEND, *lease))
        for end in ends:
            for run in self.do(Claim("runner", "right")).value:
                self.do(Report(OutcomeKind.COMPLETE if end == "c" else OutcomeKind.BURY, *run))
            if told:
                self.do(Duty("relay"))
        self.do(Duty("relay"))

    @rule(number=picks, verb=st.sampled_from(["resume", "record", "consume"]))
    def stale_worker(self, number: int, verb: str) -> None:
        """Whoever held a run once does as if it still did."""
        leases = [lease[:2] for lease in self.leases if lease[:2] in READ and lease[0] in self.model.jobs]
        if leases:
            lease = leases[number % len(leases)]
            calls = {"resume": Resume(*lease), "record": Record(*lease, ended(GO)), "consume": Consume(*lease, GO)}
            self.do(calls[verb])

    @rule(x=st.integers(1, 2), taken=st.booleans())
    def lost_worker_consumes(self, x: int, taken: bool) -> None:
        """A worker that was taken for dead asks for an event, before or after the run's next worker does."""
        if lost := self.a_new_run():
            self.do(Depart("runner"))
            lease = self.a_claimed_run()
            self.do(Publish("go", x))
            if taken and lease:
                self.go_on(lease, 2)
            self.do(Consume(*lost, GO))

    @rule(name=events, steps=st.integers(2, 3))
    def event_of_another_tenant(self, name: str, steps: int) -> None:
        self.do(Publish(name, org="acme"))
        if lease := self.a_new_run():
            self.go_on(lease, steps)

    # Races of two processes.

    @rule(lag=lags, x=st.integers(1, 2))
    def publish_against_wait(self, lag: float, x: int) -> None:
        if lease := self.a_new_run():
            self.go_on(lease, 1)
            self.do(Record(*lease, GO))
            aside = Then(Report(OutcomeKind.SNOOZE, *lease, wait=True), lambda _: Recheck(lease[0]))
            self.race(aside, Publish("go", x), lag_seconds=lag)

    @rule(lag=lags)
    def publish_against_consume(self, lag: float) -> None:
        if lease := self.a_new_run():
            self.race(Consume(*lease, GO), Publish("go"), lag_seconds=lag)

    @rule(lag=lags)
    def consume_against_consume(self, lag: float) -> None:
        one, two = self.a_new_run(), self.a_new_run()
        if one and two:
            self.do(Publish("go"))
            self.race(Consume(*one, GO), Consume(*two, ANY), lag_seconds=lag)

    @rule(lag=lags, verb=st.sampled_from(["record", "snooze"]))
    def cancel_against_worker(self, lag: float, verb: str) -> None:
        if lease := self.a_new_run():
            doing = Record(*lease, GO) if verb == "record" else Report(OutcomeKind.SNOOZE, *lease, wait=True)
            self.race(Operate("cancel", lease[0]), doing, lag_seconds=lag)

    @rule(lag=lags, name=st.sampled_from(["a", "go"]))
    def replay_against_publish(self, lag: float, name: str) -> None:
        if id := self.a_parked_run():
            self.do(Operate("cancel", id))
            self.race(ReplayRun(id, name), Publish("go"), lag_seconds=lag)

    @rule(lag=lags)
    def cancel_against_publish(self, lag: float) -> None:
        if id := self.a_parked_run():
            self.race(Operate("cancel", id), Publish("go"), lag_seconds=lag)

    @rule(lag=lags, key=st.sampled_from([None, "q"]))
    def publish_against_publish(self, lag: float, key: str | None) -> None:
        self.a_parked_run()
        self.race(Publish("go", key=key), Publish("go", key=key), lag_seconds=lag)

    @rule(lag=lags)
    def start_against_start(self, lag: float) -> None:
        self.race(StartRun(key="race"), StartRun(key="race"), lag_seconds=lag)

    @rule(lag=lags)
    def taken_over_in_a_wait(self, lag: float) -> None:
        """A worker that is taken for dead consumes an event as another takes the run."""
        if lease := self.a_new_run():
            self.do(Publish("go", dies=True))
            self.race(Consume(*lease, GO), Depart("runner"), lag_seconds=lag)
            if lease := self.a_claimed_run():
                self.go_on(lease, 3)
