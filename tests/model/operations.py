"""What can be done to the queue, on both sides: `run` asks the engine, `apply` asks the model.

`apply` gets the engine's answer and raises `Violation` when the model does not allow it; where the model knows what the
answer must be, it computes it. `settled` is the documents after the operation: claim order and parking are read there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from switchtower.callers import Caller
from switchtower.clock import from_ms
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.engine import Engine
from switchtower.errors import SwitchtowerError
from switchtower.jobs import ErrorKind, JobError, JobUpdate, NewJob
from switchtower.limits import Limit, QueueLimits
from switchtower.states import JobState
from switchtower.store import outbox
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.model.model import Model, ModelJob, ModelWorker, Refused, Violation

CALLER = Caller("model")
HOUR_MS = 3_600_000
FAILURE = JobError(ErrorKind.EXCEPTION, "ValueError", "no", None, "f" * 16)
QUEUES = ("left", "right")

Documents = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a call came to: a value, or the class name of its error."""

    value: Any = None
    error: str | None = None


class ProcessDied(BaseException):
    """The process that ran the engine is gone in the middle of a verb."""


async def ask(call: Any) -> Answer:
    try:
        return Answer(await call)
    except SwitchtowerError as error:
        return Answer(error=type(error).__name__)


def must_answer(answer: Answer, error: str | None) -> None:
    if answer.error != error:
        raise Violation(f"the answer was {answer.error or answer.value}, and must be {error or 'a success'}")


class Operation:
    async def run(self, engine: Engine) -> Answer:
        raise NotImplementedError

    def apply(self, model: Model, answer: Answer, settled: Documents) -> None:
        """Moves the model, and compares the answer with it."""
        try:
            expected = self.expect(model, answer, settled)
        except Refused as refused:
            must_answer(answer, refused.error)
            return
        must_answer(answer, None)
        if expected is not None and answer.value != expected:
            raise Violation(f"{self}: the answer was {answer.value}, and must be {expected}")

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        raise NotImplementedError


@dataclass
class Enqueue(Operation):
    queue: str
    name: str = "a"
    priority: int = 0
    delayed: bool = False
    max_attempts: int = 3
    unique_key: str | None = None
    keeps_hold: bool = False
    idempotency_key: str | None = None
    custom_id: str | None = None
    parent: str | None = None
    depends_on: tuple[str, ...] = ()
    lifo: bool = False
    ttl: bool = False
    remove_on_complete: bool = False
    remove_on_fail: bool = False
    many: bool = False
    debounce_key: str | None = None

    async def run(self, engine: Engine) -> Answer:
        new = NewJob(
            name=self.name,
            queue=self.queue,
            payload={"$gt": "$token"},
            priority=self.priority,
            delay_ms=HOUR_MS if self.delayed else None,
            max_attempts=self.max_attempts,
            unique_key=self.unique_key,
            unique_for_ms=HOUR_MS if self.keeps_hold and self.unique_key else None,
            idempotency_key=self.idempotency_key,
            job_id=self.custom_id,
            parent_id=self.parent,
            depends_on=self.depends_on,
            lifo=self.lifo,
            ttl_ms=HOUR_MS if self.ttl else None,
            remove_on_complete=self.remove_on_complete,
            remove_on_fail=self.remove_on_fail,
            deduplication=DeduplicationOptions(mode=DeduplicationMode.DEBOUNCE, key=self.debounce_key)
            if self.debounce_key
            else None,
        )
        if self.many:
            [first] = await engine.jobs.enqueue_many([new], caller=CALLER)
            return Answer(error=type(first).__name__) if isinstance(first, SwitchtowerError) else Answer(first.job.id)
        answer = await ask(engine.jobs.enqueue(new, caller=CALLER))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        new = ModelJob(
            id="",
            queue=self.queue,
            name=self.name,
            state="waiting",
            max_attempts=self.max_attempts,
            priority=self.priority,
            unique_key=f"{self.queue}\x1f{self.debounce_key}" if self.debounce_key else self.unique_key,
            debounced=self.debounce_key is not None,
            keeps_hold=self.keeps_hold,
            idempotency_key=self.idempotency_key,
            custom_id=self.custom_id,
            parent=self.parent,
            due=not self.delayed,
            ttl=self.ttl,
            remove_on_complete=self.remove_on_complete,
            remove_on_fail=self.remove_on_fail,
        )
        model.enqueue(new, depends_on=self.depends_on, answered=answer.value)


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
        return answer if answer.error else Answer([(job.id, job.token) for job in answer.value])

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
class Operate(Operation):
    """An operator's verb on one job: cancel, retry, promote, remove (force too), update."""

    verb: str
    id: str
    force: bool = False
    priority: int = 0

    async def run(self, engine: Engine) -> Answer:
        jobs: Any = engine.jobs
        if self.verb == "update":
            call = jobs.update(self.id, JobUpdate(priority=self.priority), caller=CALLER)
        elif self.verb == "remove":
            call = jobs.remove(self.id, force=self.force, caller=CALLER)
        else:
            call = getattr(jobs, self.verb)(self.id, caller=CALLER)
        answer = await ask(call)
        return answer if answer.error else Answer(answer.value.state.value)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        job = model.jobs.get(self.id)
        before = job.state if job is not None else None
        if self.verb == "update":
            model.update(self.id, self.priority)
        elif self.verb == "remove":
            model.remove(self.id, force=self.force)
            return before
        else:
            getattr(model, self.verb)(self.id)
        return model.jobs[self.id].state


