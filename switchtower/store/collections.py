"""Which collections are there, and what is one process's handle on all of them?"""

from __future__ import annotations

from typing import Any

from switchtower.clock import DatabaseClock
from switchtower.store.driver import Database

__all__ = ["Store"]


class Store:
    """The collections of one database, named once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs: Any = database["jobs"]
        self.queues: Any = database["queues"]
        self.workers: Any = database["workers"]
        self.dead_letters: Any = database["dead_letters"]
        self.bulk_operations: Any = database["bulk_operations"]
        self.crons: Any = database["crons"]
        self.events: Any = database["events"]
        self.audit: Any = database["audit"]
        self.counters: Any = database["counters"]
        self.minutes: Any = database["minutes"]
        self.hours: Any = database["hours"]
        self.snapshots: Any = database["snapshots"]
        self.leases: Any = database["leases"]
        self.keys: Any = database["keys"]
        self.sessions: Any = database["sessions"]
        self.webhooks: Any = database["webhooks"]
        self.rates: Any = database["rates"]
        self.tenants: Any = database["tenants"]
        self.usage: Any = database["usage"]
        self.permits: Any = database["permits"]
        self.laned: set[str] = set()
        """The queues that this process has said to have lanes."""

    @property
    def clock(self) -> DatabaseClock:
        """The database's clock as this process knows it."""
        return self.database.clock


WATCHED = ("jobs", "queues", "workers", "dead_letters", "bulk_operations", "crons", "keys", "audit")
"""The collections whose documents carry events."""
