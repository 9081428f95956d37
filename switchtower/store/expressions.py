"""What do all transitions say alike?

The event stamp, the row of an attempt, what a lease and an open job hold on to, and what an outbox is filled with: as
MongoDB expressions, each written once.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CHARGED",
    "GONE",
    "NOW_MS",
    "OUTBOX_FAILED",
    "OUTBOX_SETTLE",
    "SETTLED",
    "STARTED",
    "UNLEASED",
    "attempt_row",
    "discarded",
    "in_order",
    "literal",
    "present",
    "stamp",
    "token_hash",
    "when",
]

Document = dict[str, Any]
