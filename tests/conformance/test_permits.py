"""Room that was reserved and is not used is there for others at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.engine import Engine
from switchtower.engine.permits import Permits
from switchtower.limits import Limit, Rate
from switchtower.store import permits
from switchtower.store.collections import Store
from tests.conformance.situations import before

ONE = Limit(concurrency=1)


async def test_what_was_reserved_beside_a_limit_that_filled_up_is_given_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = engine._store
    level = (await permits.levels(store, {"b": ONE}))["b"]
    before(monkeypatch, permits, "reserve", lambda: permits.reserve(store, level, ONE, token="other", jobs=1))
    grant = await Permits(store).reserve("q", {"job": {"a": ONE, "b": ONE}}, token="t")
    assert grant.jobs == {} and grant.full == {"b"} and not grant.contested
    limits = {"a": ONE, "b": ONE}
    assert permits.open_for(await permits.levels(store, limits), limits) == {"a": 1, "b": 0}


async def test_a_start_counts_for_the_whole_interval_of_its_rate(engine: Engine) -> None:
    limit, now = Limit(rate=Rate(starts=5, per_ms=10_000)), engine.clock.now()
    starts = [{"at": now - timedelta(seconds=ago), "jobs": 1} for ago in (10, 9, 6, 1)]
    level = permits._level({"_id": "k", "version": "", "reserved": [], "starts": starts}, limit, 0, "", now)
    assert (level.started, level.free_at) == (3, now + timedelta(seconds=1))


async def test_what_somebody_may_have_claimed_before_they_died_counts_for_the_rate(engine: Engine) -> None:
    store, limit = engine._store, Limit(rate=Rate(starts=5, per_ms=3_600_000))
    await permits.levels(store, {"k": limit})
    died = {"token": "dead", "jobs": 2, "until": engine.clock.now() - timedelta(minutes=1)}
    await store.permits.update_one({"_id": "k"}, {"$set": {"reserved": [died]}})
    level = (await permits.levels(store, {"k": limit}))["k"]
    assert level.started == 2
    assert await permits.reserve(store, level, limit, token="t", jobs=1) is not None
    assert (await permits.levels(store, {"k": limit}))["k"].started == 3


async def test_limits_that_nobody_uses_are_forgotten(store: Store, mongo: MongoClient[dict[str, Any]]) -> None:
    indexes = mongo[store.database.name].permits.index_information()
    assert [index["expireAfterSeconds"] for index in indexes.values() if index["key"] == [("idle_at", 1)]] == [0]
