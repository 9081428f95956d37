"""How are many small look-ups of one answer made one?

A loader gathers the keys that are asked for in one turn of the event loop and reads them with one command. None keeps
what it read: a context can be a WebSocket connection that lives for hours.
"""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

from strawberry.dataloader import DataLoader

from schema.context import Context
from schema.resolvers import jobs as resolvers
from switchtower.crons import Cron
from switchtower.engine import Blockage, DeadLetter, DeadLetterFilter
from switchtower.flows import Flow
from switchtower.jobs import Job
from switchtower.pages import Page
from switchtower.workers import Worker
from switchtower.workflows import WorkflowRun

__all__ = [
    "ById",
    "Heavy",
    "blockages_of",
    "children_of",
    "crons",
    "current_jobs",
    "dead_letters",
    "dead_letters_of",
    "flows",
    "jobs",
    "loader",
    "queue_latencies",
    "queue_throughputs",
    "runs",
    "workers",
]

Heavy = frozenset[str]
K = TypeVar("K")
V = TypeVar("V")

Read = Callable[[Context, list[K]], Coroutine[Any, Any, list[V]]]


def loader(context: Context, read: Read[K, V]) -> DataLoader[K, V]:
    """The context's loader for `read`, a function of the context and distinct keys that answers in their order."""
    found = context.memo.get(read)
    if found is None:

        async def load(keys: list[K]) -> list[V]:
            distinct = list(dict.fromkeys(keys))
            answers = dict(zip(distinct, await read(context, distinct), strict=True))
            return [answers[key] for key in keys]

        found = context.memo[read] = DataLoader(load_fn=load, cache=False)
    return cast("DataLoader[K, V]", found)


def _all(heavies: Iterable[Heavy]) -> Heavy:
    return frozenset().union(*heavies)


async def jobs(context: Context, keys: list[tuple[str, Heavy]]) -> list[Job | None]:
    """Jobs by our id; the second half of a key says which heavy fields are wanted."""
    ids = list(dict.fromkeys(id for id, _ in keys))
    found = await context.engine.jobs.get_many(ids, caller=context.caller, with_=_all(heavy for _, heavy in keys))
    return [found.get(id) for id, _ in keys]


async def children_of(context: Context, keys: list[tuple[str, int, Heavy]]) -> list[Page[Job]]:
    """The first page of children of each parent, of the largest size that any of them is asked for."""
    ids = list(dict.fromkeys(id for id, _, _ in keys))
    size = max(size for _, size, _ in keys)
    wanted = _all(heavy for _, _, heavy in keys)
    found = await context.engine.jobs.children_of(ids, caller=context.caller, limit=size, with_=wanted)
    return [_first(found[id], size) for id, size, _ in keys]


def _first(page: Page[Job], size: int) -> Page[Job]:
    if len(page.items) <= size:
        return page
    return Page(page.items[:size], page.cursors[:size], True, page.has_previous)


class ById:
    """A record as a key of a loader: equal to any reading of the same thing."""

    __slots__ = ("record",)

    def __init__(self, record: Job) -> None:
        self.record = record

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and other.record.id == self.record.id

    def __hash__(self) -> int:
        return hash(self.record.id)


async def blockages_of(context: Context, keys: list[ById]) -> list[list[Blockage]]:
    """Why each of the jobs does not run."""
    return await resolvers.why_not_running(context, [key.record for key in keys])


async def dead_letters_of(context: Context, job_ids: list[str]) -> list[DeadLetter | None]:
    """The newest dead letter of each job."""
    found = await context.engine.dead_letters.for_jobs(job_ids, caller=context.caller)
    return [found.get(id) for id in job_ids]


async def flows(context: Context, roots: list[str]) -> list[Flow | None]:
    """Flows by the ids of their roots."""
    found = await context.engine.flows.get_many(roots, caller=context.caller)
    return [found.get(root) for root in roots]


async def runs(context: Context, ids: list[str]) -> list[WorkflowRun | None]:
    """Workflow runs by id, with their steps."""
    found = await context.engine.workflows.get_many(ids, caller=context.caller)
    return [found.get(id) for id in ids]


async def crons(context: Context, ids: list[str]) -> list[Cron | None]:
    """Crons by id."""
    found = await context.engine.crons.get_many(ids, caller=context.caller)
    return [found.get(id) for id in ids]


async def dead_letters(context: Context, ids: list[str]) -> list[DeadLetter | None]:
    """Dead letters by id."""
    page = await context.engine.dead_letters.page(DeadLetterFilter(ids=ids), caller=context.caller, first=len(ids))
    found = {entry.id: entry for entry in page.items}
    return [found.get(id) for id in ids]


async def workers(context: Context, ids: list[str]) -> list[Worker | None]:
    """Workers by id."""
    found = await context.engine.workers.get_many(ids)
    return [found.get(id) for id in ids]


async def current_jobs(context: Context, keys: list[tuple[str, Heavy]]) -> list[list[Job]]:
    """The active jobs of each worker that the caller may see."""
    ids = list(dict.fromkeys(id for id, _ in keys))
    wanted = _all(heavy for _, heavy in keys)
    found = await context.engine.workers.current_jobs(ids, caller=context.caller, with_=wanted)
    return [found.get(id, []) for id, _ in keys]


async def queue_latencies(context: Context, names: list[str]) -> list[int | None]:
    """The age in milliseconds of each queue's oldest waiting job; None where none waits."""
    found = await context.engine.queues.latency_ms(names)
    return [found.get(name) for name in names]


async def queue_throughputs(context: Context, names: list[str]) -> list[float | None]:
    """How many jobs of each queue end in a minute."""
    found = await context.engine.queues.throughput(names, caller=context.caller)
    return [found.get(name) for name in names]
