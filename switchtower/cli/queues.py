"""`switchtower queues`, `pause`, `resume`, `drain`: queues as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from switchtower.cli.documents import DRAIN_QUEUE, PAUSE_QUEUE, QUEUE, QUEUES, RESUME_QUEUE
from switchtower.cli.options import AsJson, Url, Yes, call, confirm, interactive
from switchtower.cli.output import note, print_json, print_table, print_text
from switchtower.errors import NotFound

__all__ = ["COUNTED", "drain", "latency_text", "pause", "print_queues", "queues", "resume"]

COUNTED = ("waiting", "active", "scheduled", "retrying", "blocked", "completed", "failed", "cancelled")

QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
TaskName = Annotated[str | None, typer.Option("--name", "-n", help="Only jobs of this task.")]
GroupName = Annotated[str | None, typer.Option("--group", "-g", help="Only jobs of this group.")]


def queues(
    name: Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="Only this one, with its groups.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List queues with their counts, or show one."""
    if name is None:
        found = call(url, lambda client: client.execute(QUEUES))["queues"]
        if as_json:
            print_json(found)
        elif found:
            print_queues(found)
        else:
            note("There are no queues yet; the first job makes its queue.")
        return
    queue = call(url, lambda client: client.execute(QUEUE, {"name": name}))["queue"]
    if queue is None:
        raise NotFound("Queue", name)
    if as_json:
        print_json(queue)
        return
    print_queues([queue])
    if queue["groups"]:
        print_text()
        rows = ((g["name"], g["waiting"], g["active"], "paused" if g["paused"] else "") for g in queue["groups"])
        print_table(("GROUP", "WAITING", "ACTIVE", ""), rows, right=("WAITING", "ACTIVE"))


def pause(
    name: QueueName, job_name: TaskName = None, group: GroupName = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Start no more jobs of a queue, or of one task or one group in it; running ones go on."""
    _control(PAUSE_QUEUE, name, job_name, group, url, as_json=as_json)


def resume(
    name: QueueName, job_name: TaskName = None, group: GroupName = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Let a paused queue, or one task or one group in it, run again."""
    _control(RESUME_QUEUE, name, job_name, group, url, as_json=as_json)


def drain(name: QueueName, yes: Yes = False, url: Url = None, as_json: AsJson = False) -> None:
    """Remove every job of a queue that has not started; running ones go on."""
    if not yes and interactive():
        confirm(f"This removes all jobs of {name} that are waiting, scheduled, retrying or blocked. Continue?")
    answer = call(url, lambda client: client.mutate(DRAIN_QUEUE, {"name": name}))
    if as_json:
        print_json({"queue": name, "removed": answer["removed"]})
    else:
        print_text(f"{name}: {answer['removed']} jobs removed")


def print_queues(found: Iterable[dict[str, Any]]) -> None:
    """Writes the table of queues."""
    columns = ("QUEUE", *(state.upper() for state in COUNTED), "OLDEST", "PER MINUTE", "")
    rows = (
        (
            queue["name"],
            *(queue["counts"][state] for state in COUNTED),
            latency_text(queue["latencyMs"]),
            f"{queue['throughputPerMinute'] or 0:.0f}",
            _paused(queue),
        )
        for queue in found
    )
    print_table(columns, rows, right=columns[1:-1])


def latency_text(ms: int | None) -> str:
    """How long the oldest waiting job has waited."""
    if ms is None:
        return ""
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s" if ms < 60_000 else f"{ms / 60_000:.0f} m"


def _paused(queue: dict[str, Any]) -> str:
    if queue["paused"]:
        return "paused"
    held = [*queue["pausedNames"], *(f"group {group}" for group in queue["pausedGroups"])]
    return f"paused: {', '.join(held)}" if held else ""


def _control(
    mutation: str, name: str, job_name: str | None, group: str | None, url: str | None, *, as_json: bool
) -> None:
    variables = {"name": name, "jobName": job_name, "group": group}
    queue = call(url, lambda client: client.mutate(mutation, variables))
    if as_json:
        print_json(queue)
        return
    part = f"{job_name} in {name}" if job_name else f"group {group} in {name}" if group else name
    stopped = job_name in queue["pausedNames"] if job_name else queue["paused"]
    if group:
        stopped = group in queue["pausedGroups"]
    print_text(f"{part} is {'paused' if stopped else 'running'}; {queue['counts']['waiting']} jobs wait")
