"""From which states does each verb start, where does it land, and who may do it?

`TRANSITIONS` is the state machine. The database guards, `docs/states.md` and the exhaustive test grid derive from it;
no other place lists states of a verb. `python -m switchtower.states` prints the documentation page.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["FINAL", "OPEN", "REMOVED", "TRANSITIONS", "JobState", "Transition", "allowed_from", "documentation"]


class JobState(StrEnum):
    """Where a job is in its life; the first five are open, the last three final."""

    SCHEDULED = "scheduled"
    WAITING = "waiting"
    BLOCKED = "blocked"
    ACTIVE = "active"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = JobState
OPEN = frozenset({S.SCHEDULED, S.WAITING, S.BLOCKED, S.ACTIVE, S.RETRYING})
FINAL = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED})
NOT_ACTIVE = frozenset(S) - {S.ACTIVE}

REMOVED = "removed"
"""The state of a tombstone: gone for every reader, kept until its last effects are relayed."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One verb of the state machine.

    `sources` is empty for the verb that creates a job. `targets` lists every state the verb can land on. `fenced` verbs
    carry the job's lease token in their filter. `guard` says in words what else the filter requires.
    """

    name: str
    sources: frozenset[JobState]
    targets: frozenset[str]
    guard: str
    actor: str
    fenced: bool = False


def _t(
    name: str,
    sources: frozenset[JobState] | set[JobState],
    targets: set[str] | frozenset[str],
    guard: str,
    actor: str,
    *,
    fenced: bool = False,
) -> Transition:
    return Transition(name, frozenset(sources), frozenset(targets), guard, actor, fenced)


SAME = frozenset({"same"})

TRANSITIONS: dict[str, Transition] = {
    t.name: t
    for t in (
        _t(
            "enqueue",
            set(),
            {S.WAITING, S.SCHEDULED, S.BLOCKED},
            "unique key, custom id and idempotency key free",
            "API",
        ),
        _t(
            "replace",
            {S.SCHEDULED},
            {S.SCHEDULED, S.WAITING},
            "never run; a later enqueue with its deduplication key replaces it",
            "API",
        ),
        _t("block", {S.SCHEDULED, S.WAITING, S.BLOCKED, S.RETRYING}, {S.BLOCKED}, "a child was added", "API"),
        _t("adopt", {S.ACTIVE}, SAME, "its running handler, or the API, added a child", "API, worker"),
        _t("stage", {S.SCHEDULED, S.RETRYING}, {S.WAITING}, "due by the database's clock", "maintenance"),
        _t("unblock", {S.BLOCKED}, {S.WAITING, S.SCHEDULED}, "no pending children or dependencies", "last child"),
        _t("abandon", {S.BLOCKED}, {S.FAILED}, "a child or dependency failed, was cancelled or removed", "that child"),
        _t("park", {S.WAITING}, SAME, "not parked; its name is paused or no live worker has its handler", "claimer"),
        _t("unpark", {S.WAITING}, SAME, "parked, and the cause is gone", "whoever removes the cause"),
        _t("claim", {S.WAITING}, {S.ACTIVE}, "not parked; room under its limits; issues a lease token", "worker"),
        _t("start", {S.ACTIVE}, SAME, "not started yet; sets `started_at`, charges the attempt", "worker", fenced=True),
        _t(
            "complete",
            {S.ACTIVE},
            {S.COMPLETED, S.CANCELLED},
            "cancelled where a cancel was requested that discards the result",
            "worker",
            fenced=True,
        ),
        _t("backoff", {S.ACTIVE}, {S.RETRYING, S.WAITING, S.CANCELLED}, "attempts left", "worker", fenced=True),
        _t("bury", {S.ACTIVE}, {S.FAILED}, "attempts spent, or fatal; leaves a dead letter", "worker", fenced=True),
        _t(
            "snooze",
            {S.ACTIVE},
            {S.SCHEDULED, S.WAITING, S.CANCELLED},
            "the attempt is given back",
            "worker",
            fenced=True,
        ),
        _t("release", {S.ACTIVE}, {S.WAITING, S.CANCELLED}, "the attempt is given back", "worker", fenced=True),
        _t(
            "suspend",
            {S.ACTIVE},
            {S.BLOCKED, S.WAITING, S.CANCELLED},
            "waits for the children that it added (waiting when they have ended already)",
            "worker",
            fenced=True,
        ),
        _t("abort", {S.ACTIVE}, {S.CANCELLED}, "the handler stopped for a cancel", "worker", fenced=True),
        _t(
            "rescue",
            {S.ACTIVE},
            {S.WAITING, S.FAILED, S.CANCELLED},
            "seen token of a lost worker; only started jobs are charged",
            "maintenance",
            fenced=True,
        ),
        _t("expire", OPEN, {S.FAILED}, "TTL passed (an active job: by its worker)", "maintenance, worker"),
        _t("cancel", OPEN - {S.ACTIVE}, {S.CANCELLED}, "–", "API"),
        _t("request_cancel", {S.ACTIVE}, SAME, "no cancel requested yet", "API"),
        _t(
            "retry",
            FINAL | {S.RETRYING, S.SCHEDULED},
            {S.WAITING},
            "unique key free; outbox relayed first; not a cancelled Dispatched job; bumps `generation` of a final job",
            "API",
        ),
        _t(
            "reschedule",
            {S.SCHEDULED, S.WAITING, S.RETRYING},
            {S.SCHEDULED, S.WAITING, S.RETRYING},
            "a later time puts off, none runs now; one that retries goes on retrying",
            "API",
        ),
        _t("promote", {S.SCHEDULED, S.RETRYING}, {S.WAITING}, "–", "API"),
        _t("update", NOT_ACTIVE, SAME, "–", "API"),
        _t("progress", {S.ACTIVE}, SAME, "–", "worker", fenced=True),
        _t("checkpoint", {S.ACTIVE}, SAME, "a step of a workflow run ended or waits", "worker", fenced=True),
        _t("log", {S.ACTIVE}, SAME, "–", "worker", fenced=True),
        _t("remove", NOT_ACTIVE, {REMOVED}, "outbox relayed first (force: active too)", "API, maintenance"),
    )
}


def allowed_from(verb: str) -> tuple[str, ...]:
    """The states that a verb starts from, in the order of their life."""
    sources = TRANSITIONS[verb].sources
    return tuple(state.value for state in JobState if state in sources)


def documentation() -> str:
    """The page `docs/states.md`: the table and a state diagram, both made from `TRANSITIONS`."""
    lines = [
        "# States and transitions",
        "",
        "Generated by `make docs` from `switchtower/states.py`; edit that file.",
        "",
        "| transition | from | to | guard | done by | fenced by the lease token |",
        "|---|---|---|---|---|---|",
    ]
    for t in TRANSITIONS.values():
        sources = " ".join(allowed_from(t.name)) or "–"
        targets = " ".join(sorted(t.targets))
        lines.append(f"| {t.name} | {sources} | {targets} | {t.guard} | {t.actor} | {'yes' if t.fenced else '–'} |")
    lines += ["", "```mermaid", "stateDiagram-v2"]
    for t in TRANSITIONS.values():
        for target in sorted(t.targets - SAME):
            for source in allowed_from(t.name) or ("[*]",):
                lines.append(f"    {source} --> {'[*]' if target == REMOVED else target}: {t.name}")
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    print(documentation(), end="")
