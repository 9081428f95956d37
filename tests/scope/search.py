"""Every interleaving of a few workers, jobs and failovers over the real transition table (goal G16).

A state is what the database holds of the jobs, and how each worker stands with its lease. A step is one write, or one
thing that happens to a worker or to the database. Nothing is assumed of what a worker believes: whoever was ever given
a token may send any write with it at any time, once or again, which covers lost replies, late replays and frozen
processes alike. A failover loses no write, since all wait for a majority: it makes every lease look expired (the new
primary's clock is far ahead), and begins a grace. From which states a verb starts, where it may land and whether its
write carries the token is read from `switchtower.states.TRANSITIONS`, the guards that stand there in words from
`GUARDS`; take one away, and the search finds what it was for.

Workers and jobs are alike: of all states that differ only in their numbers one is visited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from switchtower.states import FINAL, TRANSITIONS, JobState, Transition

__all__ = ["GUARDS", "Found", "Rules", "Scope", "Violation", "search"]

S = JobState
WORKERS_WRITES = ("start", "complete", "backoff", "bury", "snooze", "release", "abort")

GUARDS = {
    "unstarted": "start: the run is not marked as started yet",
    "attempts": "backoff: attempts are left",
    "holder lost": "rescue: the holder was declared lost",
    "grace": "nobody is declared lost between a new primary and the renewals that follow",
    "generation": "retry: a final job begins another generation",
    "outbox": "retry: the effects of the end before it were relayed",
    "effect id": "relay: an effect has the id of its job and generation",
}
"""What the table says in words, or the engine by itself."""


class Lease(IntEnum):
    """How a worker stands."""

    HELD = 0
    LOOKS_EXPIRED = 1
    """By the new primary's clock alone."""
    LAPSED = 2
    """It did not renew for as long as its lease: it is frozen, cut off or dead."""
    LOST = 3
    """Declared lost."""


class Job(NamedTuple):
    """What the database holds of a job, but for who holds it. Tokens are numbered from 1; `issued` is the last."""

    state: JobState = S.WAITING
    token: int = 0
    issued: int = 0
    started: bool = False
    attempts: int = 0
    cancel_requested: bool = False
    generation: int = 0
    completed: bool = False
    """Whether this generation was."""
    outbox: bool = False
    told: int = 0
    """How often the effect of the end that is in the outbox was recorded."""


class Place(NamedTuple):
    """A job by its number in the book, and the worker that holds it (-1: nobody)."""

    job: int
    holder: int


class World(NamedTuple):
    """All of it."""

    places: tuple[Place, ...]
    leases: tuple[Lease, ...]
    failovers: int = 0
    grace: bool = False


@dataclass(frozen=True)
class Scope:
    """How much there is of everything; `tokens` bounds how often a job is claimed."""

    workers: int = 3
    jobs: int = 2
    failovers: int = 2
    max_attempts: int = 2
    tokens: int = 3
    retries: int = 1


@dataclass(frozen=True)
class Rules:
    """What a search goes by: the product's own, unless a test takes something away."""

    transitions: Mapping[str, Transition] = field(default_factory=lambda: TRANSITIONS)
    without: frozenset[str] = frozenset()


class Violation(AssertionError):
    """A rule that was broken, and a shortest way there."""

    def __init__(self, rule: str, path: Iterable[str]) -> None:
        super().__init__("\n  ".join([rule, *path]))
        self.rule = rule


@dataclass(frozen=True)
class Found:
    """How much was visited, and the longest of all shortest ways to a state."""

    states: int
    transitions: int
    depth: int

    def __str__(self) -> str:
        return f"{self.states:,} states, {self.transitions:,} transitions, depth {self.depth}"


class Step(NamedTuple):
    """One way for a job to go on."""

    name: str
    after: int
    broken: str
    """The rule that it breaks."""


def search(scope: Scope, rules: Rules | None = None) -> Found:
    """Visits every state that can be reached. Raises: Violation."""
    book = Book(scope, rules or Rules())
    first = World((Place(book.number(Job()), -1),) * scope.jobs, (Lease.HELD,) * scope.workers)
    came_from: dict[World, World | None] = {first: None}
    level = [first]
    transitions = depth = 0
    while level:
        following = []
        for world in level:
            for name, after, broken in _steps(world, scope, book):
                transitions += 1
                if broken:
                    raise Violation(broken, [*_path(world, came_from, scope, book), name])
                after = canonical(after)
                if after not in came_from:
                    came_from[after] = world
                    following.append(after)
        depth += bool(following)
        level = following
    return Found(len(came_from), transitions, depth)


def canonical(world: World) -> World:
    """The one of all worlds that differ only in how workers and jobs are numbered."""
    held: list[list[int]] = [[] for _ in world.leases]
    for job, holder in world.places:
        if holder >= 0:
            held[holder].append(job)
    ranks = [(lease, tuple(sorted(jobs))) for lease, jobs in zip(world.leases, held, strict=True)]
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    new = {old: place for place, old in enumerate(order)} | {-1: -1}
    places = sorted(Place(job, new[holder]) for job, holder in world.places)
    return World(tuple(places), tuple(world.leases[old] for old in order), world.failovers, world.grace)


