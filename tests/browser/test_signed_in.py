"""Behind keys: a browser signs in, its pages are live by its session, and end with its key."""

from __future__ import annotations

import httpx2
import pytest
from playwright.async_api import Browser, expect

from tests.app.product import execute
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.working import enqueue, run

pytestmark = [pytest.mark.slow]

CREATE = """
mutation ($scopes: [KeyScope!]!) {
  createApiKey(input: { name: "person", scopes: $scopes }) { ... on CreatedApiKey { secret key { id } } }
}
"""
REVOKE = "mutation ($id: ID!) { revokeApiKey(id: $id) { __typename } }"


def _key(http: httpx2.Client, *scopes: str) -> tuple[str, str]:
    created = execute(http, CREATE, scopes=list(scopes))["createApiKey"]
    return created["key"]["id"], created["secret"]


async def test_a_page_is_live_by_its_session_until_the_key_is_revoked(
    browser: Browser, served: Served, http: httpx2.Client
) -> None:
    _, admin = _key(http, "ADMIN", "WORK")
    http.headers["Authorization"] = f"Bearer {admin}"
    id, secret = _key(http, "OPERATE")
    job = enqueue(http, "send_email", "emails")
    async with visiting(browser, served.url) as (page, watched):
        await page.goto("/queues/emails")
        await page.get_by_label("API key").fill(secret)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator(".link")).to_have_text("live")
        # The form carries the token of the session.
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("h1 .badge")).to_have_text("paused")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("h1 .badge")).to_have_text("running")
        await page.goto(f"/queues/emails/jobs/{job}")
        await expect(page.locator(".link")).to_have_text("live")
        working = run(http, "emails")
        await expect(page.locator("main .badge[data-state]").first).to_have_text("active")
        assert secret not in await page.evaluate("JSON.stringify([document.cookie, localStorage, sessionStorage])")
        watched.assert_quiet()
        execute(http, REVOKE, id=id)
        await expect(page.locator(".link")).to_have_text("not live")
        working.complete()
        await page.goto("/queues")
        await expect(page.get_by_label("API key")).to_be_visible()


async def test_a_reader_is_not_offered_what_a_key_may_not_do(
    browser: Browser, served: Served, http: httpx2.Client
) -> None:
    _, admin = _key(http, "ADMIN", "WORK")
    http.headers["Authorization"] = f"Bearer {admin}"
    _, secret = _key(http, "READ")
    enqueue(http, "send_email", "emails")
    async with visiting(browser, served.url) as (page, watched):
        await page.goto("/queues/emails")
        await page.get_by_label("API key").fill(secret)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("h1")).to_contain_text("emails")
        await expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        await page.goto("/queues/emails/jobs")
        await expect(page.locator("[data-job]")).to_have_count(1)
        await expect(page.get_by_role("checkbox")).to_have_count(0)
        watched.assert_quiet()
