"""A real browser before a served application: which requests it tried, what its console said."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, Request, Route, async_playwright, expect

from app.dashboard.assets import DIST

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# A container's /dev/shm is small and its user often root; nothing but loopback is to be asked for, not even by itself.
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update")
PATIENCE_MS = 30_000
"""How long a page may take on a busy machine; Playwright expects things within five seconds."""
expect.set_options(timeout=PATIENCE_MS)


def browser_program() -> str:
    """The system's Chromium."""
    for name in PROGRAMS:
        if program := shutil.which(name):
            return program
    pytest.fail("no Chromium was found: install it (Debian: apt-get install chromium)")


def need_frontend() -> None:
    """Fails the test where `make frontend` has not run."""
    if not (DIST / "manifest.json").is_file():
        pytest.fail("the frontend is not built: make frontend")


@dataclass
class Watched:
    """What a browser did that a test wants to know of: errors of its console, and requests to anywhere but loopback,
    each of which was blocked."""

    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._see)

    def _see(self, request: Request) -> None:
        if _is_foreign(request.url):
            self.foreign.append(request.url)

    async def block(self, route: Route) -> None:
        if _is_foreign(route.request.url):
            await route.abort()
        else:
            await route.continue_()

    def assert_quiet(self) -> None:
        assert (self.complaints, self.foreign) == ([], [])


def _is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob", "about") and parts.hostname not in LOOPBACK


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser of its own, closed at the end."""
    program = browser_program()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, base_url: str, **options: Any) -> AsyncIterator[tuple[Page, Watched]]:
    """A page of a fresh profile, with every request to another machine blocked and noted."""
    context: BrowserContext = await browser.new_context(base_url=base_url, **options)
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched()
    await context.route("**/*", watched.block)
    page = await context.new_page()
    watched.watch(page)
    try:
        yield page, watched
    except BaseException:
        await _show(page, watched)
        raise
    else:
        if FAILED:
            await _show(page, watched)
    finally:
        await context.close()


FAILED: list[str] = []
"""The test that failed while its page is still open (`conftest.pytest_runtest_makereport`)."""


async def _show(page: Page, watched: Watched) -> None:
    """Prints what somebody would look at who was there: a picture of the page, and what its console said."""
    picture = Path(tempfile.gettempdir()) / f"switchtower-page-{uuid.uuid4().hex[:8]}.png"
    with suppress(Exception):
        await page.screenshot(path=picture, full_page=True)
        print(f"The page {page.url} is shown in {picture}")
    print("Its console said:", *(watched.complaints or ["nothing"]), sep="\n  ")


async def live(page: Page) -> None:
    """Waits for the connection, and marks the page: a reload would lose the mark."""
    await expect(page.locator(".link")).to_have_text("live")
    await page.evaluate("document.documentElement.dataset.mark = 'kept'")


async def press(button: Locator) -> None:
    """Presses a button of a form, and waits until the server has done what it asks for: before somebody looks elsewhere
    whether it has."""
    async with button.page.expect_response(
        lambda answer: answer.request.method == "POST" and not answer.url.endswith("/graphql")
    ):
        await button.click()


async def assert_not_reloaded(page: Page) -> None:
    assert await page.evaluate("document.documentElement.dataset.mark") == "kept"
