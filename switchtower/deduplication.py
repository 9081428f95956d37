"""Which enqueues ask for the same job, and what does a later one do to the first?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from switchtower.errors import InvalidInput
from switchtower.payloads import check_text

__all__ = ["DeduplicationMode", "DeduplicationOptions"]

YEAR_MS = 366 * 24 * 3600 * 1000


class DeduplicationMode(StrEnum):
    """How long a job stands for all equal enqueues: while it is open; for a time, whatever becomes of it; or while it
    is delayed, each of them replacing it."""

    SIMPLE = "simple"
    THROTTLE = "throttle"
    DEBOUNCE = "debounce"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeduplicationOptions:
    """One key per tenant and queue: the first enqueue creates the job, later ones answer with it.

    Attributes:
        mode: `SIMPLE` holds the key while the job is open; `THROTTLE` for `ttl_ms` from its enqueue, ended or not;
            `DEBOUNCE` while it is scheduled, and each later enqueue replaces it and begins its delay anew.
        key: what makes enqueues equal (None: their name and payload).
        ttl_ms: the longest that the key is held, in milliseconds from the first enqueue; `THROTTLE` needs it.
        replace: a later enqueue replaces the job while that is scheduled (always so for `DEBOUNCE`).
        extend: each later enqueue begins the time of `ttl_ms` anew.
    """

    mode: DeduplicationMode = DeduplicationMode.SIMPLE
    key: str | None = None
    ttl_ms: int | None = None
    replace: bool = False
    extend: bool = False

    @property
    def replaces(self) -> bool:
        """Whether a later enqueue takes the place of a job that is still scheduled."""
        return self.replace or self.mode is DeduplicationMode.DEBOUNCE

    def check(self, *, delayed: bool) -> None:
        """Raises InvalidInput, naming the GraphQL field, for what makes no sense; `delayed`: the job has a due time."""
        if not isinstance(self.mode, DeduplicationMode):
            raise InvalidInput("deduplication.mode", "must be SIMPLE, THROTTLE or DEBOUNCE.")
        if self.key is not None:
            check_text("deduplication.key", self.key, limit=512)
        if self.ttl_ms is not None and (type(self.ttl_ms) is not int or not 1 <= self.ttl_ms <= YEAR_MS):
            raise InvalidInput("deduplication.ttlMs", f"must be a whole number between 1 and {YEAR_MS:,}.")
        if self.ttl_ms is None and self.mode is DeduplicationMode.THROTTLE:
            raise InvalidInput("deduplication.ttlMs", "is needed to throttle: how long the first one wins.")
        if self.ttl_ms is None and self.extend:
            raise InvalidInput("deduplication.extend", "needs a ttlMs to begin anew.")
        if self.mode is DeduplicationMode.DEBOUNCE and not delayed:
            raise InvalidInput(
                "deduplication.mode", "DEBOUNCE needs delayMs (or runAt): the quiet time before it runs."
            )

    def key_of(self, name: str, payload: Any) -> str:
        """The key, worked out of the job's name and payload where none was given."""
        if self.key is not None:
            return self.key
        text = orjson.dumps([name, payload], option=orjson.OPT_SORT_KEYS)
        return f"sha256:{hashlib.sha256(text).hexdigest()}"
