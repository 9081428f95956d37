"""How do we reach MongoDB, whichever driver carries the bytes?

Motor and PyMongo's async client share one code path: only `aggregate`, `start_session`, `watch` and `close` differ (one
returns an awaitable where the other returns the thing), and "await it if it is awaitable" covers all four.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC
from typing import Any, TypeVar, cast

import pymongo
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from pymongo.uri_parser import parse_uri

from switchtower.clock import DatabaseClock
from switchtower.errors import ConfigurationError, InvalidInput, StoreUnavailable, SwitchtowerError
from switchtower.store.shield import Collection, Operations
from switchtower.store.skew import MemberClocks

__all__ = [
    "Database",
    "DriverError",
    "connect",
    "outrun",
    "sync_client",
    "time_limit",
    "translate_errors",
    "unavailable",
]

Document = dict[str, Any]

logger = logging.getLogger("switchtower.store")

DriverError = PyMongoError
"""Whatever either driver raises; for those outside the store that only log it and leave the work to a later try."""

TIMEOUT_MS = {"server": 5_000, "worker": 8_000, "client": 8_000}
"""Per operation, retries included: an unset timeout freezes a process for as long as a node is frozen."""

_TRANSIENT = (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WTimeoutError,
    WriteConcernError,
)


def unavailable(error: BaseException) -> bool:
    """Whether the database could not answer; a write that raised it may or may not have happened."""
    if isinstance(error, DuplicateKeyError):
        return False
    if isinstance(error, _TRANSIENT):
        return True
    if isinstance(error, PyMongoError) and (error.timeout or error.has_error_label("RetryableWriteError")):
        return True
    if isinstance(error, BulkWriteError):
        return bool(error.details.get("writeConcernErrors"))
    return isinstance(error, InvalidOperation) and "close" in str(error).lower()


def outrun(error: BaseException) -> bool:
    """Whether a transaction was undone because another one was faster: try it again."""
    return isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")


def _translated(error: Exception, *, for_transaction: bool) -> Exception:
    """What a verb raises in place of the driver's error."""
    if not isinstance(error, PyMongoError):
        return InvalidInput("input", f"holds something that the database cannot store: {error}.")
    if for_transaction and outrun(error):
        # Whoever runs the transaction tells by the driver's own label that it should be run again.
        return error
    return StoreUnavailable() if unavailable(error) else error


C = TypeVar("C", bound=type)


def time_limit(ms: int) -> AbstractContextManager[None]:
    """Bounds what is awaited inside, in the server too. A command's own `maxTimeMS` would not: the drivers put the
    client's timeout in its place."""
    return pymongo.timeout(ms / 1000)


