"""Every interleaving of a few workers, jobs and failovers over the real transition table (goal G16).

The state is what the database holds of the jobs and the workers. A step is one write, or one thing that happens to a
worker (it freezes, dies, comes back) or to the database (another primary, whose clock is far ahead). Nothing is assumed
of what a worker believes: whoever was ever given a token may send any write with it at any time, once or again, which
covers lost replies, late replays and frozen processes alike. Which states a verb starts from, and whether its write
carries the token, is read from `switchtower.states.TRANSITIONS`; take a guard away there and the search finds what it
was for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from switchtower.states import FINAL, TRANSITIONS, JobState, Transition

__all__ = ["Found", "Rules", "Scope", "Violation", "search"]

S = JobState
T = TypeVar("T")
WORKERS_WRITE = ("start", "complete", "backoff", "bury", "release", "abort")


class Job(NamedTuple):
    """What the database holds of a job. Tokens are numbered from 1, and `issued` counts them."""

    state: JobState = S.WAITING
    token: int = 0
    holder: int = -1
    started: bool = False
    attempts: int = 0
    cancel_requested: bool = False
    issued: int = 0
    completions: int = 0


class Worker(NamedTuple):
    """A worker: whether it runs, what the database says of it, and whether it truly let its lease lapse."""

    awake: bool = True
    dead: bool = False
    lost: bool = False
    looks_expired: bool = False
    lapsed: bool = False


class World(NamedTuple):
    """All of it. During `grace`, after a new primary, nobody is declared lost."""

    jobs: tuple[Job, ...]
    workers: tuple[Worker, ...]
    failovers: int = 0
    grace: bool = False


@dataclass(frozen=True)
class Scope:
    """How much there is of everything; tokens bound how often a job is claimed."""

    workers: int = 3
    jobs: int = 2
    failovers: int = 2
    max_attempts: int = 2
    tokens: int = 3


@dataclass(frozen=True)
class Rules:
    """The guards that a search goes by: the product's own, unless a test takes one away."""

    transitions: Mapping[str, Transition]
    grace: bool = True
    """Whether nobody is declared lost between a new primary and the renewals that follow."""
    only_the_lost: bool = True
    """Whether rescue takes jobs of lost workers only."""


PRODUCT = Rules(TRANSITIONS)


class Violation(Exception):
    """A rule that was broken, and the steps that led there."""

    def __init__(self, rule: str, path: list[str]) -> None:
        super().__init__(f"{rule}\n  " + "\n  ".join(path))
        self.rule = rule


@dataclass(frozen=True)
class Found:
    """How much was looked at."""

    states: int
    steps: int
    depth: int


class Broken(Exception):
    """A step that breaks a rule."""


def search(scope: Scope, rules: Rules = PRODUCT) -> Found:
    """Visits every state that can be reached. Raises: Violation, with a shortest way to it."""
    first = World((Job(),) * scope.jobs, (Worker(),) * scope.workers)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    ahead = deque([(first, 0)])
    steps = depth = 0

    def path(world: World) -> list[str]:
        names = []
        at: World = world
        while (before := came_from[at]) is not None:
            at, name = before
            names.append(name)
        return names[::-1]

    while ahead:
        world, depth = ahead.popleft()
        following = _steps(world, scope, rules)
        while True:
            try:
                name, after = next(following)
            except StopIteration:
                break
            except Broken as broken:
                raise Violation(str(broken), path(world)) from None
            steps += 1
            rule = _broken_rule(world, after, scope)
            if rule:
                raise Violation(rule, [*path(world), name])
            after = _canonical(after)
            if after not in came_from:
                came_from[after] = (world, name)
                ahead.append((after, depth + 1))
    return Found(len(came_from), steps, depth)


def _canonical(world: World) -> World:
    """One of all worlds that differ only in how workers and jobs are numbered."""
    held = [tuple(sorted(job for job in world.jobs if job.holder == number)) for number in range(len(world.workers))]
    order = sorted(range(len(world.workers)), key=lambda number: (world.workers[number], held[number]))
    place = {old: new for new, old in enumerate(order)}
    jobs = sorted(job._replace(holder=place[job.holder]) if job.holder >= 0 else job for job in world.jobs)
    return world._replace(jobs=tuple(jobs), workers=tuple(world.workers[old] for old in order))


def _broken_rule(before: World, after: World, scope: Scope) -> str:
    for old, new in zip(before.jobs, after.jobs, strict=True):
        if (new.token != 0) != (new.state is S.ACTIVE):
            return "a job has a token exactly while it is active"
        if new.completions > 1:
            return "a job is completed once"
        if new.attempts > scope.max_attempts or new.attempts < 0:
            return "attempts stay within their bound"
        if old.state in FINAL and new != old:
            return "a final state is final"
    return ""


