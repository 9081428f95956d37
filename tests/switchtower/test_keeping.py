"""The keeper of the house: a duty that fails, and a history that has a hole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from switchtower.engine import Engine
from switchtower.events import EventHub, HistoryLost
from switchtower.maintenance import Maintenance
from tests.switchtower.test_maintenance import Counting, running
from tests.waiting import until


async def test_one_beat_reaches_the_duties_behind_one_that_fails() -> None:
    engine = Counting()
    engine.faults = {"stage": ValueError("poison"), "rescue": KeyError("poison")}
    await Maintenance(cast(Engine, engine))._beat()
    assert {"stage", "tick", "rescue", "expire", "relay", "prune"} <= engine.calls.keys()


async def test_what_the_folder_did_not_see_is_made_up_for_before_it_counts_again() -> None:
    engine, lose, opened = Counting(), asyncio.Event(), 0

    async def source(after: str | None) -> AsyncIterator[tuple[list[Any], str]]:
        nonlocal opened
        opened += 1
        yield [], f"1.{opened}"
        if opened == 1:
            await lose.wait()
            raise HistoryLost("too old")
        await asyncio.Event().wait()

    engine.__dict__["_hub"] = EventHub(source)
    async with running(engine):
        await until(lambda: engine.calls.get("recount") == 1)
        assert "relay_unseen" not in engine.calls
        lose.set()
        await until(lambda: engine.calls.get("recount") == 2)
        assert engine.calls["relay_unseen"] == 1
