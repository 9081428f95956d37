"""How far apart are the clocks of a replica set's members?

A failover passes on the keeping of time: were the next primary's clock ahead, every lease would seem to have passed and
every delayed job to be due. The drivers' own heartbeats tell each member's time; nothing more is asked.
"""

from __future__ import annotations

import time
from datetime import UTC

from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

__all__ = ["TOLERATED_SECONDS", "MemberClocks"]

TOLERATED_SECONDS = 1.0
"""Leases are thirty seconds and are renewed every ten: a second is lost in that."""


class MemberClocks(ServerHeartbeatListener):
    """What each member's clock said at its last heartbeat, against this process's monotonic one."""

    def __init__(self) -> None:
        self._offsets: dict[object, float] = {}

    @property
    def skew_seconds(self) -> float:
        """By how much the members that answer differ; 0 with fewer than two."""
        offsets = list(self._offsets.values())
        return max(offsets) - min(offsets) if offsets else 0.0

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """Tells nothing."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Takes in a member's time, as of the middle of the round trip; an awaited reply was sent just now."""
        said = event.reply.document.get("localTime")
        if said is not None:
            travelled = 0.0 if event.awaited else event.duration / 2
            self._offsets[event.connection_id] = said.replace(tzinfo=UTC).timestamp() - (time.monotonic() - travelled)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """Forgets a member that does not answer."""
        self._offsets.pop(event.connection_id, None)
