"""Keys at the door: who is let in, how long, how often, and what ends when a key does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from app.main import check_bind
from app.settings import ServerSettings
from switchtower.client import Client
from switchtower.engine import Engine
from switchtower.errors import ConfigurationError, Unauthorized
from tests.app.product import ENQUEUE, execute, product
from tests.app.serving import Served
from tests.switchtower.cli.terminal import switchtower
from tests.waiting import until

CREATE = """
mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { ... on CreatedApiKey { secret key { id } } ... on Error { code message } }
}
"""
REVOKE = "mutation ($id: ID!) { revokeApiKey(id: $id) { ... on ApiKey { revokedAt } ... on Error { code } } }"
VIEWER = "{ viewer { actor org scopes key { id } } }"
EVENTS = "subscription { jobEvents { ... on JobTransition { type jobId } } }"


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


class Keys:
    """Creates keys with an administrator's key of its own, which closes the server to everybody else."""

    def __init__(self, served: Served) -> None:
        self.served = served
        with httpx2.Client(base_url=served.url, timeout=60) as anyone:
            first = execute(anyone, CREATE, input={"name": "root", "scopes": ["ADMIN", "WORK"]})["createApiKey"]
        self.http = self.client(first["secret"])

    def client(self, secret: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.served.url, timeout=60, headers={"Authorization": f"Bearer {secret}"})

    def create(self, *scopes: str, **options: Any) -> tuple[str, str]:
        """The id and the text of a new key."""
        input = {"name": "k", "scopes": list(scopes), **options}
        created = execute(self.http, CREATE, input=input)["createApiKey"]
        return created["key"]["id"], created["secret"]

    def revoke(self, id: str) -> None:
        assert execute(self.http, REVOKE, id=id)["revokeApiKey"]["revokedAt"]


@pytest.fixture
def keys(served: Served) -> Iterator[Keys]:
    keys = Keys(served)
    with keys.http:
        yield keys


def ask(http: httpx2.Client, query: str = VIEWER, **variables: Any) -> httpx2.Response:
    return http.post("/graphql", json={"query": query, "variables": variables})


async def socket(served: Served, payload: dict[str, Any] | None, **options: Any) -> ClientConnection:
    transport = Subprotocol("graphql-transport-ws")
    connection = await connect(served.websocket, subprotocols=[transport], open_timeout=60, **options)
    await connection.send(json.dumps({"type": "connection_init", **({"payload": payload} if payload else {})}))
    return connection


async def close_code(connection: ClientConnection, seconds: float = 60) -> int | None:
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(seconds):
            while True:
                await connection.recv()
    return connection.close_code


def test_without_keys_this_machine_is_the_operator(served: Served) -> None:
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        assert execute(http, VIEWER)["viewer"] == {
            "actor": "operator",
            "org": None,
            "scopes": ["ADMIN", "OPERATE", "READ", "WORK"],
            "key": None,
        }


def test_with_a_key_nobody_comes_in_without_one(keys: Keys, served: Served) -> None:
    id, secret = keys.create("READ", org="acme")
    with keys.client(secret) as http:
        assert ask(http).json()["data"]["viewer"] == {
            "actor": id,
            "org": "acme",
            "scopes": ["READ"],
            "key": {"id": id},
        }
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for header in (None, "Bearer", f"Bearer {wrong}", f"Basic {secret}", secret[:20], "Bearer " + "x" * 5_000):
        headers = {} if header is None else {"Authorization": header}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=60) as http:
            answer = ask(http)
            assert answer.status_code == 401, header
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["errors"][0]["extensions"]["code"] == "UNAUTHORIZED"
            assert secret not in answer.text
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        assert http.get("/livez").status_code == http.get("/readyz").status_code == 200
        assert http.get("/metrics/prometheus").status_code == 401
    with keys.client(secret) as http:
        assert http.get("/metrics/prometheus").status_code == 403, "metrics are of all tenants"
    assert keys.http.get("/metrics/prometheus").status_code == 200


def test_the_server_stays_closed_when_every_key_is_revoked(keys: Keys, served: Served) -> None:
    (root,) = execute(keys.http, "{ apiKeys { id } }")["apiKeys"]
    keys.revoke(root["id"])
    deadline = time.monotonic() + 60
    while ask(keys.http).status_code != 401:
        assert time.monotonic() < deadline
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        assert ask(http).status_code == 401


def test_a_revoked_key_is_refused_within_a_second_on_every_server(
    mongodb_url: str, database_name: str, keys: Keys
) -> None:
    with product(mongodb_url, database_name) as other, ExitStack() as stack:
        id, secret = keys.create("READ")
        clients = [
            keys.client(secret),
            httpx2.Client(base_url=other.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60),
        ]
        for http in clients:
            stack.enter_context(http)
            assert ask(http).status_code == 200
        keys.revoke(id)
        revoked = time.monotonic()
        for http in clients:
            while True:
                asked = time.monotonic()
                if ask(http).status_code == 401:
                    break
                assert asked < revoked + 1


