"""Who asks?"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SYSTEM", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The one on whose behalf a verb runs: stamped as the actor on what it changes, and the bounds of what it sees.

    `org` is the tenant: `None` is an operator, who sees every tenant's; a string sees that tenant's only. Jobs that an
    operator enqueues belong to the tenant "" unless it names one.
    """

    actor: str
    org: str | None = None
    app: str = ""
    source: str = "python"

    @property
    def owner(self) -> str:
        """The tenant that owns what this caller creates."""
        return self.org or ""


SYSTEM = Caller("system", source="system")
