"""GraphiQL at /graphql and Swagger UI at /docs in a real browser, cut off from every other machine."""

from __future__ import annotations

import json

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.app.product import ENQUEUE, execute
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.waiting import until

pytestmark = [pytest.mark.slow]

SECRET = "swt_test_secret-of-a-person"


async def _editor(page: Page, label: str, text: str) -> None:
    """Replaces what stands in one of GraphiQL's editors."""
    await page.locator(f"section[aria-label='{label}'] .CodeMirror:visible").evaluate(
        "(element, text) => element.CodeMirror.setValue(text)", text
    )


async def _answer(page: Page) -> str:
    return str(await page.locator(".result-window .CodeMirror").evaluate("element => element.CodeMirror.getValue()"))


async def _run(page: Page) -> None:
    await page.get_by_role("button", name="Execute query").click()


async def _open(page: Page, tab: str) -> None:
    """Opens a tab whose operation is called like it, and waits until GraphiQL has read that, a moment later."""
    await page.get_by_role("tab", name=tab).click()
    await page.wait_for_function("name => localStorage.getItem('graphiql:operationName') === name", arg=tab)


async def test_the_playground_runs_its_examples(browser: Browser, served: Served, http: httpx2.Client) -> None:
    async with visiting(browser, served.url) as (page, watched):
        await page.goto("/graphql")
        await expect(page.get_by_role("tab")).to_have_count(4)
        # The tab for watching, first: what the others do must arrive in it.
        await _open(page, "Watch")
        await _run(page)
        await expect(page.get_by_role("button", name="Stop query")).to_be_visible()

        async def told() -> bool:
            execute(http, ENQUEUE, input={"name": "seen"})
            return '"seen"' in await _answer(page)

        # Until the subscription stands nothing is delivered, and nothing says when it does: jobs are added till one is.
        await until(told)
        delivered = json.loads(await _answer(page))["data"]["jobEvents"]
        assert delivered["__typename"] == "JobTransition" and delivered["to"] == "WAITING"
        await page.get_by_role("button", name="Stop query").click()
        for tab, answer in (("Enqueue", "job_"), ("List", "send_email"), ("Why", "NO_WORKER")):
            await _open(page, tab)
            await _run(page)
            await expect(page.locator(".result-window")).to_contain_text(answer)
        watched.assert_quiet()


@pytest.mark.nightly
async def test_the_playground_explores_the_schema_and_shows_its_dialogs(browser: Browser, served: Served) -> None:
    async with visiting(browser, served.url, color_scheme="dark") as (page, watched):
        await page.goto("/graphql")
        await page.get_by_role("button", name="Show Documentation Explorer").click()
        await page.get_by_role("link", name="Mutation").first.click()
        await expect(page.get_by_text("enqueueJob").first).to_be_visible()
        await page.get_by_role("button", name="Show History").click()
        for opens in ("Open short keys dialog", "Open settings dialog"):
            await page.get_by_role("button", name=opens).click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
        watched.assert_quiet()


@pytest.mark.nightly
async def test_a_key_in_the_headers_is_sent_and_never_kept(
    browser: Browser, served: Served, http: httpx2.Client
) -> None:
    async with visiting(browser, served.url) as (page, watched):
        await page.goto("/graphql")
        await page.get_by_role("tab", name="List").click()
        await page.get_by_role("button", name="Headers").click()
        await _editor(page, "Headers", json.dumps({"Authorization": f"Bearer {SECRET}"}))
        async with page.expect_request(lambda asked: "totalCount" in (asked.post_data or "")) as asked:
            await _run(page)
        assert (await (await asked.value).all_headers())["authorization"] == f"Bearer {SECRET}"
        await expect(page.locator(".result-window")).to_contain_text("totalCount")
        # Long enough for whatever is written with a delay: the page writes when it is left at the latest.
        await page.goto("/docs")
        kept = await page.evaluate("JSON.stringify([localStorage, sessionStorage]) + document.cookie")
        assert "totalCount" in kept and SECRET not in kept
        await page.goto("/graphql")
        await page.get_by_role("button", name="Headers").click()
        assert SECRET not in await page.content()
        watched.assert_quiet()


@pytest.mark.nightly
async def test_swagger_describes_and_tries_the_dialects(browser: Browser, served: Served) -> None:
    async with visiting(browser, served.url) as (page, watched):
        await page.goto("/docs")
        operation = page.locator(".opblock", has_text="/dispatch/v1/stats")
        await operation.locator(".opblock-summary").click()
        await operation.get_by_role("button", name="Execute").click()
        await expect(operation.locator(".live-responses-table td.response-col_status").last).to_contain_text("200")
        watched.assert_quiet()


@pytest.mark.parametrize("path", ["/graphql", "/docs", "/"])
async def test_pages_say_what_to_do_without_javascript(browser: Browser, served: Served, path: str) -> None:
    async with visiting(browser, served.url, java_script_enabled=False) as (page, watched):
        await page.goto(path)
        await expect(page.locator("main")).to_be_visible()
        await expect(page.locator("main h1")).to_have_count(1)
        watched.assert_quiet()
