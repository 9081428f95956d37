"""Which routes does AsyncMQ's dashboard have, what answers each, and which page does a browser get?"""

from __future__ import annotations

from typing import Any, Final

from app.dashboard.charts import Span
from app.rest.asyncmq import acting, answers, figures, pages, parse, pulse, reading
from app.rest.asyncmq.schemas import array, form, listed, ref
from app.rest.dialect import Given, Parameter, Route
from app.rest.streams import Encoded
from schema.context import Context
from schema.resolvers import sessions, stats
from schema.resolvers.authority import authorise
from switchtower.access import Scope
from switchtower.errors import StoreUnavailable, Unauthorized

__all__ = ["ROUTES"]

WHOLE: Final = {"type": "integer"}
TEXT: Final = {"type": "string"}
SHORT: Final = {"type": "string", "maxLength": parse.MAX_TEXT}
PAGE: Final = (
    Parameter("page", "Which page, from 1 on; behind the last one it is the last one.", WHOLE),
    Parameter("size", "Items on a page: 20 unless given, 100 at most.", WHOLE),
)
SERVICE: Final = "asyncmq-dashboard"
BACKEND: Final = "mongodb"


def _as_it_is(found: Any) -> Any:
    return found


def _written(beat: pulse.Beat) -> Encoded:
    return Encoded(beat.text)


def _done(found: Any) -> dict[str, bool]:
    return {"ok": True}


async def _echo(context: Context, name: str) -> dict[str, str]:
    authorise(context, Scope.READ)
    return {"name": name}


async def _nothing(context: Context) -> dict[str, Any]:
    return {}


async def _health(context: Context) -> dict[str, str]:
    return {"status": "ok", "service": SERVICE}


async def _ready(context: Context) -> dict[str, str]:
    try:
        await stats.ping(context)
    except StoreUnavailable as error:
        return {"status": "error", "backend": BACKEND, "error": error.message}
    return {"status": "ok", "backend": BACKEND}


async def _sign_in(context: Context, key: str) -> str | None:
    try:
        return await sessions.open(context, key)
    except Unauthorized:
        return None


def _name(given: Given) -> dict[str, str]:
    return {"name": given.path["name"]}


def _action(given: Given) -> dict[str, str]:
    return {**_name(given), "action": given.form.text("action")}


def _job(given: Given) -> dict[str, str]:
    return {**_name(given), "job_id": given.path["job_id"]}


def _single(given: Given) -> dict[str, str]:
    return {**_job(given), "action": given.path["action"]}


def _many(noun: str) -> Any:
    return lambda given: {**parse.bulk(given), "noun": noun}


def _definition(given: Given) -> dict[str, str]:
    return {**_action(given), "job_def": given.form.text("job_def")}


def _new(given: Given) -> dict[str, str]:
    return {**_name(given), **{field: given.form.text(field) for field in ("task_id", "every", "cron")}}


def _key(given: Given) -> dict[str, str]:
    return {"key": given.form.text("key")}


def _session(given: Given) -> dict[str, Any]:
    return {"session": given.session}


def _wants_page(given: Given) -> bool:
    return given.form.text("_response") == "html"


def _named(noun: str) -> Any:
    """What an action is called in the audit trail when its form is refused."""
    return lambda given: f"{noun}.{given.path.get('action') or given.form.text('action') or 'unknown'}"


JOB_FORM: Final = form(action=TEXT, job_id={"type": "array", "items": TEXT})

