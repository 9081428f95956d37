"""Webhooks: set, signed, rotated; and the courier's claims, which are nobody else's and in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM, Caller
from switchtower.crons import NewCron, Schedule
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.engine import BlockageKind, Engine
from switchtower.engine.deliveries import Parcel
from switchtower.errors import Conflict, Forbidden, InvalidInput, NotFound
from switchtower.flows import node
from switchtower.jobs import ErrorKind, Job, JobError, NewJob
from switchtower.limits import Limit, QueueLimits, Rate
from switchtower.retry import Backoff, BackoffKind
from switchtower.store.collections import Store
from switchtower.store.indexes import DELIVERIES
from switchtower.webhooks import WEBHOOK_BACKOFF, Address, Delivery, SetWebhook, Target, message_id, new_secret
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.commands import Commands, explain, stages
from tests.conformance.situations import CALLER, ERROR, HOUR_MS, fresh, quiet
from tests.mongod import fail_command

OPERATOR = Caller("operator")
URL = "https://hooks.example/in"


async def new_key(engine: Engine, **options: Any) -> Caller:
    """A caller with a key of its own."""
    created = await engine.keys.create(NewApiKey(name="k", scopes=[Scope.OPERATE], **options), caller=OPERATOR)
    key = created.key
    return Caller(key.id, key.org, key.app, "graphql", key.grants, key.id)


async def deliver(engine: Engine, caller: Caller = OPERATOR, **fields: Any) -> Job:
    new = NewJob(**{"name": "notify", "webhook": True, **fields})
    return (await engine.jobs.enqueue(new, caller=caller)).job


async def claim(engine: Engine, limit: int = 100, room: int = 100) -> list[Parcel]:
    return await engine.deliveries.claim("courier", limit, room=lambda url: room)


async def addressed(engine: Engine, url: str = URL, **target: Any) -> str:
    """The secret of a target's new webhook."""
    made = await engine.webhooks.set(SetWebhook(Target(**target), url), caller=OPERATOR)
    assert made.secret is not None
    return made.secret


async def test_a_webhooks_secret_is_shown_once(
    engine: Engine, store: Store, mongo: MongoClient[dict[str, Any]]
) -> None:
    first = await engine.webhooks.set(SetWebhook(Target(app="shop")), caller=OPERATOR)
    assert first.secret is not None and first.secret.startswith("whsec_")
    assert first.webhook.url is None and first.webhook.target == Target(app="shop")
    again = await engine.webhooks.set(SetWebhook(Target(app="shop"), URL), caller=OPERATOR)
    assert again.secret is None and again.webhook.url == URL
    assert (again.webhook.id, again.webhook.secrets) == (first.webhook.id, first.webhook.secrets)
    assert (await engine.webhooks.set(SetWebhook(Target(app="shop")), caller=OPERATOR)).webhook.url == URL
    assert await engine.webhooks.list(caller=OPERATOR) == [await engine.webhooks.get(first.webhook.id, caller=OPERATOR)]
    assert first.secret not in repr((first, again, await engine.webhooks.list(caller=OPERATOR)))
    database = mongo[store.database.name]
    dump = repr([list(database[name].find()) for name in database.list_collection_names() if name != "webhooks"])
    assert first.secret not in dump
    assert first.secret not in repr(Address(URL, (first.secret,)))


async def test_two_first_calls_at_once_make_one_webhook(engine: Engine) -> None:
    made = await asyncio.gather(
        *(engine.webhooks.set(SetWebhook(Target(app="shop"), URL), caller=OPERATOR) for _ in range(8))
    )
    assert len({each.webhook.id for each in made}) == 1
    assert sum(each.secret is not None for each in made) == 1


async def test_secrets_rotate_with_two_valid_at_once(engine: Engine) -> None:
    key = await new_key(engine)
    old = await addressed(engine, key_id=key.key_id)
    await deliver(engine, key)
    (webhook,) = await engine.webhooks.list(caller=OPERATOR)
    rotated = await engine.webhooks.rotate(webhook.id, caller=OPERATOR)
    assert rotated.secret is not None and len(rotated.webhook.secrets) == 2
    with pytest.raises(Conflict, match="revoke one"):
        await engine.webhooks.rotate(webhook.id, caller=OPERATOR)
    (parcel,) = await claim(engine)
    assert parcel.address == Address(URL, (old, rotated.secret))
    oldest = webhook.secrets[0].id
    left = await engine.webhooks.revoke_secret(webhook.id, oldest, caller=OPERATOR)
    assert [secret.id for secret in left.secrets] == [rotated.webhook.secrets[1].id]
    with pytest.raises(NotFound):
        await engine.webhooks.revoke_secret(webhook.id, oldest, caller=OPERATOR)
    with pytest.raises(Conflict, match="only secret"):
        await engine.webhooks.revoke_secret(webhook.id, left.secrets[0].id, caller=OPERATOR)


