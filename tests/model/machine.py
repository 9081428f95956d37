"""The queue against the model: random operations on the real engine and database, compared after each of them.

Invariants are those of the reliability rules: I1 a token exactly while active; I2 legal edges only; I3 one completion
per generation; I4 attempts bounded; I5 nothing acknowledged is lost; I6 nothing rescued in grace; I7 one open job per
unique key; I8 one dead letter per failed generation; I9 a parent runs after its children; I10 counters equal a scan;
I11 events without gaps; I12 claim order; I13 cancelled jobs do not start; I15 effects exactly once; I16 tombstones go
last; I18 a winner's repeat gets the same answer; I19 limits hold. What is not checked by itself, the comparison with
the model covers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pymongo.database import Database as SyncDatabase

from switchtower.clock import to_ms
from switchtower.engine import Engine
from switchtower.events import Event, Topic
from switchtower.states import TRANSITIONS
from switchtower.store import changes, counters
from switchtower.workers import OutcomeKind
from tests.model.model import FINAL, OPEN, Model, Refused, Violation, observed
from tests.model.operations import (
    QUEUES,
    Answer,
    Bound,
    Claim,
    Clear,
    Control,
    Depart,
    Die,
    Duty,
    Enqueue,
    Lapse,
    Operate,
    Operation,
    Progress,
    Register,
    RelayTwice,
    Renew,
    Replay,
    Report,
    Rescue,
    Start,
    Then,
    TimePasses,
)

NAMES = ("a", "b")
WORKERS = ("w0", "w1", "w2")
COLLECTIONS = ("jobs", "dead_letters", "workers", "queues", "leases", "counters", "minutes", "permits")

queues = st.sampled_from(QUEUES)
# One queue is busier than the other, so that its jobs meet.
busy_queues = st.sampled_from(("left", "left", "left", "right"))
names = st.sampled_from(NAMES)
handlers = st.sampled_from([None, None, None, frozenset({"a"}), frozenset({"b"}), frozenset(NAMES)])
picks = st.integers(0, 63)
keys = st.sampled_from([None, "k1", "k2"])
seldom = st.sampled_from([False, False, False, True])


class World:
    """The engine, the loop that it lives on, a blocking view of its database, and every event that it stamped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, view: SyncDatabase[dict[str, Any]]) -> None:
        self.loop = loop
        self.engine = engine
        self.view = view
        self.steps = 0
        self.failures: list[str] = []
        """What the runs found, with the operations before it: a race need not happen again when it is replayed."""
        self.events: dict[str, list[Event]] = defaultdict(list)
        # Effects are operations here: what a dead process left undone must be seen by itself.
        engine.effects.kick = lambda: None  # type: ignore[method-assign]
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, url: str, database: str, view: SyncDatabase[dict[str, Any]]) -> World:
        loop = asyncio.new_event_loop()
        engine = loop.run_until_complete(Engine.connect(url, database=database, role="worker"))
        loop.run_until_complete(engine.prepare())
        world = cls(loop, engine, view)
        opened = asyncio.Event()
        world._reader = loop.create_task(world._read(opened))
        loop.run_until_complete(asyncio.wait_for(opened.wait(), 60))
        return world

    async def _read(self, opened: asyncio.Event) -> None:
        async for batch, _ in changes.read(self.engine._store, after=None):
            opened.set()
            for event in batch:
                if event.topic is Topic.JOB:
                    self.events[event.id].append(event)

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 60))

    def clear(self) -> None:
        for name in COLLECTIONS:
            self.view[name].delete_many({})
        self.engine.claims._queues.clear()
        self.engine.upkeep._retention = _KEEP_NO_TOMBSTONE
        self.events.clear()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self.loop.run_until_complete(asyncio.gather(self._reader, return_exceptions=True))
        self.loop.run_until_complete(self.engine.close())
        self.loop.close()


def _keep_no_tombstone() -> Any:
    from switchtower.engine import Retention

    return Retention(None, None, None, tombstone_seconds=0)


_KEEP_NO_TOMBSTONE = _keep_no_tombstone()


