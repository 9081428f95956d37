"""What is sent to browsers: small, hashed, built from a lock file that names no registry, never committed."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette

from app.dashboard.assets import DIST, Assets
from tests.app.direct import request
from tests.app.node import node_program
from tests.house.test_tree import ROOT, project_files

FRONTEND = ROOT / "app" / "dashboard" / "frontend"
DASHBOARD_BYTES = 120 * 1024
TOOLS = re.compile(r"(playground|docs)\.")


@pytest.fixture(scope="module")
def manifest() -> dict[str, str]:
    if not (DIST / "manifest.json").is_file():
        pytest.skip("the frontend is not built: make frontend")
    return dict(json.loads((DIST / "manifest.json").read_text()))


def test_no_bundle_and_no_package_is_committed() -> None:
    # What was minified has lines that nobody wrote; a generated lock file has none that long.
    scripts = [path for path in project_files() if path.suffix in {".js", ".mjs", ".ts", ".tsx", ".css"}]
    assert FRONTEND / "build.mjs" in scripts
    assert [str(p) for p in scripts if max(map(len, p.read_text().splitlines()), default=0) > 400] == []
    ignored = {"dist", "node_modules"}
    assert [str(p) for p in project_files() if ignored & set(p.relative_to(ROOT).parts)] == []


def test_lock_files_pin_every_package_by_its_hash() -> None:
    for folder in (FRONTEND, ROOT / "tests" / "js"):
        packages = json.loads((folder / "package-lock.json").read_text())["packages"]
        assert len(packages) > 5
        for name, package in packages.items():
            assert not name or package["integrity"].startswith("sha512-"), name
            assert "resolved" not in package, name


def test_scripts_of_the_dashboard_are_small(manifest: dict[str, str]) -> None:
    # Everything that any of its pages could load, compressed; the playground and Swagger are pages of their own.
    sizes = {
        name: len(gzip.compress((DIST / file).read_bytes()))
        for name, file in manifest.items()
        if file.endswith(".js") and not TOOLS.match(name)
    }
    assert {"dashboard.js", "theme.js"} <= set(sizes)
    assert sum(sizes.values()) < DASHBOARD_BYTES, sizes


def test_every_built_file_is_served_under_a_name_with_its_hash(manifest: dict[str, str]) -> None:
    assets = Assets()
    built = {path.name for path in DIST.iterdir()} - {"manifest.json", "stamp"}
    assert built == set(manifest.values())
    for name, file in manifest.items():
        assert assets.url(name) == f"/assets/{file}" and re.search(r"\.[0-9A-Z]{8}\.", file), file


def test_pages_have_a_style_without_a_build(tmp_path: Path) -> None:
    assets = Assets(dist=tmp_path)
    assert assets.url("style.css") and assets.url("icon.svg")
    assert assets.url("dashboard.js") is None


def test_types_of_the_frontend_are_right() -> None:
    compiler = FRONTEND / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip("the packages of the frontend are not installed: make frontend")
    checked = subprocess.run(
        [compiler, "--noEmit"],
        cwd=FRONTEND,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PATH": f"{Path(node_program()).parent}:{os.environ['PATH']}"},
    )
    assert checked.returncode == 0, checked.stdout


async def test_assets_are_kept_for_ever_and_compressed() -> None:
    assets = Assets()
    app = Starlette(routes=[assets.route()])
    url = assets.url("style.css")
    assert url is not None
    plain = await request(app, "GET", url)
    assert plain.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in plain.headers["cache-control"]
    packed = await request(app, "GET", url, headers=[("accept-encoding", "gzip, br")])
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    for name in ("style.css", "../assets.py", "", "icon.svg"):
        assert (await request(app, "GET", f"/assets/{name}")).status == 404
    assert (await request(app, "POST", url)).status == 405
