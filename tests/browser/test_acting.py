"""Acting on many jobs, or on one that is like another, in a real browser."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from switchtower.engine import bulk
from tests.app.product import execute
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.working import enqueue, run
from tests.waiting import until

pytestmark = [pytest.mark.slow]


@pytest.fixture
async def page(browser: Browser, served: Served) -> AsyncIterator[Page]:
    """A page that must have complained of nothing when the test ends."""
    async with visiting(browser, served.url) as (opened, watched):
        yield opened
        watched.assert_quiet()


async def test_a_filter_is_counted_acted_upon_and_followed_to_its_end(
    page: Page, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten jobs at a time, each time only when the test lets it.
    let = threading.Semaphore(0)
    chunk = bulk.Bulk._chunk

    async def held(self: bulk.Bulk, id: str) -> bool:
        await asyncio.to_thread(let.acquire)
        return await chunk(self, id)

    monkeypatch.setattr(bulk.Bulk, "_chunk", held)
    monkeypatch.setattr(bulk, "CHUNK", 10)
    monkeypatch.setattr(bulk, "FIRST_ANSWER_SECONDS", 0.05)
    for _ in range(35):
        enqueue(http, "send_email", "emails", tags=["march"])
    for _ in range(3):
        enqueue(http, "send_email", "emails")
    await page.goto("/jobs?tag=march")
    await page.locator("form.bulk").first.get_by_role("button", name="Cancel").click()
    # What it would do to all pages of the list, not to the first alone.
    question = page.get_by_role("dialog")
    await expect(question).to_contain_text("35 jobs match")
    await question.get_by_role("button", name="Not now").click()
    await expect(question).to_have_count(0)
    assert execute(http, "{ jobs(first: 1, filter: { states: [CANCELLED] }) { totalCount { value } } }")["jobs"] == {
        "totalCount": {"value": 0}
    }
    await page.locator("form.bulk").first.get_by_role("button", name="Cancel").click()
    await question.get_by_role("button", name="Cancel them").click()
    await page.wait_for_url("**/bulk/*")
    bar, said = page.locator("main progress"), page.locator("[data-field='said']")
    await page.evaluate("document.documentElement.dataset.mark = 'kept'")
    for through in (10, 20, 30):
        let.release()
        await expect(bar).to_have_js_property("value", through)
        await expect(bar).to_have_js_property("max", 35)
        await expect(said).to_have_text(f"{through} of 35 jobs changed.")
        await expect(page.locator("h1 .badge")).to_have_text("under way")
    let.release()
    await expect(said).to_have_text("35 of 35 jobs changed.")
    await expect(bar).to_have_js_property("value", 35)
    await expect(page.locator("h1 .badge")).to_have_text("done")
    assert await page.evaluate("document.documentElement.dataset.mark") == "kept"
    await page.goto("/jobs?state=waiting")
    await expect(page.locator("[data-job]")).to_have_count(3)


async def test_those_that_are_ticked_are_acted_upon(page: Page, http: httpx2.Client) -> None:
    jobs = [enqueue(http, "send_email", "emails", delayMs=3_600_000) for _ in range(3)]
    await page.goto("/jobs?state=scheduled")
    for job in jobs[:2]:
        await page.locator(f"[data-job='{job}']").get_by_role("checkbox").check()
    await page.locator("#chosen").get_by_role("button", name="Promote").click()
    question = page.get_by_role("dialog")
    await expect(question).to_contain_text("2 jobs match")
    await question.get_by_role("button", name="Promote them").click()
    await expect(page.locator("main")).to_contain_text("2 of 2 jobs changed")
    await page.goto("/jobs?state=scheduled")
    await expect(page.locator("[data-job]")).to_have_count(1)
    await expect(page.locator("[data-job]")).to_have_attribute("data-job", jobs[2])


async def test_a_job_is_edited_and_run_again(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "send_email", "emails", payload={"to": "a@b", "token": "sesame"}, maxAttempts=1)
    run(http, "emails").fail("no such host")
    await page.goto(f"/queues/emails/jobs/{job}")
    await page.get_by_text("Edit and run again").click()
    payload = page.get_by_label("Payload (JSON)")
    shown = json.loads(await payload.input_value())
    assert shown == {"to": "a@b", "token": "[redacted]"}
    await payload.fill(json.dumps(shown | {"to": "a@b.c"}))
    await page.get_by_role("button", name="Enqueue as a new job").click()
    await page.wait_for_url(lambda url: "/jobs/job_" in url and job not in url)
    await expect(page.locator("main .badge[data-state]").first).to_have_text("waiting")
    new = page.url.rpartition("/")[2]
    read = "query ($id: ID!) { job(id: $id) { payload state } }"
    # What was hidden and left alone is what it was; the first job stays as it is.
    assert execute(http, read, id=new)["job"]["payload"] == {"to": "a@b.c", "token": "sesame"}
    assert execute(http, read, id=job)["job"] == {"payload": {"to": "a@b", "token": "sesame"}, "state": "FAILED"}


async def test_the_search_box_is_used_with_the_keyboard_alone(page: Page, http: httpx2.Client) -> None:
    for number in range(3):
        enqueue(http, f"invoice-{number}", "invoices", payload={"customer": "zebra-77"})
    asked: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: asked.append(str(text))))
    await page.goto("/audit")
    await page.keyboard.press("Control+k")
    dialog = page.get_by_role("dialog")
    box = dialog.get_by_role("combobox")
    await expect(box).to_be_focused()
    # Without a word it offers the pages.
    await expect(dialog.get_by_role("option", name="Page Metrics")).to_be_visible()
    await page.keyboard.type("work")
    await expect(dialog.get_by_role("option", selected=True)).to_have_text("PageWorkers")
    await page.keyboard.press("Control+a")
    await page.keyboard.type("zebra-77")
    # On a busy machine it looks for the beginning of the word first, and what that finds goes away again.
    await until(lambda: any("zebra-77" in text for text in asked))
    await expect(dialog.get_by_role("option")).to_have_count(3)
    await page.keyboard.press("ArrowDown")
    second = dialog.get_by_role("option").nth(1)
    await expect(second).to_have_attribute("aria-selected", "true")
    assert await box.get_attribute("aria-activedescendant") == await second.get_attribute("id")
    await page.keyboard.press("ArrowUp")
    await page.keyboard.press("ArrowUp")
    await expect(dialog.get_by_role("option").last).to_have_attribute("aria-selected", "true")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await page.keyboard.press("Control+k")
    await box.fill("nothing is named so")
    await expect(dialog.get_by_role("status")).to_have_text("Nothing found.")
    await box.fill("invoices")
    await expect(dialog.get_by_role("option").first).to_contain_text("Queue")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/queues/invoices")
