"""Why is this job not running?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from switchtower.engine.permits import Permits, described
from switchtower.engine.webhooks import Webhooks
from switchtower.jobs import Job
from switchtower.limits import Limit
from switchtower.states import FINAL, JobState
from switchtower.store import leases
from switchtower.store import queues as queue_commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import claimable
from switchtower.store.indexes import DELIVERIES, HOT
from switchtower.store.lines import in_line, line_from
from switchtower.store.permits import Level
from switchtower.webhooks import COURIER, Target

__all__ = ["Blockage", "BlockageKind", "Blockages"]

COUNTED = 20
"""For how many jobs of one question the jobs ahead of them are counted."""


class BlockageKind(StrEnum):
    """What keeps a job from running."""

    FINISHED = "finished"
    RUNNING = "running"
    DELAYED = "delayed"
    BACKING_OFF = "backing_off"
    WAITS_FOR_JOBS = "waits_for_jobs"
    WAITS_FOR_EVENT = "waits_for_event"
    QUEUE_PAUSED = "queue_paused"
    NAME_PAUSED = "name_paused"
    GROUP_PAUSED = "group_paused"
    CONCURRENCY_LIMIT = "concurrency_limit"
    RATE_LIMIT = "rate_limit"
    NO_WORKER = "no_worker"
    NO_HANDLER = "no_handler"
    NO_WEBHOOK = "no_webhook"
    NO_COURIER = "no_courier"
    JOBS_AHEAD = "jobs_ahead"
    CRON_DISABLED = "cron_disabled"


@dataclass(frozen=True, slots=True)
class Blockage:
    """One cause: in words, until when (where that is known), and the mutation that would help."""

    kind: BlockageKind
    message: str
    until: datetime | None = None
    mutation: str | None = None


@translate_errors
class Blockages:
    """Explains, from the job and from what surrounds it now."""

    def __init__(self, store: Store, webhooks: Webhooks) -> None:
        self._store = store
        self._webhooks = webhooks
        self._permits = Permits(store)

    async def of(self, job: Job) -> list[Blockage]:
        """Every cause that holds the job back now; empty when it is about to run."""
        (causes,) = await self.of_many([job])
        return causes

    async def of_many(self, jobs: Sequence[Job]) -> list[list[Blockage]]:
        """The causes of each job, in order. What jobs have in common is read once.

        How many jobs go first is counted for at most 20 of them; of the others it is only said that some do.
        """
        events = await self._awaited([job.id for job in jobs if job.state is JobState.SCHEDULED])
        causes = [_own(job, events.get(job.id)) for job in jobs]
        switched_off = await self._disabled({job.cron_id for job in jobs if job.cron_id and job.state in FINAL})
        for job, found in zip(jobs, causes, strict=True):
            if job.cron_id in switched_off and job.state in FINAL:
                message = f"The cron that made it, {job.cron_id}, is disabled: no further job of it comes."
                found.append(Blockage(BlockageKind.CRON_DISABLED, message, None, "enableCron"))
        held = [job for job in jobs if job.state not in FINAL and job.state is not JobState.ACTIVE]
        if not held:
            return causes
        controls = await queue_commands.many_controls(self._store, {(job.queue, job.org) for job in held})
        workers = await self._store.workers.find(
            {"state": {"$in": ["live", "draining"]}}, {"queues": 1, "names": 1}
        ).to_list(1_000)
        undelivered = await self._undelivered([job for job in held if job.webhook])
        unserved = {(job.queue, job.name) for job in held if not job.webhook and _lacks_handler(job, workers)}
        waiting = await self._waiting(unserved) if unserved else {}
        bounds = await self._limits([job for job in held if job.state is JobState.WAITING], controls)
        free = []
        for job, found in zip(jobs, causes, strict=True):
            if job.state in FINAL or job.state is JobState.ACTIVE:
                continue
            found += _paused(job, controls[job.queue])
            found += bounds.get(job.id, [])
            found += undelivered.get(job.id, []) if job.webhook else _unserved(job, workers, waiting)
            if not found and job.state is JobState.WAITING:
                free.append((job, found))
        ahead = await self._ahead([job for job, _ in free])
        for job, found in free:
            found += ahead.get(job.id, [])
        return causes

    async def _undelivered(self, jobs: Sequence[Job]) -> dict[str, list[Blockage]]:
        """What keeps the courier from these jobs, by their ids: nobody set where they go, or no process delivers."""
        if not jobs:
            return {}
        found: dict[str, list[Blockage]] = {job.id: [] for job in jobs}
        targets = [line_from(job).targets for job in jobs]
        for job, those, lacking in zip(jobs, targets, await self._webhooks.lacking(targets), strict=True):
            if lacking:
                whose = " nor ".join(_whose(target) for target in those)
                message = f"No webhook has an address for {whose}; it is delivered as soon as one has."
                found[job.id].append(Blockage(BlockageKind.NO_WEBHOOK, message, None, "setWebhook"))
        if not await leases.is_held(self._store, COURIER):
            message = "No process delivers webhooks now; start a server or a worker."
            for causes in found.values():
                causes.append(Blockage(BlockageKind.NO_COURIER, message))
        return found

    async def _limits(
        self, jobs: Sequence[Job], controls: Mapping[str, queue_commands.AllControls]
    ) -> dict[str, list[Blockage]]:
        """The limits that have no room for a waiting job now, by the jobs' ids."""
        tenants = await self._permits.tenants({job.org for job in jobs if job.org})
        needs = {
            job.id: controls[job.queue].limits_of(job.org, job.name, job.group) | tenants.get(job.org, {})
            for job in jobs
        }
        limits = {key: limit for needed in needs.values() for key, limit in needed.items()}
        levels = await self._permits.levels(limits)
        full = {key: _full(key, limit, levels[key]) for key, limit in limits.items() if not levels[key].room(limit)}
        return {id: [full[key] for key in needed if key in full] for id, needed in needs.items()}

    async def _disabled(self, cron_ids: AbstractSet[str]) -> set[str]:
        """Which of these crons are switched off."""
        if not cron_ids:
            return set()
        rows = self._store.crons.find({"_id": {"$in": sorted(cron_ids)}, "enabled": False}, {"_id": 1})
        return {row["_id"] async for row in rows}

    async def _awaited(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """The names of the events that workflow runs wait for, by the ids of their jobs."""
        if not ids:
            return {}
        match = {"_id": {"$in": list(ids)}, "awaiting": {"$exists": True}}
        rows = await self._store.jobs.find(match, {"awaiting": 1}).to_list(None)
        return {row["_id"]: row["awaiting"] for row in rows}

    async def _waiting(self, pairs: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """How many jobs wait in each queue for each handler, counted up to 10,000 in all."""
        rows = await self._store.database.aggregate(
            self._store.jobs.name,
            [
                {
                    "$match": {
                        "state": "waiting",
                        "$or": [{"queue": queue, "name": name} for queue, name in sorted(pairs)],
                    }
                },
                {"$limit": 10_000},
                {"$group": {"_id": {"queue": "$queue", "name": "$name"}, "jobs": {"$sum": 1}}},
            ],
        )
        return {(row["_id"]["queue"], row["_id"]["name"]): row["jobs"] for row in rows}

    async def _ahead(self, jobs: Sequence[Job]) -> dict[str, list[Blockage]]:
        if not jobs:
            return {}
        places = {"rank": 1, "order": 1, "seq": 1, "queue": 1, "lane": 1, "line": 1}
        rows = await self._store.jobs.find({"_id": {"$in": [job.id for job in jobs]}}, places).to_list(None)
        found: dict[str, list[Blockage]] = {}
        heads: dict[str, str | None] = {}
        for position, row in enumerate(rows):
            if position >= COUNTED:
                key = row.get("line") or f"{row['queue']}\x1f{row['lane']}"
                if key not in heads:
                    heads[key] = await self._head(row)
                some = heads[key] not in (None, row["_id"])
                count = "Other" if some else ""
            else:
                count = await self._count_ahead(row)
            if count:
                message = f"{count} jobs of its queue go first." if count != "1" else "1 job of its queue goes first."
                found[row["_id"]] = [Blockage(BlockageKind.JOBS_AHEAD, message, None, "updateJob")]
        return found

    async def _head(self, row: Mapping[str, Any]) -> str | None:
        order = [("rank", 1), ("order", 1), ("seq", 1)]
        match, index = _standing(row)
        first = await self._store.jobs.find_one(match, {"_id": 1}, sort=order, hint=index)
        return None if first is None else first["_id"]

    async def _count_ahead(self, row: Mapping[str, Any]) -> str:
        before = {
            "$or": [
                {"rank": {"$lt": row["rank"]}},
                {"rank": row["rank"], "order": {"$lt": row["order"]}},
                {"rank": row["rank"], "order": row["order"], "seq": {"$lt": row["seq"]}},
            ]
        }
        match, index = _standing(row)
        ahead = await self._store.jobs.count_documents({**match, **before}, limit=10_000, hint=index)
        return "10,000 or more" if ahead >= 10_000 else str(ahead or "")


def _standing(row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The jobs among which a job stands, and the index that has them in order."""
    if "line" in row:
        return in_line(row["line"]), DELIVERIES
    return claimable(row["queue"], lane=row["lane"]), HOT


def _whose(target: Target) -> str:
    if target.key_id is not None:
        return f"key {target.key_id}"
    if not target.org and not target.app:
        return "jobs without a tenant and application"
    return " of ".join([*([f"application {target.app!r}"] if target.app else []), f"tenant {target.org!r}"])


def _own(job: Job, events: Sequence[str] | None = None) -> list[Blockage]:
    """The causes that the job itself shows."""
    if job.state in FINAL:
        return [Blockage(BlockageKind.FINISHED, f"It is {job.state}; retry it to run it again.", None, "retryJob")]
    match job.state:
        case JobState.ACTIVE:
            return [Blockage(BlockageKind.RUNNING, f"It is running on worker {job.worker_id}.", None, "cancelJob")]
        case JobState.BLOCKED:
            shown = ", ".join(job.pending[:5]) + (f" and {len(job.pending) - 5} more" if len(job.pending) > 5 else "")
            return [Blockage(BlockageKind.WAITS_FOR_JOBS, f"It waits for {len(job.pending)} job(s): {shown}.")]
        case JobState.SCHEDULED if events:
            message = f"It waits for an event named {' or '.join(map(repr, events[:5]))}, until {_shown(job.run_at)}."
            return [Blockage(BlockageKind.WAITS_FOR_EVENT, message, job.run_at, "publishEvent")]
        case JobState.SCHEDULED:
            message = f"It is due at {_shown(job.run_at)}."
            return [Blockage(BlockageKind.DELAYED, message, job.run_at, "promoteJob")]
        case JobState.RETRYING:
            message = f"Attempt {job.attempt} of {job.max_attempts} failed; the next is due at {_shown(job.run_at)}."
            return [Blockage(BlockageKind.BACKING_OFF, message, job.run_at, "promoteJob")]
    return []


def _paused(job: Job, controls: queue_commands.AllControls) -> list[Blockage]:
    causes = []
    for own, whose in ((controls.operator, ""), (controls.tenants.get(job.org), f" by tenant {job.org!r}")):
        if own is None:
            continue
        if own.paused:
            message = f"Queue {job.queue!r} is paused{whose}."
            causes.append(Blockage(BlockageKind.QUEUE_PAUSED, message, None, "resumeQueue"))
        if job.name in own.paused_names:
            message = f"Jobs named {job.name!r} are paused in queue {job.queue!r}{whose}."
            causes.append(Blockage(BlockageKind.NAME_PAUSED, message, None, "resumeQueue"))
        if job.group is not None and job.group in own.paused_groups:
            message = f"Group {job.group!r} is paused in queue {job.queue!r}{whose}."
            causes.append(Blockage(BlockageKind.GROUP_PAUSED, message, None, "resumeQueue"))
    return causes


def _full(key: str, limit: Limit, level: Level) -> Blockage:
    whose, mutation = described(key)
    if limit.rate is not None and level.waits_for_rate(limit):
        message = f"The rate of {whose} is used up: {limit.rate.starts} starts in {limit.rate.per_ms} ms."
        until = level.free_at if limit.rate.starts else None
        return Blockage(BlockageKind.RATE_LIMIT, message, until, mutation)
    message = f"As many jobs of {whose} run as may at once: {limit.concurrency}."
    return Blockage(BlockageKind.CONCURRENCY_LIMIT, message, None, mutation)


def _here(job: Job, workers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in workers if job.queue in row["queues"]]


def _lacks_handler(job: Job, workers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether its queue is served, by workers that all name their handlers, none of them its."""
    here = _here(job, workers)
    return bool(here) and all(row["names"] and job.name not in row["names"] for row in here)


def _unserved(job: Job, workers: Sequence[Mapping[str, Any]], waiting: Mapping[tuple[str, str], int]) -> list[Blockage]:
    if not _here(job, workers):
        others = sorted({queue for row in workers for queue in row["queues"]})
        serve = f" Live workers serve: {', '.join(others[:5])}." if others else " No worker is live at all."
        message = f"No live worker serves queue {job.queue!r}.{serve} Start one for it."
        return [Blockage(BlockageKind.NO_WORKER, message)]
    if _lacks_handler(job, workers):
        names = sorted({name for row in _here(job, workers) for name in row["names"]})
        near = difflib.get_close_matches(job.name, names, 1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        count = waiting.get((job.queue, job.name), 0)
        message = f"No worker has the handler {job.name!r}{guess}; {count} job(s) wait for it."
        return [Blockage(BlockageKind.NO_HANDLER, message)]
    return []


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