def translate_errors(cls: C) -> C:
    """Class decorator: public coroutine methods raise StoreUnavailable where the driver could not get an answer, and
    InvalidInput where it could not encode the question.

    A call within a caller's transaction (`session=`) keeps the driver's error where that says that the transaction
    should be run again.
    """
    for name, method in list(vars(cls).items()):
        if name.startswith("_") or not inspect.iscoroutinefunction(method):
            continue

        def wrap(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            @functools.wraps(method)
            async def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await method(*args, **kwargs)
                except (PyMongoError, UnicodeEncodeError, OverflowError, InvalidDocument) as error:
                    translated = _translated(error, for_transaction=kwargs.get("session") is not None)
                    if translated is error:
                        raise
                    raise translated from error

            return call

        setattr(cls, name, wrap(method))
    return cls


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Database:
    """One database through one client; every write waits for a journaled majority. No cancellation reaches the driver
    (`store.shield`), and a client that does not answer is replaced (`watch_over`)."""

    def __init__(self, make_client: Callable[[], Any], name: str, driver: str, members: MemberClocks) -> None:
        self.name = name
        self.driver = driver
        self.members = members
        self.clock = DatabaseClock()
        self.primary: tuple[Any, Any] | None = None
        """Which primary answered last: its address and the id of its election."""
        self.replaced = 0
        """How often the client was replaced since this process connected."""
        self._make_client = make_client
        self._client = make_client()
        self._operations = Operations()
        self._streaming = Operations()
        """Reads of change streams: nobody waits for these at the end, since they wait for what happens."""
        self._collections: dict[str, Collection] = {}

    def __getitem__(self, collection: str) -> Any:
        found = self._collections.get(collection)
        if found is None:
            found = Collection(self._client[self.name][collection], self._operations)
            self._collections[collection] = found
        return found

    def of_session(self, session: Any, collection: str) -> Any:
        """The collection as the client of a caller's own session sees it."""
        return Collection(session.client[self.name][collection], self._operations)

    async def stream(self, operation: Any) -> Any:
        """Awaits an operation of a change stream's, which goes on when the caller is cancelled."""
        return await self._streaming.run(operation)

    async def command(self, command: Mapping[str, Any], *, session: Any = None) -> Document:
        """Runs a database command."""
        run = self._operations.run if session is None else self._operations.run_in_session
        return cast(Document, await run(self._client[self.name].command(command, session=session)))

    async def admin_command(self, name: str) -> Document:
        """Runs a command on the server."""
        return cast(Document, await self._operations.run(self._client.admin.command(name)))

    async def oplog_ends(self) -> tuple[Document, Document]:
        """The oplog's first and last entry."""
        oplog = Collection(self._client["local"]["oplog.rs"], self._operations)
        return await oplog.find_one(sort=[("$natural", 1)]), await oplog.find_one(sort=[("$natural", -1)])

    async def aggregate(
        self, collection: str, pipeline: Sequence[Mapping[str, Any]], *, session: Any = None, **options: Any
    ) -> list[Document]:
        """All documents of an aggregation; the caller bounds it."""
        cursor = await self[collection].aggregate(list(pipeline), session=session, **options)
        return cast("list[Document]", await cursor.to_list(None))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A snapshot transaction with its own majority concerns; yields the session.

        Only for new documents and counters: a process killed inside a transaction that touched a claimable job would
        block that job's whole queue for a minute and a half.
        """
        from pymongo.read_concern import ReadConcern
        from pymongo.write_concern import WriteConcern

        finish = self._operations.run_in_session
        session = await _settled(self._client.start_session())
        try:
            await _settled(
                session.start_transaction(
                    read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority", j=True)
                )
            )
            try:
                yield session
            except BaseException:
                await finish(session.abort_transaction())
                raise
            await finish(session.commit_transaction())
        finally:
            await finish(session.end_session())

    async def watch(self, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Opens a change stream on the database: what happens from now on is in it. Its own operations go through
        `stream`."""
        opened = await self.stream(_settled(self._client[self.name].watch(list(pipeline), **options)))
        # Motor opens it only when it is entered.
        return await self.stream(opened.__aenter__())

    async def ping(self) -> float:
        """One `hello` to the primary: feeds the clock, returns the round trip in seconds."""
        sent = time.monotonic()
        hello = await self.admin_command("hello")
        received = time.monotonic()
        primary = (hello.get("me"), hello.get("electionId"))
        if primary != self.primary:
            self.clock.forget()
        self.primary = primary
        self.clock.observe(hello["localTime"].replace(tzinfo=UTC), sent=sent, received=received)
        return received - sent

    async def watch_over(self, *, every_seconds: float = 5.0, patience_seconds: float = 10.0) -> None:
        """Replaces the client whenever a ping neither succeeds nor fails in time, until this is cancelled.

        The driver answers within its own time limit, with an error where the database is away. One that does not has
        come to a standstill inside this process, and nothing but a new client helps.
        """
        while True:
            await asyncio.sleep(every_seconds)
            asked = asyncio.ensure_future(self.ping())
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
            done, _ = await asyncio.wait({asked}, timeout=patience_seconds)
            if not done:
                self.replace_client()

    def replace_client(self) -> None:
        """Goes on with a new client. What the old one was doing raises StoreUnavailable; it may have happened."""
        self.replaced += 1
        logger.error("the database client came to a standstill and is replaced, for the %d. time", self.replaced)
        given_up, self._client = self._client, self._make_client()
        for name, collection in self._collections.items():
            collection.raw = self._client[self.name][name]
        self._operations.give_up()
        self._streaming.give_up()
        self._closing = asyncio.ensure_future(_closed(given_up))

    async def close(self) -> None:
        """Lets what is under way end, and closes every connection; neither is waited for long, since a primary in
        quiesce mode can hold the goodbye up."""
        await self._operations.settle(2)
        await asyncio.wait({asyncio.ensure_future(_closed(self._client))}, timeout=2)
        self._streaming.give_up()


async def _closed(client: Any) -> None:
    with contextlib.suppress(PyMongoError):
        await _settled(client.close())


def _options(url: str, role: str) -> dict[str, Any]:
    try:
        given = {key.lower(): value for key, value in parse_uri(url)["options"].items()}
    except (InvalidURI, pymongo.errors.ConfigurationError) as error:
        raise ConfigurationError(f"The MongoDB URL cannot be read: {error}. Correct SWITCHTOWER_MONGODB_URL.") from None
    weaker = [f"w={given['w']}"] if given.get("w", "majority") != "majority" else []
    weaker += ["journal=false"] if given.get("journal", given.get("j", True)) is False else []
    if weaker:
        raise ConfigurationError(
            f"The MongoDB URL asks for {' and '.join(weaker)}, which can lose acknowledged jobs in a failover. "
            "Remove it: Switchtower always writes with w=majority and journal=true."
        )
    return {
        "w": "majority",
        "journal": True,
        "retryWrites": True,
        "retryReads": True,
        "readConcernLevel": "majority",
        "readPreference": "primary",
        # PyMongo reads the URL's milliseconds as seconds.
        "timeoutMS": int(given["timeoutms"] * 1000) if given.get("timeoutms") else TIMEOUT_MS[role],
        "serverSelectionTimeoutMS": 5_000,
        "maxPoolSize": int(given.get("maxpoolsize", 64)),
        "appname": f"switchtower-{role}",
        "tz_aware": True,
        "tzinfo": UTC,
    }


async def connect(
    url: str, *, database: str = "switchtower", driver: str = "pymongo", role: str = "client"
) -> Database:
    """Connects and checks that the server can keep our promises.

    Raises:
        ConfigurationError: standalone, older than 6.0, a weaker write concern, an unknown driver, an unreadable URL.
        StoreUnavailable: nothing answers.
    """
    members = MemberClocks()
    options = _options(url, role) | {"event_listeners": [members]}
    client: Callable[..., Any]
    if driver == "pymongo":
        client = pymongo.AsyncMongoClient
    elif driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient as client
    else:
        raise ConfigurationError(f"Unknown driver {driver!r}: use 'pymongo' or 'motor' (SWITCHTOWER_DRIVER).")
    opened = Database(functools.partial(client, url, **options), database, driver, members)
    try:
        await _check_server(opened)
    except BaseException as error:
        await opened.close()
        if isinstance(error, PyMongoError) and unavailable(error):
            raise StoreUnavailable(
                "MongoDB does not answer. Start it, or correct SWITCHTOWER_MONGODB_URL; "
                "without one, `switchtower dev` starts its own."
            ) from error
        if isinstance(error, OperationFailure) and not isinstance(error, SwitchtowerError):
            raise ConfigurationError(f"MongoDB refused the connection: {error.details or error}") from error
        raise
    return opened


async def _check_server(database: Database) -> None:
    hello = await database.admin_command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError(
            "Change streams need a replica set; this server is standalone. Run `switchtower dev`, or start mongod with "
            "--replSet rs0 and run rs.initiate()."
        )
    version = (await database.admin_command("buildInfo"))["version"]
    if tuple(int(part) for part in version.split(".")[:2]) < (6, 0):
        raise ConfigurationError(f"MongoDB {version} is too old: Switchtower needs 6.0 or newer. Upgrade the server.")
    for _ in range(3):
        await database.ping()


def sync_client(url: str, *, database: str, timeout_ms: int) -> Any:
    """A small synchronous handle on the database (one connection), for the heartbeat thread."""
    options = _options(url, "worker") | {"timeoutMS": timeout_ms, "maxPoolSize": 2, "appname": "switchtower-heartbeat"}
    client: Any = pymongo.MongoClient(url, **options)
    return client.get_database(database, codec_options=CodecOptions(tz_aware=True, tzinfo=UTC))
