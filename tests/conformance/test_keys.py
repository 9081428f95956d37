"""API keys: made, shown once, kept as digests, verified, revoked, limited and counted."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.access import NewApiKey, RateLimit, Scope, TenantLimits, digest_of, mint, well_formed
from switchtower.callers import SYSTEM, Caller
from switchtower.engine import Engine
from switchtower.engine.keys import Keys
from switchtower.errors import Forbidden, InvalidInput, NotFound, RateLimited, Unauthorized
from switchtower.ids import API_KEY, new_id
from switchtower.jobs import NewJob
from switchtower.store.collections import Store
from tests.conformance.commands import Commands
from tests.conformance.conftest import Running
from tests.conformance.test_metrics import folding
from tests.waiting import until

OPERATOR = Caller("operator")


def test_the_text_of_a_key_says_what_it_is() -> None:
    text = mint(new_id(API_KEY), "live")
    kind, env, id, secret, checksum = text.split("_")
    assert (kind, env, len(id), len(secret), len(checksum)) == ("swt", "live", 26, 43, 6)
    assert well_formed(text)
    assert mint(f"key_{id}", "live") != text, "the secret is drawn anew"


def test_every_single_typing_error_is_noticed() -> None:
    text = mint(new_id(API_KEY), "live")
    for place in range(len(text)):
        for other in "0Az_":
            wrong = text[:place] + other + text[place + 1 :]
            assert wrong == text or not well_formed(wrong), wrong


async def test_a_key_opens_what_it_was_created_for_and_its_secret_is_kept_nowhere(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]]
) -> None:
    new = NewApiKey(name="ci", scopes=[Scope.OPERATE], org="acme", app="shop", queue="mail", rate=RateLimit(10, 1_000))
    created = await engine.keys.create(new, caller=OPERATOR)
    found = await engine.keys.verify(created.secret)
    assert found == created.key
    assert found.grants == {Scope.OPERATE, Scope.READ}
    assert (found.org, found.app, found.queue, found.rate) == ("acme", "shop", "mail", RateLimit(10, 1_000))
    secret = created.secret.split("_")[3]
    database = mongo[store.database.name]
    dump = repr([list(database[name].find()) for name in database.list_collection_names()])
    assert created.key.id in dump
    assert secret not in dump and created.secret not in dump
    assert digest_of(created.secret) in [row["digest"] for row in database.keys.find()]


async def test_what_is_no_key_is_refused(engine: Engine) -> None:
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=OPERATOR)
    other = mint(created.key.id, "live")
    assert well_formed(other)
    for text in (other, mint(new_id(API_KEY), "live"), created.secret[:-1], "", "swt_live", "x" * 100_000, "\0"):
        with pytest.raises(Unauthorized):
            await engine.keys.verify(text)


async def test_a_wrong_secret_takes_the_way_of_an_unknown_key(engine: Engine, commands: Commands) -> None:
    """Nothing in how long it takes says which it was: a text is looked up whole, by its digest."""
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=OPERATOR)
    ways = []
    for text in (mint(created.key.id, "live"), mint(new_id(API_KEY), "live")):
        commands.clear()
        with pytest.raises(Unauthorized) as refused:
            await engine.keys.verify(text)
        ways.append((str(refused.value), [(command["find"], list(command["filter"])) for command in commands.sent]))
    assert ways[0] == ways[1] and ways[0][1] == [("keys", ["digest"])]


async def test_revoking_is_for_good_and_idempotent(engine: Engine) -> None:
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=OPERATOR)
    assert await engine.keys.still_valid([created.key.id, "key_none"]) == {created.key.id}
    first = await engine.keys.revoke(created.key.id, caller=OPERATOR)
    assert first.revoked_at is not None
    assert await engine.keys.revoke(created.key.id, caller=OPERATOR) == first
    assert await engine.keys.still_valid([created.key.id]) == set()
    with pytest.raises(Unauthorized):
        await engine.keys.verify(created.secret)
    with pytest.raises(NotFound):
        await engine.keys.revoke("key_none", caller=OPERATOR)


async def test_a_key_ends_by_the_clock_of_the_database(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]]
) -> None:
    new = NewApiKey(name="k", scopes=[Scope.READ], expires_in_ms=60_000)
    created = await engine.keys.create(new, caller=OPERATOR)
    assert (await engine.keys.verify(created.secret)).expires_at == created.key.expires_at
    mongo[store.database.name].keys.update_one({}, {"$set": {"expires_at": store.clock.now() - timedelta(seconds=1)}})
    with pytest.raises(Unauthorized):
        await engine.keys.verify(created.secret)
    assert await engine.keys.still_valid([created.key.id]) == set()


async def test_a_tenant_manages_its_own_keys_only_and_passes_on_no_more_than_it_has(engine: Engine) -> None:
    theirs = (await engine.keys.create(NewApiKey(name="b", scopes=[Scope.READ], org="bravo"), caller=OPERATOR)).key
    acme = Caller("key_1", "acme", scopes=frozenset({Scope.ADMIN, Scope.OPERATE, Scope.READ}))
    mine = (await engine.keys.create(NewApiKey(name="a", scopes=[Scope.READ]), caller=acme)).key
    assert mine.org == "acme"
    assert await engine.keys.list(caller=acme) == [mine]
    assert await engine.keys.get(theirs.id, caller=acme) is None
    with pytest.raises(NotFound):
        await engine.keys.revoke(theirs.id, caller=acme)
    assert await engine.keys.still_valid([theirs.id]) == {theirs.id}
    with pytest.raises(Forbidden):
        await engine.keys.create(NewApiKey(name="a", scopes=[Scope.READ], org="bravo"), caller=acme)
    with pytest.raises(Forbidden):
        await engine.keys.create(NewApiKey(name="a", scopes=[Scope.WORK]), caller=acme)
    with pytest.raises(Forbidden):
        await engine.keys.set_tenant_limits(TenantLimits("acme"), caller=acme)
    assert {key.name for key in await engine.keys.list(caller=OPERATOR)} == {"a", "b"}


async def test_bad_input_names_its_field(engine: Engine) -> None:
    for field, options in [
        ("scopes", {"scopes": []}),
        ("name", {"name": ""}),
        ("name", {"name": "x" * 257}),
        ("org", {"org": ""}),
        ("env", {"env": "Live"}),
        ("queue", {"queue": "a/b"}),
        ("webhookUrl", {"webhook_url": "file:///etc/passwd"}),
        ("rate.requests", {"rate": RateLimit(0)}),
        ("rate.perMs", {"rate": RateLimit(1, 10)}),
        ("expiresInMs", {"expires_in_ms": 0}),
    ]:
        with pytest.raises(InvalidInput) as caught:
            await engine.keys.create(NewApiKey(**{"name": "k", "scopes": [Scope.READ], **options}), caller=OPERATOR)
        assert caught.value.field == field
        assert await engine.keys.none_exists()


async def test_a_rate_is_never_exceeded_by_many_processes(engine: Engine, store: Store, mongodb_url: str) -> None:
    rate = RateLimit(100, 60_000)
    granted = 0
    async with Running(store, mongodb_url) as other:
        while True:
            portions = [await each.keys.take("key_x", rate) for each in (engine, other)]
            assert all(0 < portion.left_ms <= 66_000 for portion in portions)
            granted += sum(portion.granted for portion in portions)
            if not any(portion.granted for portion in portions):
                break
    assert granted == 100


async def test_room_comes_back_when_what_was_used_lies_an_interval_back(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]]
) -> None:
    rate = RateLimit(2, 60_000)
    assert (await engine.keys.take("key_x", rate)).granted == 1
    assert (await engine.keys.take("key_x", rate)).granted == 1
    refused = await engine.keys.take("key_x", rate)
    assert refused.granted == 0 and 60_000 < refused.left_ms <= 66_000
    past = {"$set": {"portions.0.until": store.clock.now() - timedelta(seconds=1)}}
    mongo[store.database.name].rates.update_one({}, past)
    assert (await engine.keys.take("key_x", rate)).granted == 1
    assert (await engine.keys.take("key_x", rate)).granted == 0


async def test_what_was_not_used_is_given_back_and_what_was_counts_from_now(engine: Engine) -> None:
    rate = RateLimit(200, 60_000)
    first = await engine.keys.take("key_x", rate)
    assert first.granted == 10
    second = await engine.keys.take("key_x", rate, spent=first, used=3)
    others = 0
    while (portion := await engine.keys.take("key_x", rate)).granted:
        others += portion.granted
    assert others == 200 - 3 - second.granted
    assert portion.left_ms <= 60_000, "what was returned counts from its last use, not from its last possible one"
    again = await engine.keys.take("key_x", rate, spent=second, used=0)
    assert again.granted == second.granted


async def test_no_interval_however_it_lies_has_more_than_the_rate(
    engine: Engine, store: Store, mongodb_url: str
) -> None:
    rate = RateLimit(20, 600)
    admitted: list[float] = []

    async def server(keys: Keys, until: float) -> None:
        portion, used, ends = None, 0, 0.0
        while (now := time.monotonic()) < until:
            if portion is None or now >= ends or used >= portion.granted:
                if portion is not None and portion.granted == 0 and now < ends:
                    await asyncio.sleep(0.005)
                    continue
                portion, used = await keys.take("key_x", rate, spent=portion, used=used), 0
                ends = now + portion.left_ms / 1000
                continue
            used += 1
            admitted.append(now)
            await asyncio.sleep(0.001)

    async with Running(store, mongodb_url) as other:
        until = time.monotonic() + 1.8
        await asyncio.gather(server(engine.keys, until), server(other.keys, until))
    admitted.sort()
    most = max(sum(at - 0.6 < each <= at for each in admitted) for at in admitted)
    assert 10 <= most <= 20
    assert len(admitted) > 20, "room comes back"


async def test_usage_counts_what_each_key_enqueued_cancelled_jobs_too(engine: Engine, store: Store) -> None:
    key, other = Caller("key_1", "acme"), Caller("key_2", "bravo")
    async with folding(engine):
        first = await engine.jobs.enqueue(NewJob(name="send"), caller=key)
        await engine.jobs.enqueue(NewJob(name="send"), caller=key)
        await engine.jobs.enqueue(NewJob(name="send"), caller=other)
        await engine.jobs.enqueue(NewJob(name="send"), caller=Caller("somebody", "acme"))
        await engine.jobs.cancel(first.job.id, caller=key)
        await until(lambda: store.counters.count_documents({"org": "acme", "counts.cancelled": 1}))
    today = engine.clock.now().date()
    yesterday = today - timedelta(days=1)
    rows = await engine.keys.usage(yesterday, today, caller=key)
    assert sorted((row.org, row.key_id or "", row.enqueued) for row in rows) == [("acme", "", 1), ("acme", "key_1", 2)]
    assert sum(row.enqueued for row in await engine.keys.usage(yesterday, today, caller=SYSTEM)) == 4
    assert await engine.keys.jobs_this_month("acme") == 3
    await engine.keys.set_tenant_limits(TenantLimits("acme", 4), caller=OPERATOR)
    await engine.keys.check_quota(1, caller=key)
    await engine.keys.check_quota(100, caller=other)
    with pytest.raises(RateLimited) as beyond:
        await engine.keys.check_quota(2, caller=key)
    assert 0 < beyond.value.retry_after_seconds <= 31 * 24 * 3600
    with pytest.raises(InvalidInput):
        await engine.keys.usage(today, yesterday, caller=key)
    with pytest.raises(InvalidInput):
        await engine.keys.usage(today - timedelta(days=4_000), today, caller=key)


async def test_what_a_tenant_may_use_is_kept(engine: Engine) -> None:
    assert await engine.keys.tenant_limits("acme") == TenantLimits("acme")
    limits = TenantLimits("acme", 1_000, RateLimit(5))
    await engine.keys.set_tenant_limits(limits, caller=OPERATOR)
    assert await engine.keys.tenant_limits("acme") == limits
    with pytest.raises(InvalidInput):
        await engine.keys.set_tenant_limits(TenantLimits("acme", -1), caller=OPERATOR)
