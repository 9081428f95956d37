"""What becomes of jobs of Dispatched: statuses, deliveries, and how the other surfaces see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from switchtower.addresses import LOOPBACK, AddressPolicy, networks_from
from switchtower.callers import SYSTEM
from switchtower.courier import Courier, CourierOptions
from switchtower.errors import InvalidTransition
from switchtower.jobs import JobFilter
from switchtower.sending import Sender
from switchtower.states import JobState
from switchtower.webhooks import SetWebhook, Target
from tests.app.rest.conftest import Server
from tests.app.rest.test_dispatched import Client, client_of, error, read
from tests.databases import anywhere
from tests.switchtower.endpoint import Received, endpoint, is_silent, says
from tests.waiting import until


async def test_a_cancelled_job_is_never_restarted(server: Server) -> None:
    client = await client_of(server)
    id = await client.new()
    await client.ask("DELETE", f"/api/jobs/{id}")
    with pytest.raises(InvalidTransition) as refusal:
        await server.engine.jobs.retry(id, caller=SYSTEM)
    assert "stays cancelled" in refusal.value.message and "cancelled" not in refusal.value.allowed
    query = """mutation($id: ID!) { retryJob(id: $id) { __typename ... on Error { message } } }"""
    assert (await server.graphql(query, id=id))["retryJob"]["__typename"] == "InvalidTransition"
    assert (await server.ask("POST", f"/v1/jobs/{id}/retry")).status == 400
    bulk = await server.engine.bulk.start("retry", JobFilter(states=[JobState.CANCELLED]), caller=SYSTEM)
    done = await until(lambda: finished(server, bulk.id))
    assert done and (await read(server, id)).state is JobState.CANCELLED


async def finished(server: Server, id: str) -> bool:
    operation = await server.engine.bulk.get(id, caller=SYSTEM)
    return operation is not None and operation.done


async def test_the_clients_own_ids_are_shown_and_found(server: Server) -> None:
    client = await client_of(server)
    await server.enqueue(jobId="mine")
    assert (await client.ask("GET", "/api/jobs/mine")).json == {"jobId": "mine", "status": "QUEUED"}


async def test_every_status_is_reached(server: Server) -> None:
    """QUEUED → DISPATCHED → STARTED → COMPLETED, FAILED and CANCELLED, as the courier goes about it."""
    client = await client_of(server)
    engine = server.engine
    gate = asyncio.Event()
    claimed, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await says(500 if request.json["payload"].get("fail") else 200)(request, writer)

    start = engine.claims.start

    async def slow_start(jobs: Any) -> set[str]:
        claimed.set()
        await go_on.wait()
        return await start(jobs)

    async with endpoint(answer) as here:
        await engine.webhooks.set(SetWebhook(Target(client.key_id), here.url), caller=SYSTEM)
        id, bad = await client.new(payload={"a": 1}), await client.new(payload={"fail": 1}, maxRetries=0)
        seen = [await client.status(id)]
        stop = asyncio.Event()
        courier = Courier(engine, sender=Sender(AddressPolicy(networks_from(LOOPBACK))))
        engine.claims.start = slow_start  # type: ignore[method-assign,assignment]
        task = asyncio.create_task(courier.run(stop))
        try:
            await asyncio.wait_for(claimed.wait(), 60)
            seen.append(await client.status(id))
            error(await client.ask("DELETE", f"/api/jobs/{id}"), 400, "BAD_REQUEST")
            go_on.set()
            await until(lambda: len(here.requests) == 2)
            seen.append(await client.status(id))
            error(await client.ask("DELETE", f"/api/jobs/{id}"), 400, "BAD_REQUEST")
            error(await client.ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": None}), 400, "BAD_REQUEST")
            gate.set()
            await until(lambda: is_status(client, id, "COMPLETED"))
            await until(lambda: is_status(client, bad, "FAILED"))
            seen.append(await client.status(id))
        finally:
            del engine.claims.start
            stop.set()
            await task
    assert seen == ["QUEUED", "DISPATCHED", "STARTED", "COMPLETED"]
    for final in (id, bad):
        error(await client.ask("DELETE", f"/api/jobs/{final}"), 400, "BAD_REQUEST")
        error(await client.ask("PATCH", f"/api/jobs/{final}", {"scheduledFor": None}), 400, "BAD_REQUEST")
    body = next(request.json for request in here.requests if request.json["jobId"] == id)
    assert list(body) == ["jobId", "attempt", "attemptId", "attemptNumber", "payload"]
    attempt = (await read(server, id)).attempts[0]
    assert (body["attempt"], body["attemptId"], body["attemptNumber"]) == (attempt.id, attempt.id, 1)


async def is_status(client: Client, id: str, status: str) -> bool:
    return await client.status(id) == status


async def test_a_key_sets_its_own_webhook_and_no_other(server: Server) -> None:
    client, other = await client_of(server), await client_of(server)
    mutation = """mutation($input: SetWebhookInput!) { setWebhook(input: $input) { __typename
        ... on WebhookWithSecret { secret webhook { id url keyId secrets { id } } } } }"""

    async def ask(**input: Any) -> Any:
        return (await server.graphql(mutation, key=client.secret, input=input))["setWebhook"]

    made = await ask(keyId=client.key_id, url="https://hooks.example/in")
    assert made["webhook"]["url"] == "https://hooks.example/in" and made["secret"] is None, "dev made one already"
    assert (await ask(keyId=other.key_id, url="https://x.example/"))["__typename"] == "Forbidden"
    assert (await ask(url="https://x.example/"))["__typename"] == "Forbidden"
    rotate = """mutation($id: ID!) { rotateWebhookSecret(id: $id) { __typename
        ... on WebhookWithSecret { secret webhook { secrets { id } } } } }"""
    rotated = (await server.graphql(rotate, key=client.secret, id=made["webhook"]["id"]))["rotateWebhookSecret"]
    assert rotated["secret"].startswith("whsec_") and len(rotated["webhook"]["secrets"]) == 2
    revoke = """mutation($id: ID!, $secret: ID!) { revokeWebhookSecret(id: $id, secretId: $secret) {
        ... on Webhook { secrets { id } } } }"""
    old = made["webhook"]["secrets"][0]["id"]
    left = await server.graphql(revoke, key=client.secret, id=made["webhook"]["id"], secret=old)
    assert [each["id"] for each in left["revokeWebhookSecret"]["secrets"]] == [rotated["webhook"]["secrets"][1]["id"]]
    listed = await server.graphql("{ webhooks { id url secrets { id } } apiKeys { id webhookUrl } }")
    assert rotated["secret"] not in str(listed)
    assert {key["id"]: key["webhookUrl"] for key in listed["apiKeys"]}[client.key_id] == "https://hooks.example/in"
    remove = "mutation($id: ID!) { removeWebhook(id: $id) { ... on Webhook { id } } }"
    assert (await server.graphql(remove, key=client.secret, id=made["webhook"]["id"]))["removeWebhook"]["id"]
    audit = "{ audit(first: 20) { nodes { action status } } }"
    rows = (await server.graphql(audit))["audit"]["nodes"]
    assert {row["action"] for row in rows} >= {
        "webhook.set",
        "webhook.rotate",
        "webhook.revoke_secret",
        "webhook.remove",
    }


async def test_a_delivery_is_seen_in_graphql(server: Server) -> None:
    engine = server.engine
    async with endpoint(says(200, b"thanks")) as here:
        await engine.webhooks.set(SetWebhook(Target(), here.url), caller=SYSTEM)
        id = await server.enqueue(name="notify", webhook=True, queue="mail")
        stop = asyncio.Event()
        options = CourierOptions(allowed_networks=LOOPBACK)
        task = asyncio.create_task(Courier(engine, options).run(stop))
        try:
            await until(lambda: ended(server, id))
        finally:
            stop.set()
            await task
    query = """query($id: ID!) { job(id: $id) { state webhook webhookKey scheduledFor backoff { waitsMs }
        attempts { id number delivery { statusCode latencyMs answer truncated } error { type } } } }"""
    job = (await server.graphql(query, id=id))["job"]
    (attempt,) = job["attempts"]
    latency = attempt["delivery"].pop("latencyMs")
    assert isinstance(latency, int) and attempt["delivery"] == {
        "statusCode": 200,
        "answer": "thanks",
        "truncated": False,
    }
    assert (job["state"], job["webhook"], job["webhookKey"]) == ("COMPLETED", True, None)
    assert job["backoff"]["waitsMs"] == [30_000, 120_000, 300_000]


async def ended(server: Server, id: str) -> bool:
    return (await read(server, id)).finished_at is not None


async def test_a_race_of_cancel_and_delivery_has_one_winner(server: Server) -> None:
    client = await client_of(server)
    engine = server.engine
    async with endpoint(says(200)) as here:
        await engine.webhooks.set(SetWebhook(Target(client.key_id), here.url), caller=SYSTEM)
        stop = asyncio.Event()
        task = asyncio.create_task(Courier(engine, CourierOptions(allowed_networks=LOOPBACK)).run(stop))
        try:
            ids = [await client.new() for _ in range(60)]
            answers = await asyncio.gather(*(client.ask("DELETE", f"/api/jobs/{id}") for id in ids))
            await until(lambda: none_open(server))
        finally:
            stop.set()
            await task
    cancelled = {id for id, answer in zip(ids, answers, strict=True) if answer.status == 200}
    delivered = {request.json["jobId"] for request in here.requests}
    assert not cancelled & delivered and cancelled | delivered == set(ids)


async def none_open(server: Server) -> bool:
    open_ = anywhere(state={"$in": ["waiting", "active", "retrying", "scheduled"]})
    return await server.engine._store.jobs.count_documents(open_) == 0


async def test_a_silent_endpoint_leaves_a_job_started(server: Server) -> None:
    client = await client_of(server)
    engine = server.engine
    async with endpoint(is_silent) as here:
        await engine.webhooks.set(SetWebhook(Target(client.key_id), here.url), caller=SYSTEM)
        id = await client.new()
        stop = asyncio.Event()
        options = CourierOptions(allowed_networks=LOOPBACK, drain_seconds=0.1)
        task = asyncio.create_task(Courier(engine, options).run(stop))
        await until(lambda: is_status(client, id, "STARTED"))
        stop.set()
        await task
    assert await client.status(id) == "QUEUED", "it goes back at a stop"


async def test_a_team_sees_its_jobs_in_the_other_dialects(server: Server) -> None:
    client = await client_of(server, org="acme", app="shop")
    id = await client.new(payload={"a": 1})
    shown = (await client.ask("GET", f"/v1/jobs/{id}")).json
    assert (shown["name"], shown["queue"], shown["state"], shown["payload"]) == (
        "webhook",
        "webhook",
        "pending",
        {"a": 1},
    )
    assert (shown["scope_org_id"], shown["scope_app_id"], shown["max_retries"]) == ("acme", "shop", 3)
    assert (await client.ask("POST", f"/v1/jobs/{id}/cancel")).status == 204
    assert await client.status(id) == "CANCELLED"
