"""A workflow run in a real browser: its steps are a graph that grows as it runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import httpx2
import pytest
from playwright.async_api import Browser, Locator, expect

from switchtower.engine import Engine
from switchtower.ids import run_id
from switchtower.jobs import NewJob
from switchtower.workers import OutcomeKind
from switchtower.workflows import Step, StepKind, StepStatus
from tests.app.product import product
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.working import run
from tests.conformance.situations import CALLER, ERROR, HOUR_MS
from tests.conformance.test_workflows import started

pytestmark = [pytest.mark.slow]


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    """A server that takes nothing back from a worker that never registered."""
    with product(mongodb_url, database_name, maintenance=False) as server:
        yield server


@pytest.fixture
async def engine(mongodb_url: str, database_name: str, served: Served) -> AsyncIterator[Engine]:
    connected = await Engine.connect(mongodb_url, database=database_name)
    yield connected
    await connected.close()


async def _place(node: Locator) -> tuple[float, float]:
    found = re.search(r"translate\(([\d.]+) ([\d.]+)\)", await node.get_attribute("transform") or "")
    assert found is not None
    return float(found[1]), float(found[2])


async def test_a_run_is_followed_to_its_end(
    browser: Browser, served: Served, http: httpx2.Client, engine: Engine
) -> None:
    working = await started(engine)
    id, began = run_id(working.id), engine.clock.now()

    def step(name: str, first: int, last: int | None, kind: StepKind = StepKind.STEP, **fields: object) -> Step:
        def at(seconds: int) -> datetime:
            return began + timedelta(seconds=seconds)

        status = StepStatus.WAITING if last is None else StepStatus.COMPLETED
        made = Step(name=name, kind=kind, status=status, started_at=at(first))
        return replace(made, ended_at=None if last is None else at(last), **fields)  # type: ignore[arg-type]

    async with visiting(browser, served.url) as (page, watched):
        await page.goto(f"/runs/{id}")
        graph = page.locator(".graph")

        def node(name: str) -> Locator:
            return graph.locator(".node").filter(
                has=page.locator("text:first-of-type", has_text=re.compile(f"^{name}$"))
            )

        await expect(node("running")).to_be_visible()
        await page.evaluate("document.documentElement.dataset.mark = 'kept'")
        # Two branches at the same time stand below each other; what follows them stands right of both.
        await working.checkpoint(step("charge", 0, 2))
        await working.checkpoint(step("pick", 0, 3))
        await working.checkpoint(step("ship", 3, 4))
        await expect(node("ship")).to_contain_text("done · 1 s")
        charge, pick, ship = [await _place(node(name)) for name in ("charge", "pick", "ship")]
        assert charge[0] == pick[0] < ship[0] and charge[1] != pick[1]
        # One line from where it began to each of the two, from each of them to the next, and from there to the end.
        await expect(graph.locator(".edge")).to_have_count(5)
        # What a child does is seen although nothing happens to its parent.
        child = (
            await engine.jobs.enqueue(NewJob(name="label", queue="labels", parent_id=working.id), caller=CALLER)
        ).job
        await working.checkpoint(step("child:label", 4, None, StepKind.CHILD, children=(child.id,)))
        await expect(node("label")).to_contain_text("waiting")
        run(http, "labels").complete()
        await expect(node("label")).to_contain_text("completed")
        await expect(node("label")).to_have_attribute("href", f"/queues/labels/jobs/{child.id}")
        await working.checkpoint(step("child:label", 4, 5, StepKind.CHILD, children=(child.id,)))
        await working.checkpoint(step("sleep", 5, None, StepKind.SLEEP, until=began + timedelta(hours=1)))
        await expect(node("sleep")).to_contain_text("sleeps until")
        await working.checkpoint(step("sleep", 5, 6, StepKind.SLEEP))
        await working.checkpoint(step("approved", 6, None, StepKind.WAIT, events=("approved",)))
        await working.park(HOUR_MS)
        await expect(node("approved")).to_contain_text("waits for approved")
        await expect(node("running")).to_have_count(0)
        assert await page.evaluate("document.documentElement.dataset.mark") == "kept"
        # The table says the same to those who do not see the graph.
        await expect(page.get_by_role("table", name="Steps in the order")).to_contain_text("approved")
        watched.assert_quiet()


async def test_what_a_run_undoes_is_drawn_backwards(browser: Browser, served: Served, engine: Engine) -> None:
    working = await started(engine)
    began = engine.clock.now()

    async def done(name: str, second: int, **fields: object) -> None:
        at = began + timedelta(seconds=second)
        row = Step(name=name, kind=StepKind.STEP, status=StepStatus.COMPLETED, started_at=at, ended_at=at)
        compensating = name.startswith("compensate")
        row = replace(row, kind=StepKind.COMPENSATE if compensating else StepKind.STEP, **fields)  # type: ignore[arg-type]
        await working.checkpoint(row, compensating=compensating)

    async with visiting(browser, served.url, viewport={"width": 360, "height": 740}) as (page, watched):
        await page.goto(f"/runs/{run_id(working.id)}")
        graph = page.locator(".graph")
        await done("reserve", 1)
        await done("charge", 2)
        await done("ship", 3, status=StepStatus.FAILED, error=ERROR)
        await done("compensate", 4, error=ERROR)
        await done("compensate:charge", 5)
        await expect(graph.locator(".node", has_text="compensate:charge")).to_contain_text("undone")
        await expect(graph.locator(".node[data-state='compensating']")).to_be_visible()
        await done("compensate:reserve", 6)
        await working.report(OutcomeKind.BURY, error=ERROR)
        ended = graph.locator(".node[data-state='failed']", has=page.locator("text", has_text=re.compile("^failed$")))
        await expect(ended).to_be_visible()
        places = {}
        for name in ("reserve", "charge", "compensate:charge", "compensate:reserve"):
            texts = page.locator("text:first-of-type", has_text=re.compile(f"^{name}"))
            places[name] = await _place(graph.locator(".node").filter(has=texts))
        for name in ("reserve", "charge"):
            assert (
                places[name][0] == places[f"compensate:{name}"][0] and places[name][1] < places[f"compensate:{name}"][1]
            )
        await expect(graph.locator(".undo")).to_have_count(3)
        # A long run scrolls within its panel.
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        watched.assert_quiet()
