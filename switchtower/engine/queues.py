"""What can be asked of a queue, and done with it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from switchtower.callers import Caller
from switchtower.engine.effects import Effects
from switchtower.errors import Conflict, InvalidInput
from switchtower.limits import UNLIMITED, Limit, QueueLimits
from switchtower.payloads import check_text
from switchtower.states import JobState
from switchtower.store import counters, operations, permits, transitions
from switchtower.store import queues as commands
from switchtower.store.collections import Store
from switchtower.store.driver import time_limit, translate_errors
from switchtower.store.guards import NOT_REMOVED
from switchtower.store.listing import TIME_LIMIT_MS

__all__ = ["GroupCount", "Queue", "Queues"]

CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: its controls, and how many jobs it has in each state (a fraction of a second behind)."""

    name: str
    paused: bool
    paused_names: list[str]
    counts: dict[JobState, int]
    created_at: datetime | None
    paused_groups: list[str] = field(default_factory=list)
    limits: QueueLimits = field(default_factory=QueueLimits)


@dataclass(frozen=True, slots=True)
class GroupCount:
    """How many jobs of one group wait and run, whether it is paused, and what it is limited to."""

    group: str
    waiting: int
    active: int
    paused: bool = False
    limit: Limit = UNLIMITED


_QueueList = list[Queue]
_Names = list[str]
_Groups = list[GroupCount]