async def test_webhooks_are_their_tenants(engine: Engine) -> None:
    acme, bravo = Caller("ann", "acme"), Caller("bob", "bravo")
    mine = (await engine.webhooks.set(SetWebhook(Target(), URL), caller=acme)).webhook
    assert mine.target == Target(None, "acme") and mine.org == "acme"
    theirs = await new_key(engine, org="bravo")
    with pytest.raises(NotFound):
        await engine.webhooks.set(SetWebhook(Target(theirs.key_id), URL), caller=acme)
    with pytest.raises(Forbidden):
        await engine.webhooks.set(SetWebhook(Target(org="bravo"), URL), caller=acme)
    assert await engine.webhooks.list(caller=bravo) == []
    assert await engine.webhooks.get(mine.id, caller=bravo) is None
    for call in (
        engine.webhooks.rotate(mine.id, caller=bravo),
        engine.webhooks.remove(mine.id, caller=bravo),
        engine.webhooks.revoke_secret(mine.id, mine.secrets[0].id, caller=bravo),
    ):
        with pytest.raises(NotFound):
            await call
    assert await engine.webhooks.remove(mine.id, caller=acme) == mine
    with pytest.raises(NotFound):
        await engine.webhooks.remove(mine.id, caller=acme)


async def test_what_is_no_address_is_refused(engine: Engine) -> None:
    for url in [
        "",
        "hooks.example",
        "ftp://hooks.example",
        "file:///etc/passwd",
        "gopher://hooks.example/1",
        "data:text/plain,x",
        "https://",
        "https:///path",
        "https://user@hooks.example/",
        "https://user:pass@hooks.example/",
        "https://hooks.example:port/",
        "https://hooks.example:99999/",
        "https://hooks.example:0/",
        "https://hooks.example/#fragment",
        "https://hooks.example/\r\nX: 1",
        "https://hooks.example/ a",
        "https://hööks.example/",
        "https://hooks。example/",
        "https://[::1/",
        "https://hooks.example/" + "x" * 2_048,
        "https://hooks.example\\@evil.example/",
        "javascript:alert(1)//https://",
    ]:
        with pytest.raises(InvalidInput) as refused:
            await engine.webhooks.set(SetWebhook(Target(), url), caller=OPERATOR)
        assert refused.value.field == "url"
        with pytest.raises(InvalidInput) as refused:
            await new_key(engine, webhook_url=url)
        assert refused.value.field == "webhookUrl"
        assert await engine.webhooks.list(caller=OPERATOR) == []


async def test_a_key_can_be_created_with_its_webhook(engine: Engine) -> None:
    new = NewApiKey(name="k", scopes=[Scope.OPERATE], webhook_url=URL)
    created = await engine.keys.create(new, caller=OPERATOR)
    assert created.key.webhook_url == URL and created.webhook_secret is not None
    assert created.webhook_secret not in repr(created) and created.secret not in repr(created)
    assert await engine.keys.get(created.key.id, caller=OPERATOR) == created.key
    plain = await engine.keys.create(NewApiKey(name="p", scopes=[Scope.OPERATE]), caller=OPERATOR)
    assert plain.webhook_secret is None
    await addressed(engine, "https://other.example/", key_id=plain.key.id)
    assert [key.webhook_url for key in await engine.keys.list(caller=OPERATOR)] == [URL, "https://other.example/"]


async def test_a_key_of_dev_asks_nobody_for_a_key(engine: Engine) -> None:
    created = await engine.keys.create(NewApiKey(name="dev", scopes=[Scope.OPERATE], dev=True), caller=OPERATOR)
    assert created.webhook_secret is not None and created.key.webhook_url is None
    assert await engine.keys.none_exists()
    assert (await engine.keys.verify(created.secret)).dev
    await new_key(engine)
    assert not await engine.keys.none_exists()


