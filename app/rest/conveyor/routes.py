"""Which routes does Conveyor have, and which call answers each?"""

from __future__ import annotations

from typing import Any, Final

from app.rest.conveyor import calls, given
from app.rest.conveyor.schemas import (
    ADDITION,
    CHANGE,
    CLEANING,
    ENDED,
    PAUSING,
    SEARCHES,
    STREAM,
    WHOLE,
    data,
    page,
)
from app.rest.conveyor.wire import STATES
from app.rest.dialect import Parameter, Route
from app.rest.streams import Position, ServerEvent

__all__ = ["ROUTES"]

QUEUES: Final = "/api/queues"
QUEUE: Final = f"{QUEUES}/{{name}}"
JOBS: Final = f"{QUEUE}/jobs"
JOB: Final = f"{JOBS}/{{id}}"

DATE: Final = {"type": "string", "format": "date-time"}
STATE: Final = {"type": "string", "enum": list(STATES)}
GRANULARITY: Final = {"type": "string", "enum": ["minute", "hour"]}


def _part(end: int) -> tuple[Parameter, Parameter]:
    return (
        Parameter("start", "The number of the first item, from 0 on.", WHOLE),
        Parameter("end", f"The number behind the last item: {end} unless given, 1000 behind the first at most.", WHOLE),
    )


def _data(found: Any) -> dict[str, Any]:
    return {"data": found}


def _page(page: calls.Page) -> dict[str, Any]:
    return {"data": page.shown, "meta": {"total": page.total, "start": page.part.start, "end": page.part.end}}