def _steps(world: World, scope: Scope, rules: Rules) -> Iterator[tuple[str, World]]:
    for number, job in enumerate(world.jobs):
        for name, after in _job_steps(job, world, scope, rules):
            yield f"job {number}: {name}", world._replace(jobs=_with(world.jobs, number, after))
    for number, worker in enumerate(world.workers):
        for name, changed in _worker_steps(worker, world, rules):
            yield f"worker {number}: {name}", world._replace(workers=_with(world.workers, number, changed))
    if world.failovers < scope.failovers:
        # The new primary's clock is far ahead: every lease looks expired.
        workers = tuple(w if w.lost else w._replace(looks_expired=True) for w in world.workers)
        yield "failover", World(world.jobs, workers, world.failovers + 1, True)
    if world.grace and all(w.lost or w.dead or not w.awake or not w.looks_expired for w in world.workers):
        # An interval of heartbeats has passed: whoever can renew has, and who did not has let its lease lapse.
        silent = tuple(w._replace(lapsed=True) if w.looks_expired else w for w in world.workers)
        yield "grace ends", world._replace(workers=silent, grace=False)


def _worker_steps(worker: Worker, world: World, rules: Rules) -> Iterator[tuple[str, Worker]]:
    if not worker.dead:
        yield "dies", worker._replace(dead=True, awake=False)
        yield ("thaws", worker._replace(awake=True)) if not worker.awake else ("freezes", worker._replace(awake=False))
    if not worker.awake and not worker.lapsed:
        yield "lets its lease lapse", worker._replace(lapsed=True, looks_expired=True)
    if worker.awake and not worker.lost and worker.looks_expired:
        yield "renews", worker._replace(looks_expired=False, lapsed=False)
    if worker.looks_expired and not worker.lost and not (world.grace and rules.grace):
        if not worker.lapsed:
            raise Broken("nobody is declared lost who did not let its lease lapse")
        yield "is declared lost", worker._replace(lost=True)


def _job_steps(job: Job, world: World, scope: Scope, rules: Rules) -> Iterator[tuple[str, Job]]:
    table = rules.transitions
    if job.state in table["claim"].sources and job.issued < scope.tokens:
        for number, worker in enumerate(world.workers):
            # One that is lost and does not know it yet may claim too.
            if worker.awake:
                token = job.issued + 1
                yield (
                    f"claimed by worker {number}",
                    job._replace(state=S.ACTIVE, token=token, holder=number, started=False, issued=token),
                )
    if job.state in table["stage"].sources:
        yield "staged", job._replace(state=S.WAITING)
    if job.state in table["cancel"].sources:
        yield "cancelled", _ended(job, S.CANCELLED)
    elif job.state in table["request_cancel"].sources and not job.cancel_requested:
        yield "cancel requested", job._replace(cancel_requested=True)
    for token in range(1, job.issued + 1):
        for verb in WORKERS_WRITE:
            after = _written(job, verb, token, scope, table[verb])
            if after is not None:
                yield f"{verb} with token {token}", after
        rescued = _rescued(job, token, world, scope, rules)
        if rescued is not None:
            yield f"rescued, token {token} seen", rescued


def _written(job: Job, verb: str, token: int, scope: Scope, transition: Transition) -> Job | None:
    """The job after a worker's write; None where its filter does not match."""
    if job.state not in transition.sources or (transition.fenced and token != job.token):
        return None
    after = _effect(job, verb, scope)
    if after is not None and token != job.token:
        raise Broken(f"only the holder writes: {verb} with token {token} of a job under token {job.token}")
    return after


def _effect(job: Job, verb: str, scope: Scope) -> Job | None:
    charged = job.attempts + (not job.started)
    match verb:
        case "start":
            return None if job.started else job._replace(started=True, attempts=charged)
        case "complete":
            return _ended(job._replace(attempts=charged, completions=job.completions + 1), S.COMPLETED)
        case "backoff" if charged < scope.max_attempts:
            return _ended(job._replace(attempts=charged), S.CANCELLED if job.cancel_requested else S.RETRYING)
        case "bury":
            return _ended(job._replace(attempts=charged), S.FAILED)
        case "release":
            given_back = job.attempts - job.started
            return _ended(job._replace(attempts=given_back), S.CANCELLED if job.cancel_requested else S.WAITING)
        case "abort" if job.cancel_requested:
            return _ended(job._replace(attempts=charged), S.CANCELLED)
    return None


def _rescued(job: Job, seen: int, world: World, scope: Scope, rules: Rules) -> Job | None:
    transition = rules.transitions["rescue"]
    if job.state not in transition.sources or (transition.fenced and seen != job.token):
        return None
    if job.holder < 0 or (rules.only_the_lost and seen == job.token and not world.workers[job.holder].lost):
        return None
    if not world.workers[job.holder].lost:
        raise Broken("only a lost worker's jobs are rescued")
    if job.cancel_requested:
        return _ended(job, S.CANCELLED)
    spent = job.started and job.attempts >= scope.max_attempts
    return _ended(job, S.FAILED if spent else S.WAITING)


def _ended(job: Job, state: JobState) -> Job:
    return job._replace(state=state, token=0, holder=-1, started=False)


def _with(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])


def main() -> None:
    """Searches the whole scope, and says how much there was."""
    scope = Scope()
    found = search(scope)
    print(f"{scope}: {found.states:,} states, {found.steps:,} steps, depth {found.depth}; no rule is broken")


if __name__ == "__main__":
    main()