async def test_only_the_courier_is_given_a_delivery(engine: Engine) -> None:
    await addressed(engine)
    job = await deliver(engine, queue="mail")
    await engine.jobs.enqueue(NewJob(name="notify", queue="mail"), caller=OPERATOR)
    assert (job.webhook, job.max_attempts, job.backoff) == (True, 4, WEBHOOK_BACKOFF)
    assert [WEBHOOK_BACKOFF.wait_ms(n) for n in (1, 2, 3)] == [30_000, 120_000, 300_000]
    await engine.workers.register(WorkerInfo(id="w", queues=["mail"], names=["notify"]))
    for limit in (1, 10):
        assert job.id not in [each.id for each in await engine.claims.claim("w", ["mail"], limit=limit)]
    (parcel,) = await claim(engine)
    assert (parcel.job.id, parcel.address.url) == (job.id, URL)
    assert await claim(engine) == []


async def test_a_worker_never_walks_over_deliveries(
    engine: Engine, commands: Commands, mongo: MongoClient[dict[str, Any]]
) -> None:
    queue = fresh("queue")
    news = [NewJob(name="notify", queue=queue, webhook=True)] * 300
    await engine.jobs.enqueue_many(news, caller=OPERATOR)
    await engine.jobs.enqueue_many([NewJob(name="work", queue=queue)] * 3, caller=OPERATOR)
    commands.clear()
    assert len(await engine.claims.claim("w", [queue], limit=2)) == 1
    assert len(await engine.claims.claim("w", [queue], limit=2)) == 2
    for command in [*commands.named("findAndModify"), *(c for c in commands.named("find") if "hint" in c)]:
        plan = explain(mongo, commands.database, command)
        assert plan["executionStats"]["totalKeysExamined"] <= 4, command


async def test_the_courier_walks_its_index(
    engine: Engine, commands: Commands, mongo: MongoClient[dict[str, Any]]
) -> None:
    await addressed(engine)
    await engine.jobs.enqueue_many([NewJob(name="notify", webhook=True)] * 300, caller=OPERATOR)
    await engine.jobs.enqueue_many([NewJob(name="work")] * 300, caller=OPERATOR)
    commands.clear()
    assert len(await claim(engine, 5)) == 5
    for command in [c for c in commands.named("find") if c.get("hint") == DELIVERIES]:
        plan = explain(mongo, commands.database, command)
        found = stages(plan["queryPlanner"]["winningPlan"])
        assert {stage["indexName"] for stage in found if "indexName" in stage} == {DELIVERIES}
        assert not {"SORT", "COLLSCAN"} & {stage["stage"] for stage in found}
        assert plan["executionStats"]["totalDocsExamined"] <= 5, command


async def test_a_keys_webhook_goes_before_its_projects(engine: Engine) -> None:
    key, other = await new_key(engine, org="acme", app="shop"), await new_key(engine, org="acme", app="shop")
    await addressed(engine, "https://key.example/", key_id=key.key_id)
    await engine.webhooks.set(SetWebhook(Target(other.key_id)), caller=OPERATOR)
    await addressed(engine, "https://project.example/", org="acme", app="shop")
    await addressed(engine, "https://operator.example/")
    went = {
        (await deliver(engine, caller)).id: url
        for caller, url in (
            (key, "https://key.example/"),
            (other, "https://project.example/"),
            (Caller("ann", "acme", "shop"), "https://project.example/"),
            (OPERATOR, "https://operator.example/"),
        )
    }
    elsewhere = await deliver(engine, Caller("ann", "acme", "other"))
    assert {parcel.job.id: parcel.address.url for parcel in await claim(engine)} == went
    assert await state_of(engine, elsewhere.id) == ("waiting", "no_webhook")


async def state_of(engine: Engine, id: str) -> tuple[str, str | None]:
    job = await engine.jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job.state, job.parked


