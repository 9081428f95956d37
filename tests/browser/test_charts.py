"""Charts in a real browser: true from the first minute, live, and zoomed with the mouse."""

from __future__ import annotations

import httpx2
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.working import enqueue, run
from tests.waiting import until

pytestmark = [pytest.mark.slow]


def _plot(page: Page, kind: str) -> Locator:
    return page.locator(f"[data-chart='{kind}'] .plot")


async def _point_at(plot: Locator, share: float) -> None:
    """Holds the mouse over a place of a chart, as a share of its width."""
    box = await plot.locator(".u-over").bounding_box()
    assert box is not None
    await plot.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)


OTHERS = ("/", "/metrics", "/metrics?queue=emails&name=send_email&range=24h")


@pytest.mark.parametrize(
    "path", ["/queues/emails", *(pytest.param(each, marks=pytest.mark.nightly) for each in OTHERS)]
)
async def test_the_first_jobs_are_drawn_in_their_first_minute(
    browser: Browser, served: Served, http: httpx2.Client, path: str
) -> None:
    async with visiting(browser, served.url, viewport={"width": 1280, "height": 1400}) as (page, watched):
        enqueue(http, "send_email", "emails")
        await page.goto(path)
        plot = _plot(page, "throughput")
        await expect(plot.locator("canvas")).to_be_visible()
        await expect(page.locator(".link")).to_have_text("live")
        caption = page.locator("[data-chart='throughput'] figcaption")
        # What happens while somebody looks is in the minute that is under way. Which minute a pixel stands for depends
        # on the range and on the moment, so the caption is asked.
        run(http, "emails").complete()
        await expect(caption).to_contain_text("1 completed")
        await expect(_plot(page, "duration").locator("canvas")).to_be_visible()
        await expect(page.locator("[data-chart='duration'] figcaption")).to_contain_text("p99")
        enqueue(http, "send_email", "emails", maxAttempts=1)
        run(http, "emails").fail("no such host")
        await expect(caption).to_contain_text("1 completed, 1 failed")
        watched.assert_quiet()


@pytest.mark.nightly
async def test_a_chart_is_zoomed_by_dragging_and_returns(browser: Browser, served: Served, http: httpx2.Client) -> None:
    enqueue(http, "send_email", "emails")
    run(http, "emails").complete()
    read: list[str] = []

    def see(text: str | bytes) -> None:
        if '"metrics":' in str(text):
            read.append(str(text))

    async with visiting(browser, served.url) as (page, watched):
        page.on("websocket", lambda socket: socket.on("framereceived", see))
        await page.goto("/queues/emails")
        plot = _plot(page, "throughput")
        await expect(plot.locator("canvas")).to_be_visible()

        async def minutes() -> float:
            edges = await plot.evaluate("element => [element.dataset.from, element.dataset.to].map(Number)")
            return float(edges[1] - edges[0]) / 60

        async def shows(span: float) -> bool:
            return bool(await minutes() == pytest.approx(span, abs=1))

        whole = page.locator("[data-chart='throughput']").get_by_role("button", name="Whole range")
        await expect(whole).to_be_hidden()
        for back in ("button", "double click"):
            await until(lambda: shows(60))
            await _point_at(plot, 0.25)
            await page.mouse.down()
            await _point_at(plot, 0.5)
            # What is drawn over is marked in the next frame, and a button that is let go before that marks nothing.
            await expect(plot.locator(".u-select")).not_to_have_css("width", "0px")
            await page.mouse.up()
            await expect(whole).to_be_visible()
            await until(lambda: shows(15))
            # What comes in meanwhile does not undo it.
            before = len(read)
            await until(lambda: len(read) > before + 1)  # noqa: B023
            assert await minutes() == pytest.approx(15, abs=1)
            if back == "button":
                await whole.click()
            else:
                await plot.locator(".u-over").dblclick()
            await expect(whole).to_be_hidden()
            await until(lambda: shows(60))
        watched.assert_quiet()
