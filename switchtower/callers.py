"""Who asks?"""

from __future__ import annotations

from dataclasses import dataclass

from switchtower.access import EVERY_SCOPE, Scope

__all__ = ["SYSTEM", "Caller"]

AUTOMATIC = frozenset({"system", "worker", "cron"})
"""The sources that stand for nobody's action."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The one on whose behalf a verb runs: stamped as the actor on what it changes, and the bounds of what it sees.

    `org` is the tenant: `None` is an operator, who sees every tenant's; a string sees that tenant's only. Jobs that an
    operator enqueues belong to the tenant "" unless it names one. `scopes` are what it may do: the engine acts for
    whoever holds it, so the surfaces ask. `key_id` is the API key that it came with, and `queue` that key's default
    queue: where its jobs go that name none.
    """

    actor: str
    org: str | None = None
    app: str = ""
    source: str = "python"
    scopes: frozenset[Scope] = EVERY_SCOPE
    key_id: str | None = None
    queue: str | None = None

    @property
    def surface(self) -> str | None:
        """Where an action comes from, for the audit trail; None for what the queue does by itself."""
        return None if self.source in AUTOMATIC else self.source

    @property
    def owner(self) -> str:
        """The tenant that owns what this caller creates."""
        return self.org or ""


SYSTEM = Caller("system", source="system")
