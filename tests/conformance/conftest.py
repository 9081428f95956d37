"""The engine on a real mongod, connected once, its collections emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pymongo.monitoring
import pytest
from pymongo import MongoClient

from switchtower.engine import Engine, Retention
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.store.collections import Store
from switchtower.store.driver import connect
from switchtower.store.indexes import create_indexes
from tests.conformance.commands import RECORDER, Commands
from tests.databases import empty

# Drivers take listeners from here when a client is made, which the engine does by itself.
pymongo.monitoring.register(RECORDER)

DATABASE = "test_conformance"


@pytest.fixture(scope="session")
async def stores(mongodb_url: str) -> AsyncIterator[dict[str, Store]]:
    """One connection per driver that was asked for, on a database of its own with all indexes."""
    opened: dict[str, Store] = {}
    yield opened
    for store in opened.values():
        await store.database.close()


@pytest.fixture
async def store(stores: dict[str, Store], mongodb_url: str, driver: str, mongo: MongoClient[dict[str, Any]]) -> Store:
    """The collections, empty."""
    if driver not in stores:
        stores[driver] = Store(await connect(mongodb_url, database=f"{DATABASE}_{driver}", driver=driver))
        await create_indexes(stores[driver])
    empty(mongo, stores[driver].database.name)
    return stores[driver]


@pytest.fixture
async def engine(store: Store, mongodb_url: str) -> AsyncIterator[Engine]:
    """An engine that knows nothing of earlier tests."""
    async with Running(store, mongodb_url) as running:
        yield running


class Running:
    """An engine over a shared connection; several on one store are several processes."""

    def __init__(self, store: Store, url: str, *, retention: Retention | None = None) -> None:
        self.engine = Engine(store, url=url, payload_limit=PAYLOAD_LIMIT, retention=retention or Retention())

    async def __aenter__(self) -> Engine:
        return self.engine

    async def __aexit__(self, *exc: object) -> None:
        if self.engine._hub is not None:
            await self.engine._hub.close()
        await self.engine.bulk.close()
        await self.engine.effects.close()


@pytest.fixture
def commands(store: Store) -> Iterator[Commands]:
    """The commands that reach the test's database from here on."""
    recording = Commands(store.database.name)
    RECORDER.recordings.append(recording)
    yield recording
    RECORDER.recordings.remove(recording)
