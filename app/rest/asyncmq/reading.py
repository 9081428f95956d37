"""What do AsyncMQ's pages show? Each is gathered from the resolvers here, as the caller may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from app.dashboard.charts import Span
from app.dashboard.models import (
    Audit,
    Crons,
    History,
    JobDetail,
    JobList,
    Overview,
    Pager,
    QueueDetail,
    Queues,
    Workers,
)
from app.rest.asyncmq import figures, pulse, wire
from app.rest.dashboard.fields import in_time
from schema.context import Context
from schema.resolvers import audit, crons, jobs, looking, metrics, queues, stats, workers
from schema.resolvers.bounds import MAX_LIMIT, window
from switchtower.audit import AuditFilter
from switchtower.crons import Cron
from switchtower.jobs import Job, JobFilter
from switchtower.states import JobState

__all__ = [
    "audit_rows",
    "dead_letters",
    "history",
    "job_detail",
    "job_list",
    "overview",
    "queue_detail",
    "queue_list",
    "repeatables",
    "worker_list",
]

CLUSTERS: Final = 8
CHILDREN: Final = 50
PATIENCE: Final = 0.5
"""For how many seconds jobs are looked through for a text before the page tells what was found until then."""
SHOWN: Final = frozenset({"payload", "result"})
"""What a list shows of the fields that are not read unless they are asked for."""
FAULTY: Final = JobFilter(states=[JobState.FAILED])
NOTHING: Final[Mapping[JobState, int]] = dict.fromkeys(JobState, 0)


async def overview(context: Context) -> Overview:
    """Totals, queues, workers, the newest jobs and the most frequent faults."""
    newest = window(context, first=pulse.LOOKED_AT)
    totals, found, live, listed, clusters, buckets = await asyncio.gather(
        stats.totals(context),
        queues.list_all(context),
        workers.list_all(context),
        jobs.page(context, JobFilter(), newest, with_=frozenset()),
        in_time(jobs.error_clusters(context, FAULTY, limit=CLUSTERS)),
        figures.points(context, Span.HOUR),
    )
    return Overview(totals, found, live, listed.page.items, clusters, buckets)


async def queue_list(context: Context, *, q: str, page: int, size: int) -> Queues:
    """The queues by name."""
    found = [queue for queue in await queues.list_all(context) if q.casefold() in queue.name.casefold()]
    pager = _pager(page, size, len(found))
    return Queues(found[pager.offset : pager.offset + size], pager, q)


def _pager(page: int, size: int, total: int, *, exact: bool = True) -> Pager:
    """The page with this number, or the last one where there are fewer."""
    return Pager(min(page, max(1, -(-total // size))), size, total, exact)


async def queue_detail(context: Context, name: str) -> QueueDetail:
    """One queue, its groups and its last hour."""
    found, groups, buckets = await asyncio.gather(
        queues.get(context, name), in_time(queues.groups(context, name)), figures.points(context, Span.HOUR, queue=name)
    )
    paused, counts = (False, NOTHING) if found is None else (found.paused, found.counts)
    return QueueDetail(name, paused, counts, found, groups, buckets)


async def job_list(context: Context, name: str, state: str, **asked: Any) -> JobList:
    """A page of the jobs of a queue in one tab, or of its repeatables; of a tab that there is not, nothing."""
    found = await queues.get(context, name)
    by_state = NOTHING if found is None else found.counts
    counts = wire.tab_counts(by_state)
    counts["repeatable"] = await crons.count(context, queue=name)
    listed = await _LISTS.get(state, _jobs)(context, name, state, **asked)
    texts = {field: asked[field] for field in ("q", "task", "job_id", "sort")}
    return JobList(name, state, counts=counts, **texts, **listed)


async def _jobs(
    context: Context,
    name: str,
    state: str,
    *,
    page: int,
    size: int,
    sort: str,
    after: str | None,
    before: str | None,
    **texts: str,
) -> dict[str, Any]:
    filter = JobFilter(queues=[name], states=list(wire.TABS.get(state, ())))
    newest, oldest = jobs.JobOrder.CREATED_DESC, jobs.JobOrder.CREATED_ASC
    order, reverse = (newest, oldest) if sort == "newest" else (oldest, newest)
    if any(texts.values()):
        seen = await looking.look_through(
            context,
            filter,
            lambda job: _matches(job, **texts),
            order=order,
            page=page,
            size=size,
            with_=SHOWN,
            seconds=PATIENCE,
        )
        pager = Pager(seen.page, size, seen.total, seen.exhaustive)
        rest = {"scanned": seen.scanned, "exhaustive": seen.exhaustive}
        return {"jobs": seen.jobs, "repeatables": [], "pager": pager, **rest}
    total = (await jobs.count(context, filter)).value
    pager = _pager(page, size, total)
    if after is not None or before is not None or pager.page == 1:
        first, last = (None, size) if before is not None else (size, None)
        part = window(context, first, None if before else after, last, before)
        found = (await jobs.page(context, filter, part, order=order, with_=SHOWN)).page
        after = found.cursors[-1] if found.has_next else None
        before = found.cursors[0] if found.has_previous and pager.page > 1 else None
        return {"jobs": found.items, "repeatables": [], "pager": Pager(pager.page, size, total, True, after, before)}
    # Counted off from the nearer end: the last page of a million costs what the first does.
    left = total - pager.offset - size
    if left >= pager.offset:
        found_jobs = await jobs.offset_page(context, filter, offset=pager.offset, limit=size, order=order, with_=SHOWN)
    else:
        limit = size if left >= 0 else size + left
        found_jobs = await jobs.offset_page(
            context, filter, offset=max(0, left), limit=limit, order=reverse, with_=SHOWN
        )
        found_jobs.reverse()
    return {"jobs": found_jobs, "repeatables": [], "pager": pager}


def _matches(job: Job, *, q: str, task: str, job_id: str) -> bool:
    return (
        task.casefold() in job.name.casefold()
        and job_id in (job.custom_id or job.id)
        and (not q or q.casefold() in wire.dumped(wire.job(job)))
    )


async def _repeatables(
    context: Context, name: str, state: str, *, page: int, size: int, q: str, task: str, job_id: str, **rest: Any
) -> dict[str, Any]:
    def matches(cron: Cron) -> bool:
        return (
            task.casefold() in cron.job.name.casefold()
            and job_id in cron.id
            and (not q or q.casefold() in wire.dumped(wire.repeatable(cron)))
        )

    found = [cron for cron in await crons.offset_page(context, offset=0, limit=MAX_LIMIT, queue=name) if matches(cron)]
    pager = _pager(page, size, len(found))
    return {"jobs": [], "repeatables": found[pager.offset : pager.offset + size], "pager": pager}


_LISTS: Final = {"repeatable": _repeatables}


async def job_detail(context: Context, name: str, job_id: str) -> JobDetail | None:
    """One job of a queue, by its id or its caller's own, with what keeps it from running and what it belongs to."""
    filter = JobFilter(ids=[job_id], queues=[name])
    found = (await jobs.page(context, filter, window(context, first=1))).page.items
    if not found:
        return None
    job = found[0]
    blockages, children, parent = await asyncio.gather(
        jobs.why_not_running(context, [job]),
        jobs.children(context, job.id, window(context, first=CHILDREN), with_=frozenset()),
        _parent(context, job),
    )
    return JobDetail(job, blockages[0], parent, children.page.items, children.page.has_next)


