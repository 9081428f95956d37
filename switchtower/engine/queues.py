"""What can be asked of a queue, and done with it?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from switchtower.callers import Caller
from switchtower.engine.effects import Effects
from switchtower.errors import Conflict, InvalidInput
from switchtower.limits import UNLIMITED, Limit, QueueLimits
from switchtower.payloads import check_text
from switchtower.states import FINAL, JobState
from switchtower.store import counters, operations, permits, transitions, waiting
from switchtower.store import queues as commands
from switchtower.store.collections import Store
from switchtower.store.driver import time_limit, translate_errors
from switchtower.store.guards import NOT_REMOVED, parked
from switchtower.store.listing import TIME_LIMIT_MS

__all__ = ["Activity", "GroupCount", "Queue", "Queues"]

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
class Activity:
    """When a job of a queue last changed its state (None: nobody knows), and how many jobs with a repetition wait for
    their time in it."""

    last_at: datetime | None
    repeating: int


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
        for queue in await self._read([name], caller):
            if queue.created_at is not None or any(queue.counts.values()) or name in await self.names(caller=caller):
                return queue
            # The counters are a moment behind the first job.
            if await commands.has_jobs(self._store, name, org=caller.org):
                return queue
        return None

    async def get_many(self, names: Sequence[str], *, caller: Caller) -> dict[str, Queue]:
        """Queues by name, known or not."""
        return {queue.name: queue for queue in await self._read(names, caller)}

    async def list(self, *, caller: Caller) -> _QueueList:
        """Every queue that has or had a job or a control, by name."""
        return await self._read(await self.names(caller=caller), caller)

    async def names(self, *, caller: Caller) -> _Names:
        """The names of all known queues, sorted."""
        counted = await counters.by_queue(self._store, reach=caller.reach)
        return sorted({*counted, *await commands.known(self._store, reach=caller.reach)})

    async def _read(self, names: Sequence[str], caller: Caller) -> _QueueList:
        names = caller.reach.among(names) or ()
        if not names:
            return []
        controls = await commands.controls(self._store, names, org=caller.owner)
        counts = await counters.by_queue(self._store, reach=caller.reach, queues=names)
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
                {**parked("paused"), "queue": name, "name": job_name, **self._scope(caller)},
                transitions.unpark(),
            )
        return queue

    async def set_limits(self, name: str, limits: QueueLimits, *, caller: Caller) -> Queue:
        """Sets how many jobs of a queue may run at once and start in an interval, in the place of all its limits.

        A tenant's caller limits its own jobs; the operator's limits hold besides. Once this returned, no job of it
        starts beyond them; what runs goes on, and counts. Raises: InvalidInput, NotFound.
        """
        self._check(name, caller)
        limits.check()
        controls = await commands.set_limits(
            self._store, name, limits, actor=caller.actor, org=caller.owner, source=caller.surface
        )
        if limits:
            await self._adopt(name, caller)
        counts = await counters.by_queue(self._store, reach=caller.reach, queues=[name])
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
    def _check(name: str, caller: Caller) -> None:
        check_text("name", name, limit=256)
        if "/" in name:
            raise InvalidInput("name", "must not contain '/'.")
        caller.check_queue(name)

    async def _control(self, type: str, name: str, caller: Caller, job_name: str | None, group: str | None) -> Queue:
        self._check(name, caller)
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
        counts = await counters.by_queue(self._store, reach=caller.reach, queues=[name])
        return self._queue(controls, counts.get(name, {}))

    async def drain(self, name: str, *, caller: Caller) -> int:
        """Removes every job that has not begun (waiting, scheduled, retrying, blocked). Returns: how many."""
        caller.check_queue(name)
        states = [JobState.WAITING, JobState.SCHEDULED, JobState.RETRYING, JobState.BLOCKED]
        removed = await self._remove(name, states, caller)
        await self._announce(name, "drain", caller, removed)
        return removed

    async def clean(
        self,
        name: str,
        states: JobState | Collection[JobState],
        *,
        grace_ms: int = 0,
        caller: Caller,
        limit: int | None = None,
        by_age: bool = False,
    ) -> int:
        """Removes jobs of these states that reached them more than `grace_ms` ago (by their last change). With `by_age`
        those that ended, or where they have not were created, longer ago; then even active ones, whose workers find
        their leases lost. Returns: how many."""
        caller.check_queue(name)
        states = {states} if isinstance(states, JobState) else set(states)
        if JobState.ACTIVE in states and not by_age:
            raise InvalidInput("state", "active jobs cannot be cleaned; cancel them.")
        if grace_ms < 0:
            raise InvalidInput("graceMs", "must not be negative.")
        try:
            before = self._store.clock.now() - timedelta(milliseconds=grace_ms)
        except OverflowError:
            raise InvalidInput("graceMs", "is further back than time goes.") from None
        aged = "updated_at" if not by_age else "finished_at" if states <= FINAL else "created_at"
        removed = await self._remove(name, sorted(states), caller, before={aged: {"$lt": before}}, limit=limit)
        await self._announce(name, "clean", caller, removed)
        return removed

    async def obliterate(self, name: str, *, force: bool = False, caller: Caller) -> int:
        """Removes a queue with all its jobs, controls and series. Returns: how many jobs were removed.

        Raises: Conflict when jobs are active, unless `force`: their workers then find their leases lost.
        """
        caller.check_queue(name)
        active = {"queue": name, "state": "active"} | self._scope(caller)
        running = await self._store.jobs.count_documents(active, limit=1_000, hint="active")
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
        before: dict[str, Any] | None = None,
        limit: int | None = None,
        force: bool = False,
    ) -> int:
        """Chunks of a thousand ids, each moved by one guarded write; jobs with unrelayed effects are relayed first."""
        removed = 0
        match: dict[str, Any] = {"queue": name, "state": {"$in": [s.value for s in states]}, **self._scope(caller)}
        match |= before or {}
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

    async def activity(self, names: Sequence[str], *, caller: Caller) -> dict[str, Activity]:
        """What was last done in each of these queues (a fraction of a second behind), and what repeats in it: as many
        as there are among the newest 10,000 that are scheduled."""
        names = caller.reach.among(names) or ()
        latest = await counters.latest(self._store, reach=caller.reach, queues=names)
        asked = names
        if len(names) > waiting.FEW:
            # Then only those are looked at that the counters, which are a fraction of a second behind, say have any.
            counts = await counters.by_queue(self._store, reach=caller.reach, queues=names)
            asked = [name for name in names if counts.get(name, {}).get("scheduled", 0) > 0]
        repeating = await commands.repeating(self._store, asked, org=caller.org)
        return {name: Activity(latest.get(name), repeating.get(name, 0)) for name in names}

    async def latency_ms(self, names: Sequence[str]) -> dict[str, int | None]:
        """How long the next job of each queue has been waiting, in milliseconds; None when nothing waits."""
        now = self._store.clock.now()
        return {
            name: None if since is None else max(0, int((now - since).total_seconds() * 1000))
            for name, since in (await waiting.oldest(self._store, names)).items()
        }

    async def throughput(self, names: Sequence[str], *, caller: Caller) -> dict[str, float]:
        """Jobs that ended (completed or failed) per minute, over the last five whole minutes and the present one."""
        now = self._store.clock.now()
        since = now.replace(second=0, microsecond=0) - timedelta(minutes=5)
        rows = await counters.series(self._store, queues=names, since=since, reach=caller.reach)
        minutes = (now - since).total_seconds() / 60
        totals = dict.fromkeys(names, 0)
        for row in rows:
            totals[row.queue] += row.completed + row.failed
        return {name: total / minutes for name, total in totals.items()}

    async def groups(self, name: str, *, caller: Caller) -> _Groups:
        """The groups that have waiting or active jobs, or are paused, with how many."""
        caller.check_queue(name)
        with time_limit(TIME_LIMIT_MS):
            found = await commands.all_controls(self._store, name)
        own = found.operator if caller.org is None else found.tenants.get(caller.owner)
        controls = own or commands.Controls(name)
        # A queue whose jobs stand in no lanes has no groups, and a million jobs to look through for none.
        rows = await commands.group_counts(self._store, name, org=caller.org) if found.laned else []
        counted = {row["_id"]: (row["waiting"], row["active"]) for row in rows}
        return [
            GroupCount(
                group, *counted.get(group, (0, 0)), group in controls.paused_groups, controls.limits.of_group(group)
            )
            for group in sorted({*counted, *controls.paused_groups})
        ]
