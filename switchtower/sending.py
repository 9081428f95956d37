"""How is one delivery sent, so that nothing leaves for where it must not go?

The name is resolved here, every address that it has is checked, and the connection is made to one of those very
addresses: what a name means cannot change in between. No proxy, cookie, redirect or kept connection is involved.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

import httpcore2
import orjson

from switchtower.addresses import AddressPolicy
from switchtower.attempts import ErrorKind, JobError, fingerprint
from switchtower.jobs import ClaimedJob
from switchtower.webhooks import ANSWER_LIMIT, Address, Delivery, message_id, signature

__all__ = ["BlockedAddress", "Resolver", "Sender", "Sent", "SystemResolver"]

SUCCESS: Final = frozenset({200, 201})
TRIES: Final = 3
"""How many of a name's addresses are tried, when one cannot be reached."""
RESOLVING_THREADS: Final = 32
PORTS: Final = {"http": 80, "https": 443}
USER_AGENT: Final = f"Switchtower/{version('switchtower')}"


class BlockedAddress(Exception):
    """Nothing was sent: the address is not one that may be sent to."""


class Resolver(Protocol):
    """Says which addresses a name has."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses, in the order in which to try them. Raises OSError."""


class SystemResolver:
    """Asks the system, in threads of its own: a name server that does not answer holds up only those who asked it.

    Whoever asks for a name that is being looked up already waits for that answer; answers are not kept.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVING_THREADS, thread_name_prefix="switchtower-resolver")
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name. Raises OSError."""
        key = (host, port)
        asked = self._asked.get(key)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[key] = loop.run_in_executor(self._threads, _look_up, host, port)
            asked.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(asked)

    def _answered(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        self._asked.pop(key, None)
        # Whoever asked may have given up: then nobody looks at the error.
        if not done.cancelled():
            done.exception()

    def close(self) -> None:
        """Asks no more; look-ups under way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to an address that the policy lets in, and to nothing else: the last place before a packet leaves.

    `stream` is what it opened, for whoever must close it: a handshake that is cancelled leaves that to others.
    """

    def __init__(self, policy: AddressPolicy, inner: httpcore2.AsyncNetworkBackend) -> None:
        self._policy = policy
        self._inner = inner
        self.stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to this address. Raises BlockedAddress."""
        reason = self._policy.refusal(host, port)
        if reason is not None:
            raise BlockedAddress(reason)
        self.stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return self.stream

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Never. Raises BlockedAddress."""
        raise BlockedAddress("a socket of this machine is no address of a webhook")

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await self._inner.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one delivery: no `error` is success. `answered` is whether the endpoint said anything in time; None
    where nothing was sent."""

    delivery: Delivery
    error: JobError | None
    answered: bool | None


class Sender:
    """Sends deliveries. `clock` gives the time for the signatures; the other parts are replaced in tests."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolver: Resolver | None = None,
        backend: httpcore2.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._own_resolver = SystemResolver() if resolver is None else None
        self._resolver: Resolver = resolver or self._own_resolver  # type: ignore[assignment]
        self._backend = backend or httpcore2.AnyIOBackend()
        self._ssl_context = ssl_context or ssl.create_default_context()
        self._clock = clock

    def close(self) -> None:
        """Ends the resolver's threads."""
        if self._own_resolver is not None:
            self._own_resolver.close()

    async def send(self, job: ClaimedJob, address: Address, *, seconds: float) -> Sent:
        """Delivers a job, in at most so many seconds from the look-up of the name to the end of the answer.

        Returns: what came of it; whatever the endpoint does is an answer, not an error of ours.
        """
        parts = urlsplit(address.url)
        began = time.monotonic()
        answer = _Answer()
        error: JobError | None = None
        answered: bool | None = False
        try:
            async with asyncio.timeout(seconds):
                await self._exchange(job, address, parts, answer, seconds)
            answered = True
            if answer.status not in SUCCESS:
                error = _failure("http_status", _said(answer.status or 0), parts)
        except BlockedAddress as blocked:
            error = _failure("blocked_address", f"Nothing was sent: {blocked}.", parts, ErrorKind.BLOCKED_ADDRESS)
            answered = None
        except (TimeoutError, httpcore2.TimeoutException):
            message = f"The endpoint did not answer within {seconds:g} s."
            if answer.status is not None:
                message = f"The endpoint began an answer ({answer.status}) and did not end it within {seconds:g} s."
            error = _failure("timeout", message, parts, ErrorKind.TIMEOUT)
        except socket.gaierror as unknown:
            message = f"The name {parts.hostname!r} could not be resolved ({unknown.strerror or 'no answer'})."
            error = _failure("name_resolution", message, parts)
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError) as failed:
            type, message = _described(failed)
            error = _failure(type, message, parts)
        except ValueError as odd:
            # Names that no certificate and no name server can be asked for.
            error = _failure("address", f"The address cannot be sent to: {str(odd)[:200]}.", parts)
            answered = None
        latency_ms = int((time.monotonic() - began) * 1000)
        return Sent(answer.delivery(latency_ms), error, answered)

    async def _exchange(
        self, job: ClaimedJob, address: Address, parts: SplitResult, answer: _Answer, seconds: float
    ) -> None:
        host = parts.hostname or ""
        port = parts.port or PORTS[parts.scheme]
        targets = await self._addresses(host, port)
        body = _body(job)
        headers = self._headers(job, address, parts, body, trusted=all(map(self._policy.allows, targets)))
        tried = targets[:TRIES]
        for target in tried:
            origin = httpcore2.Origin(parts.scheme.encode(), target.encode(), port)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            request = httpcore2.Request(
                "POST",
                httpcore2.URL(scheme=origin.scheme, host=origin.host, port=port, target=path.encode("ascii")),
                headers=headers,
                content=body,
                # The certificate is checked against the name, not against the address that is connected to.
                extensions={"sni_hostname": host, "timeout": {"connect": seconds / len(tried)}},
            )
            try:
                await self._ask(origin, request, answer)
                return
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                # Nothing was sent yet: another address may do.
                if target == tried[-1]:
                    raise

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, all of which may be sent to. Raises BlockedAddress, OSError."""
        try:
            found: Sequence[str] = [str(ip_address(host))]
        except ValueError:
            found = await self._resolver.resolve(host, port)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "it has no address")
        for each in found:
            # One that is not public among others that are is how a name leads inside.
            reason = self._policy.refusal(each, port)
            if reason is not None:
                raise BlockedAddress(reason)
        return found

    def _headers(
        self, job: ClaimedJob, address: Address, parts: SplitResult, body: bytes, *, trusted: bool
    ) -> list[tuple[bytes, bytes]]:
        id, now = message_id(job.id, job.generation), int(self._clock())
        netloc = parts.netloc.rpartition(":")[0] if parts.port == PORTS[parts.scheme] else parts.netloc
        headers = {
            "Host": netloc,
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "webhook-id": id,
            "webhook-timestamp": str(now),
        }
        if address.secrets:
            headers["webhook-signature"] = " ".join(signature(secret, id, now, body) for secret in address.secrets)
            if trusted or parts.scheme == "https":
                # Of two secrets an endpoint may know one: each is tried in turn, the older first.
                headers["Authorization"] = f"Bearer {address.secrets[(job.number - 1) % len(address.secrets)]}"
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]

    async def _ask(self, origin: httpcore2.Origin, request: httpcore2.Request, answer: _Answer) -> None:
        """One request over a connection of its own."""
        guard = GuardedBackend(self._policy, self._backend)
        connection = httpcore2.AsyncHTTPConnection(origin, ssl_context=self._ssl_context, network_backend=guard)
        try:
            response = await connection.handle_async_request(request)
            answer.status = response.status
            async for chunk in response.aiter_stream():
                if not answer.take(chunk):
                    break
        finally:
            await connection.aclose()
            if guard.stream is not None:
                await guard.stream.aclose()


class _Answer:
    """An answer while it arrives: its status, and the beginning of its body."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._body = bytearray()
        self._more = False

    def take(self, chunk: bytes) -> bool:
        """Takes a part of the body; returns whether there is room for more."""
        room = ANSWER_LIMIT - len(self._body)
        self._body += chunk[:room]
        self._more = len(chunk) > room
        return not self._more

    def delivery(self, latency_ms: int) -> Delivery:
        """What is kept of it."""
        if self.status is None:
            return Delivery(None, latency_ms)
        # What replaces a byte that is no text may be longer than it.
        text = self._body.decode("utf-8", "replace").encode()[:ANSWER_LIMIT].decode("utf-8", "ignore")
        return Delivery(self.status, latency_ms, text, self._more)


