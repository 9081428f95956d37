"""Which routes does Dispatched have, and which resolver answers each?"""

from __future__ import annotations

from typing import Final

from app.rest.dialect import Route
from app.rest.dispatched import wire
from app.rest.dispatched.schemas import DISPATCH, RESCHEDULE
from schema.resolvers import jobs, webhooks

__all__ = ["ROUTES"]

JOB: Final = {"$ref": "#/components/schemas/Job"}

ROUTES: Final = (
    Route(
        method="POST",
        path="/api/jobs/dispatch",
        summary="Queue a job, to be delivered to the webhook of the key or project",
        parse=wire.dispatch,
        resolver=webhooks.dispatch,
        render=wire.dispatched,
        status=201,
        body=DISPATCH,
        shows=JOB,
        refuses=(400, 404, 413, 415),
    ),
    Route(
        method="GET",
        path="/api/jobs/{jobId}",
        summary="Get the status of a job",
        parse=wire.job_id,
        resolver=jobs.get,
        render=wire.job,
        missing="Job",
        shows=JOB,
        refuses=(404,),
    ),
    Route(
        method="DELETE",
        path="/api/jobs/{jobId}",
        summary="Cancel a job that is QUEUED",
        parse=wire.cancel,
        resolver=jobs.cancel,
        render=wire.job,
        shows=JOB,
        refuses=(400, 404),
    ),
    Route(
        method="PATCH",
        path="/api/jobs/{jobId}",
        summary="Set another time for a job that is QUEUED, or run it now",
        parse=wire.reschedule,
        resolver=jobs.reschedule,
        render=wire.job,
        body=RESCHEDULE,
        shows=JOB,
        refuses=(400, 404, 413, 415),
    ),
)
