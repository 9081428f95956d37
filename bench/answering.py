"""How fast does the server answer GraphQL, beside stock Strawberry with the same schema, and plain FastAPI?

All three are called as ASGI applications, without sockets, and get the same jobs from memory at the place where the
engine would ask the database.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import FastAPI
from strawberry.fastapi import BaseContext, GraphQLRouter
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from app.main import create_app
from app.settings import ServerSettings
from schema.build import build_schema
from schema.context import Context
from switchtower.callers import Caller
from switchtower.ids import JOB, new_id
from switchtower.jobs import Enqueued, Job, NewJob
from switchtower.pages import Page
from switchtower.store.documents import job_document, job_from

__all__ = ["OURS", "PLAIN", "QUERIES", "STOCK", "Answers", "Memory", "call"]

OURS, STOCK, PLAIN = "ours", "stock Strawberry", "plain FastAPI"
PAGE = 50
FIELDS = "id name queue state priority attempt maxAttempts tags createdAt runAt startedAt finishedAt"
LIST, ONE, ENQUEUE = "jobs(first: 50), 12 fields", "one job", "enqueue"

QUERIES: dict[str, dict[str, Any]] = {
    LIST: {"query": f"query Jobs($first: Int!) {{ jobs(first: $first) {{ nodes {{ {FIELDS} }} }} }}"},
    ONE: {"query": f"query Job($id: ID!) {{ job(id: $id) {{ {FIELDS} }} }}"},
    ENQUEUE: {
        "query": "mutation Enqueue($input: EnqueueJobInput!) { enqueueJob(input: $input) { __typename "
        "... on Job { id state queue name } ... on Error { code message } } }"
    },
}


class _Jobs:
    """The verbs on jobs that the three queries need, answered from memory."""

    def __init__(self) -> None:
        now_ms = int(time.time() * 1000)
        self.known = [self._stored(NewJob(name="noop", payload={"i": i}, tags=["a", "b"]), now_ms) for i in range(PAGE)]

    @staticmethod
    def _stored(new: NewJob, now_ms: int) -> Job:
        document = job_document(new, id=new_id(JOB), org="", app="", actor="bench", now_ms=now_ms, pending=[])
        return job_from(document | {"started_at": datetime.now(UTC), "finished_at": datetime.now(UTC)})

    async def page(self, filter: object, **how: object) -> Page[Job]:
        """Always the same page."""
        return Page(self.known, [job.id for job in self.known], False, False)

    async def offset_page(self, filter: object, **how: object) -> list[Job]:
        """Always the same page."""
        return self.known

    async def get(self, id: str, **how: object) -> Job:
        """Always the first job."""
        return self.known[0]

    async def enqueue(self, new: NewJob, **how: object) -> Enqueued:
        """Stores nothing, answers as if it had."""
        return Enqueued(self.known[0])


class _StockContext(Context, BaseContext):
    """Our context in the form that the stock router takes."""


class _Keys:
    """Those of a server that nobody created a key or a quota for."""

    async def none_exists(self) -> bool:
        """Always."""
        return True

    async def check_quota(self, jobs: int, *, caller: Caller) -> None:
        """Nothing is refused."""


@dataclass(slots=True)
class Memory:
    """What the applications ask instead of the engine."""

    jobs: _Jobs = field(default_factory=_Jobs)
    keys: _Keys = field(default_factory=_Keys)


class Answers:
    """The three applications over one memory."""

    def __init__(self) -> None:
        self._engine: Any = Memory()
        self._bodies = {name: orjson.dumps(self._request(name)) for name in QUERIES}
        self._apps: dict[str, Any] = {OURS: self._ours(), STOCK: self._stock(), PLAIN: self._plain()}

    def _request(self, name: str) -> dict[str, Any]:
        variables: dict[str, Any] = {
            LIST: {"first": PAGE},
            ONE: {"id": self._engine.jobs.known[0].id},
            ENQUEUE: {"input": {"name": "noop", "payload": {"i": 1}}},
        }[name]
        return QUERIES[name] | {"variables": variables}

    def _ours(self) -> Any:
        # Its lifespan, which connects to a database, is not run.
        app = create_app(ServerSettings(maintenance=False), engine=self._engine)
        app.state.engine = self._engine
        return app

    def _stock(self) -> Any:
        async def context() -> Any:
            return _StockContext(engine=self._engine, caller=Caller("operator"))

        schema = build_schema()
        schema.execution_context_class = StrawberryGraphQLCoreExecutionContext
        router: Any = GraphQLRouter(schema, context_getter=context)
        app = FastAPI()
        app.include_router(router, prefix="/graphql")
        return app

    def _plain(self) -> Any:
        app, jobs = FastAPI(), self._engine.jobs

        @app.get("/jobs")
        async def page(first: int) -> Any:
            found = await jobs.page(None)
            return {"data": {"jobs": {"nodes": [_row(job) for job in found.items[:first]]}}}

        @app.get("/jobs/{id}")
        async def one(id: str) -> Any:
            return {"data": {"job": _row(await jobs.get(id))}}

        @app.post("/jobs")
        async def enqueue(body: dict[str, Any]) -> Any:
            job = (await jobs.enqueue(NewJob(name=body["name"], payload=body["payload"]))).job
            shown = {"id": job.id, "state": job.state.name, "queue": job.queue, "name": job.name}
            return {"data": {"enqueueJob": {"__typename": "Job"} | shown}}

        return app

    async def ask(self, app: str, query: str) -> Mapping[str, Any]:
        """The answer of one application to one query."""
        if app != PLAIN:
            return await call(self._apps[app], "POST", "/graphql", body=self._bodies[query])
        known = self._engine.jobs.known[0].id
        if query == ENQUEUE:
            body = orjson.dumps(self._request(query)["variables"]["input"])
            return await call(self._apps[app], "POST", "/jobs", body=body)
        path, text = ("/jobs", b"first=50") if query == LIST else (f"/jobs/{known}", b"")
        return await call(self._apps[app], "GET", path, query=text)

    async def check(self) -> None:
        """Raises RuntimeError unless the three applications give the same data to every query."""
        for query in QUERIES:
            answers = [orjson.loads((await self.ask(app, query))["body"])["data"] for app in self._apps]
            if any(answer != answers[0] for answer in answers):
                raise RuntimeError(f"The answers to {query!r} differ: {answers!r:.600}")

    def rate(self, app: str, query: str, *, seconds: float) -> Callable[[], Awaitable[float]]:
        """A measurement: requests a second, one after another, for so long."""

        async def measure() -> float:
            for _ in range(3):
                await self.ask(app, query)
            began, count = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < seconds:
                await self.ask(app, query)
                count += 1
            return count / passed

        return measure


def _row(job: Job) -> dict[str, Any]:
    def written(at: datetime | None) -> str | None:
        return None if at is None else f"{at.isoformat(timespec='milliseconds')[:-6]}Z"

    return {
        "id": job.id,
        "name": job.name,
        "queue": job.queue,
        "state": job.state.name,
        "priority": job.priority,
        "attempt": job.attempt,
        "maxAttempts": job.max_attempts,
        "tags": job.tags,
        "createdAt": written(job.created_at),
        "runAt": written(job.run_at),
        "startedAt": written(job.started_at),
        "finishedAt": written(job.finished_at),
    }


async def call(
    app: Any,
    method: str,
    path: str,
    *,
    query: bytes = b"",
    body: bytes = b"",
    accept: bytes = b"application/json",
    key: str | None = None,
) -> dict[str, Any]:
    """One request to an ASGI application; raises RuntimeError for any answer but 200."""
    keys = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8420"),
            (b"content-type", b"application/json"),
            (b"accept", accept),
            (b"content-length", str(len(body)).encode()),
            *keys,
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
        "state": {},
    }
    answer: dict[str, Any] = {"status": 0, "body": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer["status"] = message["status"]
        elif message["type"] == "http.response.body":
            answer["body"] += message.get("body", b"")

    await app(scope, receive, send)
    if answer["status"] != 200:
        raise RuntimeError(f"{method} {path} was answered with {answer['status']}: {answer['body'][:300]!r}")
    return answer
