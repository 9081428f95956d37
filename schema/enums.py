"""Which words can a field be one of?"""

from collections.abc import Mapping
from enum import EnumMeta, StrEnum

import strawberry

from switchtower.deduplication import DeduplicationMode
from switchtower.engine import BlockageKind, JobOrder
from switchtower.jobs import ChildFailure, Deduplication, ErrorKind
from switchtower.retry import BackoffKind
from switchtower.states import TRANSITIONS, JobState, Transition, allowed_from
from switchtower.workers import WorkerState

__all__ = ["JobEventType", "described"]


def described(enum: EnumMeta, description: str, values: Mapping[str, str], *, name: str | None = None) -> None:
    """Gives an enum of the vocabulary its place in the schema; `values` describes each member by its name."""
    strawberry.enum(enum, name=name, description=description)
    definition = enum.__strawberry_definition__  # type: ignore[attr-defined]
    for value in definition.values:
        value.description = values[value.name]


described(
    JobState,
    "Where a job is in its life: the first five are open, the last three final.",
    {
        "SCHEDULED": "Waits for its due time.",
        "WAITING": "Ready to run; waits for a worker.",
        "BLOCKED": "Waits for its children or for the jobs that it depends on.",
        "ACTIVE": "A worker holds its lease.",
        "RETRYING": "An attempt failed; waits for the next one.",
        "COMPLETED": "Ended well.",
        "FAILED": "Ended badly: attempts spent, a fatal error, or its time was up. It leaves a dead letter.",
        "CANCELLED": "Ended by a cancel.",
    },
)
described(
    ChildFailure,
    "What becomes of a parent when a job that it waits for fails, is cancelled or is removed.",
    {
        "FAIL": "It fails too.",
        "IGNORE": "It runs all the same.",
        "REMOVE": "It runs, and the failed child is removed.",
    },
)
described(
    BlockageKind,
    "What keeps a job from running.",
    {
        "FINISHED": "It has ended.",
        "RUNNING": "Nothing: it runs.",
        "DELAYED": "It is not due yet.",
        "BACKING_OFF": "An attempt failed, and the next is not due yet.",
        "WAITS_FOR_JOBS": "Children or dependencies have not ended.",
        "WAITS_FOR_EVENT": "It is a workflow run, and the event that it waits for was not published.",
        "QUEUE_PAUSED": "Its queue is paused.",
        "NAME_PAUSED": "Its name is paused in its queue.",
        "GROUP_PAUSED": "Its group is paused in its queue.",
        "CONCURRENCY_LIMIT": "As many jobs run as a limit of its queue, name, group or tenant allows at once.",
        "RATE_LIMIT": "As many jobs started of late as a rate of its queue, name, group or tenant allows.",
        "NO_WORKER": "No live worker takes jobs from its queue.",
        "NO_HANDLER": "No live worker of its queue has a handler of its name.",
        "NO_WEBHOOK": "It is to be delivered, and no webhook has an address for its key or project.",
        "NO_COURIER": "It is to be delivered, and no process delivers.",
        "JOBS_AHEAD": "Other jobs of its queue go first.",
        "CRON_DISABLED": "It has ended, and the cron that made it is disabled: no further job comes.",
    },
)
described(
    JobOrder,
    "The order of a list of jobs.",
    {
        "CREATED_DESC": "Newest first.",
        "CREATED_ASC": "Oldest first.",
        "RUN_AT_ASC": "Due earliest first.",
        "RUN_AT_DESC": "Due latest first.",
        "FINISHED_DESC": "Finished last first; those that are not finished come at the end.",
        "FINISHED_ASC": "Finished first first; those that are not finished come before.",
        "PRIORITY": "In the order of their priority, the lowest number first.",
    },
)
described(
    ErrorKind,
    "Why an attempt or a job failed.",
    {
        "EXCEPTION": "Its handler raised.",
        "TIMEOUT": "It ran longer than its timeout.",
        "FATAL": "Its handler said that no retry can help.",
        "WORKER_LOST": "Its worker died or fell silent.",
        "BLOCKED_ADDRESS": "It was to be delivered to an address that this server does not send to; nothing was sent.",
        "EXPIRED": "Its time to live passed before it was finished.",
        "DEPENDENCY": "A child, or a job that it depends on, did not complete.",
    },
)
described(
    Deduplication,
    "Why an enqueue answered with a job that was already there.",
    {
        "JOB_ID": "A job of the queue has the same `jobId`.",
        "IDEMPOTENCY_KEY": "An earlier enqueue had the same `idempotencyKey`.",
        "UNIQUE_KEY": "A job that is not finished holds the same `uniqueKey`.",
        "SIMPLE": "A job of the queue that is not finished has the same deduplication key.",
        "THROTTLE": "A job with the same deduplication key was enqueued within its time.",
        "DEBOUNCE": "A job with the same deduplication key is delayed; it was left as it is.",
        "REPLACED": "A delayed job had the same deduplication key; it is now what this enqueue asked for.",
    },
)
described(
    DeduplicationMode,
    "How long a job stands for later enqueues with its deduplication key; they are answered with it.",
    {
        "SIMPLE": "While it is not finished, and not longer than `ttlMs` where that is given.",
        "THROTTLE": "For `ttlMs` from its enqueue, finished or not: the first of them wins.",
        "DEBOUNCE": "While it is delayed; each later one replaces it and begins its delay anew: the last of them wins.",
    },
)
described(
    BackoffKind,
    "The shape of the waits between attempts.",
    {
        "NONE": "No wait.",
        "FIXED": "`baseMs` each time.",
        "LINEAR": "n times `baseMs` before retry n.",
        "EXPONENTIAL": "`baseMs` times 2^(n-1) before retry n.",
        "TABLE": "The n-th of `waitsMs` before retry n, the last one for all later retries.",
    },
)
described(
    WorkerState,
    "What a worker is doing.",
    {
        "LIVE": "Takes jobs and renews its lease.",
        "DRAINING": "Finishes what it has and takes nothing new.",
        "LOST": "Let its lease pass; its jobs are given to others.",
        "STOPPED": "Said goodbye.",
    },
)

JobEventType = StrEnum("JobEventType", {name.upper(): name for name in TRANSITIONS})  # type: ignore[misc]
"""The transitions of `switchtower.states`, as the types of events."""


def _sentence(t: Transition) -> str:
    sources, targets = ", ".join(allowed_from(t.name)) or "nothing", ", ".join(sorted(t.targets))
    guard = "" if t.guard == "\N{EN DASH}" else f" Guard: {t.guard}."
    return f"From {sources} to {'the same' if targets == 'same' else targets}.{guard}"


described(
    JobEventType,
    "What happened to a job: the transitions of its state machine.",
    {t.name.upper(): _sentence(t) for t in TRANSITIONS.values()},
)
