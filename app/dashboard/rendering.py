"""How does a template become a page?"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from app.dashboard.assets import Assets
from app.dashboard.words import FILTERS
from app.visit import Visit

__all__ = ["page"]

NAVIGATION: Final = (
    ("Overview", (), "read"),
    ("Queues", ("queues",), "read"),
    ("Jobs", ("jobs",), "read"),
    ("Dead letters", ("dead-letters",), "read"),
    ("Crons", ("crons",), "read"),
    ("Flows", ("flows",), "read"),
    ("Runs", ("runs",), "read"),
    ("Workers", ("workers",), "read"),
    ("Metrics", ("metrics",), "read"),
    ("Audit", ("audit",), "read"),
    ("Search", ("search",), "read"),
    ("Keys", ("keys",), "admin"),
)
"""The pages that every page leads to: title, segments of the path, and the scope that it is for."""
TEMPLATES: Final = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals |= {"asset": Assets().url, "navigation": NAVIGATION}
    environment.filters |= FILTERS | {"component": lambda text: quote(str(text), safe="")}
    return environment


def page(template: str, visit: Visit, *, status: int = 200, **model: Any) -> Response:
    """A page: its template sees the visit, and what the model names. Everything in it is escaped."""
    html = _environment().get_template(template).render(visit=visit, url=visit.url, **model)
    # A text that the database keeps and UTF-8 cannot carry must not take the page with it.
    return visit.told(HTMLResponse(html.encode("utf-8", "replace"), status))
