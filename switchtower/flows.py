"""What is a flow?

Jobs that wait for each other: a parent waits for its children, a job waits for the siblings it depends on. A flow is
known by the id of its root, the one job that nothing in it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from switchtower.errors import InvalidInput
from switchtower.jobs import Job, NewJob
from switchtower.states import FINAL, JobState

__all__ = ["MAX_NODES", "Flow", "FlowNode", "Planned", "node", "plan"]

MAX_NODES = 10_000
MAX_LEVELS = 50


@dataclass(slots=True, kw_only=True)
class FlowNode:
    """One job of a flow to be: it waits for its `children`, and for the nodes whose `key`s it depends on."""

    job: NewJob
    key: str | None = None
    children: Sequence[FlowNode] = ()
    depends_on: Sequence[str] = ()


@dataclass(slots=True)
class Planned:
    """One node with its place: the positions of its parent and of all that it waits for, in the plan's order."""

    node: FlowNode
    parent: int | None
    waits_for: list[int] = field(default_factory=list)
    awaited: bool = False


def node(job: NewJob, *children: FlowNode | NewJob, key: str | None = None, depends_on: Sequence[str] = ()) -> FlowNode:
    """A job of a flow, and the jobs that it waits for: `node(report.job(), node(fetch.job(day=1), key="a"))`."""
    below = [child if isinstance(child, FlowNode) else FlowNode(job=child) for child in children]
    return FlowNode(job=job, key=key, children=below, depends_on=tuple(depends_on))


def plan(root: FlowNode) -> list[Planned]:
    """A flow as a list, the root first; every edge is a position in it.

    Raises: InvalidInput for too many nodes or levels, a key that is unknown or used twice, and a cycle.
    """
    planned: list[Planned] = []
    positions: dict[int, int] = {}
    keys: dict[str, int] = {}
    for node, parent, level in _walk(root, None, 1):
        if level > MAX_LEVELS:
            raise InvalidInput("flow", f"is deeper than {MAX_LEVELS} levels.")
        if len(planned) >= MAX_NODES:
            raise InvalidInput("flow", f"has more than {MAX_NODES:,} jobs.")
        if node.job.deduplication is not None:
            raise InvalidInput("flow.job.deduplication", "is not for jobs of a flow; give them uniqueKeys.")
        position = len(planned)
        if id(node) in positions:
            raise InvalidInput("flow", "has one node in two places; make two of it.")
        planned.append(Planned(node, None if parent is None else positions[id(parent)]))
        positions[id(node)] = position
        if node.key is not None:
            if node.key in keys:
                raise InvalidInput("flow.key", f"{node.key!r} is used twice.")
            keys[node.key] = position
    for position, entry in enumerate(planned):
        if entry.parent is not None:
            planned[entry.parent].waits_for.append(position)
            entry.awaited = True
        for key in dict.fromkeys(entry.node.depends_on):
            if key not in keys:
                raise InvalidInput("flow.dependsOn", f"names {key[:100]!r}, which is no key in this flow.")
            entry.waits_for.append(keys[key])
            planned[keys[key]].awaited = True
    _refuse_cycles(planned)
    return planned


def _walk(root: FlowNode, parent: FlowNode | None, level: int) -> Iterator[tuple[FlowNode, FlowNode | None, int]]:
    stack: list[tuple[FlowNode, FlowNode | None, int]] = [(root, parent, level)]
    while stack:
        node, above, depth = stack.pop()
        yield node, above, depth
        stack.extend((child, node, depth + 1) for child in reversed(node.children))


def _refuse_cycles(planned: list[Planned]) -> None:
    left = [len(entry.waits_for) for entry in planned]
    waiting_on: list[list[int]] = [[] for _ in planned]
    for position, entry in enumerate(planned):
        for other in entry.waits_for:
            waiting_on[other].append(position)
    free = [position for position, count in enumerate(left) if not count]
    seen = 0
    while free:
        seen += 1
        for position in waiting_on[free.pop()]:
            left[position] -= 1
            if not left[position]:
                free.append(position)
    if seen < len(planned):
        stuck = next(position for position, count in enumerate(left) if count)
        name = planned[stuck].node.key or planned[stuck].node.job.name
        raise InvalidInput("flow.dependsOn", f"makes a cycle through {name[:100]!r}; nothing in it could ever run.")


@dataclass(slots=True, kw_only=True)
class Flow:
    """A flow as it is now: its root, and how many of its jobs are in each state."""

    id: str
    root: Job
    counts: dict[JobState, int]
    created_at: datetime

    @property
    def total(self) -> int:
        """How many jobs it has."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """How many of them are final."""
        return sum(count for state, count in self.counts.items() if state in FINAL)

    @property
    def progress(self) -> float:
        """The share of its jobs that are final, 0 to 1."""
        return self.finished / self.total if self.total else 0.0
