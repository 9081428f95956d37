"""Requests that are generated from each dialect's own description: none is a fault, every answer has its shape."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests import Request
from schemathesis import GenerationMode
from starlette.types import Message

from app.rest import DIALECTS
from app.rest.dialect import Dialect, Route
from app.rest.openapi import document
from switchtower.access import NewApiKey, Scope
from switchtower.crons import NewCron, Schedule
from switchtower.jobs import NewJob
from switchtower.states import JobState
from switchtower.workers import WorkerInfo
from tests.app.direct import Answer
from tests.app.rest.conftest import Server, running
from tests.app.rest.transcripts import check_shape
from tests.conformance.situations import CALLER, job_in
from tests.conformance.test_workflows import started
from tests.nightly.counting import count as noted

ACCEPTED = ("application/json", "text/html")
REQUESTS = {"dispatch": 300, "dispatched": 100, "asyncmq": 300, "conveyor": 400}
"""Of all routes of a dialect together; about 7 ms each, of which more than half are spent on making it."""
FULL = 500
ANSWER_SECONDS = 60
KNOWN = "one of those that are there"
LOCKED = ("POST /login",)
"""What nobody gets into by chance."""
ODD = ("", ".", "..", "%00", "\0", "$ne", "job_", "job_" + "0" * 26, "x" * 10_000, "ǅ", "a/b", "counts", "{}", "null")
PAIRED = frozenset({"name", "id", "job_id"})
TEXTS = (*[KNOWN] * len(ODD), *ODD)


@dataclass
class Stocked:
    """A server with something of everything, its ids by the parameters of paths that take them, and the loop it is in.

    It is asked without a network, which takes as long as it takes to answer."""

    server: Server
    ids: dict[str, list[str]]
    key: str
    loop: asyncio.AbstractEventLoop

    def ask(self, case: Any, *, base: str, headers: dict[str, str]) -> Answer:
        """The answer to a request; of a stream, its head."""
        asked = Request(**case.as_transport_kwargs(base_url=f"http://localhost{base}", headers=headers)).prepare()
        body = asked.body or b""
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        given = {name.lower(): value for name, value in asked.headers.items()} | {"host": "localhost"}
        return self.loop.run_until_complete(head(self.server, str(asked.method), asked.path_url, given, data))


async def head(server: Server, method: str, target: str, headers: dict[str, Any], body: bytes) -> Answer:
    """Asks, and leaves when the answer is there, or its first part where more is to come."""
    path, _, query = target.partition("?")
    sent: list[Message] = []
    left = asyncio.Event()
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(encoded(name), encoded(value)) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8420),
    }
    async with asyncio.timeout(ANSWER_SECONDS):
        await server.app(scope, receive, send)
    found = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


def encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


@asynccontextmanager
async def stocked_server(url: str, database: str) -> AsyncIterator[tuple[Server, dict[str, list[str]], str]]:
    async with running(url, database) as server:
        engine = server.engine
        made_in = [await job_in(engine, state) for state in JobState for _ in range(3)]
        jobs = [s.id for s in made_in]
        for s in made_in:
            # Else maintenance would take back what an unknown worker holds.
            await engine.workers.register(WorkerInfo(id=s.worker or "w", queues=[s.queue], lease_seconds=3_600))
        run = await started(engine)
        entries = await engine.dead_letters.for_jobs(jobs, caller=CALLER)
        crons = [NewCron(name=f"c{n}", schedule=Schedule("@daily"), job=NewJob(name="x")) for n in range(3)]
        made = [(await engine.crons.create(new, caller=CALLER)).id for new in crons]
        new = NewApiKey(name="k", scopes=[Scope.OPERATE], dev=True)
        key = (await engine.keys.create(new, caller=CALLER)).secret
        ids = {
            "jobId": jobs,
            "job_id": jobs,
            "action": ["retry", "remove", "cancel", "delete"],
            "runId": [run.id.replace("job_", "run_")],
            "entryId": [entry.id for entry in entries.values()],
            "cronId": made,
            "id": jobs,
            "name": [s.queue for s in made_in],
        }
        yield server, ids, key


@pytest.fixture
def stocked(mongodb_url: str, database_name: str) -> Iterator[Stocked]:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        ready: asyncio.Future[Stocked] = loop.create_future()
        over = asyncio.Event()

        async def serve() -> None:
            async with stocked_server(mongodb_url, database_name) as (server, ids, key):
                ready.set_result(Stocked(server, ids, key, loop))
                await over.wait()

        serving = loop.create_task(serve())
        loop.run_until_complete(asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED))
        if serving.done():
            serving.result()
        yield ready.result()
        over.set()
        loop.run_until_complete(serving)


def generate(
    route: Route, cases: st.SearchStrategy[Any], ask: Callable[[Any, str | None], None], *, count: int
) -> None:
    """Asks so many times; where the path has parameters, every case once as it is and once with an id or a text of ours
    in them, since to make a case takes longer than to answer it."""

    @settings(
        max_examples=count // 2 if route.parameters else count,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=cases, known=st.sampled_from(TEXTS))
    def run(case: Any, known: str) -> None:
        ask(case, None)
        if route.parameters:
            ask(case, known)

    run()


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_generated_requests(dialect: Dialect, stocked: Stocked, scale: str) -> None:
    schema = schemathesis.openapi.from_dict(document(dialect, version="1"))
    operations = {(each.ok().method.upper(), each.ok().path): each.ok() for each in schema.get_all_operations()}
    ids = {parameter: itertools.cycle(known) for parameter, known in stocked.ids.items()}
    places = itertools.count()
    statuses: dict[str, Counter[int]] = defaultdict(Counter)
    # Programs and, where it is for them too, browsers.
    accepted = itertools.cycle(ACCEPTED if dialect.error_page is not None else ACCEPTED[:1])
    authorization = {"Authorization": f"Bearer {stocked.key}"} if dialect.requires_key else {}

    def asked() -> int:
        return sum(found.total() for found in statuses.values())

    def known_value(parameter: str, place: int) -> str:
        # A job and its queue stand in the same place.
        return (
            stocked.ids[parameter][place % len(stocked.ids[parameter])] if parameter in PAIRED else next(ids[parameter])
        )

    def asking(route: Route) -> Callable[[Any, str | None], None]:
        def ask(case: Any, known: str | None) -> None:
            if known is not None:
                place = next(places)
                case.path_parameters = {
                    parameter: known_value(parameter, place) if known == KNOWN else known
                    for parameter in route.parameters
                }
            headers = {"Accept": next(accepted), **authorization}
            # Under its prefix, where `..` in a path does not lead to another dialect.
            answer = stocked.ask(case, base=f"/{dialect.name}", headers=headers)
            statuses[f"{route.method} {route.path}"][answer.status] += 1
            assert answer.status < 500, (case.as_curl_command(), answer.body)
            # With a text such as `counts` in its path it is another route's.
            own = known in (None, KNOWN) or not route.parameters
            media = answer.headers.get("content-type", "")
            if 300 <= answer.status < 400:
                assert answer.headers["location"][0].startswith("/") and not answer.body
            elif route.events is not None and answer.status < 400:
                assert media.startswith("text/event-stream") or not own
            elif media.startswith("text/html"):
                assert (
                    headers["Accept"] == "text/html" or route.render is None or route.page_when is not None or not own
                )
                assert answer.body.startswith(b"<!doctype html>")
            elif route.media != "application/json" and answer.status < 400:
                assert media.startswith(route.media) or not own
            elif answer.status >= 400 or own:
                check_shape(dialect, route, answer.status, answer.body, answer.json if answer.body else None)

        return ask

    total = REQUESTS[dialect.name] * (FULL if scale == "full" else 1)
    left = total
    # What removes much at once comes last, so that there is something for all others.
    routes = sorted(dialect.routes, key=lambda route: (route.writes, route.method == "DELETE", -len(route.path)))
    for place, route in enumerate(routes):
        # A job and its queue go together.
        ids |= {name: itertools.cycle(stocked.ids[name]) for name in ("name", "id", "job_id")}
        operation = operations[route.method, route.path]
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])
        # Of a route without parameters there are few different requests; the others have what those leave.
        generate(route, cases, asking(route), count=left // (len(routes) - place))
        left = total - asked()
    idle = {name: found for name, found in statuses.items() if name not in LOCKED and not any(s < 400 for s in found)}
    # A few want a job of one state and a body that suits it, which chance does not give in so few requests.
    assert len(idle) * (8 if scale == "full" else 1.5) <= len(statuses), f"these never did anything: {idle}"
    assert asked() >= total * 0.95, "generation gave up early"
    noted("G8", "requests", asked())
