"""The engine on a real mongod, with each driver: connected once, its collections emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pymongo.monitoring
import pytest
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

from switchtower.engine import Engine, Retention
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.store.collections import Store
from switchtower.store.driver import connect
from switchtower.store.indexes import create_indexes
from tests.conformance.commands import RECORDER, Commands

# Drivers take listeners from here when a client is made, which the engine does by itself.
pymongo.monitoring.register(RECORDER)

DATABASE = "test_conformance"


@pytest.fixture(scope="session")
async def stores(mongodb_url: str, mongo: MongoClient[dict[str, Any]]) -> AsyncIterator[dict[str, Store]]:
    """One connection per driver, on a database of its own with all indexes."""
    opened = {}
    for driver in ("pymongo", "motor"):
        name = f"{DATABASE}_{driver}"
        mongo.drop_database(name)
        opened[driver] = Store(await connect(mongodb_url, database=name, driver=driver))
        await create_indexes(opened[driver])
    yield opened
    for store in opened.values():
        await store.database.close()
        mongo.drop_database(store.database.name)


@pytest.fixture
def store(stores: dict[str, Store], driver: str, mongo: MongoClient[dict[str, Any]]) -> Store:
    """The collections, empty."""
    found = stores[driver]
    database = mongo[found.database.name]
    filled = [name for name in database.list_collection_names() if database[name].estimated_document_count()]
    for number, name in enumerate(filled):
        # The last one waits for a majority, and with it all that came before.
        concern = WriteConcern("majority") if number == len(filled) - 1 else WriteConcern(1)
        database[name].with_options(write_concern=concern).delete_many({})
    return found


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
