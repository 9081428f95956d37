"""May these jobs run now, under the limits that hold for them?

First room is reserved, then jobs are claimed, and what was not won is given back: a process that dies in between leaves
room unused for some seconds, and nothing is ever exceeded.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from switchtower.limits import Limit
from switchtower.store import keys, permits
from switchtower.store.collections import Store
from switchtower.store.permits import Level
from switchtower.store.queues import AllControls, limit_key

__all__ = ["Grant", "Permits", "described", "tenant_key"]

Document = dict[str, Any]
Needs = dict[str, Limit]

TRIES = 8
TRY_SECONDS = 0.003
LOOK_SECONDS = 0.5
RESERVED_SECONDS = 0.05
"""How soon to look again where reservations of others, which end at any moment, fill a rate."""


def tenant_key(org: str) -> str:
    """The key of what limits a tenant's jobs over all queues. No queue has an empty name."""
    return f"\x1f{org}"


def described(key: str) -> tuple[str, str]:
    """Whose jobs the limit with this key bounds, in words, and the mutation that sets it."""
    queue, _, rest = key.partition("\x1f")
    if not queue:
        return f"tenant {rest!r} in all queues", "setTenantLimits"
    owner, part, *names = rest.split("\x1f")
    whose = f"queue {queue!r}" + (f" for tenant {owner!r}" if owner else "")
    if part == "n":
        whose = f"{names[0]!r} in {whose}"
    elif part == "g":
        whose = f"group {names[-1]!r} in {whose}"
    return whose, "setQueueLimits"


@dataclass(slots=True)
class Grant:
    """Room that was reserved for these jobs, by the keys of their limits."""

    token: str
    jobs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    before: datetime | None = None
    limits: Needs = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    """The limits that had no room (left)."""
    contested: bool = False
    """Others reserved all the time: there may be room."""


class Permits:
    """Reserves and settles room under limits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slides: dict[str, float] = {}

    async def needs(self, jobs: Iterable[tuple[str, str, str, str | None]], controls: AllControls) -> dict[str, Needs]:
        """The limits of jobs (id, tenant, name, group) of one queue: the queue's, and their tenants'."""
        rows = list(jobs)
        tenants = await self.tenants({org for _, org, _, _ in rows if org})
        return {id: controls.limits_of(org, name, group) | tenants.get(org, {}) for id, org, name, group in rows}

    async def tenants(self, orgs: Collection[str]) -> dict[str, Needs]:
        """What limits the jobs of these tenants over all queues."""
        if not orgs:
            return {}
        found = await keys.job_limits(self._store, orgs)
        return {org: {tenant_key(org): limit} for org, limit in found.items()}

    async def levels(self, limits: Needs) -> dict[str, Level]:
        """How full these limits are, for those who only look."""
        return await permits.levels(self._store, limits, create=False) if limits else {}

    async def reserve(self, queue: str, needed: Mapping[str, Needs], *, token: str) -> Grant:
        """Reserves room for as many of these jobs as have some under each of their limits, the first before the
        others."""
        grant = Grant(token, limits={key: limit for needs in needed.values() for key, limit in needs.items()})
        if not grant.limits:
            grant.jobs = {id: () for id in needed}
            return grant
        held: set[str] = set()
        for attempt in range(TRIES):
            levels = await permits.levels(self._store, grant.limits, without=token)
            room = permits.open_for(levels, grant.limits)
            grant.jobs = {}
            for id, needs in needed.items():
                if all(room[key] > 0 for key in needs):
                    grant.jobs[id] = tuple(needs)
                    room.update({key: room[key] - 1 for key in needs})
            demand = Counter(key for taken in grant.jobs.values() for key in taken)
            untils = await asyncio.gather(
                *(
                    permits.reserve(self._store, levels[key], grant.limits[key], token=token, jobs=jobs)
                    for key, jobs in demand.items()
                )
            )
            held |= {key for key, until in zip(demand, untils, strict=True) if until is not None}
            if None not in untils:
                await self._give_back(grant, held - set(demand))
                grant.before = min((until for until in untils if until is not None), default=None)
                grant.full = {key for key, left in room.items() if left <= 0}
                self._note_slides(queue, levels, grant)
                return grant
            await asyncio.sleep(TRY_SECONDS * (attempt + 1) * random.random())
        await self._give_back(grant, held)
        grant.jobs, grant.contested = {}, True
        return grant

    async def _give_back(self, grant: Grant, held: Collection[str]) -> None:
        for key in held:
            await permits.settle(self._store, key, grant.limits[key], token=grant.token, claimed=0)

    def _note_slides(self, queue: str, levels: Mapping[str, Level], grant: Grant) -> None:
        """When to look again, where a rate left no room: nothing happens then that could wake anybody."""
        waits = []
        for key in grant.full:
            level, limit = levels.get(key), grant.limits[key]
            if level is not None and limit.rate is not None and level.waits_for_rate(limit):
                known = level.free_at is not None and not level.reserved
                seconds = (level.free_at - level.now).total_seconds() if known and level.free_at else RESERVED_SECONDS
                waits.append(max(0.0, seconds))
        if waits:
            self._slides[queue] = time.monotonic() + min(waits)
        else:
            self._slides.pop(queue, None)

    async def timely(self, wakes: AsyncIterator[str], queues: Collection[str]) -> AsyncIterator[str]:
        """The wakes, and one more whenever a rate of these queues lets something in again."""
        following = asyncio.ensure_future(anext(wakes))
        try:
            while True:
                slides = [at for queue, at in self._slides.items() if queue in queues]
                left = max(0.0, min(slides) - time.monotonic()) if slides else LOOK_SECONDS
                done, _ = await asyncio.wait({following}, timeout=min(left, LOOK_SECONDS))
                if done:
                    try:
                        name = following.result()
                    except StopAsyncIteration:
                        return
                    following = asyncio.ensure_future(anext(wakes))
                    yield name
                elif any(self._slides.get(queue, math.inf) <= time.monotonic() for queue in queues):
                    for queue in queues:
                        if self._slides.get(queue, math.inf) <= time.monotonic():
                            del self._slides[queue]
                            yield queue
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await wakes.aclose()  # type: ignore[attr-defined]

    async def settle(self, grant: Grant, won: Collection[str]) -> None:
        """Ends a reservation, now that it is known which of its jobs were won."""
        claimed = Counter(key for id, taken in grant.jobs.items() if id in won for key in taken)
        touched = {key for taken in grant.jobs.values() for key in taken}
        await asyncio.gather(
            *(
                permits.settle(self._store, key, grant.limits[key], token=grant.token, claimed=claimed[key])
                for key in touched
            )
        )

    async def full_groups(self, queue: str, controls: AllControls) -> set[str]:
        """The limits of groups of a queue that as many jobs run under as may; without their rates."""
        full = set()
        for owner, own in {"": controls.operator, **controls.tenants}.items():
            if not (own.limits.per_group or own.limits.groups):
                continue
            prefix = limit_key(queue, owner, "g\x1f")
            counts = await permits.running(self._store, {"$gte": prefix, "$lt": prefix[:-1] + "\x20"})
            for key, count in counts.items():
                most = own.limits.of_group(key.rpartition("\x1f")[2]).concurrency
                if most is not None and count >= most:
                    full.add(key)
        return full
