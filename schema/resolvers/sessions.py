"""How does a browser sign in, and out?"""

from __future__ import annotations

from schema.context import Context

__all__ = ["close", "open"]


async def open(context: Context, key: str) -> str:
    """A session for whoever has this API key: its text, which stands for the key. Raises Unauthorized."""
    return await context.engine.keys.open_session(key)


async def close(context: Context, session: str | None) -> None:
    """Ends a session, where there is one."""
    if session is not None:
        await context.engine.keys.close_session(session)
