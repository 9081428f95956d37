"""Whose request is this, and how much may they ask?

A key is looked up at most every half second; in between it is remembered, and forgotten at once when the change stream
tells that it was revoked. What stands open is bound to its key and ended with it.

Before the first key is created there is no access control: the server then listens on this machine only. From then on
every request needs one, also after all of them are revoked. A key that `switchtower dev` made does not count as one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from starlette.requests import HTTPConnection

from app.limits import Refused
from switchtower.access import ApiKey, RateLimit, digest_of
from switchtower.callers import Caller, Reach
from switchtower.engine import Engine
from switchtower.engine.keys import Portion
from switchtower.errors import StoreUnavailable, Unauthorized
from switchtower.events import Gap, Topic
from switchtower.tracing import traceparent_of

__all__ = ["OPERATOR", "Gate", "Session", "bearer", "unauthorized"]

OPERATOR: Final = Caller("operator", source="graphql")
"""Everyone, before the first key is created."""
REMEMBERED_SECONDS: Final = 0.5
MAX_REMEMBERED: Final = 10_000
WATCH_SECONDS: Final = 0.5
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="switchtower"'}


class Session:
    """Something that stands open for a key: a WebSocket or an event stream. `ended` is set when the key is revoked."""

    def __init__(self, caller: Caller, operations: Callable[[], int]) -> None:
        self.caller = caller
        self.operations = operations
        self.ended = asyncio.Event()


class _Allowance:
    """What is left of the portion of a rate that this server took, until it must be used; `more` is false when there
    was no further portion."""

    __slots__ = ("left", "lock", "more", "portion", "until")

    def __init__(self) -> None:
        self.left = 0
        self.more = True
        self.portion: Portion | None = None
        self.until = 0.0
        self.lock = asyncio.Lock()


class Gate:
    """Admits callers. `engine` is None until the server has started.

    `connections` and `subscriptions` bound what one key has open on this server; `queues` are the only ones that
    this server shows to anybody (None: all).
    """

    def __init__(
        self, *, connections: int = 100, subscriptions: int = 200, queues: frozenset[str] | None = None
    ) -> None:
        self.engine: Engine | None = None
        self._operator = replace(OPERATOR, queues=queues)
        self._queues = Reach(queues=queues)
        self._max_connections = connections
        self._max_subscriptions = subscriptions
        self._guarded = False
        self._unguarded_until = 0.0
        self._keys: OrderedDict[bytes, tuple[ApiKey, float]] = OrderedDict()
        self._reading: dict[bytes, asyncio.Future[ApiKey]] = {}
        self._sessions: dict[str, set[Session]] = defaultdict(set)
        self._allowances: dict[str, _Allowance] = defaultdict(_Allowance)
        self._rates: dict[str, tuple[RateLimit | None, float]] = {}

    async def admit(self, token: str | None) -> Caller:
        """The caller that this token stands for.

        Raises:
            Refused: 401; StoreUnavailable: it cannot be known.
        """
        if token is None:
            if await self._is_open():
                return self._operator
            raise unauthorized("This server asks for an API key: send Authorization: Bearer <key>.")
        try:
            key = await self._key(token)
        except Unauthorized as error:
            if await self._is_open():
                return self._operator
            raise unauthorized(error.message) from None
        queues = None if (seen := self._queues.among(key.queues)) is None else frozenset(seen)
        return Caller(key.id, key.org, key.app, "graphql", key.grants, key.id, key.queue, queues)

    def key_of(self, caller: Caller) -> ApiKey | None:
        """The key that a caller was just admitted with."""
        return next((key for key, _ in self._keys.values() if key.id == caller.key_id), None)

    async def _is_open(self) -> bool:
        if self._guarded or self.engine is None:
            return False
        now = time.monotonic()
        if now > self._unguarded_until:
            try:
                if not await self.engine.keys.none_exists():
                    self._guarded = True
                    return False
            except StoreUnavailable:
                # Nobody can create a key, nor reach anything that one would guard, while the database is away.
                if not self._unguarded_until:
                    raise
                return True
            self._unguarded_until = now + REMEMBERED_SECONDS
        return True

    async def _key(self, token: str) -> ApiKey:
        digest = digest_of(token)
        known = self._keys.get(digest)
        if known is not None and time.monotonic() < known[1] and self._engine.keys.valid(known[0]):
            return known[0]
        reading = self._reading.get(digest)
        if reading is None:
            reading = self._reading[digest] = asyncio.ensure_future(self._read(token, digest))
            reading.add_done_callback(lambda _: self._reading.pop(digest, None))
        return await asyncio.shield(reading)

    async def _read(self, token: str, digest: bytes) -> ApiKey:
        began = time.monotonic()
        try:
            key = await self._engine.keys.verify(token)
        except Unauthorized:
            self._keys.pop(digest, None)
            raise
        self._guarded = self._guarded or not key.dev
        # Until here it was still known: whoever was admitted before is charged with it meanwhile.
        self._keys[digest] = (key, began + REMEMBERED_SECONDS)
        self._keys.move_to_end(digest)
        while len(self._keys) > MAX_REMEMBERED:
            self._keys.popitem(last=False)
        return key

    @property
    def _engine(self) -> Engine:
        if self.engine is None:
            raise StoreUnavailable()
        return self.engine

    async def charge(self, caller: Caller, *, writes: bool) -> None:
        """Counts one operation against the key's rate and its tenant's.

        While the database cannot say what is left, operations that only read are let through.

        Raises:
            Refused: 429, with the time after which there is room again.
        """
        if caller.key_id is None:
            return
        key = self.key_of(caller)
        try:
            if key is not None and key.rate is not None:
                await self._take(caller.key_id, key.rate)
            if caller.org is not None and (rate := await self._tenant_rate(caller.org)) is not None:
                await self._take(f"tenant {caller.org}", rate)
        except StoreUnavailable:
            if writes:
                raise

    async def _take(self, owner: str, rate: RateLimit) -> None:
        allowance = self._allowances[owner]
        async with allowance.lock:
            now = time.monotonic()
            if now >= allowance.until or (allowance.left == 0 and allowance.more):
                spent = allowance.portion
                used = 0 if spent is None else spent.granted - allowance.left
                portion = await self._engine.keys.take(owner, rate, spent=spent, used=used)
                allowance.portion, allowance.left, allowance.more = portion, portion.granted, portion.granted > 0
                allowance.until = now + portion.left_ms / 1000
            if allowance.left:
                allowance.left -= 1
                return
        wait = max(0.001, allowance.until - time.monotonic())
        raise Refused(
            429,
            "RATE_LIMITED",
            f"More than {rate.requests:,} requests in {rate.per_ms:,} ms; there is room again in {wait:.1f} s.",
            {
                "Retry-After": (seconds := str(math.ceil(wait))),
                "RateLimit-Limit": str(rate.requests),
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": seconds,
            },
        )

    async def _tenant_rate(self, org: str) -> RateLimit | None:
        known = self._rates.get(org)
        now = time.monotonic()
        if known is None or now > known[1]:
            known = ((await self._engine.keys.tenant_limits(org)).rate, now + REMEMBERED_SECONDS)
            self._rates[org] = known
        return known[0]

    def open(self, caller: Caller, operations: Callable[[], int]) -> Session:
        """Binds what stands open to its key; `operations` says how many subscriptions it runs.

        Raises:
            Refused: 429, the key has too much open.
        """
        session = Session(caller, operations)
        if caller.key_id is not None:
            if len(self._sessions[caller.key_id]) >= self._max_connections:
                raise Refused(429, "TOO_MANY_CONNECTIONS", f"This key has {self._max_connections} connections open.")
            self._sessions[caller.key_id].add(session)
        return session

    def close(self, session: Session) -> None:
        """It stands open no longer; harmless when repeated."""
        if (key_id := session.caller.key_id) is not None:
            self._sessions[key_id].discard(session)
            if not self._sessions[key_id]:
                del self._sessions[key_id]

    def check_subscriptions(self, caller: Caller) -> None:
        """Raises Refused when the key runs as many subscriptions as it may."""
        if caller.key_id is None:
            return
        running = sum(session.operations() for session in self._sessions.get(caller.key_id, ()))
        if running >= self._max_subscriptions:
            raise Refused(
                429,
                "TOO_MANY_SUBSCRIPTIONS",
                f"This key runs {self._max_subscriptions} subscriptions, which is the limit; end one first.",
            )

    async def watch(self) -> None:
        """Ends what stands open for keys that are revoked or expire, until cancelled."""
        await asyncio.gather(self._listen(), self._look())

    async def _listen(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                async with self._engine.hub().subscribe(lambda event: event.topic is Topic.KEY) as events:
                    async for event in events:
                        self._unguarded_until = 0.0
                        if isinstance(event, Gap):
                            self._keys.clear()
                        elif event.type == "revoke":
                            self._forget(event.id)
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        while True:
            # While the database cannot say, what stands open stays open: it is shown nothing new.
            with suppress(StoreUnavailable):
                if ids := list(self._sessions):
                    valid = await self._engine.keys.still_valid(ids)
                    for id in set(ids) - valid:
                        self._forget(id)
            await asyncio.sleep(WATCH_SECONDS)

    def _forget(self, key_id: str) -> None:
        for digest in [digest for digest, (key, _) in self._keys.items() if key.id == key_id]:
            del self._keys[digest]
        for session in self._sessions.get(key_id, ()):
            session.ended.set()


def bearer(connection: HTTPConnection, payload: Mapping[str, Any] | None = None) -> str | None:
    """The key that a request or a `connection_init` message carries; None where it carries none."""
    given = next((value for name, value in (payload or {}).items() if name.lower() == "authorization"), None)
    if given is None:
        given = connection.headers.get("authorization")
    if not isinstance(given, str):
        return None
    kind, _, token = given.strip().partition(" ")
    # What is no bearer token is no key either, and must not count as having sent none.
    return token.strip() if kind.lower() == "bearer" else given


def traced(caller: Caller, connection: HTTPConnection) -> Caller:
    """The caller within the trace that its request says it belongs to (W3C's `traceparent` header), if it says so."""
    trace = traceparent_of(connection.headers.get("traceparent"))
    return caller if trace is None else replace(caller, traceparent=trace)


def unauthorized(message: str) -> Refused:
    """The refusal of a request without a key that opens anything."""
    return Refused(401, "UNAUTHORIZED", message, CHALLENGE)