@translate_errors
class Queues:
    """The verbs on queues. A queue exists as soon as somebody names it."""

    def __init__(self, store: Store, effects: Effects) -> None:
        self._store = store
        self._effects = effects

    async def get(self, name: str, *, caller: Caller) -> Queue | None:
        """The queue; None when it never had a job and nobody controlled it."""
        found = await self._read([name], caller)
        queue = found[0]
        return (
            queue
            if queue.created_at is not None or any(queue.counts.values()) or name in await self.names(caller=caller)
            else None
        )

    async def get_many(self, names: Sequence[str], *, caller: Caller) -> dict[str, Queue]:
        """Queues by name, known or not."""
        return {queue.name: queue for queue in await self._read(names, caller)}

    async def list(self, *, caller: Caller) -> _QueueList:
        """Every queue that has or had a job or a control, by name."""
        return await self._read(await self.names(caller=caller), caller)

    async def names(self, *, caller: Caller) -> _Names:
        """The names of all known queues, sorted."""
        counted = await counters.by_queue(self._store, org=caller.org)
        return sorted({*counted, *await commands.known(self._store, org=caller.org)})

    async def _read(self, names: Sequence[str], caller: Caller) -> _QueueList:
        if not names:
            return []
        controls = await commands.controls(self._store, names, org=caller.owner)
        counts = await counters.by_queue(self._store, org=caller.org, queues=names)
        return [self._queue(controls[name], counts.get(name, {})) for name in names]

    @staticmethod
    def _queue(controls: commands.Controls, counts: dict[str, int]) -> Queue:
        return Queue(
            controls.name,
            controls.paused,
            list(controls.paused_names),
            {state: max(0, counts.get(state.value, 0)) for state in JobState},
            controls.created_at,
            list(controls.paused_groups),
            controls.limits,
        )

    async def pause(self, name: str, *, caller: Caller, job_name: str | None = None, group: str | None = None) -> Queue:
        """Stops claims from a queue, or of one job name or one group in it; what runs goes on, and enqueues are
        accepted.

        Once this returned, no job of it starts that was not already running.
        """
        return await self._control("pause", name, caller, job_name, group)

    async def resume(
        self, name: str, *, caller: Caller, job_name: str | None = None, group: str | None = None
    ) -> Queue:
        """Undoes a pause of the queue, or of one job name or one group; a resume of the queue leaves single names and
        groups paused."""
        queue = await self._control("resume", name, caller, job_name, group)
        if job_name is not None:
            await self._store.jobs.update_many(
                {"parked": "paused", "queue": name, "name": job_name, "state": "waiting", **self._scope(caller)},
                transitions.unpark(),
            )
        return queue

    async def set_limits(self, name: str, limits: QueueLimits, *, caller: Caller) -> Queue:
        """Sets how many jobs of a queue may run at once and start in an interval, in the place of all its limits.

        A tenant's caller limits its own jobs; the operator's limits hold besides. Once this returned, no job of it
        starts beyond them; what runs goes on, and counts. Raises: InvalidInput.
        """
        self._check(name)
        limits.check()
        controls = await commands.set_limits(
            self._store, name, limits, actor=caller.actor, org=caller.owner, source=caller.surface
        )
        if limits:
            await self._adopt(name, caller)
        counts = await counters.by_queue(self._store, org=caller.org, queues=[name])
        return self._queue(controls, counts.get(name, {}))

    async def _adopt(self, name: str, caller: Caller) -> None:
        """Puts what runs under its limits: claims that did not know of them end before, or are given back."""
        controls = await commands.all_controls(self._store, name)
        active = {"queue": name, "state": "active"} | self._scope(caller)
        kinds = await permits.kinds(self._store, active)
        mine = commands.limit_key(name, caller.owner, "")
        for org, job_name, group in kinds:
            match = {**active, "org": org, "name": job_name, "group": group}
            keys = [key for key in controls.limits_of(org, job_name, group) if key.startswith(mine)]
            if keys:
                await permits.adopt(self._store, match, keys)

    @staticmethod
    def _check(name: str) -> None:
        check_text("name", name, limit=256)
        if "/" in name:
            raise InvalidInput("name", "must not contain '/'.")

    async def _control(self, type: str, name: str, caller: Caller, job_name: str | None, group: str | None) -> Queue:
        self._check(name)
        if job_name is not None:
            check_text("jobName", job_name, limit=256)
        if group is not None:
            check_text("group", group, limit=512)
        if job_name is not None and group is not None:
            raise InvalidInput("group", "give jobName or group, not both.")
        controls = await commands.control(
            self._store,
            name,
            type,
            actor=caller.actor,
            org=caller.owner,
            job_name=job_name,
            group=group,
            source=caller.surface,
        )
        counts = await counters.by_queue(self._store, org=caller.org, queues=[name])
        return self._queue(controls, counts.get(name, {}))

    async def drain(self, name: str, *, caller: Caller) -> int:
        """Removes every job that has not begun (waiting, scheduled, retrying, blocked). Returns: how many."""
        states = [JobState.WAITING, JobState.SCHEDULED, JobState.RETRYING, JobState.BLOCKED]
        removed = await self._remove(name, states, caller)
        await self._announce(name, "drain", caller, removed)
        return removed

    async def clean(
        self, name: str, state: JobState, *, grace_ms: int = 0, caller: Caller, limit: int | None = None
    ) -> int:
        """Removes jobs of one state that reached it more than `grace_ms` ago (by their last change). Returns: how
        many."""
        if state is JobState.ACTIVE:
            raise InvalidInput("state", "active jobs cannot be cleaned; cancel them.")
        if grace_ms < 0:
            raise InvalidInput("graceMs", "must not be negative.")
        try:
            before = self._store.clock.now() - timedelta(milliseconds=grace_ms)
        except OverflowError:
            raise InvalidInput("graceMs", "is further back than time goes.") from None
        removed = await self._remove(name, [state], caller, before=before, limit=limit)
        await self._announce(name, "clean", caller, removed)
        return removed

    async def obliterate(self, name: str, *, force: bool = False, caller: Caller) -> int:
        """Removes a queue with all its jobs, controls and series. Returns: how many jobs were removed.

        Raises: Conflict when jobs are active, unless `force`: their workers then find their leases lost.
        """
        active = {"queue": name, "state": "active"} | self._scope(caller)
        running = await self._store.jobs.count_documents(active, limit=1_000)
        if running and not force:
            raise Conflict(f"Queue {name!r} has {running} active jobs; wait, cancel them, or obliterate with force.")
        removed = await self._remove(name, [state for state in JobState if state is not JobState.ACTIVE], caller)
        if force:
            removed += await self._remove(name, list(JobState), caller, force=True)
        await self._announce(name, "obliterate", caller, removed)
        await commands.forget(self._store, name, org=caller.owner)
        await counters.forget(self._store, name, org=caller.org)
        return removed

    @staticmethod
    def _scope(caller: Caller) -> dict[str, Any]:
        return {} if caller.org is None else {"org": caller.org}

    async def _announce(self, name: str, type: str, caller: Caller, removed: int) -> None:
        await commands.announce(
            self._store,
            name,
            type,
            actor=caller.actor,
            org=caller.owner,
            data={"removed": removed},
            source=caller.surface,
        )

    async def _remove(
        self,
        name: str,
        states: Sequence[JobState],
        caller: Caller,
        *,
        before: datetime | None = None,
        limit: int | None = None,
        force: bool = False,
    ) -> int:
        """Chunks of a thousand ids, each moved by one guarded write; jobs with unrelayed effects are relayed first."""
        removed = 0
        match: dict[str, Any] = {"queue": name, "state": {"$in": [s.value for s in states]}, **self._scope(caller)}
        if before is not None:
            match["updated_at"] = {"$lt": before}
        after = ""
        while limit is None or removed < limit:
            size = CHUNK if limit is None else min(CHUNK, limit - removed)
            rows = await self._store.jobs.find(
                {**match, "_id": {"$gt": after}}, {"outbox": 1}, sort=[("_id", 1)], limit=size
            ).to_list(None)
            if not rows:
                break
            after = rows[-1]["_id"]
            for row in rows:
                if "outbox" in row:
                    await self._effects.relay(id=row["_id"])
            still = {**match, **({"state": NOT_REMOVED} if force else {}), "outbox": {"$exists": False}}
            result = await self._store.jobs.update_many(
                {**still, "_id": {"$in": [row["_id"] for row in rows]}},
                operations.remove(caller.actor),
            )
            removed += int(result.modified_count)
        self._effects.kick()
        return removed

    async def latency_ms(self, names: Sequence[str]) -> dict[str, int | None]:
        """How long the next job of each queue has been waiting, in milliseconds; None when nothing waits."""
        now = self._store.clock.now()
        found: dict[str, int | None] = {}
        for name in names:
            oldest = await commands.oldest_waiting(self._store, name)
            found[name] = None if oldest is None else max(0, int((now - oldest).total_seconds() * 1000))
        return found

    async def throughput(self, names: Sequence[str], *, caller: Caller) -> dict[str, float]:
        """Jobs that ended (completed or failed) per minute, over the last five whole minutes and the present one."""
        now = self._store.clock.now()
        since = now.replace(second=0, microsecond=0) - timedelta(minutes=5)
        rows = await counters.series(self._store, queues=names, since=since, org=caller.org)
        minutes = (now - since).total_seconds() / 60
        totals = dict.fromkeys(names, 0)
        for row in rows:
            totals[row.queue] += row.completed + row.failed
        return {name: total / minutes for name, total in totals.items()}

    async def groups(self, name: str, *, caller: Caller) -> _Groups:
        """The groups that have waiting or active jobs, or are paused, with how many."""
        rows = await commands.group_counts(self._store, name, org=caller.org)
        with time_limit(TIME_LIMIT_MS):
            controls = (await commands.controls(self._store, [name], org=caller.owner))[name]
        counted = {row["_id"]: (row["waiting"], row["active"]) for row in rows}
        return [
            GroupCount(
                group, *counted.get(group, (0, 0)), group in controls.paused_groups, controls.limits.of_group(group)
            )
            for group in sorted({*counted, *controls.paused_groups})
        ]
