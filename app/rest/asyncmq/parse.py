"""What do AsyncMQ's parameters and forms mean?"""

from __future__ import annotations

import re
from typing import Any, Final

from app.dashboard.charts import Span
from app.rest.asyncmq.wire import ACTIONS
from app.rest.dialect import Given
from switchtower.audit import AuditFilter, AuditStatus
from switchtower.errors import InvalidInput

__all__ = [
    "MAX_TEXT",
    "SORTS",
    "audit",
    "bulk",
    "charted",
    "dead_letter_page",
    "history",
    "job_page",
    "numbers",
    "queue",
    "queue_page",
    "queues",
]

MAX_TEXT: Final = 256
PAGE_SIZE: Final = 20
MAX_SIZE: Final = 100
MAX_PAGE: Final = 10_000_000
ROWS: Final = 200
MAX_ROWS: Final = 500
CHARTED: Final = 360
SNAPSHOTS: Final = 120
SORTS: Final = ("newest", "oldest")

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,20}\s*", re.ASCII)


def number(given: Given, name: str, default: int, low: int, high: int) -> int:
    """A whole number within bounds: what lies outside is moved to the nearest, what is none is the default."""
    text = given.text(name) or ""
    return min(max(int(text), low), high) if _WHOLE.fullmatch(text) else default


def text(given: Given, name: str) -> str:
    """A text to look for. Raises InvalidInput beyond 256 characters."""
    found = (given.text(name) or "").strip()
    if len(found) > MAX_TEXT:
        raise InvalidInput(name, f"is {len(found):,} characters; at most {MAX_TEXT} are looked for.")
    return found


def numbers(given: Given, *, size: int = PAGE_SIZE) -> dict[str, Any]:
    """`page` and `size`."""
    return {
        "page": number(given, "page", 1, 1, MAX_PAGE),
        "size": number(given, "size", size, 1, MAX_SIZE),
    }


def queue(given: Given) -> dict[str, Any]:
    """The name in the path."""
    return {"name": given.path["name"]}


def queues(given: Given) -> dict[str, Any]:
    """Queues by a text in their name, and a page."""
    return {"q": text(given, "q"), **numbers(given, size=MAX_SIZE)}


def charted(given: Given) -> dict[str, Any]:
    """How far back the page looks (an hour unless it says another `range`), and at which queue and task."""
    span = next((each for each in Span if each.key == text(given, "range")), Span.HOUR)
    return {"limit": CHARTED, "span": span, "queue": text(given, "queue"), "name": text(given, "name")}


def dead_letter_page(given: Given) -> dict[str, Any]:
    """The name in the path, and a page; `after` and `before` are the cursors of neighbouring pages."""
    return {**queue_page(given), "after": given.text("after"), "before": given.text("before")}


def queue_page(given: Given) -> dict[str, Any]:
    """The name in the path, and a page."""
    return {**queue(given), **numbers(given)}


def job_page(given: Given) -> dict[str, Any]:
    """The jobs of a queue in one tab; `after` and `before` are the cursors of neighbouring pages."""
    sort = given.text("sort") or ""
    return {
        **queue_page(given),
        "state": given.text("state") or "waiting",
        "sort": sort if sort in SORTS else SORTS[0],
        "after": given.text("after"),
        "before": given.text("before"),
        **{name: text(given, name) for name in ("q", "task", "job_id")},
    }


def bulk(given: Given) -> dict[str, Any]:
    """A form that acts on jobs: `action`, and `job_id` as often as there are jobs, or with commas between them."""
    ids = [id.strip() for value in given.form.texts("job_id") for id in value.split(",")]
    return {
        **queue(given),
        "action": given.form.text("action"),
        "ids": list(dict.fromkeys(id for id in ids if id)),
    }


def history(given: Given) -> dict[str, Any]:
    """`limit`: 120 snapshots unless given, 500 at most."""
    return {"limit": number(given, "limit", SNAPSHOTS, 1, MAX_ROWS)}


def audit(given: Given) -> dict[str, Any]:
    """Rows by action, status and queue, each exactly, and by a text anywhere in them."""
    found = {name: text(given, name) for name in ("action", "status", "queue", "q")}
    ours = {theirs: name for name, theirs in ACTIONS.items()}
    statuses = [status for status in AuditStatus if status.value == found["status"]]
    filter = AuditFilter(
        actions=[ours.get(found["action"], found["action"])] if found["action"] else None,
        statuses=statuses if found["status"] else None,
        queue=found["queue"] or None,
        text=found["q"] or None,
    )
    return {"filter": filter, "given": found, "limit": number(given, "limit", ROWS, 1, MAX_ROWS)}
