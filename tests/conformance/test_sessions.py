"""Sessions of browsers: opened with a key, worth what the key is worth, kept as digests, ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.access import NewApiKey, Scope, is_session, mint_session
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.engine.keys import SESSION
from switchtower.errors import Unauthorized
from switchtower.store.collections import Store
from tests.databases import anywhere


async def test_a_session_stands_for_its_key_until_it_is_closed(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]]
) -> None:
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ], org="acme"), caller=SYSTEM)
    session = await engine.keys.open_session(created.secret)
    assert is_session(session) and session != await engine.keys.open_session(created.secret)
    assert await engine.keys.verify(session) == created.key
    database = mongo[store.database.name]
    dump = repr([list(database[name].find()) for name in database.list_collection_names()])
    assert session not in dump and session[4:] not in dump
    await engine.keys.close_session(session)
    await engine.keys.close_session(session)
    await engine.keys.close_session("nonsense")
    with pytest.raises(Unauthorized):
        await engine.keys.verify(session)


async def test_a_session_ends_with_its_key_and_with_its_time(engine: Engine, store: Store) -> None:
    first, second = [
        await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM) for _ in range(2)
    ]
    revoked, over = [await engine.keys.open_session(created.secret) for created in (first, second)]
    await engine.keys.revoke(first.key.id, caller=SYSTEM)
    now = store.clock.now()
    ends = [row["ends_at"] async for row in store.sessions.find(anywhere(key_id=second.key.id))]
    assert [abs(at - now - SESSION) < timedelta(minutes=1) for at in ends] == [True]
    await store.sessions.update_one(anywhere(key_id=second.key.id), {"$set": {"ends_at": now - timedelta(seconds=1)}})
    for session in (revoked, over, mint_session(), "sws_", "sws_" + "0" * 44):
        with pytest.raises(Unauthorized):
            await engine.keys.verify(session)


async def test_only_a_key_opens_a_session(engine: Engine) -> None:
    for text in ["", "nonsense", "sws_" + "0" * 43]:
        created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
        session = await engine.keys.open_session(created.secret)
        for wrong in (text, session):
            with pytest.raises(Unauthorized):
                await engine.keys.open_session(wrong)