def _path(world: World, came_from: Mapping[World, World | None], scope: Scope, book: Book) -> list[str]:
    names: list[str] = []
    at = world
    while (before := came_from[at]) is not None:
        names.append(next(name for name, after, _ in _steps(before, scope, book) if canonical(after) == at))
        at = before
    return names[::-1]


def _steps(world: World, scope: Scope, book: Book) -> Iterator[tuple[str, World, str]]:
    """Each step from here: its name, the world after it, and the rule that it breaks ("": none)."""
    places, leases, failovers, grace = world
    for number, (job, holder) in enumerate(places):
        before, behind = places[:number], places[number + 1 :]
        lost = holder >= 0 and leases[holder] is Lease.LOST
        for name, after, broken in book.steps(job, lost):
            new_holder = holder if book.jobs[after].token else -1
            moved = (*before, Place(after, new_holder), *behind)
            yield f"job {number}: {name}", World(moved, leases, failovers, grace), broken
        claimed = book.claimed(job)
        if claimed is not None:
            # One that is lost and does not know it yet may claim too.
            for worker in range(len(leases)):
                moved = (*before, Place(claimed.after, worker), *behind)
                yield (
                    f"job {number}: claimed by worker {worker}",
                    World(moved, leases, failovers, grace),
                    claimed.broken,
                )
    for worker, lease in enumerate(leases):
        busy = any(place.holder == worker for place in places)
        for name, changed, broken in _lives(lease, busy, protected=grace and "grace" not in book.rules.without):
            alive = (*leases[:worker], changed, *leases[worker + 1 :])
            yield f"worker {worker}: {name}", World(places, alive, failovers, grace), broken
    if failovers < scope.failovers:
        seem = tuple(Lease.LOOKS_EXPIRED if lease is Lease.HELD else lease for lease in leases)
        yield "failover", World(places, seem, failovers + 1, True), ""
    if grace:
        # An interval of heartbeats has passed: who can renew has, who did not has truly let its lease lapse.
        silent = tuple(Lease.LAPSED if lease is Lease.LOOKS_EXPIRED else lease for lease in leases)
        yield "grace ends", World(places, silent, failovers, False), ""


def _lives(lease: Lease, busy: bool, *, protected: bool) -> Iterator[tuple[str, Lease, str]]:
    match lease:
        case Lease.HELD | Lease.LOOKS_EXPIRED:
            yield "lets its lease lapse", Lease.LAPSED, ""
        case Lease.LOST if not busy:
            yield "is replaced by another", Lease.HELD, ""
    if lease in (Lease.LOOKS_EXPIRED, Lease.LAPSED):
        yield "renews", Lease.HELD, ""
        if not protected:
            truly = lease is Lease.LAPSED
            yield "is declared lost", Lease.LOST, "" if truly else "I6: who holds its lease is not declared lost"