def _event(told: ServerEvent | Position) -> ServerEvent | Position:
    return told


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/config",
        summary="What a dashboard must know before it asks for anything else; needs no key",
        resolver=calls.config,
        render=_data,
        public=True,
        shows=data("Config"),
    ),
    Route(
        method="GET",
        path=QUEUES,
        summary="List all queues",
        resolver=calls.list_queues,
        render=_data,
        shows=data("[Queue]"),
    ),
    Route(
        method="GET",
        path=QUEUE,
        summary="Queue detail: job counts and paused job names",
        parse=given.name,
        resolver=calls.queue,
        render=_data,
        shows=data("QueueDetail"),
        refuses=(404,),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/pause",
        summary="Pause a queue or a specific job name",
        parse=given.pausing,
        resolver=calls.pause,
        render=_data,
        body=PAUSING,
        body_optional=True,
        shows=data("Paused"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/resume",
        summary="Resume a queue or a specific job name",
        parse=given.pausing,
        resolver=calls.resume,
        render=_data,
        body=PAUSING,
        body_optional=True,
        shows=data("Resumed"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/drain",
        summary="Drain all waiting and delayed jobs",
        parse=given.name,
        resolver=calls.drain,
        render=_data,
        shows=data("Drained"),
        refuses=(404,),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/clean",
        summary="Remove jobs in a given state older than a grace period",
        parse=given.cleaning,
        resolver=calls.clean,
        render=_data,
        body=CLEANING,
        shows=data("RemovedJobs"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/retry",
        summary="Retry all failed or completed jobs",
        parse=given.retrying,
        resolver=calls.retry_all,
        render=_data,
        body=ENDED,
        shows=data("RetriedJobs"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=f"{QUEUE}/promote",
        summary="Promote all delayed jobs to waiting",
        parse=given.name,
        resolver=calls.promote_all,
        render=_data,
        shows=data("PromotedJobs"),
        refuses=(404,),
    ),
    Route(
        method="DELETE",
        path=QUEUE,
        summary="Obliterate a queue",
        parse=given.obliteration,
        resolver=calls.obliterate,
        render=_data,
        query=(Parameter("force", "`true`, just so, when active jobs are not to stand in its way."),),
        shows=data("Obliterated"),
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path=f"{QUEUE}/groups",
        summary="List distinct groups with active and waiting counts",
        parse=given.name,
        resolver=calls.groups,
        render=_data,
        shows=data("[Group]"),
        refuses=(404,),
    ),
    Route(
        method="GET",
        path=f"{QUEUE}/metrics",
        summary="Per-queue metrics buckets",
        parse=given.metrics,
        resolver=calls.metrics_of,
        render=_data,
        query=(
            Parameter("granularity", "minute unless given.", GRANULARITY),
            Parameter("from", "ISO 8601; an hour ago unless given.", DATE),
            Parameter("to", "ISO 8601; now unless given.", DATE),
        ),
        shows=data("[Bucket]"),
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path=f"{QUEUE}/events",
        summary="Event stream of a single queue",
        parse=given.stream,
        resolver=calls.events,
        events=_event,
        shows=STREAM,
        refuses=(404,),
    ),
    Route(
        method="GET",
        path=JOBS,
        summary="List jobs with pagination",
        parse=given.listing,
        resolver=calls.list_jobs,
        render=_page,
        query=(Parameter("state", "waiting unless given.", STATE), *_part(100)),
        shows=page("Job"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=JOBS,
        summary="Add a new job",
        parse=given.addition,
        resolver=calls.add_job,
        render=_data,
        status=201,
        body=ADDITION,
        unreadable=given.NAME_NEEDED,
        shows=data("Job"),
        refuses=(400, 404, 409, 413),
    ),
    Route(
        method="GET",
        path=JOB,
        summary="Job detail",
        parse=given.job_id,
        resolver=calls.get_job,
        render=_data,
        shows=data("Job"),
        refuses=(404,),
    ),
    Route(
        method="GET",
        path=f"{JOB}/children",
        summary="List child jobs",
        parse=given.job_id,
        resolver=calls.children,
        render=_data,
        shows=data("[Job]"),
        refuses=(404,),
    ),
    Route(
        method="POST",
        path=f"{JOB}/retry",
        summary="Retry a single failed or completed job",
        parse=given.job_id,
        resolver=calls.retry_job,
        render=_data,
        shows=data("Retried"),
        refuses=(400, 404, 409),
    ),
    Route(
        method="POST",
        path=f"{JOB}/promote",
        summary="Promote a single delayed job to waiting",
        parse=given.job_id,
        resolver=calls.promote_job,
        render=_data,
        shows=data("Promoted"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path=f"{JOB}/cancel",
        summary="Cancel an active job",
        parse=given.job_id,
        resolver=calls.cancel_job,
        render=_data,
        shows=data("Cancelled"),
        refuses=(400, 404),
    ),
    Route(
        method="PATCH",
        path=JOB,
        summary="Edit job payload or priority",
        parse=given.change,
        resolver=calls.edit_job,
        render=_data,
        body=CHANGE,
        shows=data("Job"),
        refuses=(400, 404, 413),
    ),
    Route(
        method="DELETE",
        path=JOB,
        summary="Remove a job",
        parse=given.job_id,
        resolver=calls.remove_job,
        render=_data,
        shows=data("Removed"),
        refuses=(404,),
    ),
    Route(
        method="GET",
        path="/api/flows",
        summary="List flow parent jobs",
        parse=given.states,
        resolver=calls.flows,
        render=_data,
        query=(Parameter("state", "Only in this state; `all` unless given.", {"enum": ["all", *STATES]}),),
        shows=data("[Job]"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/api/search",
        summary="Search for jobs, queues, or payloads",
        parse=given.search,
        resolver=calls.find,
        render=_data,
        query=(
            Parameter("q", "Search term: a job ID, or a part of a queue's name, a job's name or a payload's text."),
            Parameter("type", "job unless given.", SEARCHES),
            Parameter("queue", "The queue to search within; payload searches need it."),
        ),
        shows=data("Nothing", "Job", "[Queue]", "[Job]"),
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/api/jobs/search",
        summary="List jobs of all queues by their names, queues, states and times",
        parse=given.job_search,
        resolver=calls.search_jobs,
        render=_page,
        query=(
            Parameter("name", "Only jobs whose name has this in it, whatever its case."),
            Parameter("queue", "Only jobs of this queue."),
            Parameter("state", "Only jobs in these states, separated by commas."),
            Parameter("after", "Only jobs that were created after this; ISO 8601.", DATE),
            Parameter("before", "Only jobs that were created before this; ISO 8601.", DATE),
            *_part(50),
        ),
        shows=page("Job"),
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/api/metrics/sparklines",
        summary="Batch sparklines for all queues",
        resolver=calls.sparklines,
        render=_data,
        shows=data("Sparklines"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/api/metrics/status",
        summary="Check if metrics are enabled",
        resolver=calls.metrics_status,
        render=_data,
        shows=data("MetricsStatus"),
    ),
    Route(
        method="GET",
        path="/api/events",
        summary="Event stream of all queues",
        parse=given.streams,
        resolver=calls.events,
        events=_event,
        shows=STREAM,
    ),
)
