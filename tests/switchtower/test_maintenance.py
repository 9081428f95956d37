"""Maintenance: a duty that fails does not keep the others from their turn, and it ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable
from switchtower.events import EventHub
from switchtower.maintenance import Maintenance
from tests.waiting import until


class Verb:
    """Any noun or verb of an engine: called, it counts."""

    def __init__(self, engine: Counting, name: str) -> None:
        self._engine, self._name = engine, name

    def __getattr__(self, name: str) -> Verb:
        return Verb(self._engine, name)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine, name = self._engine, self._name
        engine.calls[name] = engine.calls.get(name, 0) + 1
        if name in engine.faults:
            raise engine.faults[name]
        return {"elect": engine.term, "fold_position": (None, 0), "recount": 0, "fold": True}.get(name, 0)


class Counting:
    """An engine whose every verb counts its calls; `faults` names those that fail, and how."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.faults: dict[str, Exception] = {}
        self.term: int | None = 1
        self.holder = "me"

    def __getattr__(self, name: str) -> Verb:
        return Verb(self, name)

    def hub(self) -> EventHub:
        async def silent(after: str | None) -> AsyncIterator[tuple[list[Any], str]]:
            yield [], "1.1"
            await asyncio.Event().wait()

        hub: EventHub = self.__dict__.setdefault("_hub", EventHub(silent))
        return hub


@contextlib.asynccontextmanager
async def running(engine: Counting) -> AsyncIterator[Maintenance]:
    stop = asyncio.Event()
    maintenance = Maintenance(cast(Engine, engine))
    task = asyncio.create_task(maintenance.run(stop))
    try:
        yield maintenance
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task
        await engine.hub().close()


async def test_every_duty_has_its_turn_and_the_counters_are_folded() -> None:
    engine = Counting()
    duties = {"stage", "rescue", "expire", "relay", "let_go", "resume_bulk", "unpark", "repair_blocked", "prune"}
    async with running(engine) as maintenance:
        await until(lambda: duties | {"recount"} <= engine.calls.keys())
        assert maintenance.elected
    assert engine.calls["resign"] == 1


@pytest.mark.parametrize("fault", [ValueError("poison")])
async def test_duty_that_fails_each_time_keeps_no_other_from_its_turn(fault: Exception) -> None:
    engine = Counting()
    engine.faults = {"stage": fault, "resume_bulk": fault}
    async with running(engine):
        await until(lambda: {"rescue", "prune", "unpark"} <= engine.calls.keys() and engine.calls["stage"] > 1)


async def test_database_that_is_gone_is_outlived() -> None:
    engine = Counting()
    engine.faults = {"observe": StoreUnavailable()}
    async with running(engine) as maintenance:
        await until(lambda: engine.calls.get("observe", 0) > 1)
        assert not maintenance.elected and "stage" not in engine.calls
        engine.faults.clear()
        await until(lambda: maintenance.elected and "stage" in engine.calls)


async def test_process_that_is_not_elected_does_nothing() -> None:
    engine = Counting()
    engine.term = None
    async with running(engine) as maintenance:
        await until(lambda: engine.calls.get("elect", 0) > 0)
        await asyncio.sleep(0.05)
        assert not maintenance.elected
    assert engine.calls.keys() <= {"observe", "elect"}
