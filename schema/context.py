"""What does every resolver know about the one who asks?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from switchtower.callers import Caller

if TYPE_CHECKING:
    from switchtower.engine import Engine

__all__ = ["MAX_PAGE", "Context"]

MAX_PAGE = 500


@dataclass(kw_only=True)
class Context:
    """One request, or one WebSocket connection with all of its operations.

    `memo` holds what later code keeps for the life of the context (the schema's loaders). Nothing in it may be a value
    that was read from the database: a connection lives for hours.
    """

    engine: Engine
    caller: Caller
    request_id: str = ""
    max_page: int = MAX_PAGE
    read_only: bool = False
    memo: dict[object, Any] = field(default_factory=dict)

    def within(self, queue: str) -> Context:
        """The same request, for which there is this queue alone. Raises NotFound where there is not even this one."""
        self.caller.check_queue(queue)
        return replace(self, caller=replace(self.caller, queues=frozenset({queue})), memo={})