class Book:
    """Every job that was met, by number, and its steps, each worked out and held against the rules once."""

    def __init__(self, scope: Scope, rules: Rules) -> None:
        self.rules = rules
        self.jobs: list[Job] = []
        self._scope = scope
        self._numbers: dict[Job, int] = {}
        self._steps: dict[tuple[int, bool], list[Step]] = {}
        self._claimed: dict[int, Step | None] = {}

    def number(self, job: Job) -> int:
        if job not in self._numbers:
            self._numbers[job] = len(self.jobs)
            self.jobs.append(job)
        return self._numbers[job]

    def steps(self, number: int, holder_lost: bool) -> list[Step]:
        """What can be done to a job, a claim excepted."""
        found = self._steps.get((number, holder_lost))
        if found is None:
            job = self.jobs[number]
            found = [
                Step(name, self.number(after), self._broken(job, after, verb, sent, holder_lost))
                for name, verb, sent, after in self._ways(job, holder_lost)
                if after != job or verb == "relay"
            ]
            self._steps[number, holder_lost] = found
        return found

    def claimed(self, number: int) -> Step | None:
        if number not in self._claimed:
            job, step = self.jobs[number], None
            if self._starts("claim", job) and job.issued < self._scope.tokens:
                token = job.issued + 1
                after = job._replace(state=S.ACTIVE, token=token, issued=token, started=False)
                step = Step("claimed", self.number(after), self._broken(job, after, "claim", 0, False))
            self._claimed[number] = step
        return self._claimed[number]

    def _starts(self, verb: str, job: Job, sent: int | None = None) -> bool:
        """Whether the filter of a verb's write matches: its states, and the token that is sent with it."""
        transition = self.rules.transitions[verb]
        return job.state in transition.sources and (not transition.fenced or sent == job.token)

    def _guarded(self, guard: str) -> bool:
        assert guard in GUARDS
        return guard not in self.rules.without

    def _ways(self, job: Job, holder_lost: bool) -> Iterator[tuple[str, str, int, Job]]:
        """(what happens, its verb, the token that is sent with it, the job afterwards)"""
        if self._starts("stage", job):
            yield "staged", "stage", 0, job._replace(state=S.WAITING)
        if self._starts("cancel", job):
            yield "cancelled", "cancel", 0, ended(job, S.CANCELLED)
        if self._starts("request_cancel", job):
            yield "cancel requested", "request_cancel", 0, job._replace(cancel_requested=True)
        retries_left = job.state not in FINAL or job.generation < self._scope.retries
        if self._starts("retry", job) and retries_left and not (job.outbox and self._guarded("outbox")):
            yield "retried", "retry", 0, self._retried(job)
        if job.outbox:
            told = job.told + (job.told == 0 or not self._guarded("effect id"))
            yield "relayed, the reply is lost", "relay", 0, job._replace(told=told)
            yield "relayed", "relay", 0, job._replace(told=told, outbox=False)
        for sent in range(1, job.issued + 1):
            for verb in WORKERS_WRITES:
                if self._starts(verb, job, sent):
                    for after in self._written(job, verb):
                        yield f"{verb} with token {sent} of {job.issued}", verb, sent, after
            if self._starts("rescue", job, sent):
                # A rescuer may have seen an earlier token, and its holder was lost then.
                stale = sent != job.token
                if stale or holder_lost or not self._guarded("holder lost"):
                    yield f"rescued, token {sent} of {job.issued} seen", "rescue", sent, self._rescued(job)

    def _written(self, job: Job, verb: str) -> Iterator[Job]:
        """The job after a worker's write, one for each state where it may land."""
        charged = job._replace(attempts=job.attempts + (not job.started))
        match verb:
            case "start" if not job.started or not self._guarded("unstarted"):
                yield job._replace(started=True, attempts=job.attempts + 1)
            case "complete":
                yield ended(charged, S.COMPLETED)._replace(completed=True, outbox=True, told=0)
                if job.cancel_requested:
                    yield ended(charged, S.CANCELLED)
            case "backoff" if job.cancel_requested:
                yield ended(charged, S.CANCELLED)
            case "backoff" if charged.attempts < self._scope.max_attempts or not self._guarded("attempts"):
                yield ended(charged, S.RETRYING)
                yield ended(charged, S.WAITING)
            case "bury":
                yield ended(charged, S.FAILED)
            case "release" | "snooze":
                given_back = job._replace(attempts=job.attempts - job.started)
                if job.cancel_requested:
                    yield ended(given_back, S.CANCELLED)
                else:
                    yield ended(given_back, S.WAITING)
                    if verb == "snooze":
                        yield ended(given_back, S.SCHEDULED)
            case "abort" if job.cancel_requested:
                yield ended(charged, S.CANCELLED)

    def _rescued(self, job: Job) -> Job:
        if job.cancel_requested:
            return ended(job, S.CANCELLED)
        spent = job.started and job.attempts >= self._scope.max_attempts
        return ended(job, S.FAILED if spent else S.WAITING)

    def _retried(self, job: Job) -> Job:
        if job.state not in FINAL or not self._guarded("generation"):
            return ended(job, S.WAITING)._replace(outbox=False)
        return Job(issued=job.issued, generation=job.generation + 1)

    def _broken(self, old: Job, new: Job, verb: str, sent: int, holder_lost: bool) -> str:
        """The rule that a step breaks; "" for none."""
        targets = self.rules.transitions[verb].targets if verb in self.rules.transitions else {"same"}
        if new.state != old.state and new.state not in targets:
            return f"I2: {verb} does not lead from {old.state} to {new.state}"
        if (new.token != 0) != (new.state is S.ACTIVE):
            return "I1: a job has a token exactly while it is active"
        if old.token and new.token != old.token:
            if verb == "rescue" and (sent != old.token or not holder_lost):
                return "I6: only a lost holder's run is taken back"
            if verb not in (*WORKERS_WRITES, "rescue"):
                return f"I6: a run ends by its holder or by rescue, not by {verb}"
        if verb in WORKERS_WRITES and sent != old.token:
            return f"I3: {verb} with token {sent} changed a job under token {old.token}"
        if old.state in FINAL and verb not in ("retry", "relay"):
            return f"I2: {verb} changes what has ended"
        if verb == "claim" and old.state is not S.WAITING:
            return f"I12: a job is claimed that is {old.state}"
        if new.cancel_requested and new.state is not S.ACTIVE:
            return "I13: a job that does not run waits for its handler to stop for a cancel"
        if new.completed and verb == "complete" and (old.completed or sent != old.issued):
            return "I3: a generation is completed once, by the last token issued"
        if not 0 <= new.attempts <= min(self._scope.max_attempts, new.issued):
            return f"I4: {new.attempts} attempts after {new.issued} claims"
        if new.told > 1 or (old.outbox and not new.outbox and new.told == 0):
            return f"I15: the effect of an end is recorded {new.told} times"
        return ""


def ended(job: Job, state: JobState) -> Job:
    """Nobody's any more."""
    return job._replace(state=state, token=0, started=False, cancel_requested=False)


def main() -> None:
    """Searches the whole scope, and says how much there was."""
    scope = Scope()
    print(f"{scope}: {search(scope)}; no rule is broken")


if __name__ == "__main__":
    main()
