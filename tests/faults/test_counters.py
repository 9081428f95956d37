"""Counters begin in the middle of writes: what no majority had yet when the stream was opened must not be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import WriteConcern
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained
from tests.faults.oracle import counters_equal_a_count


@contextmanager
def no_majority(view: Database[dict[str, Any]]) -> Iterator[None]:
    """Writes happen while the block runs, and no majority has them."""
    switch = {"configureFailPoint": "disableSnapshotting"}
    view.client.admin.command({**switch, "mode": "alwaysOn"})
    try:
        yield
    finally:
        view.client.admin.command({**switch, "mode": "off"})
        # The next write of anyone brings the majority's view up to now.
        view["anything"].insert_one({})


@pytest.mark.slow
async def test_recount_sees_what_its_stream_began_behind(engine: Engine, view: Database[dict[str, Any]]) -> None:
    first = (await engine.jobs.enqueue(NewJob(name="work"), caller=CALLER)).job
    document = view["jobs"].find_one({"_id": first.id})
    assert document is not None
    with no_majority(view):
        unsafe = view.get_collection("jobs", write_concern=WriteConcern(w=1))
        unsafe.insert_one(document | {"_id": first.id[:-4] + "0000"})
        await engine.hub().start()
        reached = engine.hub().cursor
        counting = asyncio.create_task(engine.upkeep.recount(reached=reached))
        await asyncio.wait({counting}, timeout=1)
    await counting
    async with maintained(engine):
        await counters_equal_a_count(engine, view)
