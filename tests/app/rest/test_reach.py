"""Who does not see a thing does not see it on any route of any dialect or page, nor change it there: every route, with
the ids and names of what is not theirs in every place that takes one.

The places are found by asking the tables: what is in a path, and which parameters of the query, fields of the form and
of the body a route reads. A route that is added later is probed too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count, product
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest
from pymongo import MongoClient
from starlette.datastructures import Headers, QueryParams

import app.dashboard
from app.limits import Refused
from app.rest import DIALECTS
from app.rest.asyncmq import pulse
from app.rest.dialect import Dialect, Given, Route
from switchtower.access import NewApiKey, Scope
from switchtower.audit import AuditFilter
from switchtower.callers import SYSTEM
from switchtower.engine import Engine
from switchtower.errors import SwitchtowerError
from switchtower.jobs import NewJob
from tests.app.rest.conftest import Server, running
from tests.app.rest.streaming import opened
from tests.conformance.situations import quiet
from tests.nightly.counting import count as noted
from tests.schema.theirs import BRAVO, KEPT, SECRET, Theirs, acquire, possessions
from tests.waiting import until

T = TypeVar("T")

FORM = "application/x-www-form-urlencoded"
OURS = "ours"
TEMPLATES = Path(app.dashboard.__file__).parent / "templates"
OFFERED = re.compile(r'name="(?:action|verb)" value="([a-z-]+)"')
ACTIONS = sorted({"promote"}.union(*(OFFERED.findall(page.read_text()) for page in TEMPLATES.rglob("*.html"))))
"""What the buttons of our pages ask for."""
TAKES = {"confirmed": "yes", "schedule": "@yearly", "task": "x", "task_id": "x", "every": "60", "payload": "{}"}
TAKES |= {"as": "same", "state": "failed", "step": "x", "scope": "read", "concurrency": "1"}
"""What a form must say before it does anything."""
MUST = {"q": "x"}
"""What a search must be given."""
CHOOSES = ("action", "verb")
BODY: dict[str, Any] = {"state": "failed", "grace": 0, "name": "x", "data": {}, "payload": {}, "scheduledFor": None}


@dataclass(frozen=True)
class Probe:
    """One request, and the words of ours that stand in it."""

    dialect: Dialect
    route: Route
    path: str
    asked: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None

    @property
    def target(self) -> str:
        return f"/{self.dialect.name}{self.path}{'?' if self.query else ''}{urlencode(self.query)}"

    async def send(self, server: Server, key: str) -> Any:
        headers = {"accept": "text/html" if self.route.page is not None else "application/json"}
        if self.form is not None:
            data = urlencode(self.form).encode()
            return await server.ask(self.route.method, self.target, body=data, key=key, content_type=FORM, **headers)
        body = BODY if self.route.body is not None else None
        return await server.ask(self.route.method, self.target, body=body, key=key, **headers)


class Reading(QueryParams):
    """A query that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("")
        self.names: set[str] = set()

    def getlist(self, key: Any) -> list[str]:
        self.names.add(key)
        return [MUST[key]] if key in MUST else []


class Filling:
    """A form that notes what it is asked for, and has something for it."""

    def __init__(self, action: str) -> None:
        self.names: set[str] = set()
        self._action = action

    def text(self, name: str) -> str:
        self.names.add(name)
        return self._action if name in CHOOSES else TAKES.get(name, "")

    def raw(self, name: str) -> str | None:
        return self.text(name) or None

    def texts(self, name: str) -> list[str]:
        return [self.text(name)]


def read_by(route: Route, action: str) -> tuple[set[str], set[str]]:
    """The parameters of the query and the fields of the form that a route reads when it is asked for this action."""
    query, form = Reading(), Filling(action)
    path = dict.fromkeys(route.parameters, "x")
    given: Any = Given(path, query, Headers(), BODY, form)  # type: ignore[arg-type]
    with suppress(SwitchtowerError, Refused):
        route.parse(given)
    return query.names, form.names


def paths(route: Route, theirs: Theirs) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The route's path with each of their ids and names in it, and which those are."""
    values = {
        "name": ("default", f"{SECRET}-queue", OURS),
        "action": tuple(ACTIONS),
    }
    for chosen in product(*(values.get(parameter, theirs.ids) for parameter in route.parameters)):
        given = dict(zip(route.parameters, chosen, strict=True))
        yield route.path.format(**given), chosen


