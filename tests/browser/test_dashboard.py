"""An operator's errands in a real browser: what happens is seen without a reload, and what is pressed happens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.app.product import execute, product
from tests.app.serving import Served
from tests.browser.browsing import assert_not_reloaded, live, press, visiting
from tests.browser.working import claim, enqueue, run
from tests.waiting import until

pytestmark = [pytest.mark.slow]

FLOW = (
    "mutation ($input: EnqueueFlowInput!) { enqueueFlow(input: $input) { ... on Flow { id } ... on Error { code } } }"
)


@pytest.fixture
async def page(browser: Browser, served: Served) -> AsyncIterator[Page]:
    """A page that must have complained of nothing when the test ends."""
    async with visiting(browser, served.url) as (opened, watched):
        yield opened
        watched.assert_quiet()


async def test_a_job_is_found_by_a_value_of_its_payload(page: Page, http: httpx2.Client) -> None:
    for number in range(3):
        enqueue(http, "send_email", "emails", payload={"customer": f"customer-{number}"})
    wanted = enqueue(http, "send_email", "emails", payload={"customer": "zebra-77"})
    await page.goto("/")
    await page.keyboard.press("Control+k")
    await page.get_by_role("combobox").fill("zebra-77")
    await expect(page.get_by_role("option")).to_have_count(1)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/queues/emails/jobs/{wanted}")
    await page.goto("/queues/emails/jobs?q=zebra-77")
    await expect(page.locator("[data-job]")).to_have_count(1)
    await expect(page.locator("[data-job]")).to_have_attribute("data-job", wanted)


async def test_a_job_is_watched_to_its_end(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "resize", "images", payload={"file": "a.png"})
    await page.goto(f"/queues/images/jobs/{job}")
    await live(page)
    state = page.locator("main .badge[data-state]").first
    await expect(state).to_have_text("waiting")
    working = run(http, "images")
    await expect(state).to_have_text("active")
    for percent in (10, 60):
        working.report(percent, f"{percent} percent done")
        await expect(page.locator("main progress").first).to_have_js_property("value", percent)
    await expect(page.locator("[data-logs] li span").last).to_have_text("60 percent done")
    working.complete()
    await expect(state).to_have_text("completed")
    await expect(page.locator("main")).to_contain_text('"ok": true')
    await expect(page.locator(".timeline li")).to_have_count(4)
    await assert_not_reloaded(page)


async def test_a_queue_is_paused_and_workers_stop_taking(page: Page, http: httpx2.Client) -> None:
    enqueue(http, "send_email", "emails")
    await page.goto("/queues/emails")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("h1 .badge")).to_have_text("paused")
    assert claim(http, "emails") is None
    await page.get_by_role("button", name="Resume").click()
    await expect(page.locator("h1 .badge")).to_have_text("running")
    await expect(page.locator("[data-count='waiting']")).to_have_text("1")
    # Who claims learns of it within half a second.
    taken = await until(lambda: claim(http, "emails"))
    assert taken is not None
    taken.complete()
    await expect(page.locator("[data-count='completed']")).to_have_text("1")
    await expect(page.locator("[data-count='waiting']")).to_have_text("0")


async def test_a_dead_letter_is_tried_again(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "send_email", "emails", maxAttempts=1)
    run(http, "emails").fail("the mailbox is full")
    await page.goto("/queues/emails/dlq")
    row = page.locator(f"[data-job='{job}']")
    await expect(row).to_contain_text("the mailbox is full")
    await row.get_by_role("checkbox").check()
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator(".empty")).to_be_visible()
    assert execute(http, "query($id: ID!) { job(id: $id) { state } }", id=job)["job"]["state"] == "WAITING"


@pytest.mark.nightly
async def test_a_cron_is_made_and_seen_to_fire(page: Page, http: httpx2.Client) -> None:
    await page.goto("/queues/reports/repeatables/new")
    await page.get_by_label("Task").fill("nightly")
    await page.get_by_label("Every (seconds)").fill("1")
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator("main")).to_contain_text("nightly")
    await page.goto("/queues/reports/jobs?state=waiting")
    await expect(page.locator("[data-job]").first).to_contain_text("nightly")


async def test_new_jobs_appear_and_leave_as_they_are_worked_on(page: Page, http: httpx2.Client) -> None:
    await page.goto("/queues/emails/jobs?state=waiting")
    await live(page)
    await expect(page.locator("[data-job]")).to_have_count(0)
    job = enqueue(http, "send_email", "emails")
    await expect(page.locator(f"[data-job='{job}']")).to_have_count(1)
    run(http, "emails").complete()
    await expect(page.locator("[data-job]")).to_have_count(0)
    await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_a_chosen_row_stays_chosen_while_others_come(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "send_email", "emails")
    await page.goto("/queues/emails/jobs")
    await live(page)
    box = page.locator(f"[data-job='{job}']").get_by_role("checkbox")
    await box.check()
    enqueue(http, "send_email", "emails")
    await expect(page.locator("[data-count='waiting']").first).to_have_text("2")
    await expect(box).to_be_checked()
    await box.uncheck()
    enqueue(http, "send_email", "emails")
    await expect(page.locator("[data-job]")).to_have_count(3)


@pytest.mark.nightly
async def test_the_theme_is_remembered(page: Page) -> None:
    await page.goto("/")
    for theme in ("light", "dark"):
        await page.locator("[data-theme-switch]").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", theme)
    ground = await page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    await page.goto("/queues")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert await page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == ground


@pytest.mark.nightly
async def test_a_lost_server_is_waited_for_and_nothing_is_missed(
    browser: Browser, mongodb_url: str, database_name: str
) -> None:
    async with AsyncExitStack() as stack:
        with product(mongodb_url, database_name) as served, httpx2.Client(base_url=served.url, timeout=60) as http:
            job = enqueue(http, "send_email", "emails")
            page, _ = await stack.enter_async_context(visiting(browser, served.url))
            await page.goto(f"/queues/emails/jobs/{job}")
            await live(page)
        await expect(page.locator(".link")).to_have_text("reconnecting")
        # What happens meanwhile is not lost: another server of the same database does it.
        with product(mongodb_url, database_name) as other, httpx2.Client(base_url=other.url, timeout=60) as http:
            run(http, "emails").complete()
        with product(mongodb_url, database_name, on_port=served.port):
            await expect(page.locator("main .badge[data-state]").first).to_have_text("completed", timeout=30_000)
            await expect(page.locator(".link")).to_have_text("live", timeout=30_000)
            await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_one_cluster_of_failures_is_retried(page: Page, http: httpx2.Client) -> None:
    jobs = [enqueue(http, "send_email", "emails", maxAttempts=1) for _ in range(3)]
    for message in ("no such host", "the mailbox is full", "no such host"):
        run(http, "emails").fail(message)
    await page.goto("/jobs?by=error&state=failed")
    cluster = page.locator("tr", has_text="no such host").filter(has=page.get_by_role("button", name="Retry"))
    await cluster.get_by_role("button", name="Retry").click()
    # What it would do is said first, over the page.
    question = page.get_by_role("dialog")
    await expect(question).to_contain_text("2 jobs match")
    await question.get_by_role("button", name="Retry them").click()
    await expect(page.locator("main")).to_contain_text("2 of 2 jobs changed")
    await page.goto("/jobs?state=failed")
    await expect(page.locator("[data-job]")).to_have_count(1)
    await expect(page.locator("[data-job]")).to_contain_text("the mailbox is full")
    await page.goto("/jobs?state=waiting")
    await expect(page.locator("[data-job]")).to_have_count(len(jobs) - 1)


@pytest.mark.nightly
async def test_a_flow_is_followed_to_its_end(page: Page, http: httpx2.Client) -> None:
    parts = [{"job": {"name": f"part-{number}", "queue": "parts"}} for number in range(2)]
    flow = {"job": {"name": "report", "queue": "reports"}, "children": parts}
    root = execute(http, FLOW, input={"root": flow})["enqueueFlow"]["id"]
    await page.goto(f"/flows/{root}")
    await live(page)
    graph = page.locator(".graph")
    await expect(graph.locator(".node")).to_have_count(3)
    await expect(graph.locator("[data-state='blocked']")).to_contain_text("report")
    for _ in range(2):
        run(http, "parts").complete()
    await expect(graph.locator("[data-state='completed']")).to_have_count(2)
    await expect(graph.locator("[data-state='waiting']")).to_contain_text("report")
    run(http, "reports").complete()
    await expect(graph.locator("[data-state='completed']")).to_have_count(3)
    await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_workers_show_what_they_do_now(page: Page, http: httpx2.Client) -> None:
    job = enqueue(http, "send_email", "emails")
    working = run(http, "emails")
    await page.goto("/workers")
    await live(page)
    row = page.locator("tbody tr")
    await expect(row).to_have_count(1)
    await expect(row.get_by_role("link", name="send_email")).to_have_attribute("href", f"/queues/emails/jobs/{job}")
    await expect(row.locator("[data-label='Busy']")).to_have_text(re.compile("^1 of "))
    working.complete()
    await expect(row.locator("[data-label='Busy']")).to_have_text(re.compile("^0 of "))
    await expect(row.get_by_role("link")).to_have_count(0)
    await assert_not_reloaded(page)


@pytest.mark.nightly
async def test_a_dead_letter_is_replayed(page: Page, http: httpx2.Client) -> None:
    enqueue(http, "send_email", "emails", maxAttempts=1)
    run(http, "emails").fail("the mailbox is full")
    await page.goto("/dead-letters")
    await page.get_by_role("checkbox").last.check()
    await press(page.get_by_role("button", name="Replay", exact=True))
    await page.goto("/queues/emails/jobs?state=waiting")
    await expect(page.locator("[data-job]")).to_have_count(1)


async def test_forms_work_without_javascript(browser: Browser, served: Served, http: httpx2.Client) -> None:
    job = enqueue(http, "send_email", "emails", maxAttempts=1)
    async with visiting(browser, served.url, java_script_enabled=False) as (page, watched):
        await page.goto("/queues/emails")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("h1 .badge")).to_have_text("paused")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("h1 .badge")).to_have_text("running")
        run(http, "emails").fail("no such host")
        await page.goto(f"/queues/emails/jobs/{job}")
        await page.get_by_role("button", name="Run again").click()
        await expect(page.locator("main .badge[data-state]").first).to_have_text("waiting")
        await page.goto("/queues/emails/jobs?state=waiting")
        await page.locator(f"[data-job='{job}']").get_by_role("checkbox").check()
        await page.get_by_role("button", name="Remove").click()
        await expect(page.locator(".empty")).to_be_visible()
        watched.assert_quiet()


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_refused_form_keeps_what_was_typed(
    browser: Browser, served: Served, http: httpx2.Client, scripts: bool
) -> None:
    async with visiting(browser, served.url, java_script_enabled=scripts) as (page, _):
        await page.goto("/enqueue")
        await page.get_by_label("Task").fill("send_email")
        await page.get_by_label("Payload (JSON)").fill('{"to": ')
        await page.get_by_label("Delay (seconds)").fill("60")
        await page.get_by_role("button", name="Enqueue").click()
        wrong = page.get_by_label("Payload (JSON)")
        await expect(wrong).to_have_accessible_description(re.compile("Is not JSON"))
        await expect(wrong).to_have_attribute("aria-invalid", "true")
        await expect(wrong).to_be_focused()
        await expect(wrong).to_have_value('{"to": ')
        await expect(page.get_by_label("Task")).to_have_value("send_email")
        await expect(page.get_by_role("alert")).to_contain_text("Nothing was done.")
        # It is mended where it stands, and then does what it is for.
        await wrong.fill('{"to": "a@b.c"}')
        await page.get_by_role("button", name="Enqueue").click()
        await page.wait_for_url("**/queues/default/jobs/job_*")
        await expect(page.locator("main")).to_contain_text("a@b.c")
        await page.goto("/queues/default")
        await page.get_by_label("At once", exact=True).fill("many")
        await page.get_by_role("button", name="Set limits").click()
        await expect(page.get_by_label("At once", exact=True)).to_have_accessible_description(
            re.compile("whole number")
        )
        if scripts:
            # The page of the queue is live all the same.
            await expect(page.locator(".link")).to_have_text("live")
            enqueue(http, "send_email", "default")
            await expect(page.locator("[data-count='waiting']")).to_have_text("1")
