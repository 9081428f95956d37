"""Names and texts that try to be markup, in a real browser: nothing of them is ever run, and no page breaks."""

from __future__ import annotations

from urllib.parse import urlencode

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from switchtower.engine import Engine
from tests.app.product import execute
from tests.app.serving import Served
from tests.browser.browsing import visiting
from tests.browser.everything import everything
from tests.browser.working import enqueue, run

pytestmark = [pytest.mark.slow]

# Each would call `hit`, were it taken for markup, for an attribute, for an address or for a script.
TRIES = (
    "<script>hit()</script>",
    "</script><script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<svg onload=hit()>",
    "<svg><animate onbegin=hit() attributeName=x>",
    "<iframe srcdoc='<script>parent.hit()</script>'>",
    "<details open ontoggle=hit()>",
    "<input autofocus onfocus=hit()>",
    "<body onload=hit()>",
    "<a href=javascript:hit()>x</a>",
    "javascript:hit()",
    "data:text/html,<script>hit()</script>",
    '"><script>hit()</script>',
    "'><script>hit()</script>",
    '" onmouseover=hit() x="',
    "' autofocus onfocus=hit() '",
    "`${hit()}`",
    "{{constructor.constructor('hit()')()}}",
    "{{ 7*7 }}{% for x in () %}",
    "--><script>hit()</script><!--",
    "]]><script>hit()</script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=hit()>",
    "<template shadowrootmode=open><script>hit()</script></template>",
    "<style>@import 'javascript:hit()';</style>",
    "<base href=//nowhere.invalid/>",
    "<meta http-equiv=refresh content='0;url=javascript:hit()'>",
    "<link rel=stylesheet href=//nowhere.invalid/x.css>",
    "<object data=javascript:hit()>",
    "<embed src=javascript:hit()>",
    "&lt;script&gt;hit()&lt;/script&gt;",
    "\u202e<script>hit()</script>",
    "\ufeff<script>hit()</script>",
    "%3Cscript%3Ehit()%3C/script%3E",
    "\\u003cscript\\u003ehit()\\u003c/script\\u003e",
    "<video><source onerror=hit()>",
    "<audio src=x onerror=hit()>",
    "<marquee onstart=hit()>",
    "<select autofocus onfocus=hit()>",
    "<textarea autofocus onfocus=hit()></textarea>",
    "</textarea><script>hit()</script>",
    "</title><script>hit()</script>",
    "</style><script>hit()</script>",
    "</code></pre><script>hit()</script>",
    "</time></td></tr></table><img src=x onerror=hit()>",
    "<noscript><p title='</noscript><img src=x onerror=hit()>'>",
    "<svg><script href=data:,hit()></script>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=hit()>#x'>",
    "<svg><foreignObject><img src=x onerror=hit()></foreignObject></svg>",
    "<math href=javascript:hit()>x</math>",
    "<form action=javascript:hit()><button>x</button></form>",
    "<button formaction=javascript:hit()>x</button>",
    "<input type=image src=x onerror=hit()>",
    "<div style=animation-name:x onanimationstart=hit()>",
    "<p style='background:url(javascript:hit())'>",
    "<img srcset='x 1x' onerror=hit()>",
    "<img/src=x/onerror=hit()>",
    "<scr<script>ipt>hit()</scr</script>ipt>",
    "<ScRiPt>hit()</sCrIpT>",
    "<a href='java&#115;cript:hit()'>x</a>",
    "';hit();//",
    '";hit();//',
    "</script>'-hit()-'",
    "\u2028hit()//",
    "<!--><img src=x onerror=hit()>",
    "<?xml version=1?><script>hit()</script>",
    "@import url(javascript:hit());",
    "__proto__[onload]=hit()",
    "<x contenteditable onblur=hit() autofocus>",
)
PARAMETERS = ("period", "days", "limit", "range", "queue", "name", "text", "path", "value", "tag", "group", "q", "type")
PARAMETERS += ("task", "job_id", "state", "sort", "size", "page", "by", "order", "action", "status", "workflow")
# What no page of ours has, and an attempt that came through would make.
FOREIGN = "iframe, object, embed, base, math, marquee, video, audio, template, main :is(img, style, link, meta, script)"
WATCH = """
window.hits = [];
window.hit = (...given) => window.hits.push(given);
document.addEventListener('securitypolicyviolation', (event) => window.hits.push(event.violatedDirective));
"""
KEY = """
mutation ($name: String!, $scopes: [KeyScope!]!) {
  createApiKey(input: { name: $name, scopes: $scopes }) { ... on CreatedApiKey { secret } ... on Error { message } }
}
"""


async def _look(page: Page, path: str) -> None:
    """The page at this address has run nothing, reported nothing, and is whole."""
    answer = await page.goto(path)
    assert answer is not None and answer.status in (200, 400, 404), path
    await expect(page.locator("[data-theme-switch]")).to_be_visible()
    await _is_whole(page, path)


async def _is_whole(page: Page, path: str) -> None:
    assert await page.evaluate("window.hits") == [], path
    assert await page.locator(FOREIGN).count() == 0, path
    assert await page.locator("body > header, body > main").count() == 2, path
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path


async def test_nothing_that_users_name_is_run(
    browser: Browser, served: Served, http: httpx2.Client, mongodb_url: str, database_name: str, scale: str
) -> None:
    assert len(set(TRIES)) >= 60
    tries = TRIES if scale == "full" else TRIES[::7]
    engine = await Engine.connect(mongodb_url, database=database_name)
    paths = await everything(engine, http, tries)
    await engine.close()
    async with visiting(browser, served.url) as (page, watched):
        await page.add_init_script(WATCH)
        for path in paths if scale == "full" else paths[::2]:
            await _look(page, path)
        # Each of them as every parameter, on all pages in turn, and of those that have the most on each.
        for number, text in enumerate(tries):
            query = urlencode(dict.fromkeys(PARAMETERS, text))
            for path in {paths[number % len(paths)], "/metrics", "/audit", "/jobs"}:
                await _look(page, f"{path}?{query}")
        # What comes over the socket is made by scripts, and must be text there too.
        job = enqueue(http, TRIES[2], "live")
        await _look(page, f"/queues/live/jobs/{job}")
        working = run(http, "live")
        for percent, text in enumerate(tries):
            working.report(percent, text)
        await expect(page.locator("[data-logs] li")).to_have_count(len(tries))
        await page.keyboard.press("Control+k")
        await page.get_by_role("combobox").fill("onerror")
        await expect(page.get_by_role("option").first).to_contain_text("onerror")
        await _is_whole(page, "the search box")
        assert watched.foreign == []


async def test_names_of_keys_are_text_too(browser: Browser, served: Served, http: httpx2.Client) -> None:
    made = execute(http, KEY, name="admin", scopes=["ADMIN", "OPERATE", "READ", "WORK"])["createApiKey"]["secret"]
    http.headers["Authorization"] = f"Bearer {made}"
    for text in TRIES:
        execute(http, KEY, name=text, scopes=["READ"])
    async with visiting(browser, served.url) as (page, watched):
        await page.add_init_script(WATCH)
        await page.goto("/login?" + urlencode({"next": TRIES[10]}))
        await page.get_by_label("API key").fill(made)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url(served.url + "/")
        await _look(page, "/keys")
        names = await page.locator("th bdi").evaluate_all("all => all.map((each) => each.title)")
        assert sorted(names) == sorted(["admin", *TRIES])
        assert watched.foreign == []
