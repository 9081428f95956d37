"""The server is killed while somebody looks: the page says so, comes back by itself, and has missed nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.app.product import product
from tests.browser.browsing import visiting
from tests.browser.working import enqueue, run

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LINES = 30
# Every word that the light says from now on.
LISTEN = """() => {
  const light = document.querySelector('.link');
  window.words = [];
  new MutationObserver(() => window.words.push(light.textContent)).observe(light, { childList: true });
  document.documentElement.dataset.mark = 'kept';
}"""


@asynccontextmanager
async def process(mongodb_url: str, database: str, *, port: int = 0) -> AsyncIterator[tuple[str, Process]]:
    """A server in a process of its own: where it listens, and the process, which is killed at the end at the latest."""
    environment = os.environ | {"SWITCHTOWER_DATABASE": database, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app", "--port", str(port), "--mongodb-url", mongodb_url]
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE)
    try:
        assert started.stdout is not None
        line = b""
        while not line.startswith(b"Ready: "):
            line = await started.stdout.readline()
            assert line, "the server ended before it was ready"
        yield line.decode().split()[1], started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def _recovered(page: Page) -> None:
    await expect(page.locator(".link")).to_have_text("live")
    words = await page.evaluate("window.words")
    assert words.index("reconnecting") < words.index("resynced") < len(words) - 1, words
    assert await page.evaluate("document.documentElement.dataset.mark") == "kept"


@pytest.mark.nightly
async def test_a_page_recovers_from_a_killed_server_with_nothing_missed(
    browser: Browser, mongodb_url: str, database_name: str
) -> None:
    # The work goes on at another server of the same database, before the kill, while nobody serves the page, and after.
    with (
        product(mongodb_url, database_name) as other,
        httpx2.Client(base_url=other.url, timeout=60) as http,
    ):
        job = enqueue(http, "send_email", "emails", maxAttempts=1)
        async with process(mongodb_url, database_name) as (url, server), AsyncExitStack() as stack:
            pages = [(await stack.enter_async_context(visiting(browser, url)))[0] for _ in range(3)]
            page, listed, overview = pages
            await page.goto(f"/queues/emails/jobs/{job}")
            await listed.goto("/queues/emails/jobs?state=waiting&size=100")
            await overview.goto("/")
            for each in pages:
                await expect(each.locator(".link")).to_have_text("live")
                await each.evaluate(LISTEN)
            working = run(http, "emails")
            lines = [f"line {number}" for number in range(LINES)]
            for number, line in enumerate(lines[:10]):
                working.report(number, line)
            await expect(page.locator("[data-logs] li")).to_have_count(10)
            # Between what is on its way to the page and what is not yet written.
            for number, line in enumerate(lines[10:15]):
                working.report(number, line)
            server.kill()
            for each in pages:
                await expect(each.locator(".link")).to_have_text("reconnecting")
            for line in lines[15:25]:
                working.report(80, line)
            jobs = [enqueue(http, f"task-{number}", "emails") for number in range(LINES)]
            async with process(mongodb_url, database_name, port=int(url.rpartition(":")[2])):
                await expect(page.locator("[data-logs] li")).to_have_count(25)
                for line in lines[25:]:
                    working.report(90, line)
                working.fail("no such host")
                await expect(page.locator("main .badge[data-state]").first).to_have_text("failed")
                shown = page.locator("[data-logs] li span")
                await expect(shown).to_have_text(lines)
                await expect(page.locator("main progress").first).to_have_js_property("value", 90)
                await expect(page.locator(".timeline li").first).to_contain_text("failed")
                for id in jobs:
                    await expect(listed.locator(f"[data-job='{id}']")).to_have_count(1)
                await expect(listed.locator("[data-job]")).to_have_count(len(jobs))
                await expect(overview.locator(".tile [data-count='waiting']")).to_have_text(str(len(jobs)))
                await expect(overview.locator(".tile [data-count='failed']")).to_have_text("1")
                await expect(overview.locator("[data-region='faults']")).to_contain_text("no such host")
                for each in pages:
                    await _recovered(each)