def probes(theirs: Theirs, *, every: bool) -> Iterator[Probe]:
    """Every route as it is, and with their ids and names in each place that takes one: with each of them, or, where not
    `every` is wanted, with two in turn."""
    words = (*theirs.ids, *theirs.names)
    turns = count()

    def some(values: Sequence[T]) -> Sequence[T]:
        first = next(turns)
        return values if every else [values[(first + step * 7) % len(values)] for step in range(min(2, len(values)))]

    for dialect in DIALECTS:
        for route in (*dialect.routes, *dialect.pages):
            if route.public or route.events is not None:
                continue
            for number, (path, in_path) in enumerate(some(list(paths(route, theirs)))):
                plain = Probe(dialect, route, path, in_path)
                if route.form is None:
                    names = read_by(route, "")[0]
                    plain = replace(plain, query={name: MUST[name] for name in names & {*MUST}})
                    yield plain
                    for name in names if number == 0 else ():
                        for word in some(words):
                            yield replace(plain, query={**plain.query, name: word}, asked=(*in_path, word))
                    continue
                actions = ACTIONS if read_by(route, "")[1].intersection(CHOOSES) else ("",)
                for action in actions:
                    fields = read_by(route, action)[1]
                    form = {name: action if name in CHOOSES else TAKES[name] for name in fields & {*TAKES, *CHOOSES}}
                    yield replace(plain, form=form)
                    for name in fields - {*TAKES, *CHOOSES} if number == 0 else ():
                        for word in some(words[:-1]):
                            yield replace(plain, form=form | {name: word}, asked=(*in_path, word))


def leaks(answer: Any, asked: Iterable[str], words: Iterable[str]) -> list[str]:
    """Which of these words are in an answer, apart from those of the question."""
    text = answer.body.decode() + repr(sorted(answer.headers.items()))
    for word in sorted(asked, key=len, reverse=True):
        text = text.replace(word, "")
    return [word for word in words if word in text]


@dataclass(frozen=True)
class Place:
    """A server, the key of somebody on it, and what is there that is not theirs to see."""

    server: Server
    key: str
    theirs: Theirs


async def settled(engine: Engine) -> None:
    """When what they have is counted, and what they did is in the audit trail."""

    async def told() -> bool:
        rows = (await engine.audit.page(AuditFilter(), caller=BRAVO, first=10)).items
        queues = {queue.name: queue for queue in await engine.queues.list(caller=BRAVO)}
        queue = queues.get(f"{SECRET}-queue")
        return bool(rows) and queue is not None and sum(queue.counts.values()) == 1

    await until(told)


@pytest.fixture
async def theirs(mongodb_url: str, database_name: str) -> Theirs:
    """What somebody else has, counted and with an audit trail."""
    async with running(mongodb_url, database_name) as server:
        found = await acquire(server.engine)
        await server.engine.jobs.enqueue(NewJob(name="mine", queue=OURS), caller=SYSTEM)
        await settled(server.engine)
    return found


async def key(server: Server, **limits: Any) -> str:
    return (await server.engine.keys.create(NewApiKey(name="k", scopes=[Scope.ADMIN], **limits), caller=SYSTEM)).secret


async def told(server: Server) -> None:
    """The server has seen something happen to a job of theirs."""
    hub = server.engine.hub()
    await hub.start()
    await server.engine.jobs.enqueue(NewJob(name=f"{SECRET}-seen", queue=f"{SECRET}-queue"), caller=BRAVO)
    await until(lambda: hub.recent(lambda event: event.org == "bravo", limit=1))
    await quiet(server.engine)


STRANGERS: dict[str, dict[str, Any]] = {"tenant": {"org": "acme"}, "key": {"queues": [OURS]}, "server": {}}


@pytest.fixture(params=STRANGERS)
async def stranger(
    request: pytest.FixtureRequest, mongodb_url: str, database_name: str, theirs: Theirs
) -> AsyncIterator[Place]:
    """An administrator of another tenant; one whose key shows other queues only; one of a server that shows others."""
    queues = OURS if request.param == "server" else ""
    async with running(mongodb_url, database_name, maintenance=False, queues=queues) as server:
        await told(server)
        yield Place(server, await key(server, **STRANGERS[request.param]), theirs)


@pytest.mark.slow
async def test_nothing_of_theirs_is_shown_or_changed(
    stranger: Place, mongo: MongoClient[dict[str, Any]], database_name: str, scale: str
) -> None:
    before = possessions(mongo, database_name)
    assert all(before[name] for name in KEPT)
    theirs, found, asked = stranger.theirs, [], 0
    # Looking first: what is done afterwards is written down with the words that it was asked with.
    for probe in sorted(probes(theirs, every=scale == "full"), key=lambda probe: probe.route.writes):
        answer = await probe.send(stranger.server, stranger.key)
        asked += 1
        assert answer.status < 500, (probe, answer.body)
        if probe.route.writes:
            leak = leaks(answer, (*theirs.ids, *theirs.names[:-1]), [SECRET])
        else:
            leak = leaks(answer, probe.asked, (*theirs.ids, SECRET))
        if leak:
            found.append((probe.route.method, probe.target, probe.form, leak))
    assert not found, found[:20]
    assert possessions(mongo, database_name) == before
    assert asked > (1_000 if scale == "full" else 250), asked
    noted("G14", "probes", asked)


