"""Under which addresses are style, scripts and icons served, and with which bytes?

A file's name holds a hash of its content, so that browsers keep it for ever. The style sheet and the icon are ours and
always there; what `make frontend` builds from npm packages is there once it was built (`dist/manifest.json`).
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["DIST", "Assets"]

FOLDER: Final = Path(__file__).parent
DIST: Final = FOLDER / "dist"
KEPT: Final = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
SMALLEST_COMPRESSED: Final = 1_024


class Assets:
    """What pages refer to. Reads the folders once: after `make frontend` a server is started again.

    `dist` is where the build put its files; where it holds no manifest there are no scripts.
    """

    def __init__(self, dist: Path = DIST) -> None:
        self._urls: dict[str, str] = {}
        self._files: dict[str, bytes] = {}
        style = b"\n".join(path.read_bytes() for path in sorted((FOLDER / "styles").glob("*.css")))
        self._add("style.css", f"style.{_digest(style)}.css", style)
        for icon in sorted((FOLDER / "static").iterdir()):
            content = icon.read_bytes()
            self._add(icon.name, f"{icon.stem}.{_digest(content)}{icon.suffix}", content)
        manifest = dist / "manifest.json"
        if manifest.is_file():
            for name, file in orjson.loads(manifest.read_bytes()).items():
                self._add(name, file, (dist / file).read_bytes())

    def _add(self, name: str, file: str, content: bytes) -> None:
        self._urls[name] = f"/assets/{file}"
        self._files[file] = content

    def url(self, name: str) -> str | None:
        """The address of an asset by the name that it was written under; None where it was not built."""
        return self._urls.get(name)

    def route(self) -> Route:
        """Serves each asset under its address, compressed for clients that accept it; anything else is 404."""
        return Route("/assets/{name:path}", self._serve)

    async def _serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404)
        headers = dict(KEPT)
        if len(content) >= SMALLEST_COMPRESSED and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            content = _compressed(content)
        return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])


@cache
def _compressed(content: bytes) -> bytes:
    # Once for each, as it is first asked for: two of them are more than a megabyte.
    return gzip.compress(content, mtime=0)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:10]
