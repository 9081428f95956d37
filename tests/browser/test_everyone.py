"""Pages for everyone: with assistive technology, in both themes, on a phone."""

from __future__ import annotations

from typing import Literal

import httpx2
import pytest
from playwright.async_api import Browser, expect

from app.dashboard.assets import DIST
from switchtower.engine import Engine
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.everything import everything

pytestmark = [pytest.mark.slow]

AXE = DIST.parent / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
LONG = "a-name-without-end-" * 10
NAMES = (LONG, "تقرير يومي עברית", "send_email")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        pytest.param(360, "light", marks=pytest.mark.nightly),
        pytest.param(1280, "dark", marks=pytest.mark.nightly),
        pytest.param(1280, "light", marks=pytest.mark.nightly),
    ],
)
async def test_pages_are_usable_with_assistive_technology_and_fit(
    browser: Browser,
    served: Served,
    http: httpx2.Client,
    mongodb_url: str,
    database_name: str,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    paths = await everything(engine, http, NAMES)
    await engine.close()
    paths += ["/jobs?by=error&state=failed", "/search?q=send_email", "/metrics?queue=send_email&range=24h", "/nowhere"]
    async with visiting(browser, served.url, color_scheme=scheme, viewport={"width": width, "height": 740}) as (
        page,
        _,
    ):
        for path in paths:
            await page.goto(path)
            await expect(page.locator("[data-theme-switch]")).to_be_visible()
            await page.evaluate(AXE.read_text())
            found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            serious = [
                (each["id"], each["nodes"][0]["html"])
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert serious == [], (scheme, path)
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (scheme, path)
