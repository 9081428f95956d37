"""The client's own behaviour against a scripted server; it meets the real one in tests/acceptance."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.responses import Response

from switchtower.client import Client
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.errors import (
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidTransition,
    NotFound,
    RateLimited,
    StoreUnavailable,
    SwitchtowerError,
    Unauthorized,
)
from switchtower.retry import Backoff, BackoffKind
from tests.switchtower.scripted_server import Message, ScriptedServer, push, scripted_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as started:
        yield started


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with Client(server.url, reconnect_seconds=60) as opened:
        yield opened


def accept_jobs(body: Message) -> dict[str, Any]:
    return {"data": {"enqueueJobs": {"items": [stored(new) for new in body["variables"]["inputs"]]}}}


def stored(new: Message) -> Message:
    if new["name"] == "unwanted":
        return {"__typename": "ValidationError", "code": "VALIDATION", "message": "name: is unwanted.", "field": "name"}
    return {
        "__typename": "Job",
        "id": f"job_{new['payload']['n']}",
        "name": new["name"],
        "queue": new.get("queue", "default"),
        "state": "WAITING",
        "deduplication": None,
    }


def job(state: str, **more: Any) -> dict[str, Any]:
    return {"job": {"id": "job_1", "state": state, **more}}


class TestEnqueue:
    async def test_concurrent_calls_of_one_turn_travel_in_one_mutation(
        self, server: ScriptedServer, client: Client
    ) -> None:
        server.answer = accept_jobs
        handles = await asyncio.gather(*(client.enqueue("task", {"n": n}) for n in range(20)))
        assert [handle.id for handle in handles] == [f"job_{n}" for n in range(20)]
        assert len(server.requests) == 1

    async def test_twenty_callers_in_a_loop_stay_coalesced(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs

        async def caller(k: int) -> None:
            for n in range(25):
                await client.enqueue("task", {"n": k * 25 + n})

        await asyncio.gather(*(caller(k) for k in range(20)))
        sent = [new["payload"]["n"] for body in server.requests for new in body["variables"]["inputs"]]
        assert sorted(sent) == list(range(500))
        assert len(server.requests) <= 60

    async def test_options_go_out_under_the_names_of_the_schema(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs
        handle = await client.enqueue(
            "task", {"n": 1}, queue="email", delay_ms=5, unique_key="k", remove_on_complete=True, tags=["a"]
        )
        assert handle.queue == "email"
        assert server.requests[0]["variables"]["inputs"] == [
            {
                "name": "task",
                "payload": {"n": 1},
                "queue": "email",
                "delayMs": 5,
                "uniqueKey": "k",
                "removeOnComplete": True,
                "tags": ["a"],
            }
        ]

    async def test_backoff_goes_out_as_the_schema_has_it(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs
        await client.enqueue("task", {"n": 1}, backoff=Backoff(BackoffKind.TABLE, waits_ms=(5, 10)))
        assert server.requests[0]["variables"]["inputs"][0]["backoff"] == {
            "kind": "TABLE",
            "baseMs": 1_000,
            "capMs": 60_000,
            "jitter": 1.0,
            "waitsMs": [5, 10],
        }

    async def test_deduplication_goes_out_as_the_schema_has_it(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs
        options = DeduplicationOptions(mode=DeduplicationMode.THROTTLE, ttl_ms=60_000)
        await client.enqueue("task", {"n": 1}, deduplication=options)
        assert server.requests[0]["variables"]["inputs"][0]["deduplication"] == {
            "mode": "THROTTLE",
            "key": None,
            "ttlMs": 60_000,
            "replace": False,
            "extend": False,
        }

    async def test_each_call_gets_its_own_answer(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs
        good, bad = await asyncio.gather(
            client.enqueue("task", {"n": 1}), client.enqueue("unwanted", {"n": 2}), return_exceptions=True
        )
        assert not isinstance(good, BaseException)
        assert isinstance(bad, InvalidInput)
        assert (bad.field, bad.reason, str(bad)) == ("name", "is unwanted.", "name: is unwanted.")

    async def test_a_call_that_spoils_the_document_fails_alone(self, server: ScriptedServer, client: Client) -> None:
        def strict(body: Message) -> dict[str, Any]:
            if any(new.get("priority") == "high" for new in body["variables"]["inputs"]):
                problem = {"message": "Int cannot represent 'high'", "extensions": {"code": "BAD_USER_INPUT"}}
                return {"errors": [problem]}
            return accept_jobs(body)

        server.answer = strict
        options: dict[str, Any] = {"priority": "high"}
        *good, bad = await asyncio.gather(
            *(client.enqueue("task", {"n": n}) for n in range(9)),
            client.enqueue("task", {"n": 9}, **options),
            return_exceptions=True,
        )
        assert isinstance(bad, InvalidInput) and "high" in str(bad)
        assert [getattr(handle, "id", None) for handle in good] == [f"job_{n}" for n in range(9)]

    async def test_many_answers_in_order_and_in_bounded_mutations(self, server: ScriptedServer, client: Client) -> None:
        server.answer = accept_jobs
        news: list[dict[str, Any]] = [{"name": "task", "payload": {"n": n}} for n in range(1_200)]
        news[7]["name"] = "unwanted"
        news[8]["payload"] = {"n": object()}
        answers = await client.enqueue_many(news)
        assert isinstance(answers[7], InvalidInput) and isinstance(answers[8], InvalidInput)
        assert all(getattr(answer, "id", "") == f"job_{n}" for n, answer in enumerate(answers) if n not in (7, 8))
        assert max(len(body["variables"]["inputs"]) for body in server.requests) <= 500

    async def test_what_is_not_json_or_no_option_is_refused_here(self, server: ScriptedServer, client: Client) -> None:
        with pytest.raises(InvalidInput, match="payload: is not JSON"):
            await client.enqueue("task", {"n": object()})
        options: dict[str, Any] = {"que": "email"}
        with pytest.raises(InvalidInput, match="que: is not an option"):
            await client.enqueue("task", {"n": 1}, **options)
        assert server.requests == []

    async def test_a_lost_answer_is_asked_for_again_only_under_a_key(
        self, server: ScriptedServer, client: Client
    ) -> None:
        def lose_the_first(body: Message) -> Any:
            return Response("restarting", 503) if len(server.requests) == 1 else accept_jobs(body)

        server.answer = lose_the_first
        keyed, bare = await asyncio.gather(
            client.enqueue("task", {"n": 1}, idempotency_key="a"),
            client.enqueue("task", {"n": 2}),
            return_exceptions=True,
        )
        assert getattr(keyed, "id", None) == "job_1"
        assert isinstance(bare, StoreUnavailable)
        assert [len(body["variables"]["inputs"]) for body in server.requests] == [2, 1]

    async def test_closing_sends_what_was_enqueued(self, server: ScriptedServer) -> None:
        server.answer = accept_jobs
        client = Client(server.url)
        call = asyncio.create_task(client.enqueue("task", {"n": 1}))
        await asyncio.sleep(0)
        await client.close()
        assert (await call).id == "job_1"

    async def test_closing_ends_when_what_was_sent_is_done_already(self) -> None:
        client = Client()
        done = asyncio.create_task(asyncio.sleep(0))
        await done
        client._flushing.add(done)
        await asyncio.wait_for(client.close(), 60)


class TestErrors:
    @pytest.mark.parametrize(
        ("member", "kind"),
        [
            ({"code": "NOT_FOUND", "message": "job 'x' is gone"}, NotFound),
            ({"code": "INVALID_TRANSITION", "message": "Cannot retry"}, InvalidTransition),
            ({"code": "CONFLICT", "message": "held"}, Conflict),
            ({"code": "RATE_LIMITED", "message": "slow down"}, RateLimited),
            ({"code": "FROM_A_NEWER_SERVER", "message": "what?"}, SwitchtowerError),
        ],
    )
    async def test_a_union_member_is_raised_with_the_servers_words(
        self, server: ScriptedServer, client: Client, member: dict[str, Any], kind: type[SwitchtowerError]
    ) -> None:
        server.answer = lambda body: {"data": {"cancelJob": member}}
        with pytest.raises(kind) as caught:
            await client.mutate("mutation { cancelJob(id: 1) { ... on Error { code message } } }")
        assert type(caught.value) is kind
        assert str(caught.value) == caught.value.message == member["message"]

    @pytest.mark.parametrize(
        ("response", "kind", "match"),
        [
            (Response("no", 401), Unauthorized, "API key"),
            (Response("no", 403), Forbidden, "403"),
            (Response("big", 413), InvalidInput, "larger"),
            (Response("slow", 429, {"retry-after": "7"}), RateLimited, "7 s"),
            (Response("sorry", 502), StoreUnavailable, "502"),
            (Response("<html>hello</html>", 200), ConfigurationError, "is it a Switchtower server"),
            (Response("nothing here", 404), ConfigurationError, "is it a Switchtower server"),
        ],
    )
    async def test_an_answer_that_is_no_graphql(
        self,
        server: ScriptedServer,
        client: Client,
        response: Response,
        kind: type[SwitchtowerError],
        match: str,
    ) -> None:
        server.answer = lambda body: response
        with pytest.raises(kind, match=match):
            await client.execute("{ stats { total } }")

    async def test_a_fault_keeps_its_code(self, server: ScriptedServer, client: Client) -> None:
        fault = {"data": None, "errors": [{"message": "try later", "extensions": {"code": "UNAVAILABLE"}}]}
        server.answer = lambda body: fault
        with pytest.raises(StoreUnavailable, match="try later"):
            await client.execute("{ stats { total } }")

    async def test_a_masked_fault_names_its_request(self, server: ScriptedServer, client: Client) -> None:
        extensions = {"code": "INTERNAL", "requestId": "r1"}
        server.answer = lambda body: {
            "data": None,
            "errors": [{"message": "Something failed.", "extensions": extensions}],
        }
        with pytest.raises(SwitchtowerError, match=r"Something failed\. Request id: r1") as caught:
            await client.execute("{ stats { total } }")
        assert type(caught.value) is SwitchtowerError

    async def test_nobody_listens(self, unused_port: int) -> None:
        async with Client(f"http://127.0.0.1:{unused_port}") as client:
            with pytest.raises(StoreUnavailable, match=r"No Switchtower server answers at http://127.0.0.1"):
                await client.job("job_1")
            with pytest.raises(StoreUnavailable, match="No Switchtower server answers"):
                await client.wait("job_1")

    @pytest.mark.parametrize("url", ["127.0.0.1:8420", "ftp://host", "http://", "nonsense"])
    def test_an_address_that_is_none(self, url: str) -> None:
        with pytest.raises(InvalidInput, match="is no address"):
            Client(url)

    async def test_the_key_goes_with_every_request(self, server: ScriptedServer) -> None:
        async with Client(f"{server.url}/graphql/", "secret") as client:
            await client.execute("{ a }")
            waiting = asyncio.create_task(client.wait("job_1"))
            socket, message = await server.subscribed.get()
            await push(socket, message, job("COMPLETED"))
            await waiting
        assert [headers["authorization"] for headers in server.headers] == ["Bearer secret"] * 2


class TestWatching:
    async def test_wait_returns_the_final_job(self, server: ScriptedServer, client: Client) -> None:
        waiting = asyncio.create_task(client.wait("job_1", 60))
        socket, message = await server.subscribed.get()
        assert message["payload"]["variables"] == {"id": "job_1"}
        for state in ("WAITING", "ACTIVE", "COMPLETED"):
            await push(socket, message, job(state, result=7))
        assert (await waiting)["result"] == 7

    async def test_wait_for_what_is_missing_or_never_ends(self, server: ScriptedServer, client: Client) -> None:
        waiting = asyncio.create_task(client.wait("job_1"))
        socket, message = await server.subscribed.get()
        await push(socket, message, {"job": None})
        with pytest.raises(NotFound):
            await waiting
        waiting = asyncio.create_task(client.wait("job_1", 0.05))
        with pytest.raises(TimeoutError):
            await waiting

    async def test_waits_share_connections(self, server: ScriptedServer, client: Client) -> None:
        waits = [asyncio.create_task(client.wait(f"job_{n}")) for n in range(100)]
        for _ in waits:
            socket, message = await server.subscribed.get()
            await push(socket, message, job("COMPLETED"))
        await asyncio.gather(*waits)
        assert len(server.sockets) <= 3

    async def test_a_watch_survives_a_restart_of_the_server(self, server: ScriptedServer, client: Client) -> None:
        async with aclosing(client.watch("job_1")) as changes:
            first = asyncio.create_task(anext(changes))
            socket, message = await server.subscribed.get()
            await push(socket, message, job("ACTIVE"))
            assert (await first)["state"] == "ACTIVE"
            port = int(server.url.rpartition(":")[2])
            await server.stop()
            following = asyncio.create_task(anext(changes))
            await server.start(port)
            socket, message = await server.subscribed.get()
            await push(socket, message, job("COMPLETED"))
            assert (await following)["state"] == "COMPLETED"

    async def test_leaving_a_watch_ends_its_subscription(self, server: ScriptedServer, client: Client) -> None:
        changes = client.watch("job_1")
        first = asyncio.create_task(anext(changes))
        socket, message = await server.subscribed.get()
        await push(socket, message, job("ACTIVE"))
        await first
        await changes.aclose()
        assert await server.completed.get() == message["id"]


def moved(cursor: str) -> dict[str, Any]:
    return {"jobEvents": {"__typename": "JobTransition", "cursor": cursor, "jobId": "job_1"}}


class TestEvents:
    async def test_a_lost_connection_is_resumed_behind_the_last_cursor(
        self, server: ScriptedServer, client: Client
    ) -> None:
        async with aclosing(client.events({"queues": ["email"]}, after="c0")) as events:
            first = asyncio.create_task(anext(events))
            socket, message = await server.subscribed.get()
            assert message["payload"]["variables"] == {"filter": {"queues": ["email"]}, "after": "c0"}
            await push(socket, message, moved("c1"))
            assert (await first)["cursor"] == "c1"
            following = asyncio.create_task(anext(events))
            await socket.close(1012)
            socket, message = await server.subscribed.get()
            assert message["payload"]["variables"]["after"] == "c1"
            await push(socket, message, moved("c2"))
            assert (await following)["cursor"] == "c2"

    async def test_a_loss_before_the_first_event_is_said(self, server: ScriptedServer, client: Client) -> None:
        async with aclosing(client.events()) as events:
            first = asyncio.create_task(anext(events))
            socket, _ = await server.subscribed.get()
            await socket.close(1001)
            socket, message = await server.subscribed.get()
            await push(socket, message, moved("c1"))
            assert (await first)["__typename"] == "StreamGap"
            assert (await anext(events))["cursor"] == "c1"

    async def test_a_server_that_stays_away_is_given_up(self, server: ScriptedServer) -> None:
        async with Client(server.url, reconnect_seconds=0.2) as client, aclosing(client.events()) as events:
            first = asyncio.create_task(anext(events))
            await server.subscribed.get()
            await server.stop()
            with pytest.raises(StoreUnavailable, match="No Switchtower server answers"):
                await first
            await server.start()

    @pytest.mark.parametrize(("code", "kind"), [(4401, Unauthorized), (4403, Forbidden), (4400, ConfigurationError)])
    async def test_a_refusal_is_final(
        self, server: ScriptedServer, client: Client, code: int, kind: type[SwitchtowerError]
    ) -> None:
        server.refuse_with = code
        with pytest.raises(kind, match="because"):
            await anext(client.events())

    async def test_a_refused_subscription_raises_its_error(self, server: ScriptedServer, client: Client) -> None:
        first = asyncio.create_task(anext(client.events(after="nonsense")))
        socket, message = await server.subscribed.get()
        problem = {"message": "after: is no cursor.", "extensions": {"code": "VALIDATION"}}
        await socket.send_json({"id": message["id"], "type": "error", "payload": [problem]})
        with pytest.raises(InvalidInput, match="is no cursor"):
            await first

    async def test_a_reader_that_pauses_gets_everything_in_order(self, server: ScriptedServer, client: Client) -> None:
        async with aclosing(client.events()) as events:
            first = asyncio.create_task(anext(events))
            socket, message = await server.subscribed.get()
            sending = asyncio.create_task(_push_all(socket, message, 5_000))
            assert (await first)["cursor"] == "0"
            assert [(await anext(events))["cursor"] for _ in range(4_999)] == [str(n) for n in range(1, 5_000)]
            await sending


async def _push_all(socket: Any, message: Message, count: int) -> None:
    for n in range(count):
        await push(socket, message, moved(str(n)))


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield int(silent.getsockname()[1])
