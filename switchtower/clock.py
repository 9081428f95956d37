"""What time is it, by the database?

Time is the database primary's. Pipeline updates use `$$NOW`; inserts, which cannot, use this process's clock corrected
by the measured offset. Nothing that decides about leases or due times ever reads the wall clock of a worker.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

__all__ = ["DatabaseClock", "from_ms", "to_ms"]


class DatabaseClock:
    """The primary's clock, extrapolated by this process's monotonic clock from the last observation."""

    def __init__(self) -> None:
        self._origin = time.time() - time.monotonic()
        self._error = float("inf")
        self._observed_at = float("-inf")

    def observe(self, server_time: datetime, *, sent: float, received: float) -> None:
        """Takes in one `hello.localTime`; `sent` and `received` are monotonic seconds around the call.

        The observation with the smallest round trip of the last minute wins: half of it bounds its error.
        """
        error = (received - sent) / 2
        if error <= self._error or received - self._observed_at > 60:
            self._origin = server_time.timestamp() - (sent + received) / 2
            self._error = error
            self._observed_at = received

    def forget(self) -> None:
        """The next observation counts whatever its round trip: it is another primary's clock."""
        self._error = float("inf")

    def now(self) -> datetime:
        """The database's time now, UTC, at millisecond resolution as MongoDB stores it."""
        return from_ms(self.now_ms())

    def now_ms(self) -> int:
        """The database's time now in milliseconds since the epoch."""
        return int((self._origin + time.monotonic()) * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_ms(ms: int) -> datetime:
    """Milliseconds since the epoch as a UTC time."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(at: datetime) -> int:
    """A time with a zone as whole milliseconds since the epoch."""
    return (at - _EPOCH) // timedelta(milliseconds=1)