ROUTES: Final = (
    Route(
        method="GET",
        path="/",
        summary="Overview: totals, queues, workers, the newest jobs",
        resolver=reading.overview,
        render=answers.overview,
        page=pages.overview,
        shows=listed(
            overview=ref("Overview"),
            jobdist=ref("Counts"),
            metrics=ref("Metrics"),
            queues=array("Queue"),
            workers=array("Worker"),
            latest_jobs=array("LatestJob"),
            latest_queues=array("LatestQueue"),
        ),
    ),
    Route(
        method="GET",
        path="/queues",
        summary="Queues with their jobs in each state",
        parse=parse.queues,
        resolver=reading.queue_list,
        render=answers.queues,
        page=pages.queues,
        query=(Parameter("q", "Only queues with this text in their name.", SHORT), *PAGE),
        shows=listed(queues=array("Queue"), page=WHOLE, size=WHOLE, total=WHOLE, total_pages=WHOLE),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/queues/{name}",
        summary="One queue; zeros where there is none of this name",
        parse=parse.queue,
        resolver=reading.queue_detail,
        render=answers.queue,
        page=pages.queue,
        shows=ref("Queue"),
    ),
    Route(
        method="POST",
        path="/queues/{name}",
        summary="Pause or resume a queue; back to it",
        parse=_action,
        resolver=acting.switch_queue,
        page=pages.switched,
        status=303,
        form=form(action={"enum": ["pause", "resume"]}),
        source="queues.detail",
        action=_named("queue"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/queues/{name}/jobs",
        summary="Jobs of a queue in one state",
        parse=parse.job_page,
        resolver=reading.job_list,
        render=answers.jobs,
        page=pages.jobs,
        query=(
            Parameter("state", "waiting, active, completed, failed, delayed, repeatable or cancelled.", TEXT),
            *PAGE,
            Parameter("q", "Only jobs with this text in their JSON, whatever its case.", SHORT),
            Parameter("task", "Only jobs with this text in their task, whatever its case.", SHORT),
            Parameter("job_id", "Only jobs with this text in their id.", SHORT),
            Parameter("sort", "newest or oldest first.", TEXT),
            Parameter("after", "Where the page before ended: a cursor of its link.", TEXT),
            Parameter("before", "Where the page behind begins: a cursor of its link.", TEXT),
        ),
        shows=listed(
            queue=TEXT,
            state=TEXT,
            jobs={"type": "array", "items": {"anyOf": [ref("Job"), ref("Repeatable")]}},
            **dict.fromkeys(("page", "size", "total", "total_pages"), WHOLE),
            **dict.fromkeys(("sort", "q", "task", "job_id"), TEXT),
            exhaustive={"type": "boolean"},
        ),
        refuses=(400,),
    ),
    Route(
        method="POST",
        path="/queues/{name}/jobs",
        summary="Retry, remove or cancel jobs; back to the list",
        parse=_many("job"),
        resolver=acting.act_on_many,
        page=pages.bulk,
        status=302,
        form=JOB_FORM,
        source="jobs.bulk",
        action=_named("job"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/queues/{name}/jobs/{job_id}",
        summary="One job with all that is kept of it",
        parse=_job,
        resolver=reading.job_detail,
        render=answers.job,
        page=pages.job,
        missing="Job",
        shows=ref("Job"),
        refuses=(404,),
    ),
    Route(
        method="POST",
        path="/queues/{name}/jobs/{job_id}/{action}",
        summary="Retry, remove or cancel a job; one that there is not is done already",
        parse=_single,
        resolver=acting.act,
        render=_done,
        page=pages.acted,
        page_when=_wants_page,
        form=form(_response=TEXT, return_to=TEXT),
        source="jobs.single",
        action=_named("job"),
        shows=ref("Done"),
        refuses=(400, 409),
    ),
    Route(
        method="GET",
        path="/queues/{name}/dlq",
        summary="Jobs of a queue that failed for good",
        parse=parse.dead_letter_page,
        resolver=reading.dead_letters,
        render=answers.dead_letters,
        page=pages.dead_letters,
        query=PAGE,
        shows=listed(queue=TEXT, jobs=array("Job"), page=WHOLE, size=WHOLE, total=WHOLE, total_pages=WHOLE),
        refuses=(400,),
    ),
    Route(
        method="POST",
        path="/queues/{name}/dlq",
        summary="Retry or remove dead letters; back to the list",
        parse=_many("dlq"),
        resolver=acting.act_on_many,
        page=pages.dead_letter_bulk,
        status=303,
        form=JOB_FORM,
        source="dlq.bulk",
        action=_named("dlq"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/queues/{name}/repeatables",
        summary="Repeatables of a queue",
        parse=_name,
        resolver=reading.repeatables,
        render=answers.repeatables,
        page=pages.repeatables,
        shows=listed(queue=TEXT, repeatables=array("Repeatable")),
    ),
    Route(
        method="POST",
        path="/queues/{name}/repeatables",
        summary="Pause, resume or remove a repeatable; back to the list",
        parse=_definition,
        resolver=acting.act_on_repeatable,
        page=pages.repeatable_acted,
        status=303,
        form=form(action={"enum": ["pause", "resume", "remove"]}, job_def=TEXT),
        source="repeatables",
        action=_named("repeatable"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/queues/{name}/repeatables/new",
        summary="The form for a repeatable",
        parse=_name,
        resolver=_echo,
        render=_as_it_is,
        page=pages.new_repeatable,
        shows=listed(name=TEXT),
    ),
    Route(
        method="POST",
        path="/queues/{name}/repeatables/new",
        summary="Create a repeatable; to the list, or back to the form",
        parse=_new,
        resolver=acting.create_repeatable,
        page=pages.created,
        status=303,
        form=form(task_id=TEXT, every=TEXT, cron=TEXT),
        source="repeatables.new",
        action=lambda given: "repeatable.create",
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/workers",
        summary="Workers that live",
        parse=parse.numbers,
        resolver=reading.worker_list,
        render=answers.workers,
        page=pages.workers,
        query=PAGE,
        shows=listed(workers=array("Worker"), page=WHOLE, size=WHOLE, total=WHOLE, total_pages=WHOLE),
    ),
    Route(
        method="GET",
        path="/metrics",
        summary="Figures now and over time",
        parse=parse.charted,
        resolver=figures.figures,
        render=answers.metrics,
        page=pages.metrics,
        query=(
            Parameter("range", "How far back the page looks.", {"enum": [span.key for span in Span]}),
            Parameter("queue", "Only this queue."),
            Parameter("name", "Only jobs of this task."),
        ),
        shows=ref("Metrics"),
    ),
    Route(
        method="GET",
        path="/metrics/history",
        summary="Snapshots of the totals, the newest first",
        parse=parse.history,
        resolver=reading.history,
        render=answers.history,
        query=(Parameter("limit", "At most so many: 120 unless given, 500 at most.", WHOLE),),
        shows=listed(history=array("Snapshot")),
    ),
    Route(
        method="GET",
        path="/audit",
        summary="What was done and what was refused, the newest first",
        parse=parse.audit,
        resolver=reading.audit_rows,
        render=answers.audit,
        page=pages.audit,
        query=(
            Parameter("action", "Only actions of exactly this name, such as job.retry.", SHORT),
            Parameter("status", "success or failed.", SHORT),
            Parameter("queue", "Only those of this queue.", SHORT),
            Parameter("q", "Only those with this text in any of their fields, whatever its case.", SHORT),
            Parameter("limit", "At most so many: 200 unless given, 500 at most.", WHOLE),
        ),
        shows=listed(events=array("AuditEvent"), limit=WHOLE),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/events",
        summary="Seven events with everything, now and every five seconds",
        resolver=pulse.beats,
        events=_written,
        shows=TEXT,
    ),
    Route(
        method="GET",
        path="/health",
        summary="Whether the server answers",
        resolver=_health,
        render=_as_it_is,
        public=True,
        shows=listed(status={"const": "ok"}, service={"const": SERVICE}),
    ),
    Route(
        method="GET",
        path="/ready",
        summary="Whether the database answers too",
        resolver=_ready,
        render=pages.readiness,
        public=True,
        shows=listed(status={"const": "ok"}, backend={"const": BACKEND}),
        refuses=(503,),
    ),
    Route(
        method="GET",
        path="/login",
        summary="The form that asks for an API key",
        resolver=_nothing,
        render=_as_it_is,
        page=pages.signing_in,
        public=True,
        shows=listed(),
    ),
    Route(
        method="POST",
        path="/login",
        summary="A session for an API key; on to the page that was asked for",
        parse=_key,
        resolver=_sign_in,
        page=pages.signed_in,
        status=303,
        public=True,
        form=form(key=TEXT, next=TEXT),
        refuses=(400,),
    ),
    Route(
        method="POST",
        path="/logout",
        summary="The end of the session",
        parse=_session,
        resolver=sessions.close,
        page=pages.signed_out,
        status=303,
        public=True,
        form=form(),
        refuses=(400,),
    ),
)
