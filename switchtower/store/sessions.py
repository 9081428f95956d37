"""Which commands keep the sessions of browsers?

A session is kept by the digest of its text and names the key that it was opened with: whoever reads the database learns
no text that opens anything, and a session is worth what its key is worth at that moment.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from switchtower.store.collections import Store

__all__ = ["close", "key_id", "open"]

Document = dict[str, Any]


async def open(store: Store, digest: bytes, key_id: str, *, keep: timedelta) -> datetime:
    """Keeps a session. Returns: when it ends."""
    now = store.clock.now()
    await store.sessions.insert_one({"_id": digest, "key_id": key_id, "created_at": now, "ends_at": now + keep})
    return now + keep


async def key_id(store: Store, digest: bytes) -> str | None:
    """The key of a session that has not ended."""
    found: Document | None = await store.sessions.find_one({"_id": digest, "ends_at": {"$gt": store.clock.now()}})
    return None if found is None else found["key_id"]


async def close(store: Store, digest: bytes) -> None:
    """Ends a session; harmless to repeat."""
    await store.sessions.delete_one({"_id": digest})