async def test_jobs_without_a_webhook_wait_and_say_so(engine: Engine) -> None:
    key = await new_key(engine, org="acme")
    ids = [(await deliver(engine, key)).id for _ in range(3)]
    assert await claim(engine) == []
    assert {await state_of(engine, id) for id in ids} == {("waiting", "no_webhook")}
    job = await engine.jobs.get(ids[0], caller=SYSTEM)
    assert job is not None
    causes = {cause.kind: cause for cause in await engine.blockages.of(job)}
    assert set(causes) == {BlockageKind.NO_WEBHOOK, BlockageKind.NO_COURIER}
    cause = causes[BlockageKind.NO_WEBHOOK]
    assert key.key_id in cause.message and "acme" in cause.message and cause.mutation == "setWebhook"
    await addressed(engine, key_id=key.key_id)
    assert {await state_of(engine, id) for id in ids} == {("waiting", None)}
    assert await engine.upkeep.elect("courier", "somebody", 60_000)
    assert [cause.kind for cause in await engine.blockages.of(job)] == []
    await quiet(engine)
    engine.deliveries._known.clear()
    assert [parcel.job.id for parcel in await claim(engine)] == ids


async def test_a_projects_webhook_frees_the_jobs_of_its_keys(engine: Engine) -> None:
    key = await new_key(engine, org="acme", app="shop")
    job, alone = await deliver(engine, key), await deliver(engine)
    assert await claim(engine) == []
    await addressed(engine, org="acme", app="shop")
    assert await state_of(engine, job.id) == ("waiting", None)
    assert await state_of(engine, alone.id) == ("waiting", "no_webhook")
    await addressed(engine)
    assert await state_of(engine, alone.id) == ("waiting", None)


async def test_whoever_died_between_setting_and_unparking_is_made_up_for(engine: Engine, store: Store) -> None:
    job = await deliver(engine)
    assert await claim(engine) == []
    assert await engine.deliveries.unpark_addressed() == 0
    await store.webhooks.insert_one(
        {"_id": "whk_x", "owner": "project\x1f\x1f", "org": "", "app": "", "url": URL, "secrets": []}
        | {"created_at": engine.clock.now(), "updated_at": engine.clock.now()}
    )
    assert await engine.upkeep.unpark() == 0
    assert await engine.deliveries.unpark_addressed() == 1
    assert await state_of(engine, job.id) == ("waiting", None)


async def test_lines_take_turns_and_a_full_endpoint_holds_no_other(engine: Engine) -> None:
    slow, fast = await new_key(engine), await new_key(engine)
    await addressed(engine, "https://slow.example/", key_id=slow.key_id)
    await addressed(engine, "https://fast.example/", key_id=fast.key_id)
    for _ in range(20):
        await deliver(engine, slow)
    for _ in range(5):
        await deliver(engine, fast)
    room = {"https://slow.example/": 2, "https://fast.example/": 100}
    won = await engine.deliveries.claim("courier", 100, room=room.__getitem__)
    assert Counter(parcel.address.url for parcel in won) == {"https://slow.example/": 2, "https://fast.example/": 5}
    room["https://slow.example/"] = 0
    assert await engine.deliveries.claim("courier", 100, room=room.__getitem__) == []
    room["https://slow.example/"] = 1
    assert len(await engine.deliveries.claim("courier", 100, room=room.__getitem__)) == 1


async def test_two_lines_to_one_endpoint_share_its_room(engine: Engine) -> None:
    await addressed(engine)
    for queue in ("a", "b", "c"):
        for _ in range(3):
            await deliver(engine, queue=queue)
    assert len(await claim(engine, room=4)) == 4


async def test_every_line_is_served_in_turn(engine: Engine) -> None:
    await addressed(engine)
    for queue in ("a", "b", "c"):
        for _ in range(3):
            await deliver(engine, queue=queue)
    served = [(await claim(engine, 1))[0].job.queue for _ in range(6)]
    assert served == ["a", "b", "c", "a", "b", "c"]
    assert len(await claim(engine)) == 3
    assert await claim(engine) == []


async def test_within_a_line_the_order_is_that_of_priorities(engine: Engine) -> None:
    await addressed(engine)
    last, first, middle = [(await deliver(engine, priority=priority)).id for priority in (5, -5, 0)]
    assert [parcel.job.id for parcel in await claim(engine)] == [first, middle, last]


