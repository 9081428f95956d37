"""Is this server alive, and can it do its work?

`/livez` says that the process answers: a failure means restart it. `/readyz` says whether requests should be sent here:
the primary is reachable, the indexes are present, the change stream is fresh, and the server is not stopping.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from switchtower.engine import Engine
from switchtower.errors import StoreUnavailable

__all__ = ["Probes"]

PING_SECONDS: Final = 2.0
INDEXES_SECONDS: Final = 60.0


class Probes:
    """The two endpoints. `engine` is None until the server has started."""

    def __init__(self, closing: asyncio.Event) -> None:
        self.engine: Engine | None = None
        self._closing = closing
        self._indexes_checked_at = float("-inf")

    async def live(self, request: Request) -> Response:
        """200 as long as the process answers; how often its database client had to be replaced."""
        replaced = self.engine.clients_replaced if self.engine is not None else 0
        return _json(200, {"live": True, "databaseClientsReplaced": replaced})

    async def ready(self, request: Request) -> Response:
        """200 or 503, with what was looked at."""
        checks = await self._checks()
        ready = all(check["ok"] for check in checks.values())
        return _json(200 if ready else 503, {"ready": ready, "checks": checks})

    async def _checks(self) -> dict[str, dict[str, Any]]:
        engine = self.engine
        if engine is None or self._closing.is_set():
            return {"server": {"ok": False, "message": "The server is starting or stopping."}}
        hub = engine.hub()
        checks: dict[str, dict[str, Any]] = {
            "changeStream": {
                "ok": hub.fresh,
                "lagSeconds": round(hub.lag_seconds, 3),
                "message": "" if hub.fresh else "The change stream has not answered for five seconds.",
            }
        }
        try:
            async with asyncio.timeout(PING_SECONDS):
                seconds = await engine.ping()
                checks["database"] = {"ok": True, "milliseconds": round(seconds * 1000, 2)}
                checks["indexes"] = await self._indexes(engine)
        except (StoreUnavailable, TimeoutError):
            checks["database"] = {"ok": False, "message": "The primary of the database cannot be reached."}
        return checks

    async def _indexes(self, engine: Engine) -> dict[str, Any]:
        if time.monotonic() - self._indexes_checked_at > INDEXES_SECONDS:
            missing = await engine.missing_indexes()
            if missing:
                return {
                    "ok": False,
                    "message": f"Missing: {', '.join(missing[:5])}; restart the server to create them.",
                }
            self._indexes_checked_at = time.monotonic()
        return {"ok": True}


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
