"""Which routes does Dispatch have, and which resolver answers each?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from app.rest.dialect import Parameter, Route
from app.rest.dispatch import wire
from app.rest.dispatch.schemas import array, ref
from schema.context import Context
from schema.resolvers import crons, dead_letters, jobs, stats, workers, workflows
from switchtower.jobs import Job, JobFilter
from switchtower.states import JobState
from switchtower.workflows import RunState

__all__ = ["ROUTES"]

RETRYING: Final = JobFilter(states=[JobState.WAITING], retry_pending=True)
MOST_COUNTED: Final = 1_000_000

WHOLE: Final = {"type": "integer", "format": "int64"}
STATE: Final = Parameter("state", "Only jobs in this state; of an unknown one there are none.")
RUN_STATE: Final = Parameter("state", "Only runs in this state: running, completed or failed.")
QUEUE: Final = Parameter("queue", "Only those of this queue.")
PAGE: Final = (
    Parameter("limit", "At most so many: 50 unless given, 1000 at most.", WHOLE),
    Parameter("offset", "Leaves out the first so many.", WHOLE),
)


async def _with_heartbeats(context: Context, found: Sequence[Job]) -> wire.Jobs:
    holders = {job.worker_id for job in found if job.worker_id is not None}
    known = await workers.get_many(context, holders) if holders else {}
    return wire.Jobs(found, {id: worker.heartbeat_at for id, worker in known.items()})


async def _jobs(context: Context, **arguments: Any) -> wire.Jobs:
    return await _with_heartbeats(context, await jobs.offset_page(context, **arguments))


async def _job(context: Context, id: str) -> wire.Jobs | None:
    job = await jobs.get(context, id, with_=wire.HEAVY)
    return None if job is None else await _with_heartbeats(context, [job])


async def _names(context: Context) -> dict[str, Any]:
    return {"names": [workflow.name for workflow in await workflows.names(context)]}


async def _counts(context: Context) -> dict[str, int]:
    found, retrying = await asyncio.gather(
        jobs.counts(context, JobFilter()), jobs.count(context, RETRYING, cap=MOST_COUNTED)
    )
    return wire.counts(found.by_state, retrying.value)


async def _runs(context: Context, states: tuple[RunState, ...]) -> int:
    return (await workflows.count(context, states=states, cap=MOST_COUNTED)).value


async def _stats(context: Context) -> dict[str, Any]:
    totals = await stats.totals(context)
    counts, *runs = await asyncio.gather(
        _counts(context), *(_runs(context, states) for states in wire.RUN_FILTERS.values())
    )
    by_state = dict(zip(wire.RUN_FILTERS, runs, strict=True))
    return {"jobs": counts, "dlq_count": totals.dead_letters, "workflows": by_state}


async def _dead_letters(context: Context) -> dict[str, int]:
    return {"count": (await stats.totals(context)).dead_letters}


async def _replay_all(context: Context, **arguments: Any) -> dict[str, int]:
    replayed, errors = await dead_letters.replay_all(context, **arguments)
    return {"replayed": replayed, "errors": len(errors)}


async def _purge(context: Context, **arguments: Any) -> dict[str, int]:
    return {"purged": await dead_letters.purge(context, **arguments)}


async def _enable(context: Context, id: str) -> Any:
    return await crons.switch(context, id, on=True)


async def _disable(context: Context, id: str) -> Any:
    return await crons.switch(context, id, on=False)


def _as_it_is(answer: Any) -> Any:
    return answer


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/jobs",
        summary="List jobs, the oldest first",
        parse=wire.job_page,
        resolver=_jobs,
        render=wire.jobs,
        query=(STATE, QUEUE, *PAGE),
        shows=array("Job"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/counts",
        summary="Count jobs by state",
        resolver=_counts,
        render=_as_it_is,
        shows=ref("Counts"),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{jobId}",
        summary="Get a job",
        parse=wire.job_id,
        resolver=_job,
        render=wire.one_job,
        missing="Job",
        shows=ref("Job"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{jobId}/cancel",
        summary="Cancel a pending or retrying job",
        parse=wire.cancel,
        resolver=jobs.cancel,
        status=204,
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{jobId}/retry",
        summary="Run a failed job again, with all its attempts",
        parse=wire.retry,
        resolver=jobs.retry,
        status=204,
        refuses=(400, 404, 409),
    ),
    Route(
        method="GET",
        path="/v1/workflows",
        summary="List the workflows that live workers have",
        resolver=_names,
        render=_as_it_is,
        shows=ref("Workflows"),
    ),
    Route(
        method="GET",
        path="/v1/workflows/runs",
        summary="List workflow runs, the oldest first",
        parse=wire.run_page,
        resolver=workflows.offset_page,
        render=wire.runs,
        query=(RUN_STATE, *PAGE),
        shows=array("Run"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/v1/workflows/runs/{runId}",
        summary="Get a workflow run",
        parse=wire.run_id,
        resolver=workflows.get,
        render=wire.run,
        missing="Workflow run",
        shows=ref("Run"),
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/v1/dlq",
        summary="List dead letters, the oldest failure first",
        parse=wire.dead_letter_page,
        resolver=dead_letters.offset_page,
        render=wire.dead_letters,
        query=(QUEUE, *PAGE),
        shows=array("DeadLetter"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/v1/dlq/count",
        summary="Count dead letters, replayed ones too",
        resolver=_dead_letters,
        render=_as_it_is,
        shows=ref("Count"),
    ),
    Route(
        method="GET",
        path="/v1/dlq/{entryId}",
        summary="Get a dead letter",
        parse=wire.dead_letter_id,
        resolver=dead_letters.get,
        render=wire.dead_letter,
        missing="Dead letter",
        shows=ref("DeadLetter"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/dlq/{entryId}/replay",
        summary="Enqueue the job again as a new one; the entry stays",
        parse=wire.replay,
        resolver=dead_letters.replay,
        render=wire.enqueued,
        status=201,
        shows=ref("Job"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/dlq/replay-all",
        summary="Replay the oldest 1,000 dead letters that never were",
        parse=wire.replay_all,
        resolver=_replay_all,
        render=_as_it_is,
        shows=ref("Replayed"),
    ),
    Route(
        method="POST",
        path="/v1/dlq/purge",
        summary="Delete dead letters that failed more than 30 days ago",
        parse=wire.purge,
        resolver=_purge,
        render=_as_it_is,
        shows=ref("Purged"),
    ),
    Route(
        method="GET",
        path="/v1/crons",
        summary="List crons, the oldest first",
        parse=wire.page,
        resolver=crons.offset_page,
        render=wire.crons,
        query=PAGE,
        shows=array("Cron"),
        refuses=(400,),
    ),
    Route(
        method="GET",
        path="/v1/crons/{cronId}",
        summary="Get a cron",
        parse=wire.cron_id,
        resolver=crons.get,
        render=wire.cron,
        missing="Cron",
        shows=ref("Cron"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/crons/{cronId}/enable",
        summary="Let a cron fire again, from its next slot on",
        parse=wire.cron_id,
        resolver=_enable,
        render=wire.cron,
        shows=ref("Cron"),
        refuses=(400, 404),
    ),
    Route(
        method="POST",
        path="/v1/crons/{cronId}/disable",
        summary="Stop a cron",
        parse=wire.cron_id,
        resolver=_disable,
        render=wire.cron,
        shows=ref("Cron"),
        refuses=(400, 404),
    ),
    Route(
        method="DELETE",
        path="/v1/crons/{cronId}",
        summary="Delete a cron for good; its jobs stay",
        parse=wire.cron_id,
        resolver=crons.delete,
        status=204,
        refuses=(400, 404),
    ),
    Route(
        method="GET",
        path="/v1/stats",
        summary="Everything at a glance",
        resolver=_stats,
        render=_as_it_is,
        shows=ref("Stats"),
    ),
)
