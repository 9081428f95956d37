"""Requests that are generated from each dialect's own description: none is a fault, every answer has its shape."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from app.rest import DIALECTS
from app.rest.dialect import Dialect, Route
from app.rest.openapi import document
from switchtower.crons import NewCron, Schedule
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.states import JobState
from tests.app.product import product
from tests.app.rest.transcripts import check_shape
from tests.conformance.situations import CALLER, job_in
from tests.conformance.test_workflows import started

REQUESTS = 2_000
"""For each dialect, of all its routes together."""
KNOWN = "one of those that are there"
ODD = ("", ".", "..", "%00", "\0", "$ne", "job_", "job_" + "0" * 26, "x" * 10_000, "ǅ", "a/b", "counts", "{}", "null")
TEXTS = (*[KNOWN] * len(ODD), *ODD)


@dataclass(frozen=True)
class Stocked:
    """A server with something of everything, and its ids by the parameters of paths that take them."""

    url: str
    ids: dict[str, list[str]]


async def stock(url: str, database: str) -> dict[str, list[str]]:
    engine = await Engine.connect(url, database=database)
    try:
        await engine.prepare()
        jobs = [(await job_in(engine, state)).id for state in JobState for _ in range(3)]
        run = await started(engine)
        entries = await engine.dead_letters.for_jobs(jobs, caller=CALLER)
        crons = [NewCron(name=f"c{n}", schedule=Schedule("@daily"), job=NewJob(name="x")) for n in range(3)]
        made = [(await engine.crons.create(new, caller=CALLER)).id for new in crons]
        return {
            "jobId": jobs,
            "runId": [run.id.replace("job_", "run_")],
            "entryId": [entry.id for entry in entries.values()],
            "cronId": made,
        }
    finally:
        await engine.close()


@pytest.fixture
def stocked(mongodb_url: str, database_name: str) -> Iterator[Stocked]:
    ids = asyncio.run(stock(mongodb_url, database_name))
    with product(mongodb_url, database_name) as served:
        yield Stocked(served.url, ids)


def generate(cases: st.SearchStrategy[Any], ask: Callable[[Any, str | None], None], *, count: int) -> None:
    """Asks so many times, with an id or a text of ours in the path about half of the time."""

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=cases, known=st.one_of(st.none(), st.sampled_from(TEXTS)))
    def run(case: Any, known: str | None) -> None:
        ask(case, known)

    run()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_generated_requests(dialect: Dialect, stocked: Stocked, scale: str) -> None:
    schema = schemathesis.openapi.from_dict(document(dialect, version="1"))
    operations = {(each.ok().method.upper(), each.ok().path): each.ok() for each in schema.get_all_operations()}
    ids = {parameter: itertools.cycle(known) for parameter, known in stocked.ids.items()}
    statuses: dict[str, Counter[int]] = defaultdict(Counter)

    def asking(route: Route, session: requests.Session) -> Callable[[Any, str | None], None]:
        def ask(case: Any, known: str | None) -> None:
            if known is not None:
                case.path_parameters = {
                    parameter: next(ids[parameter]) if known == KNOWN else known for parameter in route.parameters
                }
            answer = case.call(base_url=stocked.url, session=session, timeout=30)
            statuses[f"{route.method} {route.path}"][answer.status_code] += 1
            assert answer.status_code < 500, (case.as_curl_command(), answer.content)
            # With a text such as `counts` in its path it is another route's.
            if answer.status_code >= 400 or known in (None, KNOWN) or not route.parameters:
                parsed = answer.json() if answer.content else None
                check_shape(dialect, route, answer.status_code, answer.content, parsed)

        return ask

    with requests.Session() as session:
        for route in dialect.routes:
            operation = operations[route.method, route.path]
            modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])
            count = REQUESTS * (20 if scale == "full" else 1) // len(dialect.routes)
            generate(cases, asking(route, session), count=count)
    for name, found in statuses.items():
        assert any(status < 300 for status in found), f"{name} never did anything: {found}"
    assert sum(sum(found.values()) for found in statuses.values()) >= REQUESTS // 2, "generation gave up early"
