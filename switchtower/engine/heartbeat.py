"""How does a worker stay alive while its event loop is busy?

From a thread, over a connection of its own: a handler that blocks the loop must not cost its worker the lease.
"""

from __future__ import annotations

from typing import Any

from switchtower.store import leases
from switchtower.store.driver import sync_client
from switchtower.workers import WorkerState

__all__ = ["Heartbeat"]


class Heartbeat:
    """A synchronous renewal of one worker's lease; use it from one thread."""

    def __init__(self, url: str, *, database: str, worker_id: str, lease_seconds: float) -> None:
        timeout_ms = max(500, int(lease_seconds * 1000 / 3) - 500)
        self._database: Any = sync_client(url, database=database, timeout_ms=timeout_ms)
        self._worker_id = worker_id
        self._lease_ms = int(lease_seconds * 1000)

    def renew(self) -> WorkerState:
        """Extends the lease by the database's clock. Returns LOST when the worker must stop at once.

        Raises: StoreUnavailable; the lease may or may not have been extended.
        """
        row = leases.renew_blocking(self._database, self._worker_id, self._lease_ms)
        return WorkerState.LOST if row is None else WorkerState(row["state"])

    def close(self) -> None:
        """Closes the connection."""
        self._database.client.close()
