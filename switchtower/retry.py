"""How long does a failed job wait before its next attempt?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from switchtower.errors import InvalidInput

__all__ = ["DEFAULT_BACKOFF", "Backoff", "BackoffKind"]

MAX_WAIT_MS = 366 * 24 * 3600 * 1000


class BackoffKind(StrEnum):
    """The shape of the waits between attempts."""

    NONE = "none"
    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between a job's attempts.

    `fixed` waits `base_ms` each time; `linear` n × `base_ms`; `exponential` `base_ms` × 2^(n-1), both capped at
    `cap_ms`; `table` takes `waits_ms[n-1]`, the last one for all later retries. `jitter` (0 to 1) is the share of the
    wait that is drawn at random: 1 is "full jitter", uniform in [0, wait], which spreads a herd best
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    kind: BackoffKind = BackoffKind.EXPONENTIAL
    base_ms: int = 1_000
    cap_ms: int = 60_000
    jitter: float = 1.0
    waits_ms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field, value in (("backoff.baseMs", self.base_ms), ("backoff.capMs", self.cap_ms)):
            if not 0 <= value <= MAX_WAIT_MS:
                raise InvalidInput(field, f"must be between 0 and {MAX_WAIT_MS} milliseconds.")
        if not 0 <= self.jitter <= 1:
            raise InvalidInput("backoff.jitter", "must be between 0 and 1.")
        if self.kind is BackoffKind.TABLE and not self.waits_ms:
            raise InvalidInput("backoff.waitsMs", "a table of waits needs at least one wait.")
        if len(self.waits_ms) > 100 or any(not 0 <= wait <= MAX_WAIT_MS for wait in self.waits_ms):
            raise InvalidInput("backoff.waitsMs", f"at most 100 waits of 0 to {MAX_WAIT_MS} milliseconds.")

    def wait_ms(self, retry: int, *, draw: float | None = None) -> int:
        """The wait before retry number `retry` (1 is the first) in milliseconds.

        `draw` (0 to 1) replaces the random draw, for tests.
        """
        n = max(1, retry)
        match self.kind:
            case BackoffKind.NONE:
                return 0
            case BackoffKind.FIXED:
                wait = self.base_ms
            case BackoffKind.LINEAR:
                wait = min(self.cap_ms, self.base_ms * n)
            case BackoffKind.EXPONENTIAL:
                wait = min(self.cap_ms, self.base_ms * 2 ** min(n - 1, 40))
            case BackoffKind.TABLE:
                wait = self.waits_ms[min(n, len(self.waits_ms)) - 1]
        share = random.random() if draw is None else draw
        return int(wait * (1 - self.jitter) + wait * self.jitter * share)


DEFAULT_BACKOFF = Backoff()
