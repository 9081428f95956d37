"""What does a browser meet at `/graphql` and at `/docs`? GraphiQL and Swagger UI, every byte from this server."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app.dashboard.assets import Assets
from app.front_door import TOOL_POLICY

__all__ = ["Tools"]

TEMPLATES: Final = Path(__file__).parent / "templates"


class Tools:
    """The pages for people who write clients. Where the frontend was not built they say so, and what to do.

    Both libraries make style elements while they run: those that carry the nonce of the response are allowed. Their
    style sheets hold icons as `data:` addresses, which load nothing from anywhere.
    """

    def __init__(self, assets: Assets) -> None:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        environment.globals["asset"] = assets.url
        self._environment = environment

    async def playground(self, request: Request) -> Response:
        """GraphiQL for `/graphql`."""
        return self._page("playground.html", request)

    async def docs(self, request: Request) -> Response:
        """Swagger UI of `/docs/openapi.json`."""
        return self._page("docs.html", request)

    def _page(self, name: str, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        origin = str(request.base_url).rstrip("/")
        html = self._environment.get_template(name).render(nonce=nonce, origin=origin)
        policy = TOOL_POLICY.replace("style-src 'self'", f"style-src 'self' 'nonce-{nonce}'").replace(
            "img-src 'self'", "img-src 'self' data:"
        )
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})