def _body(job: ClaimedJob) -> bytes:
    return orjson.dumps(
        {
            "jobId": job.custom_id or job.id,
            "attempt": job.attempt_id,
            "attemptId": job.attempt_id,
            "attemptNumber": job.number,
            "payload": job.payload,
        }
    )


def _said(status: int) -> str:
    if 300 <= status < 400:
        return f"The endpoint answered {status}; redirects are not followed, set the webhook to where it leads."
    return f"The endpoint answered {status}; only 200 and 201 say that it took the delivery."


def _described(failed: BaseException) -> tuple[str, str]:
    """The type and message of a fault of the network, from its first cause."""
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "tls", f"The endpoint's certificate is not to be trusted: {cause.verify_message or cause.reason}."
        if isinstance(cause, ssl.SSLError):
            return "tls", f"No secure connection could be made: {cause.reason or 'the handshake failed'}."
        cause = cause.__cause__ or cause.__context__
    if isinstance(failed, httpcore2.ProtocolError):
        return "protocol", f"What the endpoint said is no HTTP: {str(failed)[:200] or type(failed).__name__}."
    if isinstance(failed, httpcore2.ConnectError):
        return "connection", f"The endpoint could not be reached: {str(failed)[:200] or 'no connection'}."
    return "connection", f"The connection to the endpoint broke: {str(failed)[:200] or type(failed).__name__}."


def _failure(type: str, message: str, parts: SplitResult, kind: ErrorKind = ErrorKind.EXCEPTION) -> JobError:
    return JobError(kind, type, message, None, fingerprint(type, message, parts.hostname or ""))
