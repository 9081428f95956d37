"""How many deliveries may one endpoint be given at once, and is it worth trying now?

Deliveries to one host are bounded, so that a slow one takes no room from the others. One that cannot be reached, or
does not answer in time, again and again, is left alone for a while; its jobs wait, and are not charged for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Endpoints", "host_of"]

FAILURES = 10
"""After so many in a row an endpoint is left alone."""
REST_SECONDS = (5.0, 60.0)
"""For how long at first and at most; each time twice as long."""


def host_of(url: str) -> str:
    """What the deliveries to an address share: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


@dataclass(slots=True)
class _Endpoint:
    under_way: int = 0
    failures: int = 0
    rest_seconds: float = 0.0
    rests_until: float = 0.0


class Endpoints:
    """The endpoints that something is sent to, or that do not answer. It remembers no others."""

    def __init__(self, per_host: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_host = per_host
        self._clock = clock
        self._known: dict[str, _Endpoint] = {}

    def room(self, url: str) -> int:
        """How many more deliveries may begin now; one at a time to an endpoint that did not answer of late."""
        known = self._known.get(host_of(url))
        if known is None:
            return self._per_host
        if known.failures < FAILURES:
            return max(0, self._per_host - known.under_way)
        if known.under_way or self._clock() < known.rests_until:
            return 0
        return 1

    def begin(self, url: str) -> None:
        """A delivery begins."""
        self._known.setdefault(host_of(url), _Endpoint()).under_way += 1

    def end(self, url: str, *, answered: bool | None) -> None:
        """A delivery has ended: with an answer, whatever it was; without; or (None) nothing can be said."""
        host = host_of(url)
        known = self._known[host]
        known.under_way -= 1
        if answered:
            known.failures, known.rest_seconds = 0, 0.0
        elif answered is False:
            known.failures += 1
            if known.failures >= FAILURES and self._clock() >= known.rests_until:
                known.rest_seconds = min(max(REST_SECONDS[0], known.rest_seconds * 2), REST_SECONDS[1])
                known.rests_until = self._clock() + known.rest_seconds
        if not known.under_way and not known.failures:
            del self._known[host]

    @property
    def resting(self) -> list[str]:
        """The hosts that are left alone now."""
        now = self._clock()
        return [host for host, known in self._known.items() if known.failures >= FAILURES and now < known.rests_until]
