"""What happens to single jobs, from their enqueue to their replay?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from switchtower.workers import OutcomeKind
from tests.model.account.entries import FINAL, OPEN
from tests.model.operations.jobs import Enqueue, Operate, Replay, TimePasses
from tests.model.operations.upkeep import Duty
from tests.model.operations.workers import Claim, Report
from tests.model.rules.base import Comparing, busy_queues, keys, names, picks, seldom


class JobRules(Comparing):
    """Enqueues, operators' verbs, and time."""

    @rule(
        queue=busy_queues,
        name=names,
        priority=st.sampled_from([0, 0, 0, -1, 5]),
        attempts=st.integers(1, 3),
        lifo=seldom,
        discard=st.sampled_from(["", "", "", "complete", "fail"]),
        many=seldom,
    )
    def enqueue(
        self, queue: str, name: str, priority: int, attempts: int, lifo: bool, discard: str, many: bool
    ) -> None:
        self.do(
            Enqueue(
                queue,
                name,
                priority,
                max_attempts=attempts,
                lifo=lifo,
                many=many,
                remove_on_complete=discard == "complete",
                remove_on_fail=discard == "fail",
            )
        )

    @rule(queue=busy_queues, ttl=st.booleans(), key=keys)
    def enqueue_later(self, queue: str, ttl: bool, key: str | None) -> None:
        self.do(Enqueue(queue, delayed=True, ttl=ttl, unique_key=key))

    @rule(queue=busy_queues, priority=st.integers(-1, 1), name=names, ttl=seldom, many=seldom)
    def enqueue_debounced(self, queue: str, priority: int, name: str, ttl: bool, many: bool) -> None:
        self.do(Enqueue(queue, name, priority, delayed=True, ttl=ttl, many=many, max_attempts=2, debounce_key="d"))

    @rule(
        key=st.sampled_from(["t", "t", "s"]),
        delayed=st.booleans(),
        replaces=st.booleans(),
        priority=seldom,
        many=seldom,
    )
    def enqueue_throttled(self, key: str, delayed: bool, replaces: bool, priority: bool, many: bool) -> None:
        throttle, simple = (key, None) if key == "t" else (None, key)
        self.do(
            Enqueue(
                "left",
                delayed=delayed,
                priority=int(priority),
                max_attempts=1,
                many=many,
                throttle_key=throttle,
                simple_key=simple,
                replaces=replaces,
            )
        )

    @rule(
        kind=st.sampled_from([OutcomeKind.COMPLETE, OutcomeKind.BURY, None]),
        over=st.booleans(),
        let_go=st.booleans(),
        retried=st.booleans(),
    )
    def throttle_ends(self, kind: OutcomeKind | None, over: bool, let_go: bool, retried: bool) -> None:
        """The key of a throttle is held for its time, whatever becomes of its job."""
        id = self.do(Enqueue("left", priority=-99, max_attempts=1, throttle_key="t")).value
        if kind is not None:
            for run in self.do(Claim("w0", "left")).value:
                self.do(Report(kind, *run))
        if over:
            self.do(TimePasses(id, "unique_until"))
        if let_go:
            self.do(Duty("let_go"))
        if retried:
            self.do(Operate("retry", id))
        self.do(Enqueue("left", throttle_key="t"))

    @rule(queue=busy_queues, key=st.sampled_from(["k1", "k2"]), keeps=seldom, many=st.booleans())
    def enqueue_unique(self, queue: str, key: str, keeps: bool, many: bool) -> None:
        self.do(Enqueue(queue, unique_key=key, keeps_hold=keeps, max_attempts=1, many=many))

    @rule(key=st.sampled_from(["i1", "i2"]), custom=st.booleans())
    def enqueue_repeatable(self, key: str, custom: bool) -> None:
        call = Enqueue("left", custom_id=key) if custom else Enqueue("left", idempotency_key=key)
        self.do(call)
        self.do(call)

    @rule(
        parent=picks,
        other=picks,
        link=st.sampled_from(["parent", "parent", "depends", "both"]),
        key=keys,
        policy=st.sampled_from([None, None, "ignore", "remove"]),
    )
    def enqueue_linked(self, parent: int, other: int, link: str, key: str | None, policy: str | None) -> None:
        one, two = self.pick(parent), self.pick(other)
        if one is None or two is None:
            return
        depends = (one, two) if link == "depends" else (two,) if link == "both" else ()
        self.do(
            Enqueue(
                "left",
                parent=one if link != "depends" else None,
                depends_on=tuple(dict.fromkeys(depends)),
                unique_key=key,
                max_attempts=1,
                on_child_failure=policy,
            )
        )

    @rule(number=picks, verb=st.sampled_from(["cancel", "cancel", "retry", "retry", "promote", "remove", "update"]))
    def operate(self, number: int, verb: str) -> None:
        if id := self.pick(number):
            self.do(Operate(verb, id, force=number % 5 == 0, priority=number % 3))

    @rule(key=st.sampled_from(["k1", "k4"]))
    def key_changes_hands(self, key: str) -> None:
        """An ended job is to run again while another holds its key."""
        first = self.a_run(unique_key=key, max_attempts=1)
        if first is None or self.model.jobs[first[0]].unique_key != key:
            return
        self.do(Report(OutcomeKind.COMPLETE, *first))
        self.do(Enqueue("left", unique_key=key))
        self.do(Operate("retry", first[0]))

    @rule(number=picks, unique=st.booleans())
    def retry_ended(self, number: int, unique: bool) -> None:
        """An ended job again, mostly one whose unique key may have gone to another."""
        if id := self.pick(number, lambda job: job.state in FINAL and (not unique or job.unique_key is not None)):
            self.do(Operate("retry", id))

    @rule(number=picks, field=st.sampled_from(["run_at", "run_at", "expires_at"]))
    def time_passes(self, number: int, field: str) -> None:
        if field == "run_at":
            id = self.pick(number, lambda job: not job.due and job.state in ("scheduled", "retrying"))
            if id:
                self.do(TimePasses(id, field, self.documents[id].get("lifo", False)))
                self.do(Duty("stage"))
        elif id := self.pick(number, lambda job: job.ttl and job.state in OPEN):
            self.do(TimePasses(id, field))
            self.do(Duty("expire"))

    @rule(number=picks, key=st.sampled_from(["r1", "r1", None]), together=st.booleans())
    def replay(self, number: int, key: str | None, together: bool) -> None:
        self.do(Duty("relay"))
        found = sorted(self.view_letters().items())
        if not found:
            return
        (job, generation), letter = found[number % len(found)]
        call = Replay(letter, job, generation, f"{key} {letter}" if key else None)
        if together:
            self.race(call, call)
        else:
            self.do(call)