async def counted(server: Server, key: str) -> dict[str, Any]:
    """What every list and count says that needs no name or id."""
    found = {}
    for dialect in DIALECTS:
        for route in dialect.routes:
            if not (route.writes or route.parameters or route.public or route.events):
                target = f"/{dialect.name}{route.path}{'?q=mine' if route.path == '/api/search' else ''}"
                answer = await server.ask("GET", target, key=key, accept="application/json")
                found[target] = answer.json if route.media == "application/json" else answer.body.decode()
    return found


@pytest.mark.parametrize("kind", STRANGERS)
async def test_what_they_have_is_in_no_count(mongodb_url: str, database_name: str, kind: str) -> None:
    async with running(mongodb_url, database_name, queues=OURS if kind == "server" else "") as server:
        ours = await key(server, **STRANGERS[kind])
        mine = await server.enqueue(key=ours, queue=OURS)

        async def noticed() -> bool:
            # What was counted, and what the server remembers of what happened, each come in their own time.
            seen = server.engine.hub().recent(lambda event: event.id == mine, limit=1)
            return bool(seen) and (await server.ask("GET", "/v1/jobs/counts", key=ours)).json["pending"] == 1

        await until(noticed)
        before = await counted(server, ours)
        assert len(before) >= 20 and mine in str(before)
        await acquire(server.engine)
        await settled(server.engine)
        assert await counted(server, ours) == before


SHOWS_NOBODYS = (
    "GET /queues/{name}/repeatables/new",
    "GET /crons/new",
    "GET /enqueue",
    "GET /metrics/history",
    "GET /api/metrics/status",
)
"""Pages that show the same whosever things there are."""


def _gentle_first(route: Route) -> tuple[bool, bool, int]:
    """What removes much comes last, so that there is something for all others."""
    return (route.writes, route.method == "DELETE", -len(route.path))


async def test_who_sees_it_is_shown_it_by_every_route(
    mongodb_url: str, database_name: str, theirs: Theirs, mongo: MongoClient[dict[str, Any]]
) -> None:
    """The probes would see what there is to be seen, and do what there is to be done."""
    before = possessions(mongo, database_name)
    reached: dict[str, bool] = defaultdict(bool)
    async with running(mongodb_url, database_name, maintenance=False) as server:
        await told(server)
        secret, other = await key(server), await key(server, org="acme")
        for probe in sorted(probes(theirs, every=True), key=lambda probe: _gentle_first(probe.route)):
            name = f"{probe.route.method} {probe.route.path}"
            if name in SHOWS_NOBODYS or reached[name]:
                continue
            answer = await probe.send(server, secret)
            if probe.route.writes:
                reached[name] = answer.status < 400
            else:
                reached[name] = answer.body != (await probe.send(server, other)).body
    unreached = [name for name, yes in reached.items() if not yes]
    assert not [name for name in unreached if name.startswith("GET ")], unreached
    # What one route ended is not there for some that come later.
    assert len(unreached) * 5 <= len(reached), unreached
    after = possessions(mongo, database_name)
    assert {name for name in after if after[name] != before[name]} >= {"jobs", "dead_letters", "crons", "keys"}


async def test_no_stream_tells_of_theirs(stranger: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(pulse, "FRESH_SECONDS", 0.0)
    server, theirs = stranger.server, stranger.theirs
    routes = [(dialect, route) for dialect in DIALECTS for route in dialect.routes if route.events is not None]
    targets = {f"/{dialect.name}{path}" for dialect, route in routes for path, _ in paths(route, theirs)}
    assert len(targets) == 5
    async with AsyncExitStack() as stack:
        readers = {
            target: await stack.enter_async_context(opened(server.app, target, key=stranger.key)) for target in targets
        }
        for _ in range(3):
            job = (await server.engine.jobs.enqueue(NewJob(name=f"{SECRET}-later"), caller=BRAVO)).job
            await server.engine.jobs.cancel(job.id, caller=BRAVO)
            await server.engine.queues.pause(f"{SECRET}-queue", caller=BRAVO)
        mine = await server.enqueue(key=stranger.key, queue=OURS)
        for path in ("/asyncmq/events", "/conveyor/api/events", f"/conveyor/api/queues/{OURS}/events"):
            await until(lambda path=path: mine.encode() in readers[path].text)
        said = {target: reader.text.decode().replace(f"{SECRET}-queue", "") for target, reader in readers.items()}
    found = [(target, word) for target, text in said.items() for word in (*theirs.ids, SECRET, job.id) if word in text]
    assert found == []
