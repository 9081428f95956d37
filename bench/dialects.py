"""How much does a read in a REST dialect cost, beside plain FastAPI that makes the same store calls and shows the same?

Both are called as ASGI applications, without sockets, and get the same jobs from memory.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth import OPERATOR
from app.dashboard.models import JobList, Pager
from app.main import create_app
from app.rest.asyncmq import answers, pages
from app.rest.asyncmq import wire as asyncmq
from app.rest.conveyor import wire as conveyor
from app.rest.dispatch import wire as dispatch
from app.rest.dispatched import wire as dispatched
from app.settings import ServerSettings
from app.visit import Visit
from bench.answering import Memory, call
from schema.resolvers.families import Families
from switchtower.access import ApiKey, Scope
from switchtower.engine.queues import Queue
from switchtower.jobs import Job
from switchtower.pages import Count, Page
from switchtower.states import JobState
from switchtower.workers import Worker

__all__ = ["OURS", "PLAIN", "READS", "Dialects"]

OURS, PLAIN = "ours", "plain FastAPI"
READS: Final = {
    "Dispatch, 50 jobs": ("/v1/jobs", b"limit=50"),
    "Dispatch, one job": ("/v1/jobs/{id}", b""),
    "Dispatched, one job": ("/api/jobs/{id}", b""),
    "AsyncMQ, 50 jobs": ("/queues/default/jobs", b"size=50"),
    "AsyncMQ, page of 50 jobs": ("/queues/default/jobs", b"size=50"),
    "Conveyor, 50 jobs": ("/api/queues/default/jobs", b"start=0&end=50"),
    "Conveyor, one job": ("/api/queues/default/jobs/{id}", b""),
}
PAGES: Final = frozenset({"AsyncMQ, page of 50 jobs"})
KEY: Final = "swt_live_00000000000000000000000000_bench"


class _Keys:
    """Those of a server with one key, which asks nobody else for one."""

    def __init__(self) -> None:
        self.known = ApiKey("key_bench", "bench", "dev", frozenset({Scope.READ}), datetime.now(UTC), "bench", dev=True)

    async def none_exists(self) -> bool:
        """Always."""
        return True

    async def verify(self, text: str) -> ApiKey:
        """Always the one."""
        return self.known

    def valid(self, key: ApiKey) -> bool:
        """Always."""
        return True


class _Queues:
    """One queue, with the jobs in memory."""

    def __init__(self, jobs: int) -> None:
        counts = dict.fromkeys(JobState, 0) | {JobState.WAITING: jobs}
        self.known = Queue("default", False, [], counts, datetime.now(UTC))

    async def get(self, name: str, **how: object) -> Queue:
        """Always the one."""
        return self.known


class _Crons:
    async def count(self, **how: object) -> Count:
        """None."""
        return Count(0, True)


class _Workers:
    async def get_many(self, ids: Collection[str]) -> dict[str, Worker]:
        """None."""
        return {}


@dataclass(slots=True)
class _Stock(Memory):
    """What the applications ask instead of the engine."""

    keys: Any = field(default_factory=_Keys)
    queues: Any = None
    crons: _Crons = field(default_factory=_Crons)
    workers: _Workers = field(default_factory=_Workers)


def _stock() -> Any:
    memory: Any = _Stock()
    jobs = memory.jobs
    memory.queues = _Queues(len(jobs.known))

    async def count(filter: object, **how: object) -> Count:
        return Count(len(jobs.known), True)

    async def children_of(ids: Sequence[str], **how: object) -> dict[str, Page[Job]]:
        return {}

    async def get_many(ids: Sequence[str], **how: object) -> dict[str, Job]:
        return {}

    jobs.count, jobs.children_of, jobs.get_many = count, children_of, get_many
    return memory


class Dialects:
    """The two applications over one memory."""

    def __init__(self) -> None:
        memory = _stock()
        self._id = memory.jobs.known[0].id
        # Its lifespan, which connects to a database, is not run.
        ours = create_app(ServerSettings(maintenance=False), engine=memory)
        ours.state.engine = memory
        self._apps: dict[str, Any] = {OURS: ours, PLAIN: FastAPI()}
        for add in (_plain_dispatch, _plain_dispatched, _plain_asyncmq, _plain_conveyor):
            add(self._apps[PLAIN], memory)

    async def _ask(self, app: str, read: str) -> bytes:
        path, query = READS[read]
        accept = b"text/html" if read in PAGES else b"application/json"
        # Plain FastAPI has one path for a page and another for its data.
        path = f"/pages{path}" if read in PAGES and app == PLAIN else path
        key = KEY if read.startswith("Dispatched") else None
        answer = await call(self._apps[app], "GET", path.format(id=self._id), query=query, accept=accept, key=key)
        return bytes(answer["body"])

    async def check(self) -> None:
        """Raises RuntimeError unless both give the same data to every read."""
        for read in READS:
            ours, plain = [(await self._ask(app, read)).replace(b"+00:00", b"Z") for app in self._apps]
            read_as = _without_numbers if read in PAGES else orjson.loads
            if read_as(ours) != read_as(plain):
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


def _without_numbers(page: bytes) -> bytes:
    """A page shows how long ago something was."""
    return re.sub(rb"\d+", b"", page)


def _plain_dispatch(app: FastAPI, engine: Any) -> None:
    @app.get("/v1/jobs")
    async def page(state: str | None = None, queue: str | None = None, limit: int = 50, offset: int = 0) -> Any:
        return [dispatch.job(job) for job in await engine.jobs.offset_page(None, limit=limit, offset=offset)]

    @app.get("/v1/jobs/{id}")
    async def one(id: str) -> Any:
        return dispatch.job(await engine.jobs.get(id))


def _plain_dispatched(app: FastAPI, engine: Any) -> None:
    async def caller(given: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> ApiKey:
        key: ApiKey = await engine.keys.verify(given.credentials)
        if Scope.READ not in key.grants:
            raise HTTPException(403)
        return key

    @app.get("/api/jobs/{id}", dependencies=[Depends(caller)])
    async def one(id: str) -> Any:
        return dispatched.job(await engine.jobs.get(id))


def _plain_asyncmq(app: FastAPI, engine: Any) -> None:
    async def listed(name: str, state: str, page: int, size: int) -> JobList:
        queue = await engine.queues.get(name)
        counts = asyncmq.tab_counts(queue.counts) | {"repeatable": (await engine.crons.count(queue=name)).value}
        total = (await engine.jobs.count(None)).value
        found = (await engine.jobs.page(None, first=size)).items
        return JobList(name, state, found, [], Pager(page, size, total, True), counts)

    @app.get("/queues/{name}/jobs")
    async def data(name: str, state: str = "waiting", page: int = 1, size: int = 20) -> Any:
        return answers.jobs(await listed(name, state, page, size))

    @app.get("/pages/queues/{name}/jobs", response_class=HTMLResponse)
    async def page(request: Request, name: str, state: str = "waiting", page: int = 1, size: int = 20) -> Any:
        request.scope["state"]["request_id"] = ""
        visit = Visit(request=request, prefix="", path=f"/queues/{name}/jobs", caller=OPERATOR, names={"name": name})
        return pages.jobs(await listed(name, state, page, size), visit)


def _plain_conveyor(app: FastAPI, engine: Any) -> None:
    async def shown(found: Sequence[Job]) -> list[dict[str, Any]]:
        children, parents, workers = await asyncio.gather(
            engine.jobs.children_of([]), engine.jobs.get_many([]), engine.workers.get_many([])
        )
        return conveyor.jobs(conveyor.Jobs(found, Families(children, parents), workers))

    @app.get("/api/queues/{name}/jobs")
    async def page(name: str, state: str = "waiting", start: int = 0, end: int = 100) -> Any:
        found, total = await asyncio.gather(
            engine.jobs.offset_page(None, limit=end - start, offset=start), engine.jobs.count(None)
        )
        return {"data": await shown(found), "meta": {"total": total.value, "start": start, "end": end}}

    @app.get("/api/queues/{name}/jobs/{id}")
    async def one(name: str, id: str) -> Any:
        return {"data": (await shown([await engine.jobs.get(id)]))[0]}
