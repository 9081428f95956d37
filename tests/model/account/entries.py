"""What does the account keep of a job, a run, an event, a worker, a dead letter and a cron?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

OPEN = {"scheduled", "waiting", "blocked", "active", "retrying"}
FINAL = {"completed", "failed", "cancelled"}
HOUR_MS = 3_600_000
BASE_MS = 438_300 * HOUR_MS
ON_TIME_MS = 60_000
KEEPING_UP_MS = 10_000


Lane = tuple[str, str | None]
"""The jobs of one tenant and group of the shared queue; with the group "*" all of a tenant's."""


class Refused(Exception):
    """The answer must be this error (a class name of `switchtower.errors`)."""

    @property
    def error(self) -> str:
        return str(self.args[0])


class Violation(AssertionError):
    """The database or an answer is not what the model allows."""


@dataclass(frozen=True)
class ModelStep:
    """A recorded step of a run; `events` and `match` are what a wait wants."""

    name: str
    kind: str = "step"
    status: str = "completed"
    result: Any = None
    events: tuple[str, ...] = ()
    match: tuple[tuple[str, Any], ...] = ()

    @property
    def waits(self) -> bool:
        return (self.kind, self.status) == ("wait", "waiting")

    @property
    def was_given(self) -> bool:
        return (self.kind, self.status) == ("wait", "completed")

    @property
    def row(self) -> tuple[str, str, str, Any]:
        return (self.name, self.kind, self.status, self.result)


@dataclass
class ModelEvent:
    """An event that was published."""

    id: str
    name: str
    payload: dict[str, Any]
    org: str
    key: str | None = None
    consumed_by: str | None = None
    spent: bool = False

    def suits(self, step: ModelStep) -> bool:
        return self.name in step.events and all(self.payload.get(path) == value for path, value in step.match)


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
    dedup: str | None = None
    """Its unique key is that of a deduplication: of a debounce, held while it is scheduled and has not run, and let go
    of by the next one; of a throttle, held for a time; simple, held while it is open."""
    replaces: bool = False
    hold_over: bool = False
    """The time of its throttle has passed."""
    idempotency_key: str | None = None
    custom_id: str | None = None
    parent: str | None = None
    on_child_failure: str | None = None
    depends_on: tuple[str, ...] = ()
    flow: str | None = None
    flow_root: bool = False
    cancelling: bool = False
    """Its flow is being cancelled: where it waits for another that is cancelled, it is cancelled with it."""
    cron: str | None = None
    org: str = ""
    group: str | None = None
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

    run: bool = False
    """Whether it is a run of a workflow."""
    steps: list[ModelStep] = field(default_factory=list)
    compensating: bool = False

    @property
    def outlived(self) -> bool:
        """Whether its key is held also when it has ended."""
        return self.keeps_hold and not self.hold_over

    @property
    def lapsed(self) -> bool:
        """Whether the next enqueue of its deduplication takes the key from it."""
        if self.dedup == "debounce":
            return self.state != "scheduled" or self.last_report is not None
        return self.hold_over

    @property
    def lane(self) -> str:
        """Where it stands among the jobs of its queue."""
        return f"{self.org}\x1f{self.group or ''}" if self.org or self.group else ""

    @property
    def awaiting(self) -> list[str]:
        """The names of the events that its steps wait for."""
        names = {name for step in self.steps if step.waits for name in step.events}
        return [] if self.compensating else sorted(names)

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
        self.hold = self.hold and self.outlived
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
            self.discard()

    def start_over(self) -> None:
        """A run that starts over keeps its steps but the one that ended it; those that were undone run again."""
        fatal = [step.result for step in self.steps if step.name == "compensate"]
        undone = {step.name.removeprefix("compensate:") for step in self.steps if step.kind == "compensate"}
        kept = [step for step in self.steps if step.kind != "compensate" and step.name not in fatal]
        self.steps = [replace(step, status="waiting") if step.name in undone else step for step in kept]
        self.compensating = False

    def discard(self) -> None:
        """Becomes a tombstone."""
        self.state, self.last_state, self.custom_id = "removed", self.state, None


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


@dataclass
class ModelCron:
    """A schedule that fires every full hour."""

    id: str
    name: str
    queue: str
    overlap: str
    catch_up: str
    limit: int | None = None
    ends_ms: int | None = None
    unique_key: str | None = None
    enabled: bool = True
    next_ms: int | None = None
    fired: int = 0
    last_job: str | None = None
    fires: list[tuple[int, str | None]] = field(default_factory=list)
    """The slots that were dealt with, each with its job; None where it was skipped."""

    def following(self, moment_ms: int) -> int | None:
        """The first slot behind a moment that its end and its limit allow."""
        slot = (moment_ms // HOUR_MS + 1) * HOUR_MS
        over = self.ends_ms is not None and slot > self.ends_ms
        spent = self.limit is not None and self.fired >= self.limit
        return None if over or spent else slot

    def come(self, now_ms: int) -> list[int]:
        """The slots that fire now: all of them while schedulers keep up, else what the policy makes up for."""
        first, until = self.next_ms, now_ms if self.ends_ms is None else min(now_ms, self.ends_ms)
        if first is None or first > now_ms:
            return []
        slots = [first, *range((first // HOUR_MS + 1) * HOUR_MS, until + 1, HOUR_MS)]
        if now_ms - first > KEEPING_UP_MS and self.catch_up != "all":
            slots = slots[-1:]
            if self.catch_up == "skip" and now_ms - slots[0] > ON_TIME_MS:
                return []
        return slots if self.limit is None else slots[: self.limit - self.fired]


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
        "flow_id": get("flow_id"),
        "flow_root": get("flow_root", False),
        "cancelling": "cancelling" in document,
        "cron_id": get("cron_id"),
        "org": document["org"],
        "group": get("group"),
        "lane": document["lane"],
        "run": "run" in document,
        "steps": [(row["name"], row["kind"], row["status"], row.get("result")) for row in get("steps", ())],
        "awaiting": sorted(get("awaiting", ())),
    }


def observed_cron(document: Mapping[str, Any], to_ms: Callable[[Any], int]) -> dict[str, Any]:
    """The same fields, as the database has them."""
    next_at = document["next_at"]
    return {
        "enabled": document["enabled"],
        "next_at": None if next_at is None else to_ms(next_at),
        "due": [to_ms(row["slot"]) for row in document["due"]],
        "fired": document["fired"],
        "fires": [(to_ms(row["slot"]), row.get("job_id")) for row in document["fires"]],
        "last_job_id": document.get("last_job_id"),
    }
