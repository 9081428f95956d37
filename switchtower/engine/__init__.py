"""What can this queue do? One handle, one attribute a noun, one method a verb."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager

from switchtower.clock import DatabaseClock
from switchtower.engine.audit import Audit
from switchtower.engine.blockages import Blockage, BlockageKind, Blockages
from switchtower.engine.bulk import Bulk, BulkOperation
from switchtower.engine.claims import Claims
from switchtower.engine.crons import Crons
from switchtower.engine.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters
from switchtower.engine.deliveries import Deliveries
from switchtower.engine.effects import Effects
from switchtower.engine.error_clusters import ErrorCluster
from switchtower.engine.flows import Flows
from switchtower.engine.jobs import JobOrder, Jobs
from switchtower.engine.keys import Keys
from switchtower.engine.metrics import Metrics
from switchtower.engine.queues import Activity, GroupCount, Queue, Queues
from switchtower.engine.refusals import write_down
from switchtower.engine.search import Found, Search, SearchType, checked_paths
from switchtower.engine.stats import Stats, Totals
from switchtower.engine.upkeep import Retention, Upkeep
from switchtower.engine.webhooks import Webhooks
from switchtower.engine.workers import Workers
from switchtower.engine.workflows import Workflows
from switchtower.errors import ConfigurationError
from switchtower.events import EventHub
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.store import changes
from switchtower.store.collections import Store
from switchtower.store.doctor import Finding, examine
from switchtower.store.driver import connect, time_limit, translate_errors
from switchtower.store.indexes import create_indexes, missing_indexes

__all__ = [
    "Activity",
    "Blockage",
    "BlockageKind",
    "BulkOperation",
    "DeadLetter",
    "DeadLetterFilter",
    "Engine",
    "ErrorCluster",
    "Finding",
    "Found",
    "GroupCount",
    "JobOrder",
    "Queue",
    "Retention",
    "SearchType",
    "Totals",
]

DEFAULT_DRIVER = "pymongo"


@translate_errors
class Engine:
    """A connection to the queue. Make one per process and event loop with `Engine.connect`, and close it."""

    def __init__(
        self,
        store: Store,
        *,
        url: str,
        payload_limit: int,
        retention: Retention,
        metrics: bool = True,
        search_paths: Sequence[str] = (),
    ) -> None:
        self.url = url
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.payload_limit = payload_limit
        self._store = store
        self._search_paths = tuple(checked_paths(search_paths))
        self._hub: EventHub | None = None
        self._watch: asyncio.Task[None] | None = None
        self.effects = Effects(store)
        self.jobs = Jobs(store, self.effects, payload_limit)
        self.claims = Claims(store, self.effects, payload_limit)
        self.queues = Queues(store, self.effects)
        self.workers = Workers(store, self.effects)
        self.audit = Audit(store, retention.audit_seconds)
        self.dead_letters = DeadLetters(store, self.jobs, self.audit)
        self.bulk = Bulk(store, self.effects, self.holder)
        self.flows = Flows(store, self.effects, self.bulk, payload_limit)
        self.workflows = Workflows(store, self.jobs, self.effects, payload_limit)
        self.webhooks = Webhooks(store)
        self.keys = Keys(store, self.webhooks)
        self.deliveries = Deliveries(store, self.claims)
        self.crons = Crons(store, self.jobs, payload_limit)
        self.stats = Stats(store)
        self.metrics = Metrics(store, self.stats, enabled=metrics)
        self.blockages = Blockages(store, self.webhooks)
        self.search = Search(store, self.queues)
        self.upkeep = Upkeep(store, self.effects, self.workers, self.bulk, retention, self.metrics, self.audit)
        write_down(self)

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        database: str = "switchtower",
        driver: str | None = None,
        role: str = "client",
        payload_limit: int = PAYLOAD_LIMIT,
        retention: Retention | None = None,
        metrics: bool = True,
        search_paths: Sequence[str] = (),
    ) -> Engine:
        """Connects to MongoDB (`SWITCHTOWER_MONGODB_URL` when no URL is given) and checks that it can keep our
        promises.

        `role` (server, worker, client) sets the timeouts. `driver` is pymongo or motor (`SWITCHTOWER_DRIVER`).
        `search_paths` are payload paths, such as `user.id`, that `prepare` gives an index each.

        Raises: ConfigurationError (no URL, standalone, too old, weaker write concern), StoreUnavailable.
        """
        url = url or os.environ.get("SWITCHTOWER_MONGODB_URL")
        if not url:
            raise ConfigurationError(
                "No database is configured: set SWITCHTOWER_MONGODB_URL, or run `switchtower dev` (it starts its own)."
            )
        driver = driver or os.environ.get("SWITCHTOWER_DRIVER") or DEFAULT_DRIVER
        opened = await connect(url, database=database, driver=driver, role=role)
        engine = cls(
            Store(opened),
            url=url,
            payload_limit=payload_limit,
            retention=retention or Retention(),
            metrics=metrics,
            search_paths=search_paths,
        )
        if role in ("server", "worker"):
            # They stay: a script that enqueues is over before this would help it.
            engine._watch = asyncio.create_task(opened.watch_over())
        return engine

    @property
    def clients_replaced(self) -> int:
        """How often the database client of this process came to a standstill and was replaced."""
        return self._store.database.replaced

    @property
    def clock(self) -> DatabaseClock:
        """The database's clock."""
        return self._store.clock

    @property
    def clock_skew_seconds(self) -> float:
        """How far apart the clocks of the replica set's members are, as far as this process knows."""
        return self._store.database.members.skew_seconds

    @property
    def database_name(self) -> str:
        """The name of the database."""
        return self._store.database.name

    async def prepare(self) -> None:
        """Creates the indexes that are missing; harmless to repeat."""
        await create_indexes(self._store, self._search_paths)

    async def missing_indexes(self) -> list[str]:
        """Which planned indexes are not there."""
        return await missing_indexes(self._store, self._search_paths)

    async def ping(self) -> float:
        """The round trip to the primary in seconds. Raises: StoreUnavailable."""
        return await self._store.database.ping()

    async def check(self) -> list[Finding]:
        """What an operator should know about this database."""
        return await examine(self._store)

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """What is asked inside is answered by then, or raises StoreUnavailable; the database gives it up as well."""
        return time_limit(int(seconds * 1_000))

    def hub(self) -> EventHub:
        """The process's one hub of events; it opens its stream on first use."""
        if self._hub is None:
            self._hub = EventHub(lambda after: changes.read(self._store, after=after), is_cursor=self.is_cursor)
        return self._hub

    def is_cursor(self, text: str) -> bool:
        """Whether a text has the form of an event cursor."""
        return changes.is_cursor(text, now=self.clock.now())

    async def close(self) -> None:
        """Ends the hub and background work, and closes the connections."""
        if self._watch is not None:
            self._watch.cancel()
        if self._hub is not None:
            await self._hub.close()
        await self.bulk.close()
        await self.effects.close()
        await self._store.database.close()