async def test_sockets_are_admitted_by_payload_or_header_and_refused_with_4401(keys: Keys, served: Served) -> None:
    _, secret = keys.create("READ")
    admitted = [
        await socket(served, {"Authorization": f"Bearer {secret}"}),
        await socket(served, {"authorization": f"Bearer {secret}"}),
        await socket(served, None, additional_headers={"Authorization": f"Bearer {secret}"}),
    ]
    for connection in admitted:
        assert json.loads(await connection.recv())["type"] == "connection_ack"
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": VIEWER}}))
        assert json.loads(await connection.recv())["payload"]["data"]["viewer"]["scopes"] == ["READ"]
        await connection.close()
    for payload in (None, {"Authorization": "Bearer nonsense"}, {"Authorization": 5}):
        assert await close_code(await socket(served, payload)) == 4401


async def test_what_stands_open_ends_with_its_key(keys: Keys, served: Served) -> None:
    id, secret = keys.create("READ")
    _, other_secret = keys.create("READ")
    mine = await socket(served, {"Authorization": f"Bearer {secret}"})
    other = await socket(served, {"Authorization": f"Bearer {other_secret}"})
    for connection in (mine, other):
        assert json.loads(await connection.recv())["type"] == "connection_ack"
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": EVENTS}}))
    headers = {"Authorization": f"Bearer {secret}", "Accept": "text/event-stream"}
    async with (
        httpx2.AsyncClient(base_url=served.url, timeout=60, headers=headers) as http,
        http.stream("POST", "/graphql", json={"query": EVENTS}) as stream,
    ):
        assert stream.status_code == 200
        await asyncio.to_thread(keys.revoke, id)
        revoked = time.monotonic()
        assert await close_code(mine) == 4401
        async for _ in stream.aiter_raw():
            pass
        assert time.monotonic() - revoked < 60
    job = execute(keys.http, ENQUEUE, input={"name": "send"})["enqueueJob"]["id"]
    async with asyncio.timeout(60):
        seen = json.loads(await other.recv())
    assert seen["payload"]["data"]["jobEvents"]["jobId"] == job, "another key's stream goes on"
    await other.close()


def test_each_scope_does_its_own_and_nothing_else(keys: Keys) -> None:
    attempts = {
        "READ": "{ stats { jobs } }",
        "OPERATE": 'mutation { pauseQueue(name: "q") { ... on Error { code } } }',
        "WORK": 'mutation { claimJobs(input: {queues: ["q"], limit: 1}) { ... on Error { code } } }',
        "ADMIN": 'mutation { obliterateQueue(name: "q", force: true) { ... on Error { code } } }',
    }
    allowed = {
        "READ": {"READ"},
        "OPERATE": {"READ", "OPERATE"},
        "WORK": {"WORK"},
        "ADMIN": {"READ", "OPERATE", "ADMIN"},
    }
    for scope, may in allowed.items():
        _, secret = keys.create(scope)
        with keys.client(secret) as http:
            for needed, query in attempts.items():
                text = ask(http, query).text
                assert ("FORBIDDEN" in text) == (needed not in may), (scope, needed, text)


def test_a_rate_is_kept_over_several_servers(mongodb_url: str, database_name: str, keys: Keys) -> None:
    _, secret = keys.create("READ", rate={"requests": 40, "perMs": 60_000})
    admitted = refused = 0
    with ExitStack() as stack:
        servers = [stack.enter_context(product(mongodb_url, database_name)).url for _ in range(2)]
        clients = [
            stack.enter_context(httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60))
            for url in (*servers, keys.served.url)
        ]
        for turn in range(120):
            answer = ask(clients[turn % 3])
            if answer.status_code == 200:
                admitted += 1
                continue
            refused += 1
            assert answer.status_code == 429
            assert answer.json()["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert admitted == 40 and refused == 80


def test_a_burst_against_several_servers_admits_no_more_than_the_rate_and_then_again(
    mongodb_url: str, database_name: str, keys: Keys
) -> None:
    _, secret = keys.create("READ", rate={"requests": 40, "perMs": 4_000})
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        servers = [stack.enter_context(product(mongodb_url, database_name)).url for _ in range(2)]
        clients = [
            stack.enter_context(httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60))
            for url in (*servers, keys.served.url)
        ]
        began = time.monotonic()
        answers = list(pool.map(lambda turn: ask(clients[turn % 3]), range(400)))
        intervals = 1 + (time.monotonic() - began) // 4
        admitted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(admitted) + len(refused) == 400 and 0 < len(admitted) <= 40 * intervals
        time.sleep(max(int(answer.headers["retry-after"]) for answer in refused))
        assert ask(clients[0]).status_code == 200