class QueueMachine(RuleBasedStateMachine):
    """Set `world` on a subclass before running it."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.leases: list[tuple[str, str, str]] = []
        """Every (job, token, worker) that was ever won."""
        self.calls: list[Operation] = []
        """Reports made so far, to be repeated."""
        self.letters: dict[tuple[str, int], str] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.history: list[str] = []
        self.world.clear()

    # Doing and comparing.

    def do(self, operation: Operation) -> Answer:
        with self.explained(operation):
            answer: Answer = self.world.run(operation.run(self.world.engine))
            self.look()
            operation.apply(self.model, answer, self.documents)
            self.compare(self.model)
            self.remember(operation, answer)
        self.history.append(f"{operation} -> {answer}")
        return answer

    @contextlib.contextmanager
    def explained(self, doing: object) -> Iterator[None]:
        """A failure inside the block is kept, with what led to it."""
        try:
            yield
        except Exception as failure:
            documents = "\n".join(map(str, self.documents.values()))
            story = "\n".join([*self.history[-40:], f"then {doing}: {type(failure).__name__}: {failure}", documents])
            self.world.failures.append(story)
            raise

    def race(self, one: Operation, two: Operation, *, lag_seconds: float = 0) -> None:
        """Both at once, by two processes: the outcome must be one that some order of their steps has.

        The second begins `lag_seconds` later: the first may have read by then, and not yet written.
        """

        async def later() -> Answer:
            await asyncio.sleep(lag_seconds)
            return await two.run(self.world.engine)

        async def both() -> list[Answer]:
            return list(await asyncio.gather(one.run(self.world.engine), later()))

        with self.explained((one, two)):
            first, second = self.world.run(both())
            self.look()
            refusals = []
            steps: list[tuple[Operation, Answer]] = [(two, second)]
            if isinstance(two, Then):
                steps = list(zip(two.made, second.value, strict=True))
            for place in range(len(steps) + 1):
                order = [*steps[:place], (one, first), *steps[place:]]
                model = self.model.copy()
                try:
                    for operation, answer in order:
                        operation.apply(model, answer, self.documents)
                    self.compare(model)
                except Violation as violation:
                    refusals.append(str(violation))
                    continue
                self.model = model
                for operation, answer in order:
                    self.remember(operation, answer)
                self.history.append(f"{one} -> {first} at once with {two} -> {second}")
                return
            raise Violation(f"{first} and {second}: neither order explains it: {refusals}")

    def remember(self, operation: Operation, answer: Answer) -> None:
        if isinstance(operation, Claim) and answer.value:
            self.leases += [(id, token, operation.worker) for id, token in answer.value]
        if isinstance(operation, Start | Report | Progress):
            self.calls.append(operation)

    def look(self) -> None:
        self.world.steps += 1
        self.documents = {document["_id"]: document for document in self.world.view["jobs"].find()}

    def compare(self, model: Model) -> None:
        if set(self.documents) != set(model.jobs):
            missing, extra = set(model.jobs) - set(self.documents), set(self.documents) - set(model.jobs)
            raise Violation(f"jobs lost: {missing}; jobs that should not be: {extra}")
        for id, job in model.jobs.items():
            expected, found = model.expected(job), observed(self.documents[id])
            if expected != found:
                wrong = {k: (found[k], expected[k]) for k in expected if found[k] != expected[k]}
                raise Violation(f"job {id}: (found, expected) {wrong}")

    # Choosing.

    def pick(self, number: int, condition: Callable[[Any], bool] = lambda job: True) -> str | None:
        found = sorted(job.id for job in self.model.jobs.values() if condition(job))
        return found[number % len(found)] if found else None

    def a_lease(self, number: int) -> tuple[str, str] | None:
        """Mostly a lease that is held now, else any that ever was."""
        current = [(job.id, job.token) for job in self.model.jobs.values() if job.token is not None]
        current.sort()
        if current and number % 4:
            return current[number % len(current)]
        return self.leases[number % len(self.leases)][:2] if self.leases else None

    # Rules.

    @initialize()
    def staff(self) -> None:
        self.do(Register("w0", frozenset()))

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

    @rule(number=picks)
    def debounce_against_debounce(self, number: int) -> None:
        self.race(
            Enqueue("left", delayed=True, priority=number % 3, debounce_key="d"),
            Enqueue("left", delayed=True, priority=-1, debounce_key="d"),
        )

    @rule(number=picks)
    def debounce_against_promote(self, number: int) -> None:
        if id := self.pick(number, lambda job: job.debounced and job.state == "scheduled"):
            self.race(Operate("promote", id), Enqueue("left", delayed=True, debounce_key="d"))

    @rule(queue=busy_queues, key=st.sampled_from(["k1", "k2"]), keeps=seldom, many=st.booleans())
    def enqueue_unique(self, queue: str, key: str, keeps: bool, many: bool) -> None:
        self.do(Enqueue(queue, unique_key=key, keeps_hold=keeps, max_attempts=1, many=many))

    @rule(key=st.sampled_from(["i1", "i2"]), custom=st.booleans())
    def enqueue_repeatable(self, key: str, custom: bool) -> None:
        call = Enqueue("left", custom_id=key) if custom else Enqueue("left", idempotency_key=key)
        self.do(call)
        self.do(call)

    @rule(parent=picks, other=picks, link=st.sampled_from(["parent", "parent", "depends", "both"]), key=keys)
    def enqueue_linked(self, parent: int, other: int, link: str, key: str | None) -> None:
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
            )
        )

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
        # A run that waits for its children is not in the model; tests/conformance/test_flows.py covers it.
        unmodelled = (OutcomeKind.RETRY_AT, OutcomeKind.EXPIRE, OutcomeKind.SUSPEND)
        if kind not in unmodelled and (lease := self.a_lease(number)):
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

    @rule(number=picks, verb=st.sampled_from(["cancel", "cancel", "retry", "retry", "promote", "remove", "update"]))
    def operate(self, number: int, verb: str) -> None:
        if id := self.pick(number):
            self.do(Operate(verb, id, force=number % 5 == 0, priority=number % 3))

    def a_run(self, worker: str = "runner", **options: Any) -> tuple[str, str] | None:
        """A job that has just been claimed, whatever else there is; None when a pause is in the way."""
        call = Enqueue("left", priority=-99, **options)
        self.do(call)
        self.do(Register(worker, frozenset()))
        answer = self.do(Claim(worker, "left"))
        return answer.value[0] if answer.value else None

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

    @rule(key=st.sampled_from(["k1", "k4"]))
    def key_changes_hands(self, key: str) -> None:
        """An ended job is to run again while another holds its key."""
        first = self.a_run(unique_key=key, max_attempts=1)
        if first is None or self.model.jobs[first[0]].unique_key != key:
            return
        self.do(Report(OutcomeKind.COMPLETE, *first))
        self.do(Enqueue("left", unique_key=key))
        self.do(Operate("retry", first[0]))

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

    @rule(ends=st.sampled_from(["cc", "cc", "cf", "fc"]), writes=st.integers(0, 3), parent=picks)
    def family(self, ends: str, writes: int, parent: int) -> None:
        """A parent and two children; whoever tells it of the first's end dies on the way."""
        self.do(Enqueue("left", name="b"))
        id = self.pick(parent, lambda job: job.state in ("waiting", "blocked", "scheduled"))
        if id is None:
            return
        for _ in ends:
            self.do(Enqueue("right", priority=-99, parent=id, max_attempts=1))
        self.do(Register("runner", frozenset()))
        for end in ends:
            answer = self.do(Claim("runner", "right"))
            for run in answer.value:
                self.do(Report(OutcomeKind.COMPLETE if end == "c" else OutcomeKind.BURY, *run))
            self.do(Die(Duty("relay"), writes))

    @rule(number=picks, unique=st.booleans())
    def retry_ended(self, number: int, unique: bool) -> None:
        """An ended job again, mostly one whose unique key may have gone to another."""
        if id := self.pick(number, lambda job: job.state in FINAL and (not unique or job.unique_key is not None)):
            self.do(Operate("retry", id))

    @rule(queue=busy_queues, name=st.sampled_from([None, "a"]), verb=st.sampled_from(["pause", "resume", "resume"]))
    def control(self, queue: str, name: str | None, verb: str) -> None:
        self.do(Control(verb, queue, name))

    @rule(worker=st.sampled_from(WORKERS), name=st.sampled_from([None, "a"]))
    def pause_unseen(self, worker: str, name: str | None) -> None:
        """A claimer that has just read the controls claims again behind a pause."""
        self.do(Enqueue("right"))
        self.do(Claim(worker, "right"))
        self.do(Enqueue("right"))
        self.do(Control("pause", "right", name))
        self.do(Claim(worker, "right", fresh=False))
        self.do(Control("resume", "right", name))

    @rule(queue=busy_queues, most=st.sampled_from([None, None, 0, 1, 2]))
    def limit(self, queue: str, most: int | None) -> None:
        self.do(Bound(queue, most))

    @rule(worker=st.sampled_from(WORKERS), most=st.sampled_from([0, 1, 2]), limit=st.integers(1, 4))
    def limit_unseen(self, worker: str, most: int, limit: int) -> None:
        """A claimer that has just read the controls claims again behind a limit, and behind its end."""
        self.do(Enqueue("right", many=True))
        self.do(Claim(worker, "right"))
        self.do(Bound("right", most))
        self.do(Claim(worker, "right", limit=limit, fresh=False))
        self.do(Bound("right", None))

    @rule(queue=queues, state=st.sampled_from([None, "failed", "completed", "waiting"]))
    def clear(self, queue: str, state: str | None) -> None:
        self.do(Clear(queue, state))

    @rule(name=st.sampled_from(["stage", "stage", "expire", "relay", "relay", "relay", "prune", "unpark", "let_go"]))
    def maintain(self, name: str) -> None:
        self.do(Duty(name))

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

    @rule(writes=st.integers(0, 3), what=st.sampled_from(["relay", "rescue", "seen"]), worker=st.sampled_from(WORKERS))
    def die_half_way(self, writes: int, what: str, worker: str) -> None:
        if what == "relay":
            self.do(Die(Duty("relay"), writes))
        elif what == "rescue":
            self.do(Die(Rescue(), writes))
        elif worker in self.model.workers:
            self.do(Die(Depart(worker), writes + 1))

    @rule()
    def relay_twice(self) -> None:
        self.do(RelayTwice())

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

    # Races of two processes.

    @rule(worker=st.sampled_from(WORKERS), lag_seconds=st.sampled_from([0.0, 0.004]))
    def cancel_against_claim(self, worker: str, lag_seconds: float) -> None:
        self.do(Enqueue("left", priority=-9))
        id = self.pick(0, lambda job: job.state == "waiting" and job.priority == -9)
        if id:
            self.race(Operate("cancel", id), Claim(worker, "left"), lag_seconds=lag_seconds)

    @rule(number=picks, kind=st.sampled_from([OutcomeKind.COMPLETE, OutcomeKind.FAIL]))
    def cancel_against_report(self, number: int, kind: OutcomeKind) -> None:
        if lease := self.a_lease(number):
            self.race(Operate("cancel", lease[0]), Report(kind, *lease, alone=True))

    @rule(number=picks)
    def report_against_report(self, number: int) -> None:
        if lease := self.a_lease(number):
            self.race(Report(OutcomeKind.COMPLETE, *lease), Report(OutcomeKind.FAIL, *lease, alone=True))

    @rule(worker=st.sampled_from(WORKERS), number=picks)
    def rescue_against_late_report(self, worker: str, number: int) -> None:
        """A worker taken for dead hands its job on at the last moment: the rescuer must not take it from the next."""
        self.do(Enqueue("left", priority=-9))
        self.do(Register("late", frozenset()))
        won = self.do(Claim("late", "left")).value
        if won:
            late = Report(OutcomeKind.RELEASE if number % 2 else OutcomeKind.FAIL, *won[0])
            self.race(Depart("late"), Then(late, lambda _: Claim(worker, "left")))

    @rule(number=picks)
    def retry_against_enqueue(self, number: int) -> None:
        self.do(Duty("relay"))
        if id := self.pick(number, lambda job: job.state in FINAL and job.unique_key is not None and not job.debounced):
            job = self.model.jobs[id]
            self.race(Operate("retry", id), Enqueue("left", unique_key=job.unique_key))

    @rule(number=picks)
    def retry_twice(self, number: int) -> None:
        if id := self.pick(number, lambda job: job.state in FINAL):
            self.race(Operate("retry", id), Operate("retry", id))

    @rule(key=st.sampled_from(["k1", "k3"]))
    def enqueue_against_enqueue(self, key: str) -> None:
        self.race(Enqueue("left", unique_key=key, many=True), Enqueue("left", unique_key=key))

    @rule(one=st.sampled_from(WORKERS), two=st.sampled_from(WORKERS))
    def claim_against_claim(self, one: str, two: str) -> None:
        self.do(Enqueue("left"))
        self.race(Claim(one, "left"), Claim(two, "left", limit=2, fresh=False))

    @rule(worker=st.sampled_from(WORKERS))
    def pause_against_claim(self, worker: str) -> None:
        self.race(Control("pause", "left"), Claim(worker, "left", fresh=False))
        self.do(Control("resume", "left"))

    @rule(one=st.sampled_from(WORKERS), two=st.sampled_from(WORKERS), most=st.integers(1, 2), late=st.booleans())
    def claim_against_claim_under_a_limit(self, one: str, two: str, most: int, late: bool) -> None:
        for _ in range(2):
            self.do(Enqueue("left"))
        if late:
            self.race(Bound("left", most), Claim(two, "left", limit=2, fresh=False))
        else:
            self.do(Bound("left", most))
            self.race(Claim(one, "left"), Claim(two, "left", limit=2, fresh=False))
        self.do(Bound("left", None))

    # Invariants that need no model.

    def view_letters(self) -> dict[tuple[str, int], str]:
        rows = list(self.world.view["dead_letters"].find({}, {"job_id": 1, "generation": 1}))
        found = {(row["job_id"], row["generation"]): row["_id"] for row in rows}
        assert len(found) == len(rows), "two dead letters for one generation (I8)"
        return found

    @invariant()
    def database_is_sound(self) -> None:
        with self.explained("looking"):
            self.documents_are_sound()
            assert set(self.view_letters()) == set(self.model.letters), "I8"

    def documents_are_sound(self) -> None:
        held: dict[str, str] = {}
        for id, job in self.documents.items():
            state = job["state"]
            assert ("token" in job) == ("worker_id" in job) == (state == "active"), f"I1 {job}"
            assert job["attempt"] <= job["max_attempts"] and job["claims"] <= job["max_attempts"] + 5, f"I4 {job}"
            assert job.get("outbox") is None or state in FINAL | {"removed"}, f"I15 {job}"
            if state in ("blocked",):
                assert job["pending"], f"I9 {job}"
            if state == "waiting":
                at = to_ms_utc(job["run_at"])
                assert abs(job["order"]) == at, f"I12 {job['order']} {at}"
            if state in OPEN and "unique_key" in job and "dedup" not in job:
                assert job.get("unique_hold") == job["unique_key"], f"I7 {job}"
                other = held.setdefault(job["unique_key"], id)
                assert other == id, f"I7 two open jobs for {job['unique_key']}: {other} {id}"
            won = [row["generation"] for row in job.get("attempts", ()) if row["outcome"] == "completed"]
            assert len(won) == len(set(won)), f"I3 {job}"

    def teardown(self) -> None:
        """I10, I11 and the edges of I2 and I13, from the events that the example left in the change stream."""
        with self.explained("the end"):
            self.world.run(self._events_are_here())
            for id, document in self.documents.items():
                self._check_chain(id, document, self.world.events[id])
            self._check_counters()

    async def _events_are_here(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if all(len(self.world.events[id]) >= document["event_seq"] for id, document in self.documents.items()):
                return
            await asyncio.sleep(0.01)

    def _check_chain(self, id: str, document: dict[str, Any], events: list[Event]) -> None:
        assert len(events) == document["event_seq"], f"I11 {len(events)} events of {document['event_seq']} for {id}"
        state: str | None = None
        stopped = False
        for event in events:
            if event.to_state is None:
                continue
            if event.type != "enqueue":
                assert event.from_state == state, f"I11 {id}: {event.type} from {event.from_state}, was {state}"
                sources = TRANSITIONS[event.type].sources
                assert event.from_state in sources or event.type == "remove", f"I2 {event}"
            if event.type == "retry":
                stopped = False
            assert not (stopped and event.to_state == "active"), f"I13 {id} started after its cancel"
            stopped = stopped or event.to_state == "cancelled"
            state = "removed" if event.data.get("removed") else event.to_state
        assert state == document["state"], f"I11 the last event of {id} says {state}, the job {document['state']}"

    def _check_counters(self) -> None:
        folded = counters.fold([event for events in self.world.events.values() for event in events])
        counted: dict[tuple[str, str], int] = defaultdict(int)
        for job in self.documents.values():
            if job["state"] != "removed":
                counted[(job["queue"], job["state"])] += 1
        found = {(q, state): n for (q, _), row in folded.states.items() for state, n in row.items() if n}
        assert found == dict(counted), f"I10 folded {found}, counted {dict(counted)}"


def to_ms_utc(at: Any) -> int:
    from datetime import UTC

    return to_ms(at if at.tzinfo else at.replace(tzinfo=UTC))


__all__ = ["QueueMachine", "Refused", "Violation", "World"]
