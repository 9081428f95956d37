"""What happened on this server lately, and what does Prometheus read of it under AsyncMQ's own names?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.models import Events, Happening
from app.dashboard.rendering import page
from app.rest.asyncmq import parse, wire
from app.rest.asyncmq.schemas import array, listed
from app.rest.dialect import Given, Parameter, Route
from app.visit import Visit
from schema.context import Context
from schema.resolvers import queues, streams, workers
from switchtower.errors import StoreUnavailable
from switchtower.events import Event
from switchtower.states import JobState

__all__ = ["NAMES", "ROUTES"]

S = JobState
SHORT: Final = {"type": "string", "maxLength": parse.MAX_TEXT}
WHOLE: Final = {"type": "integer"}
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
BY_TYPE: Final = {"expire": "job:expired", "rescue": "job:stalled", "replace": "job:debounced"}
BY_STATE: Final[Mapping[str | None, str]] = {
    S.WAITING: "job:ready",
    S.ACTIVE: "job:started",
    S.COMPLETED: "job:completed",
    S.FAILED: "job:failed",
    S.CANCELLED: "job:cancelled",
}
NAMES: Final = (*BY_STATE.values(), *BY_TYPE.values())
"""What AsyncMQ calls what happens to jobs."""
GAUGES: Final = {
    "asyncmq_dashboard_ready": "Whether the database answered.",
    "asyncmq_queue_total": "Queues.",
    "asyncmq_worker_total": "Workers that live.",
    "asyncmq_queue_jobs": "Jobs of a queue in a state.",
}


def _name(event: Event) -> str | None:
    """AsyncMQ's name of it; None for what it has no event for."""
    moved = event.from_state != event.to_state
    return BY_TYPE.get(event.type) or (BY_STATE.get(event.to_state) if moved else None)


def _shown(event: Event) -> Happening:
    error = event.data.get("error") or {}
    data = {"attempt": event.attempt, "state": event.to_state, "actor": event.actor}
    data |= {key: event.data[key] for key in ("ms", "wait_ms") if key in event.data}
    data |= {"error": error["message"]} if "message" in error else {}
    return Happening(event.at, _name(event) or "", event.queue, event.custom_id or event.id, event.name, data)


async def _recent(context: Context, *, event: str, queue: str, q: str, limit: int) -> Events:
    wanted = q.casefold()

    def matches(each: Event) -> bool:
        name = _name(each)
        if name is None or (event and event != name) or (queue and queue != each.queue):
            return False
        return not wanted or wanted in _text(each, name).casefold()

    limit = min(limit, context.max_page)
    found = await streams.recent(context, matches, limit=limit)
    return Events([_shown(each) for each in found], event, queue, q, limit)


def _text(event: Event, name: str) -> str:
    error = (event.data.get("error") or {}).get("message", "")
    fields = (name, event.queue, event.custom_id or event.id, event.name, event.to_state, event.actor, error)
    return "\n".join(field for field in fields if field)


def _asked(given: Given) -> dict[str, Any]:
    texts = {name: parse.text(given, name) for name in ("event", "queue", "q")}
    return {**texts, "limit": parse.number(given, "limit", parse.ROWS, 1, parse.MAX_ROWS)}


def _row(found: Happening) -> dict[str, Any]:
    return {
        "timestamp": wire.seconds(found.at),
        "event": found.event,
        "data": {"queue": found.queue, "job_id": found.job_id, "task_id": found.task_id, **found.data},
    }


def _rows(found: Events) -> dict[str, Any]:
    return {"events": [_row(each) for each in found.rows], "limit": found.limit}


def _page(found: Events, visit: Visit) -> Response:
    return page("events.html", visit, shown=found, names=sorted(NAMES))


async def _gauges(context: Context) -> tuple[int, list[tuple[str, str, int]]]:
    """The status to answer with, and the samples: name, labels, value."""
    try:
        known = await queues.list_all(context)
        living = await workers.list_all(context)
    except StoreUnavailable:
        return 503, [("asyncmq_dashboard_ready", "", 0)]
    jobs = [
        ("asyncmq_queue_jobs", f'{{queue="{_label(queue.name)}",state="{state}"}}', count)
        for queue in known
        for state, count in wire.counts(queue.counts).items()
    ]
    totals = {"asyncmq_dashboard_ready": 1, "asyncmq_queue_total": len(known), "asyncmq_worker_total": len(living)}
    return 200, [*((name, "", value) for name, value in totals.items()), *jobs]


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _exposed(found: tuple[int, list[tuple[str, str, int]]]) -> Response:
    status, samples = found
    lines = []
    for gauge, meaning in GAUGES.items():
        own = [f"{name}{labels} {value}" for name, labels, value in samples if name == gauge]
        lines += [f"# HELP {gauge} {meaning}", f"# TYPE {gauge} gauge", *own] if own else []
    return Response("\n".join([*lines, ""]).encode("utf-8", "replace"), status, media_type=PROMETHEUS)


ROUTES: Final = (
    Route(
        method="GET",
        path="/metrics/prometheus",
        summary="Queues, workers and jobs as AsyncMQ's gauges, for Prometheus",
        resolver=_gauges,
        render=_exposed,
        media="text/plain",
        shows={"type": "string"},
    ),
    Route(
        method="GET",
        path="/events/history",
        summary="What this server saw happen to jobs lately, the newest first",
        parse=_asked,
        resolver=_recent,
        render=_rows,
        page=_page,
        query=(
            Parameter("event", "Only events of exactly this name, such as job:failed.", SHORT),
            Parameter("queue", "Only those of this queue.", SHORT),
            Parameter("q", "Only those with this text in any of their fields, whatever its case.", SHORT),
            Parameter("limit", "At most so many: 200 unless given, 500 at most.", WHOLE),
        ),
        shows=listed(events=array("RuntimeEvent"), limit=WHOLE),
        refuses=(400,),
    ),
)