async def test_a_rate_holds_for_the_operations_of_a_socket(keys: Keys, served: Served) -> None:
    _, secret = keys.create("READ", rate={"requests": 3, "perMs": 60_000})
    connection = await socket(served, {"Authorization": f"Bearer {secret}"})
    assert json.loads(await connection.recv())["type"] == "connection_ack"
    outcomes = []
    for number in range(5):
        await connection.send(json.dumps({"id": str(number), "type": "subscribe", "payload": {"query": VIEWER}}))
        message = json.loads(await connection.recv())
        outcomes.append(message["type"])
        if message["type"] == "next":
            assert json.loads(await connection.recv())["type"] == "complete"
        else:
            assert message["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
            assert message["payload"][0]["extensions"]["retryAfterMs"] > 0
    assert outcomes == ["next"] * 3 + ["error"] * 2
    await connection.close()


async def test_a_key_holds_so_many_connections_and_subscriptions(mongodb_url: str, database_name: str) -> None:
    with product(mongodb_url, database_name, max_key_connections=2, max_key_subscriptions=3) as served:
        keys = await asyncio.to_thread(Keys, served)
        _, secret = await asyncio.to_thread(keys.create, "READ")
        payload = {"Authorization": f"Bearer {secret}"}
        open_ = [await socket(served, payload) for _ in range(2)]
        for connection in open_:
            assert json.loads(await connection.recv())["type"] == "connection_ack"
        assert await close_code(await socket(served, payload)) == 4429
        for number in range(4):
            message = {"id": str(number), "type": "subscribe", "payload": {"query": EVENTS}}
            await open_[number % 2].send(json.dumps(message))
            if number == 2:  # both have begun before the one too many comes
                await open_[0].send(json.dumps({"type": "ping"}))
                assert json.loads(await open_[0].recv())["type"] == "pong"
        refused = json.loads(await open_[1].recv())
        assert refused["payload"][0]["extensions"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
        for connection in open_:
            await connection.close()
        keys.http.close()


def test_a_read_only_server_refuses_every_mutation(mongodb_url: str, database_name: str) -> None:
    with (
        product(mongodb_url, database_name, read_only=True) as served,
        httpx2.Client(base_url=served.url, timeout=60) as http,
    ):
        answer = execute(http, ENQUEUE, input={"name": "send"})["enqueueJob"]
        assert answer["code"] == "FORBIDDEN" and "read-only" in answer["message"]
        assert execute(http, "{ stats { jobs } }")["stats"] == {"jobs": 0}


async def test_what_others_can_reach_does_not_start_without_keys(mongodb_url: str, database_name: str) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    try:
        open_ = ServerSettings(mongodb_url=mongodb_url, host="0.0.0.0")
        with pytest.raises(ConfigurationError, match="switchtower keys create"):
            await check_bind(open_, engine)
        await check_bind(ServerSettings(mongodb_url=mongodb_url), engine)
        await check_bind(ServerSettings(mongodb_url=mongodb_url, host="0.0.0.0", allow_insecure_bind=True), engine)
        from switchtower.access import NewApiKey, Scope
        from switchtower.callers import SYSTEM

        await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
        await check_bind(open_, engine)
    finally:
        await engine.close()


async def test_client_and_command_line_come_with_their_key(
    keys: Keys, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, secret = keys.create("OPERATE", queue="mine")
    async with Client(served.url, secret) as client:
        made = await client.enqueue("task")
        assert made.queue == "mine"
        ended = asyncio.create_task(client.wait(made.id, 60))
        await client.mutate(
            "mutation($id: ID!) { cancelJob(id: $id) { ... on Job { state } ... on Error { code message } } }",
            {"id": made.id},
        )
        assert (await ended)["state"] == "CANCELLED"
    async with Client(served.url) as client:
        with pytest.raises(Unauthorized):
            await client.enqueue("task")
    monkeypatch.delenv("SWITCHTOWER_API_KEY", raising=False)
    assert (await switchtower("enqueue", "task", "--url", served.url)).code == 3
    monkeypatch.setenv("SWITCHTOWER_API_KEY", secret)
    told = await switchtower("enqueue", "task", "--url", served.url, "--json")
    assert (told.code, told.json["queue"]) == (0, "mine")
    keys.revoke(id)
    await until(lambda: _refused(served, secret))
    assert (await switchtower("jobs", "--url", served.url)).code == 3


def _refused(served: Served, secret: str) -> bool:
    with httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as http:
        return ask(http).status_code == 401


async def test_a_socket_of_our_own_page_comes_in_with_its_cookie(keys: Keys, served: Served) -> None:
    _, secret = keys.create("READ")
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        answer = http.post("/login", data={"key": secret}, headers={"Origin": served.url})
    assert answer.status_code == 303
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    connection = await socket(served, None, origin=served.url, additional_headers=cookie)
    assert json.loads(await connection.recv())["type"] == "connection_ack"
    await connection.close()
    # A program that has got hold of the cookie says no origin, or a page of another one says its own.
    assert await close_code(await socket(served, None, additional_headers=cookie)) == 4401
    with pytest.raises(InvalidStatus):
        await socket(served, None, origin="http://evil.example", additional_headers=cookie)
    assert await close_code(await socket(served, None, origin=served.url, additional_headers={"Cookie": "a=b"})) == 4401
