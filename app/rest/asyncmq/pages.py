"""Which page does a browser get for each thing that AsyncMQ's routes find, and where does a form lead?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from app import sessions
from app.dashboard import charts
from app.dashboard.models import (
    Audit,
    Crons,
    Figures,
    JobDetail,
    JobList,
    Overview,
    QueueDetail,
    Queues,
    Workers,
)
from app.dashboard.rendering import page
from app.limits import Refused
from app.rest.asyncmq import wire
from app.rest.asyncmq.acting import Done
from app.visit import Flash, Visit, prefers_json
from switchtower.errors import Unauthorized
from switchtower.metrics import MetricBucket
from switchtower.states import JobState

__all__ = [
    "acted",
    "audit",
    "bulk",
    "created",
    "dead_letter_bulk",
    "dead_letters",
    "job",
    "jobs",
    "metrics",
    "new_repeatable",
    "overview",
    "queue",
    "queues",
    "readiness",
    "refused",
    "repeatable_acted",
    "repeatables",
    "signed_in",
    "signed_out",
    "signing_in",
    "switched",
    "workers",
]

NEWEST: Final = 10
HELD: Final = 5
"""How many jobs of one worker are named."""
DEEPEST: Final = 10
OUTCOMES: Final = {
    "expired": "failed",
    "lost": "failed",
    "released": "waiting",
    "snoozed": "scheduled",
    "suspended": "blocked",
}
"""The state that a badge shows for the outcome of an attempt."""
SIZES: Final = (20, 50, 100)
RECENT: Final = 12
CHARTED: Final = {"waiting": "waiting", "active": "active", "delayed": "scheduled"}
"""Of which tabs the numbers are drawn, and in the colour of which state."""
TITLES: Final = {
    401: "Sign in first",
    403: "This is not allowed",
    404: "There is no such page",
    405: "This address does not answer to that",
    409: "This cannot be done now",
    413: "That is too large",
    429: "Too many requests",
    503: "The database is away",
}


def overview(found: Overview, visit: Visit) -> Response:
    """Everything at a glance."""
    counted = [(queue, wire.tab_counts(queue.counts)) for queue in found.queues]
    deepest = sorted(counted, key=lambda each: sum(each[1][name] for name in ("waiting", "active", "delayed")))
    return page(
        "overview.html",
        visit,
        shown=found,
        newest=found.newest[:NEWEST],
        totals=wire.tab_counts(found.totals.counts),
        deepest=deepest[::-1][:DEEPEST],
        states=[(state.value, found.totals.counts.get(state, 0)) for state in JobState],
        charts=_last_hour(found.buckets)[:2],
    )


def _last_hour(buckets: Sequence[MetricBucket]) -> list[charts.Chart]:
    return _of_span(buckets, charts.Span.HOUR)


def _of_span(buckets: Sequence[MetricBucket], span: charts.Span) -> list[charts.Chart]:
    """What is drawn of a stretch of time; nothing where metrics are not kept."""
    return [each(buckets, span) for each in (charts.throughput, charts.run_times, charts.waits)] if buckets else []


def queues(found: Queues, visit: Visit) -> Response:
    """The queues."""
    rows = [(queue, wire.tab_counts(queue.counts)) for queue in found.queues]
    return page("queues.html", visit, shown=found, rows=rows, states=list(wire.TABS))


def queue(found: QueueDetail, visit: Visit) -> Response:
    """One queue."""
    return page(
        "queue.html", visit, shown=found, counts=wire.tab_counts(found.counts), charts=_last_hour(found.buckets)
    )


def jobs(found: JobList, visit: Visit) -> Response:
    """Jobs in one tab."""
    sizes = sorted({*SIZES, found.pager.size})
    return page("jobs.html", visit, shown=found, sizes=sizes, definitions=_definitions(found.repeatables))


def job(found: JobDetail, visit: Visit) -> Response:
    """One job."""
    causes = [each for each in found.blockages if each.kind.value not in ("finished", "running")]
    raw = wire.job(found.job)
    return page("job.html", visit, shown=found, job=found.job, causes=causes, raw=raw, outcomes=OUTCOMES)


def dead_letters(found: JobList, visit: Visit) -> Response:
    """Jobs that failed for good."""
    return page("dlq.html", visit, shown=found)


def repeatables(found: Crons, visit: Visit) -> Response:
    """The repeatables of a queue."""
    return page("repeatables.html", visit, shown=found, definitions=_definitions(found.crons))


def _definitions(found: Any) -> list[tuple[Any, str]]:
    return [(cron, json.dumps(wire.job_def(cron), ensure_ascii=False)) for cron in found]


def new_repeatable(found: dict[str, str], visit: Visit) -> Response:
    """The form for a new one."""
    return page("repeatable_new.html", visit, queue=found["name"])


def workers(found: Workers, visit: Visit) -> Response:
    """The workers, each with its health."""
    rows = [(worker, wire.health(found.ages[worker.id], worker.lease_seconds)) for worker in found.workers]
    return page("workers.html", visit, shown=found, rows=rows, most=HELD)


def metrics(found: Figures, visit: Visit) -> Response:
    """Figures over time."""
    counted = [(each, wire.tab_counts_of(each.counts)) for each in found.snapshots]
    states = [
        charts.of_state(name, state, [counts[name] for _, counts in reversed(counted)])
        for name, state in CHARTED.items()
    ]
    return page(
        "metrics.html",
        visit,
        shown=found,
        totals=wire.tab_counts(found.totals.counts),
        spans=list(charts.Span),
        charts=_of_span(found.buckets, found.span),
        states=states if found.snapshots else [],
        recent=[(each.at, counts, each.queues, each.workers) for each, counts in counted[:RECENT]],
    )


def audit(found: Audit, visit: Visit) -> Response:
    """What was done, and refused."""
    return page("audit.html", visit, shown=found, events=[(row, wire.audit_row(row)) for row in found.rows])


def switched(done: Done, visit: Visit) -> Response:
    """Back to the queue."""
    return visit.redirect(visit.url("queues", visit.names["name"]), flash=done.flash)


def bulk(done: Done, visit: Visit) -> Response:
    """Back to the first page of the list, with the filters that the form repeats."""
    echoed = {name: visit.form.text(name) for name in ("state", "q", "task", "sort", "size")}
    url = visit.url("queues", visit.names["name"], "jobs", **echoed, page=1)
    return visit.redirect(url, status=302, flash=done.flash)


def dead_letter_bulk(done: Done, visit: Visit) -> Response:
    """Back to the same page of the list."""
    numbers = {name: visit.form.text(name) or visit.request.query_params.get(name, "") for name in ("page", "size")}
    url = visit.url("queues", visit.names["name"], "dlq", page=numbers["page"] or 1, size=numbers["size"] or SIZES[0])
    return visit.redirect(url, flash=done.flash)


def acted(done: Done, visit: Visit) -> Response:
    """Back to where the form says it came from, if that is here."""
    back = visit.local(visit.form.text("return_to"))
    return visit.redirect(back or visit.url("queues", visit.names["name"], "jobs"), flash=done.flash)


def repeatable_acted(done: Done, visit: Visit) -> Response:
    """Back to the repeatables."""
    return visit.redirect(visit.url("queues", visit.names["name"], "repeatables"), flash=done.flash)


def created(done: Done, visit: Visit) -> Response:
    """To the repeatables, or back to the form that made no sense."""
    more = () if done.well else ("new",)
    return visit.redirect(visit.url("queues", visit.names["name"], "repeatables", *more), flash=done.flash)


def signing_in(found: Any, visit: Visit) -> Response:
    """The form that asks for a key."""
    target = visit.local(visit.request.query_params.get("next", "")) or visit.url()
    return page("login.html", visit, target=target, refused="")


def signed_in(session: str | None, visit: Visit) -> Response:
    """On to where the browser wanted to go, now with a session; or once more the form."""
    target = visit.local(visit.form.text("next")) or visit.url()
    if session is None:
        refused = "This is no API key of this server, or it was revoked or has expired."
        if prefers_json(visit.request.headers.get("accept")):
            raise Refused(401, Unauthorized.code, refused)
        return page("login.html", visit, status=401, target=target, refused=refused)
    response = visit.redirect(target)
    sessions.set_cookie(response, visit.request.scope, session)
    return response


def signed_out(found: Any, visit: Visit) -> Response:
    """To the form that asks for a key."""
    response = visit.redirect(visit.url("login"), flash=Flash("done", "You are signed out."))
    sessions.clear_cookie(response, visit.request.scope)
    return response


def readiness(found: dict[str, str]) -> Response:
    """Whether the server can do its work, as a status too."""
    return JSONResponse(found, 200 if found["status"] == "ok" else 503)


def refused(refused: Refused, visit: Visit) -> Response:
    """What went wrong, as a page; who is not signed in is asked to."""
    if refused.status == 401 and visit.request.method in ("GET", "HEAD"):
        query = visit.request.scope["query_string"].decode("ascii", "replace")
        wanted = visit.prefix + visit.path + (f"?{query}" if query else "")
        return visit.redirect(visit.url("login", next=None if visit.path == "/" else wanted))
    title = TITLES.get(refused.status, "This cannot be answered" if refused.status < 500 else "Something failed here")
    response = page("error.html", visit, status=refused.status, title=title, message=refused.message)
    response.headers.update(refused.headers)
    return response
