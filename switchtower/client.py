"""How does a Python program use a Switchtower server?

`Client` speaks the GraphQL API: HTTP for what is asked once, a WebSocket for what is watched. A program that may reach
the database itself can use `switchtower.App` instead; both give the same jobs.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Self, Unpack
from urllib.parse import urlsplit, urlunsplit

import httpx2
import orjson

from switchtower.answers import data_of, status_error, success
from switchtower.errors import ConfigurationError, InvalidInput, NotFound, StoreUnavailable, SwitchtowerError
from switchtower.subscription import Connection, Subscription, is_loopback, unreachable
from switchtower.wire import EnqueueOptions, enqueue_input

__all__ = ["DEFAULT_URL", "Client", "EnqueueOptions", "JobHandle"]

DEFAULT_URL = "http://127.0.0.1:8420"

# What one mutation carries, and how many are under way at once; what is enqueued meanwhile goes with the next one.
BATCH_JOBS = 500
BATCH_BYTES = 4 * 2**20
BATCHES_UNDER_WAY = 4
ENQUEUE_TRIES = 4
SUBSCRIPTIONS_A_CONNECTION = 40
RECONNECT_CAP_SECONDS = 5.0

JOB_FIELDS = """id customId name queue state priority payload result attempt maxAttempts progress tags group uniqueKey
  runAt createdAt startedAt finishedAt cancelRequestedAt error { kind type message stack }"""

ENQUEUE = """mutation Enqueue($inputs: [EnqueueJobInput!]!) { enqueueJobs(inputs: $inputs) { items {
  __typename ... on Job { id state queue name deduplication } ... on Error { code message }
  ... on ValidationError { field } } } }"""
READ_JOB = f"query Job($id: ID!) {{ job(id: $id) {{ {JOB_FIELDS} }} }}"
WATCH_JOB = f"subscription Watch($id: ID!) {{ job(id: $id) {{ {JOB_FIELDS} }} }}"
EVENTS = """subscription Events($filter: JobEventFilter, $after: String) { jobEvents(filter: $filter, after: $after) {
  __typename
  ... on JobTransition { cursor at type jobId jobName queue from to attempt actor group tags }
  ... on JobProgress { cursor at jobId jobName queue progress }
  ... on JobLogged { cursor at jobId jobName queue lines { level line } }
  ... on StreamGap { cursor at reason } } }"""

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class JobHandle:
    """The answer to an enqueue. `deduplication` says why it is an earlier job, where it is one."""

    id: str
    name: str
    queue: str
    state: str
    deduplication: str | None = None
    _client: Client = field(repr=False, compare=False, kw_only=True)

    async def read(self) -> dict[str, Any] | None:
        """The job as it is now; see `Client.job`."""
        return await self._client.job(self.id)

    async def wait(self, timeout_seconds: float | None = None) -> dict[str, Any]:
        """The job once it is final; see `Client.wait`."""
        return await self._client.wait(self.id, timeout_seconds)

    def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """The job at every change; see `Client.watch`."""
        return self._client.watch(self.id)


@dataclass(slots=True)
class _Pending:
    body: bytes
    repeatable: bool
    answer: asyncio.Future[JobHandle]


class Client:
    """A connection to one server, for one event loop. Use it as an async context manager, or call `close`.

    `url` is the server's address, `$SWITCHTOWER_URL` or http://127.0.0.1:8420 when left out; `api_key` is
    `$SWITCHTOWER_API_KEY`. One request may take `timeout_seconds`; a lost subscription is resumed for
    `reconnect_seconds` before it fails.

    An address that is none raises InvalidInput. Every method raises StoreUnavailable when the server (or its database)
    does not answer, Unauthorized or Forbidden when it refuses the key, and ConfigurationError when what answers is no
    Switchtower server.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        reconnect_seconds: float = 60.0,
    ) -> None:
        self.url = _base(url or os.environ.get("SWITCHTOWER_URL") or DEFAULT_URL)
        key = api_key or os.environ.get("SWITCHTOWER_API_KEY")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_seconds = timeout_seconds
        self._reconnect_seconds = reconnect_seconds
        self._http = httpx2.AsyncClient(
            headers={
                "content-type": "application/json",
                "accept": "application/graphql-response+json, application/json;q=0.9",
                **self._headers,
            },
            timeout=timeout_seconds,
            trust_env=not is_loopback(self.url),
        )
        self._pending: list[_Pending] = []
        self._flushing: set[asyncio.Task[None]] = set()
        self._connections: list[Connection] = []
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is still to be enqueued, then end every connection."""
        while self._pending or self._flushing:
            self._flush()
            await asyncio.wait(self._flushing)
            # Waiting for what is done already does not let its callbacks run.
            self._flushing = {task for task in self._flushing if not task.done()}
            # Finished flushes take themselves out in a callback; since Python 3.12 awaiting them need not let it run.
            await asyncio.sleep(0)
        for connection in self._connections:
            await connection.close()
        await self._http.aclose()

    async def execute(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run one query or mutation; returns `data`.

        Raises InvalidInput when the server refuses the document or its variables (nothing ran then), and the matching
        SwitchtowerError for any other top-level error.
        """
        try:
            body = orjson.dumps({"query": query, "variables": variables or {}}, option=orjson.OPT_UTC_Z)
        except TypeError as error:
            raise InvalidInput("variables", f"is not JSON: {error}.") from None
        return await self._post(body)

    async def mutate(self, mutation: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a mutation of one field; returns its success member.

        The selection must hold `... on Error { code message }`. Raises the error that the member stands for.
        """
        (member,) = (await self.execute(mutation, variables)).values()
        return success(member)

    async def enqueue(self, name: str, payload: Any = None, **options: Unpack[EnqueueOptions]) -> JobHandle:
        """Store a job; returns once the server's database has it.

        Calls that are made in one turn of the event loop travel in one mutation. When the answer is lost, the call is
        repeated if it carries an `idempotency_key` or a `job_id`; without one it raises StoreUnavailable and the job
        may or may not exist.

        Raises InvalidInput, NotFound (a parent or dependency), InvalidTransition (of one that is final), Conflict.
        """
        loop = asyncio.get_running_loop()
        pending = _pending({**options, "name": name, "payload": payload}, loop)
        self._pending.append(pending)
        if len(self._pending) == 1:
            loop.call_soon(self._flush)
        return await pending.answer

    async def enqueue_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[JobHandle | SwitchtowerError]:
        """Store many jobs; each mapping holds `name`, `payload` and the options of `enqueue`.

        Returns one answer per job, in order: its handle, or the error for which it alone was not stored.
        """
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[JobHandle]] = []
        for job in jobs:
            try:
                pending = _pending(job, loop)
            except InvalidInput as error:
                refused: asyncio.Future[JobHandle] = loop.create_future()
                refused.set_exception(error)
                answers.append(refused)
                continue
            answers.append(pending.answer)
            self._pending.append(pending)
        self._flush()
        results: list[JobHandle | SwitchtowerError] = []
        for result in await asyncio.gather(*answers, return_exceptions=True):
            if not isinstance(result, JobHandle | SwitchtowerError):
                raise result
            results.append(result)
        return results

    async def job(self, id: str) -> dict[str, Any] | None:
        """The job as it is now, with the field names of the schema; None where there is none."""
        found: dict[str, Any] | None = (await self.execute(READ_JOB, {"id": id}))["job"]
        return found

    async def wait(self, id: str, timeout_seconds: float | None = None) -> dict[str, Any]:
        """The job once it is completed, failed or cancelled.

        Raises NotFound, also where it was removed at its end, and TimeoutError after `timeout_seconds`.
        """
        job: dict[str, Any] | None = None
        async with asyncio.timeout(timeout_seconds), aclosing(self._watch(id, shared=True)) as changes:
            async for job in changes:
                if job["state"] in FINAL:
                    return job
        raise NotFound("Job", id) if job is None else StoreUnavailable(f"The server stopped reporting on job {id}.")

    def watch(self, id: str) -> AsyncGenerator[dict[str, Any], None]:
        """The job now and at every change, until it is final. Survives a restart of the server. Raises NotFound."""
        return self._watch(id, shared=False)

    async def events(
        self, filter: Mapping[str, Any] | None = None, after: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events of jobs as they happen: items of the schema's `JobStreamItem`, told apart by `__typename`.

        `filter` is a `JobEventFilter`. `after` resumes behind an earlier item's `cursor`; a lost connection is resumed
        in the same way. A `StreamGap` says that something was missed.
        """
        cursor = after
        variables: Callable[[], dict[str, Any]] = lambda: {"filter": filter, "after": cursor}  # noqa: E731
        async with aclosing(self.subscribe(EVENTS, variables)) as stream:
            async for data in stream:
                if data is not None:
                    item: dict[str, Any] = data["jobEvents"]
                    cursor = item["cursor"]
                    yield item
                elif cursor is None:
                    reason = "The connection was lost before the first event and could not be resumed from a cursor."
                    yield {"__typename": "StreamGap", "cursor": None, "at": None, "reason": reason}

    async def subscribe(
        self,
        query: str,
        variables: Callable[[], Mapping[str, Any]] | Mapping[str, Any] | None = None,
        *,
        shared: bool = False,
    ) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Run any subscription; yields `data` of each result.

        After a lost connection it subscribes again and yields None once: events in between may be missed unless
        `variables`, a function that is asked each time, passes the last cursor. `shared` puts it on a connection with
        others, for subscriptions that are read without pause.
        """
        lost_at: float | None = None
        failures = 0
        while True:
            subscription: Subscription | None = None
            try:
                connection = await self._connection(shared)
                subscription = connection.subscribe(query, variables() if callable(variables) else variables or {})
                async for payload in subscription:
                    data = data_of(payload)
                    if lost_at is not None:
                        lost_at, failures = None, 0
                        yield None
                    yield data
                return
            except StoreUnavailable as error:
                now = time.monotonic()
                if lost_at is None and subscription is None:
                    raise
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > self._reconnect_seconds:
                    raise unreachable(self.url, error) from error
            finally:
                if subscription is not None:
                    await subscription.close()
                    if not shared:
                        await connection.close()
            failures += 1
            await asyncio.sleep(min(RECONNECT_CAP_SECONDS, 0.05 * 2 ** min(failures, 10)) * random.uniform(0.5, 1))

    async def _watch(self, id: str, *, shared: bool) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self.subscribe(WATCH_JOB, {"id": id}, shared=shared)) as stream:
            async for data in stream:
                if data is None:
                    continue
                if data["job"] is None:
                    raise NotFound("Job", id)
                yield data["job"]

    async def _connection(self, shared: bool) -> Connection:
        url = f"ws{self.url.removeprefix('http')}/graphql"
        if not shared:
            return await Connection.open(url, self._headers, timeout_seconds=self._timeout_seconds)
        async with self._opening:
            self._connections = [c for c in self._connections if c.alive]
            for connection in self._connections:
                if connection.load < SUBSCRIPTIONS_A_CONNECTION:
                    return connection
            opened = await Connection.open(url, self._headers, timeout_seconds=self._timeout_seconds)
            self._connections.append(opened)
            return opened

    def _flush(self) -> None:
        while self._pending and len(self._flushing) < BATCHES_UNDER_WAY:
            batch: list[_Pending] = []
            size = 0
            for pending in self._pending[:BATCH_JOBS]:
                size += len(pending.body)
                if batch and size > BATCH_BYTES:
                    break
                batch.append(pending)
            del self._pending[: len(batch)]
            task = asyncio.create_task(self._enqueue(batch))
            self._flushing.add(task)
            task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._flushing.discard(task)
        self._flush()

    async def _enqueue(self, batch: list[_Pending]) -> None:
        for attempt in range(1, ENQUEUE_TRIES + 1):
            batch = [pending for pending in batch if not pending.answer.done()]
            if not batch:
                return
            inputs = [orjson.Fragment(pending.body) for pending in batch]
            try:
                data = await self._post(orjson.dumps({"query": ENQUEUE, "variables": {"inputs": inputs}}))
            except StoreUnavailable as error:
                for pending in batch:
                    if not pending.repeatable or attempt == ENQUEUE_TRIES:
                        _fail(pending, error)
                if all(pending.answer.done() for pending in batch):
                    return
                await asyncio.sleep(0.1 * 2**attempt * random.uniform(0.5, 1))
            except InvalidInput as error:
                # The document was refused and nothing ran. One malformed job must not fail those that share its turn.
                if len(batch) == 1:
                    _fail(batch[0], error)
                    return
                half = len(batch) // 2
                await self._enqueue(batch[:half])
                await self._enqueue(batch[half:])
            except BaseException as error:
                for pending in batch:
                    _fail(pending, error if isinstance(error, SwitchtowerError) else unreachable(self.url, error))
                if not isinstance(error, SwitchtowerError):
                    raise
            else:
                for pending, member in zip(batch, data["enqueueJobs"]["items"], strict=True):
                    self._answer(pending, member)

    def _answer(self, pending: _Pending, member: dict[str, Any]) -> None:
        try:
            job = success(member)
        except SwitchtowerError as error:
            _fail(pending, error)
            return
        if not pending.answer.done():
            handle = JobHandle(job["id"], job["name"], job["queue"], job["state"], job["deduplication"], _client=self)
            pending.answer.set_result(handle)

    async def _post(self, body: bytes) -> dict[str, Any]:
        url = f"{self.url}/graphql"
        try:
            response = await self._http.post(url, content=body)
        except httpx2.ConnectError as error:
            raise unreachable(self.url, error) from error
        except httpx2.TransportError as error:
            why = str(error) or type(error).__name__
            raise StoreUnavailable(
                f"{self.url} did not answer ({why}). A write may or may not have happened; "
                "repeat it with the same idempotency key."
            ) from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(f"{self.url!r} is no address of a server ({error}).") from error
        try:
            payload = orjson.loads(response.content)
        except ValueError:
            payload = None
        if isinstance(payload, dict) and ("data" in payload or "errors" in payload):
            return data_of(payload)
        raise status_error(url, response.status_code, response.text, response.headers.get("retry-after", ""))


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput("url", f"{url!r} is no address of a server; give one like {DEFAULT_URL}.")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/graphql"), "", ""))


def _pending(job: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> _Pending:
    repeatable = job.get("idempotency_key") is not None or job.get("job_id") is not None
    return _Pending(enqueue_input(job), repeatable, loop.create_future())


def _fail(pending: _Pending, error: SwitchtowerError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
