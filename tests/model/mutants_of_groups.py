"""Seeded faults of lanes and groups, as `mutants` has them of single jobs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from switchtower.engine.lanes import Lanes
from switchtower.store.queues import AllControls


def lanes_lose_their_turn() -> AbstractContextManager[Any]:
    return patch.object(Lanes, "_keep_turns", lambda self, search, grant: None)


def the_first_lane_is_always_next() -> AbstractContextManager[Any]:
    whole = Lanes._next_of

    async def next_of(self: Lanes, search: Any, turns: Any, org: str, first: Any = None) -> Any:
        turns.lanes.pop(org, None)
        return await whole(self, search, turns, org, first)

    return patch.object(Lanes, "_next_of", next_of)


def tenants_take_no_turns() -> AbstractContextManager[Any]:
    whole = Lanes._next

    async def following(self: Lanes, search: Any, turns: Any) -> Any:
        turns.org = None
        return await whole(self, search, turns)

    return patch.object(Lanes, "_next", following)


def groups_have_no_limits() -> AbstractContextManager[Any]:
    whole = AllControls.limits_of

    def limits_of(self: AllControls, org: str, name: str, group: str | None) -> Any:
        return whole(self, org, name, None)

    return patch.object(AllControls, "limits_of", limits_of)


def paused_groups_are_not_looked_at_again() -> AbstractContextManager[Any]:
    whole = AllControls.holds
    return patch.object(AllControls, "holds", lambda self, org, name, group=None: whole(self, org, name))


MUTANTS_OF_GROUPS = [
    lanes_lose_their_turn,
    the_first_lane_is_always_next,
    tenants_take_no_turns,
    groups_have_no_limits,
    paused_groups_are_not_looked_at_again,
]