@dataclass
class Register(Operation):
    worker: str
    names: frozenset[str]
    queues: frozenset[str] = frozenset(QUEUES)

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
class Rescue(Operation):
    in_grace: bool = False

    async def run(self, engine: Engine) -> Answer:
        engine.upkeep._healthy_since = time.monotonic() if self.in_grace else float("-inf")
        await engine.upkeep.rescue()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.lose(in_grace=self.in_grace)


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


@dataclass
class Control(Operation):
    verb: str
    queue: str
    name: str | None = None

    async def run(self, engine: Engine) -> Answer:
        await getattr(engine.queues, self.verb)(self.queue, caller=CALLER, job_name=self.name)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        held: set[Any] = model.paused if self.name is None else model.paused_names
        key: Any = self.queue if self.name is None else (self.queue, self.name)
        (held.add if self.verb == "pause" else held.discard)(key)
        if self.verb == "resume" and self.name is not None:
            model.unpark("paused", [self.queue], [self.name])


@dataclass
class Bound(Operation):
    """Limits how many jobs of a queue run at once, or takes the limit away."""

    queue: str
    most: int | None

    async def run(self, engine: Engine) -> Answer:
        await engine.queues.set_limits(self.queue, QueueLimits(Limit(self.most)), caller=CALLER)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.limits.pop(self.queue, None)
        if self.most is not None:
            model.limits[self.queue] = self.most


@dataclass
class Clear(Operation):
    """Drain a queue, or clean one state of it."""

    queue: str
    state: str | None = None

    async def run(self, engine: Engine) -> Answer:
        # What changed in the very millisecond of a clean is not older than it.
        await asyncio.sleep(0.004)
        if self.state is None:
            return await ask(engine.queues.drain(self.queue, caller=CALLER))
        return await ask(engine.queues.clean(self.queue, JobState(self.state), caller=CALLER))

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        states = {"waiting", "scheduled", "retrying", "blocked"} if self.state is None else {self.state}
        return model.clear(self.queue, states)


