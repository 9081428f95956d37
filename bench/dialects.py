"""How much does a read in a REST dialect cost, beside plain FastAPI that makes the same store call and shows the same?

Both are called as ASGI applications, without sockets, and get the same jobs from memory.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from fastapi import FastAPI

from app.main import create_app
from app.rest.dispatch import wire as dispatch
from app.settings import ServerSettings
from bench.answering import Memory, call

__all__ = ["OURS", "PLAIN", "READS", "Dialects"]

OURS, PLAIN = "ours", "plain FastAPI"
READS: Final = {
    "Dispatch, 50 jobs": ("/v1/jobs", b"limit=50"),
    "Dispatch, one job": ("/v1/jobs/{id}", b""),
}


class Dialects:
    """The two applications over one memory."""

    def __init__(self) -> None:
        memory: Any = Memory()
        self._id = memory.jobs.known[0].id
        # Its lifespan, which connects to a database, is not run.
        ours = create_app(ServerSettings(maintenance=False), engine=memory)
        ours.state.engine = memory
        self._apps: dict[str, Any] = {OURS: ours, PLAIN: self._plain(memory.jobs)}

    @staticmethod
    def _plain(jobs: Any) -> Any:
        app = FastAPI()

        @app.get("/v1/jobs")
        async def page(state: str | None = None, queue: str | None = None, limit: int = 50, offset: int = 0) -> Any:
            return [dispatch.job(job) for job in await jobs.offset_page(None, limit=limit, offset=offset)]

        @app.get("/v1/jobs/{id}")
        async def one(id: str) -> Any:
            return dispatch.job(await jobs.get(id))

        return app

    async def _ask(self, app: str, read: str) -> bytes:
        path, query = READS[read]
        answer = await call(self._apps[app], "GET", path.format(id=self._id), query=query)
        return bytes(answer["body"])

    async def check(self) -> None:
        """Raises RuntimeError unless both give the same data to every read."""
        for read in READS:
            ours, plain = [orjson.loads((await self._ask(app, read)).replace(b"+00:00", b"Z")) for app in self._apps]
            if ours != plain:
                raise RuntimeError(f"The answers to {read!r} differ: {ours!r:.300} and {plain!r:.300}")

    def cost(self, app: str, read: str, *, seconds: float) -> Callable[[], Awaitable[float]]:
        """A measurement: microseconds of a request, one after another, for so long."""

        async def measure() -> float:
            for _ in range(3):
                await self._ask(app, read)
            began, count = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < seconds:
                await self._ask(app, read)
                count += 1
            return passed / count * 1e6

        return measure