async def _parent(context: Context, job: Job) -> Job | None:
    return None if job.parent_id is None else await jobs.get(context, job.parent_id, with_=frozenset())


async def dead_letters(context: Context, name: str, *, page: int, size: int, **cursors: str | None) -> JobList:
    """The jobs of a queue that failed for good, the newest first."""
    texts = dict.fromkeys(("q", "task", "job_id"), "")
    return await job_list(
        context,
        name,
        "failed",
        page=page,
        size=size,
        sort="newest",
        **{"after": None, "before": None} | cursors,
        **texts,
    )


async def repeatables(context: Context, name: str) -> Crons:
    """The repeatables of a queue, the oldest first."""
    found = await crons.offset_page(context, offset=0, limit=MAX_LIMIT, queue=name)
    return Crons(name, found, await crons.count(context, queue=name))


async def worker_list(context: Context, *, page: int, size: int) -> Workers:
    """The workers that live, by when they started."""
    found = await workers.list_all(context)
    pager = _pager(page, size, len(found))
    shown = found[pager.offset : pager.offset + size]
    now = stats.now(context)
    ages = {worker.id: max(0.0, (now - worker.heartbeat_at).total_seconds()) for worker in shown}
    held = await workers.current_jobs(context, [worker.id for worker in shown])
    return Workers(shown, pager, ages, held)


async def history(context: Context, limit: int) -> History:
    """The last snapshots, newest first, and the totals now."""
    snapshots, totals = await asyncio.gather(metrics.history(context, limit), stats.totals(context))
    return History(snapshots, totals)


async def audit_rows(context: Context, filter: AuditFilter, given: Mapping[str, str], limit: int) -> Audit:
    """The newest rows that match; of a status that there is not, none."""
    limit = min(limit, context.max_page)
    listed = (
        [] if filter.statuses == [] else (await audit.page(context, filter, window(context, first=limit))).page.items
    )
    return Audit(listed, given["action"], given["status"], given["queue"], given["q"], limit)