async def test_what_is_paused_is_not_delivered(engine: Engine) -> None:
    await addressed(engine)
    await addressed(engine, org="acme")
    acme = Caller("ann", "acme")
    for name in ("held", "free"):
        await deliver(engine, name=name, queue="a")
        await deliver(engine, acme, name=name, queue="b", group="g")
    await engine.queues.pause("a", job_name="held", caller=OPERATOR)
    await engine.queues.pause("b", job_name="held", caller=acme)
    assert sorted(parcel.job.name for parcel in await claim(engine)) == ["free", "free"]
    await engine.queues.resume("a", job_name="held", caller=OPERATOR)
    await engine.queues.pause("a", caller=OPERATOR)
    await engine.queues.resume("b", job_name="held", caller=acme)
    await engine.queues.pause("b", group="g", caller=acme)
    assert await claim(engine) == []
    await engine.queues.resume("a", caller=OPERATOR)
    await engine.queues.resume("b", group="g", caller=acme)
    assert [parcel.job.name for parcel in await claim(engine)] == ["held", "held"]


async def test_limits_hold_for_deliveries_too(engine: Engine) -> None:
    await addressed(engine)
    for name in ("narrow", "wide"):
        for _ in range(5):
            await deliver(engine, name=name, queue="q")
    await engine.queues.set_limits("q", QueueLimits(names={"narrow": Limit(2)}), caller=OPERATOR)
    won = [*await claim(engine), *await claim(engine)]
    assert Counter(parcel.job.name for parcel in won) == {"narrow": 2, "wide": 5}
    await engine.queues.set_limits("q", QueueLimits(queue=Limit(rate=Rate(0, 1_000))), caller=OPERATOR)
    assert await claim(engine) == []


async def test_replays_crons_and_flows_go_where_they_were_to_go(engine: Engine) -> None:
    key = await new_key(engine)
    await addressed(engine, key_id=key.key_id)
    job = await deliver(engine, key, max_attempts=1)
    (parcel,) = await claim(engine)
    await engine.claims.report([Outcome(job.id, parcel.job.token, OutcomeKind.BURY, error=ERROR)])
    await quiet(engine)
    (entry,) = (await engine.dead_letters.for_jobs([job.id], caller=SYSTEM)).values()
    replayed = (await engine.dead_letters.replay(entry.id, caller=OPERATOR)).job
    cron = await engine.crons.create(
        NewCron(name="daily", schedule=Schedule("0 0 * * *"), job=NewJob(name="notify", webhook=True)), caller=key
    )
    fired = (await engine.crons.trigger(cron.id, caller=OPERATOR)).job
    flow = await engine.flows.enqueue(node(NewJob(name="all"), NewJob(name="notify", webhook=True)), caller=key)
    (child,) = await engine.flows.children(flow.id, caller=SYSTEM)
    ids = {replayed.id, fired.id, child.id}
    assert all(each.webhook and each.webhook_key == key.key_id for each in (replayed, fired, child))
    assert {parcel.job.id for parcel in await claim(engine)} == ids


async def test_a_replaced_job_is_what_replaced_it(engine: Engine) -> None:
    await addressed(engine)
    once = DeduplicationOptions(mode=DeduplicationMode.DEBOUNCE, key="k")
    first = await engine.jobs.enqueue(NewJob(name="n", delay_ms=HOUR_MS, deduplication=once), caller=CALLER)
    second = await deliver(engine, name="n", delay_ms=HOUR_MS, deduplication=once)
    assert second.id == first.job.id and second.webhook
    await engine.jobs.promote(second.id, caller=CALLER)
    assert [parcel.job.id for parcel in await claim(engine)] == [second.id]


async def test_what_came_of_a_delivery_is_kept_with_its_attempt(engine: Engine) -> None:
    await addressed(engine)
    backoff = Backoff(BackoffKind.NONE)
    job = await deliver(engine, max_attempts=3, backoff=backoff)
    said = [Delivery(500, 12, "$sorry €", True), Delivery(None, 30_000), Delivery(200, 3, "")]
    error = JobError(ErrorKind.EXCEPTION, "http_status", "The endpoint answered 500.", None, "f")
    for number, delivery in enumerate(said, 1):
        (parcel,) = await claim(engine)
        assert parcel.job.number == number and parcel.job.attempt_id.startswith("att_")
        assert await engine.claims.start([parcel.job]) == set()
        kind = OutcomeKind.COMPLETE if delivery.status_code == 200 else OutcomeKind.FAIL
        outcome = Outcome(job.id, parcel.job.token, kind, ran_ms=delivery.latency_ms, delivery=delivery)
        outcome.error = None if kind is OutcomeKind.COMPLETE else error
        for _ in range(2):
            assert await engine.claims.report([outcome]) == set()
    ended = await engine.jobs.get(job.id, caller=SYSTEM)
    assert ended is not None and ended.state == "completed"
    assert [attempt.delivery for attempt in ended.attempts] == said
    assert [attempt.outcome for attempt in ended.attempts] == ["failed", "failed", "completed"]
    assert len({attempt.id for attempt in ended.attempts}) == 3


