"""Whose turn is it in a queue that several tenants or groups share, or that has limits?

Tenants take turns, and within a tenant its groups do: one with a hundred thousand jobs does not starve one with ten. A
lane that may start nothing now is passed over in the index itself, so that nobody waits behind it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from switchtower.engine.permits import Grant, Permits, tenant_key
from switchtower.store import lanes as commands
from switchtower.store.collections import Store
from switchtower.store.lanes import SEPARATOR, Lane, behind_org, lane_of
from switchtower.store.queues import AllControls, limit_key

__all__ = ["Lanes"]

Document = dict[str, Any]

GROUP = f"{SEPARATOR}g{SEPARATOR}"
"""What tells the key of a group's limit from others."""
LANES = 16
"""How many lanes one claim is split across."""
STEPS = 64
"""How many lanes one claim looks at."""
ROUNDS = 4
ASIDE = 1_000
ASIDE_ROUNDS = 10
REMEMBERED = 10_000


@dataclass(slots=True)
class _Turns:
    """Who was served last."""

    org: str | None = None
    lanes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A lane whose turn it was, and who was served last before: the tenant, and the lane of this one."""

    lane: Lane
    org: str | None
    last: str | None


@dataclass(slots=True)
class _Search:
    """What one claim looks for, and what it has found to be in vain."""

    queue: str
    controls: AllControls
    org: str | None
    names: Document | None
    full: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    full_lanes: set[str] = field(default_factory=set)
    met: list[_Turn] = field(default_factory=list)
    lane_of: dict[str, str] = field(default_factory=dict)
    """The lanes of the jobs that were chosen, by their ids."""
    last: str | None = None
    """The lane of its tenant that was served before the one that was looked at last."""
    steps: int = 0

    def found_full(self, keys: Collection[str]) -> None:
        """These limits have no room: nothing that runs under them is looked at again."""
        self.full |= set(keys)
        groups = [key.split(GROUP, 1)[1].partition(SEPARATOR) for key in keys if GROUP in key]
        self.full_lanes |= {lane_of(org, group) for org, _, group in groups}

    def wants(self, name: str) -> bool:
        """Whether the worker takes jobs of this name now."""
        if self.names is None:
            return True
        return name in self.names["$in"] if "$in" in self.names else name not in self.names["$nin"]

    def skips_org(self, org: str) -> bool:
        """Whether no lane of a tenant may start anything."""
        own = self.controls.tenants.get(org)
        return bool(
            (own is not None and own.paused)
            or self.full & {tenant_key(org), limit_key(self.queue, org, "q") if org else ""}
        )

    def skips(self, lane: Lane) -> bool:
        """Whether nothing of a lane may start."""
        limits = self.controls.limits_of(lane.org, lane.name or "", lane.group)
        return bool(
            self.controls.holds_lane(lane.org, lane.group)
            or (lane.name is not None and not self.wants(lane.name))
            or (lane.name is not None and self.controls.holds(lane.org, lane.name))
            or any(key in self.full for key in limits)
        )


class Lanes:
    """Picks the next jobs of a queue in turn, as far as limits let them in."""

    def __init__(self, store: Store, permits: Permits) -> None:
        self._store = store
        self._permits = permits
        self._turns: dict[tuple[str, str | None], _Turns] = defaultdict(_Turns)

    def last_served(self, queue: str) -> str:
        """The lane that was served last, of those of all tenants."""
        turns = self._turns.get((queue, None))
        return "" if turns is None or turns.org is None else turns.lanes.get(turns.org, "")

    async def found_some(self, queue: str) -> None:
        """A job that stands in a lane was met where nobody says that there are any: the collection was dropped."""
        self._store.laned.discard(queue)
        await commands.mark(self._store, [{"queue": queue, "lane": SEPARATOR}])

    async def choose(
        self, queue: str, controls: AllControls, org: str | None, names: Document | None, limit: int, *, token: str
    ) -> Grant:
        """Up to `limit` jobs, the tenants' and groups' in turn, with the room that was reserved for them.

        `org` is the tenant whose jobs are asked for (None: all). What is chosen is only seen, not claimed yet.
        """
        search = _Search(queue, controls, org, names)
        grant = Grant(token)
        for _ in range(ROUNDS):
            jobs = await self._candidates(search, limit)
            if not jobs:
                return grant
            needed = await self._permits.needs(
                ((row["_id"], row["org"], row["name"], row.get("group")) for row in jobs), controls
            )
            grant = await self._permits.reserve(queue, needed, token=token)
            if grant.jobs or grant.contested:
                self._keep_turns(search, grant)
                return grant
            search.found_full(grant.full)
            if any(GROUP in key for key in grant.full):
                search.found_full(await self._permits.full_groups(queue, controls))
            if limit_key(queue, "", "q") in search.full:
                self._keep_turns(search, grant)
                return grant
            search.passed.clear()
            search.steps = 0
        return grant

    def _keep_turns(self, search: _Search, grant: Grant) -> None:
        """Lanes behind the last one that was given room keep their turn: else some would be passed over each time."""
        turns, served = self._turns[search.queue, search.org], {search.lane_of.get(id) for id in grant.jobs}
        while search.met and search.met[-1].lane.text not in served:
            turn = search.met.pop()
            if turns.lanes.get(turn.lane.org) != turn.lane.text:
                return  # Another claim of this process has gone on from there.
            turns.org = turn.org
            if turn.last is None:
                turns.lanes.pop(turn.lane.org, None)
            else:
                turns.lanes[turn.lane.org] = turn.last

    async def _candidates(self, search: _Search, limit: int) -> list[Document]:
        single = not search.controls.laned and search.org is None
        while search.steps < STEPS:
            lanes = [Lane("")] if single else await self._in_turn(search, min(limit, LANES))
            if not lanes:
                break
            share = -(-limit // len(lanes))
            heads = await asyncio.gather(*(self._head(search, lane, share) for lane in lanes))
            search.lane_of = {row["_id"]: lane.text for lane, head in zip(lanes, heads, strict=True) for row in head}
            jobs = [head[place] for place in range(share) for head in heads if place < len(head)][:limit]
            if jobs or single:
                return jobs
        return []

    async def _head(self, search: _Search, lane: Lane, limit: int) -> list[Document]:
        """The first jobs of a lane; those whose names have limits are moved aside, where they are met no more."""
        own = search.controls.tenants.get(lane.org)
        condition: Document = {} if search.org is None else {"org": search.org}
        if own is not None and own.paused_names:
            condition["$nor"] = [{"name": {"$in": list(own.paused_names)}}]
        for _ in range(ASIDE_ROUNDS):
            rows = await commands.heads(
                self._store, search.queue, lane.text, limit, names=search.names, condition=condition
            )
            if lane.name is not None:
                return rows
            bounded = self._bounded(search, lane).intersection(row["name"] for row in rows)
            if not bounded:
                return rows
            for name in bounded:
                await commands.move_aside(self._store, search.queue, lane, name, ASIDE)
        # They are more than one claim moves: this one reads on behind them, in the index alone.
        free = _without(search.names, self._bounded(search, lane))
        return await commands.heads(self._store, search.queue, lane.text, limit, names=free, condition=condition)

    @staticmethod
    def _bounded(search: _Search, lane: Lane) -> set[str]:
        """The names that have limits of their own for the tenant of a lane."""
        limits = [
            search.controls.operator.limits,
            *(own.limits for own in [search.controls.tenants.get(lane.org)] if own),
        ]
        return {name for each in limits for name, limit in each.names.items() if limit}

    async def _in_turn(self, search: _Search, wanted: int) -> list[Lane]:
        """The lanes whose turn it is, each once."""
        turns = self._turns[search.queue, search.org]
        if len(turns.lanes) > REMEMBERED:
            turns.lanes.clear()
        found: list[Lane] = []
        search.met.clear()
        while len(found) < wanted and search.steps < STEPS:
            org = turns.org
            lane = await self._next(search, turns)
            if lane is None:
                break
            search.passed.add(lane.text)
            search.met.append(_Turn(lane, org, search.last))
            if search.skips(lane):
                turns.org = org  # Another lane of its tenant has the turn.
            else:
                found.append(lane)
        return found

    async def _next(self, search: _Search, turns: _Turns) -> Lane | None:
        if search.org is not None:
            return None if search.skips_org(search.org) else await self._next_of(search, turns, search.org)
        start, wrapped = ("", True) if turns.org is None else (behind_org(turns.org), False)
        while search.steps < STEPS:
            first = await self._find(search, start)
            if first is None:
                if wrapped:
                    return None
                start, wrapped = "", True
            elif search.skips_org(first.org):
                start = behind_org(first.org)
            else:
                turns.org = first.org
                return await self._next_of(search, turns, first.org, first)
        return None

    async def _next_of(self, search: _Search, turns: _Turns, org: str, first: Lane | None = None) -> Lane | None:
        """The lane of a tenant that is behind the last one served; the first where none is."""
        last, end = turns.lanes.get(org), behind_org(org)
        lane = None if last is None else await self._find(search, f"{last}\0", end)
        lane = lane or first or await self._find(search, f"{org}{SEPARATOR}" if org else "", end)
        if lane is not None:
            search.last, turns.lanes[org] = last, lane.text
        return lane

    async def _find(self, search: _Search, start: str, end: str | None = None) -> Lane | None:
        search.steps += 1
        skipped = search.passed | search.full_lanes
        return await commands.next_lane(self._store, search.queue, start=start, end=end, skipped=skipped)


def _without(names: Document | None, left_out: set[str]) -> Document:
    """A condition on the name, as `names`, that these do not meet."""
    if names is not None and "$in" in names:
        return {"$in": [name for name in names["$in"] if name not in left_out]}
    return {"$nin": sorted(left_out.union(names["$nin"] if names else ()))}
