"""Takes the pictures in docs/images: starts the demo in a folder of its own, and looks at it while it works."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path

import httpx2
from PIL import Image
from playwright.async_api import Page, ViewportSize

from tests.app.product import ENQUEUE, execute
from tests.browser.browsing import browsing, visiting
from tests.waiting import until

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
WIDE: ViewportSize = {"width": 1280, "height": 860}
LOW: ViewportSize = {"width": 1280, "height": 590}
PHONE: ViewportSize = {"width": 360, "height": 740}
COLOURS = 128
MINUTES = 4
WORKING = {"name": "checksum_file", "queue": "files", "payload": {"path": "README.md"}}
FAILING = {"name": "flaky", "queue": "files", "payload": {"service": "geocoder"}, "maxAttempts": 1}
JOBS = '{ jobs(first: 1, filter: { names: ["checksum_file"], states: [COMPLETED] }) { edges { node { id queue } } } }'
RUNS = "{ workflowRuns(first: 1) { edges { node { id } } } }"
FLOWS = "{ flows(first: 1) { edges { node { id } } } }"


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with demo() as url:
        asyncio.run(take(url))


@contextmanager
def demo() -> Iterator[str]:
    """The demo as `make dev` runs it, on a free port and data of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="switchtower-pictures-") as folder:
        program = Path(sys.executable).with_name("switchtower")
        process = subprocess.Popen(
            [program, "dev", "--port", str(port), "--data-dir", folder], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


async def take(url: str) -> None:
    """Every picture, one page after the other."""
    with httpx2.Client(base_url=url, timeout=60) as http:
        await until(lambda: _ready(http))
        await until(lambda: execute(http, JOBS)["jobs"]["edges"])
        work(http)
        job = execute(http, JOBS)["jobs"]["edges"][0]["node"]
        flow = execute(http, FLOWS)["flows"]["edges"][0]["node"]["id"]
        run = execute(http, RUNS)["workflowRuns"]["edges"][0]["node"]["id"]
    pictures = (
        ("overview", "/", "light", WIDE),
        ("overview-dark", "/", "dark", WIDE),
        ("jobs", f"/queues/{job['queue']}/jobs?state=completed", "light", WIDE),
        ("job", f"/queues/{job['queue']}/jobs/{job['id']}", "light", WIDE),
        ("flow", f"/flows/{flow}", "dark", WIDE),
        ("run", f"/runs/{run}", "light", LOW),
        ("metrics", "/metrics", "light", WIDE),
        ("phone", "/queues", "light", PHONE),
        ("playground", "/graphql", "light", WIDE),
    )
    async with browsing() as browser:
        for name, path, scheme, viewport in pictures:
            async with visiting(browser, url, color_scheme=scheme, viewport=viewport) as (page, _):
                response = await page.goto(path)
                assert response is not None and response.ok, path
                if path == "/graphql":
                    await _ask(page)
                else:
                    await (
                        page.locator(".link", has_text="live").or_(page.locator("[data-theme-switch]")).first.wait_for()
                    )
                    await page.wait_for_load_state("networkidle")
                keep(name, await page.screenshot())


def work(http: httpx2.Client) -> None:
    """More and less of the demo's jobs for some minutes, some of which fail, so that there are lines to draw."""
    began = time.monotonic()
    for turn in count():
        passed = time.monotonic() - began
        if passed > MINUTES * 60:
            return
        failing = turn % 9 == 0
        for _ in range(1 + (math.sin(passed / 20) > 0)):
            execute(http, ENQUEUE, input=dict(FAILING if failing else WORKING))
        time.sleep(0.2)


async def _ask(page: Page) -> None:
    await page.get_by_role("tab", name="List").click()
    await page.get_by_role("button", name="Execute query").click()
    await page.locator(".result-window", has_text="totalCount").wait_for()


def _ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def keep(name: str, png: bytes) -> None:
    """Writes a picture with as few colours as its page has use for, which is a quarter of its size."""
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
