"""A page that follows its job over a bad line: what is late, lost, refused or told twice is shown as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from playwright.async_api import APIResponse, Browser, Page, Route, WebSocketRoute, expect

from tests.app.serving import Served
from tests.browser.browsing import PATIENCE_MS, assert_not_reloaded, live, visiting
from tests.browser.working import Run, enqueue, run

pytestmark = [pytest.mark.slow]


@pytest.fixture
async def page(browser: Browser, served: Served) -> AsyncIterator[Page]:
    async with visiting(browser, served.url) as (opened, _):
        yield opened


async def _followed(page: Page, http: httpx2.Client) -> Run:
    """A job that runs, before a page of it that is live and was, as one that has just come is, looked at once more."""
    enqueue(http, "resize", "images")
    working = run(http, "images")
    await page.goto(f"/queues/images/jobs/{working.id}")
    await live(page)
    await page.wait_for_timeout(4_000)
    return working


async def test_what_comes_while_the_page_is_on_its_way_is_not_taken_away_by_it(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "resize", "images")
    await page.goto(f"/queues/images/jobs/{job}")
    await live(page)
    asked, came = asyncio.Semaphore(0), asyncio.Event()
    answers: list[APIResponse] = []

    async def late(route: Route) -> None:
        answers.append(await route.fetch())
        asked.release()
        # The first is asked for by the job's start, and the second to see what has settled; nothing asks for a third.
        if len(answers) == 2:
            await came.wait()
        await route.fulfill(response=answers[-1])

    await page.route("**/queues/images/jobs/*", late)
    working = run(http, "images")
    for _ in range(2):
        await asyncio.wait_for(asked.acquire(), PATIENCE_MS / 1000)
    working.report(60, "more than half")
    bar, lines = page.locator("main progress").first, page.locator("[data-logs] li span")
    await expect(lines).to_have_text(["more than half"])
    came.set()
    await page.wait_for_timeout(500)
    await expect(bar).to_have_js_property("value", 60)
    await expect(lines).to_have_text(["more than half"])
    await assert_not_reloaded(page)


async def test_what_happens_before_the_page_is_followed_is_seen(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "resize", "images")
    working = run(http, "images")

    async def late(route: Route) -> None:
        working.report(40, "unseen")
        working.complete()
        await route.continue_()

    await page.route("**/dashboard.*.js", late)
    await page.goto(f"/queues/images/jobs/{job}")
    await expect(page.locator("main .badge[data-state]").first).to_have_text("completed")
    await expect(page.locator("[data-logs] li span")).to_have_text(["unseen"])


@pytest.mark.nightly
async def test_a_page_that_the_server_had_no_time_for_is_asked_for_again(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "resize", "images")
    await page.goto(f"/queues/images/jobs/{job}")
    await live(page)
    refused: list[str] = []

    async def busy(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) > 5:
            await route.continue_()
        else:
            await route.fulfill(status=503)

    await page.route("**/queues/images/jobs/*", busy)
    run(http, "images").complete()
    await expect(page.locator("main")).to_contain_text('"ok": true')
    assert len(refused) > 5
    await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_a_line_that_is_told_again_is_shown_once(page: Page, http: httpx2.Client) -> None:
    told: list[tuple[WebSocketRoute, str]] = []

    def relay(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def record(message: str | bytes) -> None:
            if "JobLogged" in str(message):
                told.append((socket, str(message)))
            socket.send(message)

        server.on_message(record)

    await page.route_web_socket("**/graphql", relay)
    working = await _followed(page, http)
    lines = page.locator("[data-logs] li span")
    working.report(10, "first")
    await expect(lines).to_have_text(["first"])
    # As by a stream that resumes after the page has had it.
    socket, message = told[0]
    socket.send(message)
    working.report(20, "second")
    await expect(lines.last).to_have_text("second")
    await expect(lines).to_have_text(["first", "second"])
    await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_a_subscription_that_failed_before_it_heard_anything_misses_nothing(
    page: Page, http: httpx2.Client
) -> None:
    refuse: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked: list[str] = []

    def relay(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        async def hear(message: str | bytes) -> None:
            said = json.loads(message)
            if said["type"] == "subscribe" and "jobEvents" in said["payload"]["query"]:
                asked.append(said["id"])
                if len(asked) == 1:
                    await refuse
                    socket.send(json.dumps({"id": said["id"], "type": "error", "payload": [{"message": "busy"}]}))
                    return
            server.send(message)

        socket.on_message(lambda message: asyncio.ensure_future(hear(message)))
        server.on_message(socket.send)

    await page.route_web_socket("**/graphql", relay)
    working = await _followed(page, http)
    working.report(10, "unseen")
    refuse.set_result(None)
    await expect(page.locator("[data-logs] li span")).to_have_text(["unseen"])
    assert len(asked) == 2
    await assert_not_reloaded(page)
