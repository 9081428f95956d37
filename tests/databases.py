"""Databases for tests: each empty and with every index, made once and emptied between two tests.

To create one takes a tenth of a second and to drop it another (some seventy files), to empty it some milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from switchtower.engine import Engine

TURNS = 3
"""A database rests while this many others are used: what a test left under way has ended when it is emptied."""


def anywhere(filter: Mapping[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
    """A filter that no index serves, for a test's own look at a collection: it goes through the ids."""
    return {"_id": {"$exists": True}, **(filter or {}), **fields}


class Onlooker(MongoClient[dict[str, Any]]):
    """A blocking client for a test's own looks, none of which needs an index."""

    def __getitem__(self, name: str) -> Any:
        return _Database(self, name)


class _Database(Database[dict[str, Any]]):
    def __getitem__(self, name: str) -> Any:
        return _Collection(self, name)


class _Collection(Collection[dict[str, Any]]):
    def find(self, *args: Any, **options: Any) -> Any:
        return super().find(*_anywhere(args), **options)

    def count_documents(self, *args: Any, **options: Any) -> int:
        return super().count_documents(*_anywhere(args), **options)

    def distinct(self, key: str, *args: Any, **options: Any) -> list[Any]:
        return super().distinct(key, *_anywhere(args), **options)

    def update_one(self, *args: Any, **options: Any) -> Any:
        return super().update_one(*_anywhere(args), **options)

    def update_many(self, *args: Any, **options: Any) -> Any:
        return super().update_many(*_anywhere(args), **options)

    def delete_many(self, *args: Any, **options: Any) -> Any:
        return super().delete_many(*_anywhere(args), **options)


def _anywhere(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (anywhere(args[0]), *args[1:]) if args and args[0] else args


class Databases:
    """The databases of one process of the run."""

    def __init__(self, url: str, mongo: MongoClient[dict[str, Any]]) -> None:
        self._url = url
        self._mongo = mongo
        self._numbers = itertools.count()
        self._resting: deque[str] = deque()
        self._planned: set[str] = set()

    def take(self) -> str:
        """The name of a database that nobody else uses until it is given back."""
        if len(self._resting) < TURNS:
            return self._create()
        name = self._resting.popleft()
        if self._indexes(name) != self._planned:
            # The test before declared search paths, or broke an index.
            self._mongo.drop_database(name)
            return self._create()
        empty(self._mongo, name)
        return name

    def give_back(self, name: str) -> None:
        self._resting.append(name)

    def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        # In a thread with a loop of its own: this one's loop may be the session's, and busy with the test that asks.
        maker = threading.Thread(target=asyncio.run, args=(self._prepare(name),))
        maker.start()
        maker.join()
        self._planned = self._planned or self._indexes(name)
        return name

    async def _prepare(self, name: str) -> None:
        engine = await Engine.connect(self._url, database=name)
        await engine.prepare()
        await engine.close()

    def _indexes(self, name: str) -> set[str]:
        return set(self._mongo[name]["jobs"].index_information())


def empty(mongo: MongoClient[dict[str, Any]], name: str) -> None:
    """Removes every document, and waits until the removal is what a majority has."""
    database = mongo[name]
    named = [each for each in database.list_collection_names() if not each.startswith("system.")]
    filled = [each for each in named if database[each].estimated_document_count()]
    for number, each in enumerate(filled):
        # The last one waits for a majority, and with it all that came before.
        concern = WriteConcern("majority") if number == len(filled) - 1 else WriteConcern(1)
        database[each].with_options(write_concern=concern).delete_many({})