async def test_only_the_last_answers_are_kept(engine: Engine) -> None:
    await addressed(engine)
    job = await deliver(engine, max_attempts=60, backoff=Backoff(BackoffKind.NONE))
    for number in range(1, 53):
        (parcel,) = await claim(engine)
        outcome = Outcome(job.id, parcel.job.token, OutcomeKind.FAIL, error=ERROR, delivery=Delivery(500, number, "x"))
        assert await engine.claims.report([outcome]) == set()
    found = await engine.jobs.get(job.id, caller=SYSTEM)
    assert found is not None
    kept = [attempt.delivery for attempt in found.attempts]
    assert len(kept) == 50
    assert [each.latency_ms for each in kept if each is not None] == list(range(3, 53))
    assert [each.answer for each in kept if each is not None] == [None] * 40 + ["x"] * 10


async def test_a_lost_answer_leaves_no_delivery_behind(engine: Engine, mongodb_url: str) -> None:
    await addressed(engine)
    job = await deliver(engine)
    await engine.workers.register(WorkerInfo(id="courier", queues=[]))
    with fail_command(mongodb_url, ["update"], times=2, errorCode=91, errorLabels=[]):
        won = await claim(engine)
    deadline = time.monotonic() + 30
    while not won and time.monotonic() < deadline:
        won = await claim(engine)
        await asyncio.sleep(0.05)
    assert [parcel.job.id for parcel in won] == [job.id]
    assert (await engine.claims.start([won[0].job])) == set()


async def test_of_many_couriers_one_wins_each_delivery(engine: Engine) -> None:
    await addressed(engine)
    await engine.jobs.enqueue_many([NewJob(name="notify", webhook=True)] * 60, caller=OPERATOR)
    won: list[str] = []

    async def one(name: str) -> None:
        while parcels := await engine.deliveries.claim(name, 7, room=lambda url: 100):
            won.extend(parcel.job.id for parcel in parcels)

    await asyncio.gather(*(one(f"courier-{n}") for n in range(4)))
    assert len(won) == len(set(won)) == 60


async def test_a_lost_couriers_jobs_go_back(engine: Engine, store: Store) -> None:
    await addressed(engine)
    job = await deliver(engine)
    await engine.workers.register(WorkerInfo(id="courier", queues=[], kind="courier"))
    (parcel,) = await claim(engine)
    await engine.claims.start([parcel.job])
    await store.workers.update_one({}, {"$set": {"expires_at": engine.clock.now() - timedelta(seconds=1)}})
    engine.upkeep._healthy_since = float("-inf")
    assert await engine.upkeep.rescue() == 1
    assert (await claim(engine))[0].job.number == 2
    stale = Outcome(job.id, parcel.job.token, OutcomeKind.COMPLETE, delivery=Delivery(200, 1))
    assert await engine.claims.report([stale]) == {job.id}


async def test_whoever_listens_is_woken_for_deliveries(engine: Engine) -> None:
    wakes = engine.deliveries.wakes()
    await anext(wakes)
    await deliver(engine)
    await asyncio.wait_for(anext(wakes), 10)
    await addressed(engine)
    await asyncio.wait_for(anext(wakes), 10)
    await wakes.aclose()  # type: ignore[attr-defined]


def test_a_message_is_the_same_until_it_is_made_to_run_anew() -> None:
    assert message_id("job_1", 1) == "job_1"
    assert message_id("job_1", 2) == "job_1_2"
    assert len({new_secret() for _ in range(100)}) == 100


async def test_the_oldest_delivery_counts_for_its_queues_latency(engine: Engine, store: Store) -> None:
    job = await deliver(engine, queue="q")
    since = engine.clock.now() - timedelta(minutes=5)
    await store.jobs.update_one({"_id": job.id}, {"$set": {"run_at": since}})
    latency_ms = (await engine.queues.latency_ms(["q"]))["q"]
    assert latency_ms is not None and latency_ms >= 300_000
