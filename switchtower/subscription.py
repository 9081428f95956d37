"""How does a GraphQL subscription reach a Python program?

`Connection` is one WebSocket (subprotocol `graphql-transport-ws`) that carries any number of subscriptions. It ends
when it is lost; `switchtower.client` opens the next one and resumes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from switchtower.errors import ConfigurationError, Forbidden, StoreUnavailable, SwitchtowerError, Unauthorized

__all__ = ["Connection", "ConnectionLost", "Subscription", "is_loopback", "unreachable"]

INBOX = 1_000
MAX_MESSAGE_BYTES = 32 * 2**20

# What the server closes with when a repetition would end the same way; everything else is worth another try.
REFUSALS: dict[int, type[Unauthorized] | type[Forbidden] | type[ConfigurationError]] = {
    1003: ConfigurationError,
    1009: ConfigurationError,
    4400: ConfigurationError,
    4401: Unauthorized,
    4403: Forbidden,
    4406: ConfigurationError,
    4409: ConfigurationError,
}


class ConnectionLost(StoreUnavailable):
    """The connection ended; what it carried can be resumed over a new one."""


class Connection:
    """An open WebSocket to one server. Opened by `open`, ended by `close` or by the network."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._inboxes: dict[str, asyncio.Queue[dict[str, Any] | SwitchtowerError]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str], *, timeout_seconds: float) -> Self:
        """Connect and wait for the server's acknowledgement.

        Raises StoreUnavailable when nothing answers, Unauthorized or Forbidden when the key is refused, and
        ConfigurationError when what answers is no Switchtower server.
        """
        socket: ClientConnection | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                socket = await connect(
                    url,
                    subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
                    additional_headers=dict(headers),
                    compression=None,
                    max_size=MAX_MESSAGE_BYTES,
                    proxy=None if is_loopback(url) else True,
                )
                await socket.send('{"type":"connection_init"}')
                answer = orjson.loads(await socket.recv())
            if not isinstance(answer, dict) or answer.get("type") != "connection_ack":
                raise ConfigurationError(f"{url} does not speak graphql-transport-ws; is it a Switchtower server?")
            return cls(socket)
        except BaseException as error:
            if socket is not None:
                await socket.close()
            raise _connect_error(url, error) from error

    @property
    def alive(self) -> bool:
        """Whether subscriptions can still be started on it."""
        return not self._reader.done()

    @property
    def load(self) -> int:
        """How many subscriptions it carries."""
        return len(self._inboxes)

    def subscribe(self, query: str, variables: Mapping[str, Any]) -> Subscription:
        """Start a subscription; iterate over the answer, and close it when done."""
        id = str(next(self._ids))
        # Bounded: a reader that waits for room stops reading the socket, and the server notices a slow subscriber.
        inbox: asyncio.Queue[dict[str, Any] | SwitchtowerError] = asyncio.Queue(INBOX)
        self._inboxes[id] = inbox
        message = {"id": id, "type": "subscribe", "payload": {"query": query, "variables": variables}}
        return Subscription(self, id, inbox, message)

    async def send(self, message: Mapping[str, Any]) -> None:
        try:
            await self._socket.send(orjson.dumps(message).decode())
        except ConnectionClosed as error:
            raise _closed(error) from error

    def forget(self, id: str) -> bool:
        """Stop delivering to a subscription; whether it was still running."""
        inbox = self._inboxes.pop(id, None)
        while inbox is not None and not inbox.empty():
            inbox.get_nowait()
        return inbox is not None

    async def close(self) -> None:
        """End the socket and every subscription on it."""
        await self._socket.close()
        with suppress(asyncio.CancelledError):
            self._reader.cancel()
            await self._reader

    async def _read(self) -> None:
        ending: SwitchtowerError = ConnectionLost("The connection was closed.")
        try:
            async for text in self._socket:
                message = orjson.loads(text)
                if message.get("type") == "ping":
                    await self._socket.send('{"type":"pong"}')
                inbox = self._inboxes.get(message.get("id", ""))
                if inbox is not None:
                    await inbox.put(message)
            ending = _closed(self._socket)
        except (ConnectionClosed, ConnectionLost) as error:
            ending = _closed(error) if isinstance(error, ConnectionClosed) else error
        except ValueError:
            ending = ConfigurationError("The server sent something that is not JSON over its WebSocket.")
            await self._socket.close(1002)
        finally:
            for inbox in list(self._inboxes.values()):
                with suppress(asyncio.CancelledError):
                    await inbox.put(ending)


class Subscription:
    """The messages of one subscription: iterates over the payload of each `next`, raises ConnectionLost at a loss."""

    def __init__(
        self,
        connection: Connection,
        id: str,
        inbox: asyncio.Queue[dict[str, Any] | SwitchtowerError],
        message: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._id = id
        self._inbox = inbox
        self._first: Mapping[str, Any] | None = message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._first is not None:
            message, self._first = self._first, None
            await self._connection.send(message)
        while True:
            if self._inbox.empty() and not self._connection.alive:
                raise ConnectionLost("The connection to the server was lost.")
            received = await self._inbox.get()
            if isinstance(received, SwitchtowerError):
                raise received
            match received.get("type"):
                case "next":
                    payload: dict[str, Any] = received.get("payload") or {}
                    return payload
                case "error":
                    self._connection.forget(self._id)
                    return {"errors": received.get("payload") or [{"message": "The server refused the subscription."}]}
                case "complete":
                    self._connection.forget(self._id)
                    raise StopAsyncIteration

    async def close(self) -> None:
        """Tell the server to stop; does nothing when the subscription is over."""
        if self._connection.forget(self._id) and self._first is None:
            with suppress(StoreUnavailable, SwitchtowerError):
                await self._connection.send({"id": self._id, "type": "complete"})


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own, which no proxy can reach."""
    return (urlsplit(url).hostname or "") in {"localhost", "127.0.0.1", "::1"}


def unreachable(url: str, error: BaseException) -> StoreUnavailable:
    """The error for a server that does not answer at all."""
    base = f"http{url.removeprefix('ws')}".removesuffix("/graphql") if url.startswith("ws") else url
    return StoreUnavailable(
        f"No Switchtower server answers at {base} ({_reason(error)}). Start one with `switchtower dev` or "
        "`switchtower serve`, or name another with --url or SWITCHTOWER_URL."
    )


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _connect_error(url: str, error: BaseException) -> BaseException:
    match error:
        case InvalidStatus() if error.response.status_code == 401:
            return Unauthorized()
        case InvalidStatus() if error.response.status_code == 403:
            return Forbidden(f"{url} refuses this caller.")
        case InvalidStatus() if error.response.status_code >= 500:
            return unreachable(url, error)
        case ConnectionClosed():
            return _closed(error)
        case InvalidURI():
            return ConfigurationError(f"{url!r} is no address of a server; give one like http://127.0.0.1:8420.")
        case OSError() | EOFError():
            return unreachable(url, error)
        case WebSocketException() | ValueError():
            return ConfigurationError(
                f"{url} does not speak graphql-transport-ws ({error}); is it a Switchtower server?"
            )
        case _:
            return error


def _closed(error: ConnectionClosed | ClientConnection) -> SwitchtowerError:
    if isinstance(error, ConnectionClosed):
        code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")
    else:
        code, reason = error.close_code or 1006, error.close_reason or ""
    refusal = REFUSALS.get(code)
    if refusal is not None:
        return refusal(f"The server closed the connection with {code}: {reason or 'no reason given'}.")
    return ConnectionLost(f"The connection to the server was lost ({code}{': ' if reason else ''}{reason}).")
