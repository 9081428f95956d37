"""One delivery: what is sent, how it is signed, and what every way for an endpoint to misbehave comes to."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpcore2
import orjson
import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from switchtower.addresses import LOOPBACK, AddressPolicy, networks_from
from switchtower.attempts import ErrorKind
from switchtower.sending import Sender, Sent, SystemResolver
from switchtower.webhooks import ANSWER_LIMIT, Address, new_secret, signature
from tests.switchtower.endpoint import (
    Answer,
    Received,
    drips,
    endpoint,
    floods,
    is_silent,
    resets,
    says,
    writes,
)
from tests.switchtower.test_addresses import Fake, Stub, job
from tests.waiting import until

OLD, NEW = new_secret(), new_secret()
LOCAL = AddressPolicy(networks_from(LOOPBACK))


def local(**parts: Any) -> Sender:
    return Sender(LOCAL, **parts)


async def deliver(answer: Answer, *, seconds: float = 20, **fields: Any) -> tuple[Sent, list[Received]]:
    async with endpoint(answer) as here:
        sent = await local().send(job(**fields), Address(here.url, (OLD,)), seconds=seconds)
        return sent, here.requests


async def test_the_body_is_what_the_document_says() -> None:
    sent, (request,) = await deliver(says(200, b"thanks"), id="job_2", number=2, payload={"key": "värde", "n": 2**53})
    assert sent.error is None and sent.answered
    assert (sent.delivery.status_code, sent.delivery.answer, sent.delivery.truncated) == (200, "thanks", False)
    assert request.line == "POST /hook HTTP/1.1"
    assert request.json == {
        "jobId": "job_2",
        "attempt": "att_2_1_2",
        "attemptId": "att_2_1_2",
        "attemptNumber": 2,
        "payload": {"key": "värde", "n": 2**53},
    }
    headers = request.headers
    assert headers["content-type"] == "application/json" and headers["user-agent"].startswith("Switchtower/")
    assert headers["authorization"] == f"Bearer {OLD}" and headers["webhook-id"] == "job_2"
    assert "cookie" not in headers and headers["accept-encoding"] == "identity"


async def test_a_callers_own_id_is_what_the_endpoint_is_told() -> None:
    _, (request,) = await deliver(says(201), custom_id="mine")
    assert request.json["jobId"] == "mine" and request.headers["webhook-id"] == "job_1"


@pytest.mark.parametrize("status", [200, 201])
async def test_exactly_these_are_success(status: int) -> None:
    sent, _ = await deliver(says(status))
    assert sent.error is None


@pytest.mark.parametrize(
    "status", [202, 203, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 404, 409]
)
async def test_nothing_else_is(status: int) -> None:
    sent, requests = await deliver(says(status, headers="Location: /elsewhere\r\n"))
    assert sent.error is not None and sent.error.type == "http_status" and str(status) in sent.error.message
    assert sent.error.kind is ErrorKind.EXCEPTION and sent.answered
    assert sent.delivery.status_code == status and len(requests) == 1


@pytest.mark.parametrize("status", [410, 418, 429, 500, 502, 503, 504, 599, 999])
async def test_a_failing_endpoint_has_answered(status: int) -> None:
    sent, _ = await deliver(says(status, b"went wrong"))
    assert sent.error is not None and sent.delivery.answer == "went wrong" and sent.answered


FAULTS: dict[str, tuple[Answer, str]] = {
    "silent": (is_silent, "timeout"),
    "drips its head": (drips(b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
    "drips its body": (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), "timeout"),
    "drips chunks": (drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\n"), "timeout"),
    "resets": (resets, "connection"),
    "hangs up": (writes(b""), "protocol"),
    "hangs up in its head": (writes(b"HTTP/1.1 200"), "protocol"),
    "hangs up in its body": (writes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), "protocol"),
    "is no HTTP": (writes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "protocol"),
    "lies about its length": (writes(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "protocol"),
    "has a broken chunk": (writes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "protocol"),
    "has an endless head": (writes(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 300_000), "protocol"),
    "is binary": (writes(bytes(range(256)) * 4), "protocol"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_of_an_endpoint_is_a_failed_attempt(fault: str) -> None:
    answer, type = FAULTS[fault]
    sent, _ = await deliver(answer, seconds=1 if type == "timeout" else 60)
    assert sent.error is not None and sent.error.type == type, sent.error
    assert (sent.error.kind is ErrorKind.TIMEOUT) == (type == "timeout")
    assert sent.answered is False
    assert OLD not in sent.error.message and sent.error.fingerprint
    assert type != "timeout" or sent.delivery.latency_ms < 30_000


async def test_a_deadline_is_for_the_whole_delivery() -> None:
    sent, _ = await deliver(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), seconds=2.5)
    assert sent.error is not None and "2.5 s" in sent.error.message and "200" in sent.error.message
    assert sent.delivery.status_code == 200 and sent.delivery.latency_ms >= 2_500
    assert sent.delivery.answer and set(sent.delivery.answer) == {"x"}


async def test_of_a_huge_answer_the_beginning_is_read() -> None:
    sent, _ = await deliver(floods)
    assert sent.error is None and sent.delivery.truncated
    assert sent.delivery.answer == "x" * ANSWER_LIMIT


@pytest.mark.parametrize(("size", "truncated"), [(ANSWER_LIMIT, False), (ANSWER_LIMIT + 1, True)])
async def test_exactly_64_kb_are_kept(size: int, truncated: bool) -> None:
    sent, _ = await deliver(says(200, b"y" * size))
    assert sent.delivery.answer is not None
    assert (len(sent.delivery.answer), sent.delivery.truncated) == (ANSWER_LIMIT, truncated)


async def test_an_answer_that_is_no_text_is_kept_as_what_can_be_shown() -> None:
    sent, _ = await deliver(says(200, b"\xff\x00" * 40_000))
    assert sent.delivery.answer is not None
    assert len(sent.delivery.answer.encode()) <= ANSWER_LIMIT and sent.delivery.answer.startswith("\ufffd\0")


async def test_nobody_listens() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        sent = await local().send(job(), Address(url, (OLD,)), seconds=60)
    assert sent.error is not None and sent.error.type == "connection" and sent.answered is False


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".example", "a..b", ".example", "xn--a", "%00"])
async def test_a_name_that_is_none(host: str) -> None:
    # The system says of some of these that they are none without asking anybody; for the others a stub does.
    asks = host in ("nowhere.invalid", "xn--a", "%00")
    sender = local(resolver=Stub({})) if asks else local()
    sent = await sender.send(job(), Address(f"https://{host}/", (OLD,)), seconds=20)
    assert sent.error is not None and sent.error.type in ("name_resolution", "address"), sent.error


async def test_a_resolver_that_hangs_holds_up_nobody_else() -> None:
    class Hangs(Stub):
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            if host == "hangs.example":
                await asyncio.Event().wait()
            return await super().resolve(host, port)

    async with endpoint(says(200)) as here:
        sender = local(resolver=Hangs({"here.example": ["127.0.0.1"]}))
        hanging = Address("https://hangs.example/", (OLD,))
        stuck = asyncio.create_task(sender.send(job(), hanging, seconds=600))
        url = f"http://here.example:{here.port}/"
        assert (await sender.send(job(), Address(url, (OLD,)), seconds=20)).error is None
        assert not stuck.done()
        stuck.cancel()
        sent = await sender.send(job(), hanging, seconds=0.2)
    assert sent.error is not None and sent.error.type == "timeout"


async def test_who_asks_for_the_same_name_shares_the_look_up() -> None:
    resolver = SystemResolver()
    found = await asyncio.gather(*(resolver.resolve("localhost", 80) for _ in range(5)))
    assert all(each == found[0] for each in found) and "127.0.0.1" in found[0]
    assert resolver._asked == {}
    resolver.close()


async def test_when_one_address_is_dead_the_next_is_tried() -> None:
    async with endpoint(says(200)) as here:
        resolver = Stub({"two.example": ["127.0.0.2", "127.0.0.1"]})
        sent = await local(resolver=resolver).send(
            job(), Address(f"http://two.example:{here.port}/", (OLD,)), seconds=20
        )
        assert sent.error is None and len(here.requests) == 1
        assert here.requests[0].headers["host"] == f"two.example:{here.port}"


def tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_certificates_are_checked_against_the_name() -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    names = {name: ["127.0.0.1"] for name in ("good.example", "other.example", "self.example", "plain.example")}
    sender = local(resolver=Stub(names), ssl_context=trusting)

    async def ask(name: str, port: int) -> Sent:
        return await sender.send(job(), Address(f"https://{name}:{port}/", (OLD,)), seconds=20)

    async with (
        endpoint(says(200), tls=tls(authority, "good.example")) as good,
        endpoint(says(200), tls=tls(stranger, "self.example")) as strange,
        endpoint(says(200), greets=b"220 plain.example ESMTP\r\n") as plain,
    ):
        assert (await ask("good.example", good.port)).error is None
        assert good.requests[0].headers["authorization"] == f"Bearer {OLD}"
        for name, port in (("other.example", good.port), ("self.example", strange.port), ("plain.example", plain.port)):
            sent = await ask(name, port)
            assert sent.error is not None and sent.error.type == "tls", sent.error
        assert len(good.requests) == 1 and strange.requests == plain.requests == []


def verified(secret: str, request: Received) -> Any:
    return Webhook(secret).verify(request.body, request.headers)


async def test_the_signature_is_that_of_standard_webhooks() -> None:
    async with endpoint(says(200)) as here:
        await local().send(job(), Address(here.url, (OLD, NEW)), seconds=20)
        (request,) = here.requests
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (OLD, NEW):
        assert verified(secret, request) == request.json
    with pytest.raises(WebhookVerificationError):
        verified(new_secret(), request)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(request.body + b" ", request.headers)
    for missing in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        with pytest.raises(WebhookVerificationError):
            Webhook(OLD).verify(request.body, {k: v for k, v in request.headers.items() if k != missing})


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_receiver_refuses_what_is_old(minutes: int) -> None:
    async with endpoint(says(200)) as here:
        await local(clock=lambda: time.time() + minutes * 60).send(job(), Address(here.url, (OLD,)), seconds=20)
        (request,) = here.requests
    with pytest.raises(WebhookVerificationError):
        verified(OLD, request)


def test_signatures_agree_with_the_librarys() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for body in (b"{}", b"", orjson.dumps({"a": "ü"})):
        ours = signature(OLD, "job_1", int(at.timestamp()), body)
        assert ours == Webhook(OLD).sign("job_1", at, body.decode())
    assert len(base64.b64decode(OLD.removeprefix("whsec_"))) == 32


async def test_of_two_secrets_each_is_tried_as_the_bearer() -> None:
    bearers = []
    async with endpoint(says(200)) as here:
        for number in (1, 2, 3, 4):
            await local().send(job(number=number), Address(here.url, (OLD, NEW)), seconds=20)
        bearers = [request.headers["authorization"] for request in here.requests]
    assert bearers == [f"Bearer {secret}" for secret in (OLD, NEW, OLD, NEW)]


async def test_the_id_stays_and_the_time_is_the_attempts_own() -> None:
    now = [1_000_000_000.0]
    async with endpoint(says(200)) as here:
        for number, generation in ((1, 1), (2, 1), (1, 2)):
            now[0] += 30
            sender = local(clock=lambda: now[0])
            await sender.send(job(number=number, generation=generation), Address(here.url, (OLD,)), seconds=20)
        headers = [request.headers for request in here.requests]
    assert [each["webhook-id"] for each in headers] == ["job_1", "job_1", "job_1_2"]
    assert [int(each["webhook-timestamp"]) - 1_000_000_000 for each in headers] == [30, 60, 90]


async def test_the_secret_itself_is_not_sent_where_others_could_read_it() -> None:
    names = {"public.example": ["93.184.216.34"], "in.example": ["10.1.2.3"]}

    async def heads(url: str, *allowed: str) -> bytes:
        fake = Fake()
        sender = Sender(AddressPolicy(networks_from(allowed)), resolver=Stub(names), backend=fake)
        assert (await sender.send(job(), Address(url, (OLD,)), seconds=5)).error is None
        return fake.streams[0].sent

    plain = await heads("http://public.example/")
    assert OLD.encode() not in plain and b"authorization" not in plain.lower()
    assert b"webhook-signature: v1," in plain
    assert OLD.encode() in await heads("https://public.example/")
    assert OLD.encode() in await heads("http://in.example/", "10.0.0.0/8")


async def test_nothing_is_kept_between_deliveries() -> None:
    async with endpoint(says(200, headers="Set-Cookie: a=b\r\nConnection: keep-alive\r\n")) as here:
        sender = local()
        for _ in range(3):
            assert (await sender.send(job(), Address(here.url, (OLD,)), seconds=20)).error is None
        assert here.connections == 3
        assert not any("cookie" in request.headers for request in here.requests)


async def test_a_delivery_that_is_cut_off_leaves_no_connection_open() -> None:
    class Counting(httpcore2.AnyIOBackend):
        def __init__(self) -> None:
            self.streams: list[httpcore2.AsyncNetworkStream] = []

        async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
            self.streams.append(await super().connect_tcp(*args, **kwargs))
            return self.streams[-1]

    for scheme in ("http", "https"):
        backend = Counting()
        gone = asyncio.Event()

        async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: Any = gone) -> None:
            while await reader.read(65_536):
                pass
            gone.set()
            writer.close()

        server = await asyncio.start_server(until_gone, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sending = asyncio.create_task(
            local(backend=backend).send(job(), Address(f"{scheme}://127.0.0.1:{port}/", (OLD,)), seconds=60)
        )
        await until(lambda streams=backend.streams: streams)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(gone.wait(), 60)
        server.close()


@pytest.mark.nightly
async def test_a_thousand_at_once_end_in_time() -> None:
    async with endpoint(says(200)) as here:
        sender = local()
        sent = await asyncio.gather(
            *(sender.send(job(id=f"job_{n}"), Address(here.url, (OLD,)), seconds=60) for n in range(1_000))
        )
        assert [each.error for each in sent] == [None] * 1_000
        assert len({request.headers["webhook-id"] for request in here.requests}) == 1_000
