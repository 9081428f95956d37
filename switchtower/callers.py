"""Who asks?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from switchtower.access import EVERY_SCOPE, Scope
from switchtower.errors import NotFound

__all__ = ["EVERYTHING", "SYSTEM", "Caller", "Reach"]

AUTOMATIC = frozenset({"system", "worker", "cron"})
"""The sources that stand for nobody's action."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a caller sees: the things of one tenant (`org` None: of all), in these queues (None: in all)."""

    org: str | None = None
    queues: frozenset[str] | None = None

    def sees(self, queue: str) -> bool:
        """Whether a queue is there for it."""
        return self.queues is None or queue in self.queues

    def among(self, queues: Collection[str] | None) -> list[str] | None:
        """Those of these queues (None: of all) that it sees; None where that is all of all."""
        if self.queues is None:
            return None if queues is None else list(queues)
        return sorted(self.queues if queues is None else self.queues.intersection(queues))


EVERYTHING = Reach()


@dataclass(frozen=True, slots=True)
class Caller:
    """The one on whose behalf a verb runs: stamped as the actor on what it changes, and the bounds of what it sees.

    `org` is the tenant: `None` is an operator, who sees every tenant's; a string sees that tenant's only. Jobs that an
    operator enqueues belong to the tenant "" unless it names one. `scopes` are what it may do: the engine acts for
    whoever holds it, so the surfaces ask. `key_id` is the API key that it came with, and `queue` that key's default
    queue: where its jobs go that name none. `queues` are the only ones that exist for it (None: all do). `traceparent`
    is the trace that it acts in: its jobs carry it.
    """

    actor: str
    org: str | None = None
    app: str = ""
    source: str = "python"
    scopes: frozenset[Scope] = EVERY_SCOPE
    key_id: str | None = None
    queue: str | None = None
    queues: frozenset[str] | None = None
    traceparent: str | None = None

    @property
    def reach(self) -> Reach:
        """What it sees."""
        return Reach(self.org, self.queues)

    def check_queue(self, queue: str) -> None:
        """Raises NotFound for a queue that does not exist for it."""
        if self.queues is not None and queue not in self.queues:
            raise NotFound("Queue", queue)

    @property
    def surface(self) -> str | None:
        """Where an action comes from, for the audit trail; None for what the queue does by itself."""
        return None if self.source in AUTOMATIC else self.source

    @property
    def owner(self) -> str:
        """The tenant that owns what this caller creates."""
        return self.org or ""


SYSTEM = Caller("system", source="system")
