"""AsyncMQ's own dashboard, its templates and scripts as they are published, before our `/asyncmq`: filled with
our JSON, moved by our events, its forms posted to us."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import jinja2
import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.app.product import execute
from tests.app.serving import Served
from tests.browser.browsing import press, visiting
from tests.browser.working import enqueue, run

pytestmark = [pytest.mark.slow]

Document = dict[str, Any]

# `make test` lays it there.
OWN = Path(__file__).parents[2] / ".venv/published/asyncmq/contrib/dashboard"
# It reads the text of a `<template>`, which has none, and complains.
ITS_OWN_FAULT = "AsyncMQ JSON data parse error"


# What its controllers make of its backend's answers, for the templates.
def _dead_letters(said: Document) -> Document:
    return {**said, "jobs": [{**job, "task_id": job["task"], "error": job["last_error"]} for job in said["jobs"]]}


def _repeatables(said: Document) -> Document:
    rows = [{**row, **row["job_def"], "job_def_json": json.dumps(row["job_def"])} for row in said["repeatables"]]
    return {**said, "repeatables": rows}


# Where a page stands, its template, and how what we say there as JSON becomes the template's values.
PAGES: dict[str, tuple[str, Callable[[Document], Document]]] = {
    "": ("index.html", lambda said: said["overview"]),
    "queues/emails": ("queues/info.html", lambda said: {"queue": said["name"], "counts": said, **said}),
    "queues/emails/dlq": ("dlqs/dlq.html", _dead_letters),
    "queues/emails/repeatables": ("repeatables/repeatables.html", _repeatables),
    "metrics": ("metrics/metrics.html", lambda said: {"metrics": said, "metrics_history": []}),
}


@pytest.fixture
async def page(browser: Browser, served: Served, http: httpx2.Client) -> AsyncIterator[Page]:
    """A page for which AsyncMQ's own stand in the place of ours; what it posts and follows is answered by us."""
    if not OWN.is_dir():
        if os.environ.get("CI"):
            pytest.fail("CI must have AsyncMQ's dashboard: make test")
        pytest.skip("AsyncMQ's dashboard is not there: make test")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(OWN / "templates"), autoescape=True, undefined=jinja2.ChainableUndefined
    )

    async def serve(route: Route) -> None:
        path = route.request.url.removeprefix(f"{served.url}/asyncmq/")
        if route.request.method == "GET" and path in PAGES:
            name, values = PAGES[path]
            said = http.get(f"/asyncmq/{path}", headers={"accept": "application/json"}).json()
            html = templates.get_template(name).render(
                url_prefix="/asyncmq", url_for=lambda _, path="": f"/asyncmq/statics{path}", **values(said)
            )
            await route.fulfill(body=html, content_type="text/html")
        elif path.startswith("statics/"):
            await route.fulfill(body=(OWN / path).read_bytes(), content_type=mimetypes.guess_type(path)[0])
        else:
            await route.continue_()

    async with visiting(browser, served.url) as (opened, watched):
        await opened.route("**/asyncmq/**", serve)
        yield opened
        watched.complaints = [said for said in watched.complaints if not said.startswith(ITS_OWN_FAULT)]
        watched.assert_quiet()


@pytest.mark.nightly
async def test_its_overview_shows_jobs_queues_and_numbers(page: Page, http: httpx2.Client) -> None:
    await page.goto("/asyncmq/")
    jobs = [enqueue(http, "send_email", "emails") for _ in range(3)]
    await expect(page.locator("#total-queues")).to_have_text("1")
    await expect(page.locator("#total-jobs")).to_have_text("3")
    await expect(page.locator("#total-workers")).to_have_text("0")
    latest = page.locator("#latest-jobs-body tr")
    await expect(latest).to_have_count(3)
    for job in jobs:
        await expect(latest.filter(has_text=job)).to_contain_text("emailsWaiting")
    run(http, "emails").complete()
    await expect(latest.filter(has_text="Completed")).to_have_count(1)
    await expect(page.locator("#latest-queues-body tr")).to_contain_text("emails")


@pytest.mark.nightly
async def test_its_queue_shows_counts(page: Page, http: httpx2.Client) -> None:
    await page.goto("/asyncmq/queues/emails")
    for _ in range(2):
        enqueue(http, "send_email", "emails")
    run(http, "emails").complete()
    enqueue(http, "send_email", "emails", delayMs=3_600_000)
    for state, count in {"waiting": 1, "active": 0, "delayed": 1, "failed": 0, "completed": 1}.items():
        await expect(page.locator(f"[data-asyncmq-queue-detail] .{state}")).to_have_text(str(count))


@pytest.mark.nightly
async def test_its_metrics_show_numbers_and_their_history(page: Page, http: httpx2.Client) -> None:
    await page.goto("/asyncmq/metrics")
    for _ in range(2):
        enqueue(http, "send_email", "emails", maxAttempts=1)
    run(http, "emails").complete()
    run(http, "emails").fail("no such host")
    await expect(page.locator("#throughput")).to_have_text("1")
    await expect(page.locator("#failures")).to_have_text("1")
    await expect(page.locator("#waiting-count")).to_have_text("0")
    row = page.locator("#metrics-history-body tr").first
    await expect(row.locator("td").nth(7)).to_have_text("1")


async def test_its_dead_letters_are_retried(page: Page, http: httpx2.Client) -> None:
    jobs = [enqueue(http, "send_email", "emails", maxAttempts=1) for _ in range(2)]
    for _ in jobs:
        run(http, "emails").fail("the mailbox is full")
    await page.goto("/asyncmq/queues/emails/dlq")
    await expect(page.locator(".amq-dlq-error")).to_have_text(["the mailbox is full"] * 2)
    await page.locator("[data-dlq-select-all]").check()
    await page.get_by_text("Retry Selected").click()
    await page.get_by_role("button", name="Confirm Retry").click()
    await expect(page.locator(".amq-dlq-error")).to_have_count(0)
    for job in jobs:
        assert execute(http, "query($id: ID!) { job(id: $id) { state } }", id=job)["job"]["state"] == "WAITING"


async def test_its_queue_is_paused_and_resumed(page: Page, http: httpx2.Client) -> None:
    enqueue(http, "send_email", "emails")
    await page.goto("/asyncmq/queues/emails")
    for name, then in (("Pause Queue", True), ("Resume Queue", False)):
        await press(page.get_by_role("button", name=name))
        await page.goto("/asyncmq/queues/emails")
        assert execute(http, 'query { queue(name: "emails") { paused } }')["queue"]["paused"] is then


@pytest.mark.nightly
async def test_its_repeatables_are_paused_and_removed(page: Page, http: httpx2.Client) -> None:
    made = http.post("/asyncmq/queues/emails/repeatables/new", data={"task_id": "digest", "every": "3600"})
    assert made.status_code == 303, made.text
    row = page.locator("tbody tr").filter(has_text="digest")
    await page.goto("/asyncmq/queues/emails/repeatables")
    await press(row.get_by_role("button", name="Pause"))
    await page.goto("/asyncmq/queues/emails/repeatables")
    await expect(row.get_by_role("button", name="Resume")).to_be_visible()
    await row.locator("details.amq-confirm summary").click()
    await press(row.get_by_role("button", name="Confirm Remove"))
    await page.goto("/asyncmq/queues/emails/repeatables")
    await expect(row).to_have_count(0)