@dataclass
class Replay(Operation):
    """Replays a dead letter, under a key that makes it one replay however often it is asked for."""

    letter: str
    job: str
    generation: int
    key: str | None

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.dead_letters.replay(self.letter, caller=CALLER, idempotency_key=self.key))
        return answer if answer.error else Answer(answer.value.job.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        letter = model.letters[(self.job, self.generation)]
        entry = letter.entry
        new = ModelJob(
            id="",
            queue=entry.queue,
            name=entry.name,
            state="waiting",
            max_attempts=entry.max_attempts,
            priority=entry.priority,
            unique_key=None if entry.debounced else entry.unique_key,
            keeps_hold=entry.keeps_hold,
            idempotency_key=self.key,
            ttl=entry.ttl,
            remove_on_complete=entry.remove_on_complete,
            remove_on_fail=entry.remove_on_fail,
        )
        model.enqueue(new, depends_on=(), answered=answer.value)
        if answer.value not in letter.replays:
            letter.replays.append(answer.value)


@dataclass
class Duty(Operation):
    """One of maintenance's rounds: stage, expire, relay, prune, unpark, let_go."""

    name: str

    async def run(self, engine: Engine) -> Answer:
        await asyncio.sleep(0.004 if self.name == "prune" else 0)
        await getattr(engine.upkeep, self.name)()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        if self.name == "unpark":
            for job in model.jobs.values():
                served = model.served(job.queue)
                free = {
                    None: False,
                    "paused": (job.queue, job.name) not in model.paused_names,
                    "no_handler": served is None or job.name in served,
                }[job.parked]
                job.parked = None if free else job.parked
        elif self.name != "let_go":
            getattr(model, self.name)()


@dataclass
class TimePasses(Operation):
    """A job's due time, or its time to live, is over."""

    id: str
    field: str
    lifo: bool = False

    async def run(self, engine: Engine) -> Answer:
        past = engine.clock.now_ms() - 1_000
        changes: dict[str, Any] = {self.field: from_ms(past)}
        if self.field == "run_at":
            changes["order"] = -past if self.lifo else past
        await engine._store.jobs.update_one({"_id": self.id}, {"$set": changes})
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        if self.field == "run_at":
            model.jobs[self.id].due = True
        else:
            model.jobs[self.id].over = True


class Dying:
    """A collection whose process dies before its n-th write (`left` counts down over all of them)."""

    def __init__(self, collection: Any, left: list[int]) -> None:
        self._collection = collection
        self._left = left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in ("update_many", "update_one", "insert_many", "insert_one", "find_one_and_update", "delete_many"):
            return method

        async def counted(*arguments: Any, **options: Any) -> Any:
            if self._left[0] == 0:
                raise ProcessDied
            self._left[0] -= 1
            return await method(*arguments, **options)

        return counted


@dataclass
class Die(Operation):
    """Another operation's process dies before its n-th write; maintenance then finishes what was declared."""

    inner: Operation
    writes: int
    recovery: Sequence[Operation] = field(default_factory=lambda: [Rescue(), Duty("relay")])

    async def run(self, engine: Engine) -> Answer:
        store, left = engine._store, [self.writes]
        whole = {name: getattr(store, name) for name in ("jobs", "dead_letters", "workers")}
        for name, collection in whole.items():
            setattr(store, name, Dying(collection, left))
        try:
            with contextlib.suppress(ProcessDied):
                await self.inner.run(engine)
        finally:
            for name, collection in whole.items():
                setattr(store, name, collection)
        for operation in self.recovery:
            await operation.run(engine)
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        self.inner.expect(model, answer, settled)
        for operation in self.recovery:
            operation.expect(model, answer, settled)


@dataclass
class RelayTwice(Operation):
    """Two processes relay the same effects, the second from what it read before the first began."""

    async def run(self, engine: Engine) -> Answer:
        seen = await outbox.pending(engine._store, 200)
        await engine.upkeep.relay()
        await outbox.relay(engine._store, seen)
        await engine.upkeep.relay()
        return Answer()

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        model.relay()


@dataclass
class Then(Operation):
    """One process's operations in a row, in a race with another process; `later` makes the next from the answers."""

    first: Operation
    later: Any
    made: list[Operation] = field(default_factory=list)

    async def run(self, engine: Engine) -> Answer:
        self.made = [self.first]
        answers = [await self.first.run(engine)]
        following = self.later(answers)
        if following is not None:
            self.made.append(following)
            answers.append(await following.run(engine))
        return Answer(answers)

    def apply(self, model: Model, answer: Answer, settled: Documents) -> None:
        for operation, one in zip(self.made, answer.value, strict=True):
            operation.apply(model, one, settled)
