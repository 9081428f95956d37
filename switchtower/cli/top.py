"""`switchtower top`: queues and workers, live."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from switchtower.cli.documents import QUEUE_COUNTS, WORKERS
from switchtower.cli.options import AsJson, Url, call, duration_ms
from switchtower.cli.output import age, console, print_json_line, print_text, shown, state_style
from switchtower.cli.queues import COUNTED, latency_text, print_queues

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["top"]


def top(
    interval: Annotated[str, typer.Option("--interval", help="How often counts are renewed.")] = "1s",
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many renewals.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show queues and workers live; off a terminal, a table (or a line of JSON) per renewal. Ends with Ctrl-C."""
    every = duration_ms("--interval", interval)
    with suppress(KeyboardInterrupt):
        call(url, lambda client: _top(client, every, count, as_json=as_json))


async def _top(client: Any, interval_ms: int | None, count: int | None, *, as_json: bool) -> None:
    import asyncio

    workers: list[dict[str, Any]] = []

    async def follow_workers() -> None:
        nonlocal workers
        async with aclosing(client.subscribe(WORKERS)) as stream:
            async for data in stream:
                workers = data["workers"] if data else workers

    following = asyncio.create_task(follow_workers())
    screen = console()
    seen = 0
    try:
        async with aclosing(client.subscribe(QUEUE_COUNTS, {"intervalMs": interval_ms})) as stream:
            with _display(screen, as_json=as_json) as display:
                async for data in stream:
                    if following.done():
                        following.result()
                    if data is None:
                        continue
                    if as_json:
                        print_json_line({"queues": data["queueCounts"], "workers": workers})
                    elif screen.is_terminal:
                        display.update(_screen(client.url, data["queueCounts"], workers), refresh=True)
                    else:
                        print_queues(data["queueCounts"])
                        print_text()
                    seen += 1
                    if seen == count:
                        return
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


def _display(screen: Any, *, as_json: bool) -> Any:
    from contextlib import nullcontext

    if as_json or not screen.is_terminal:
        return nullcontext()
    from rich.live import Live

    return Live(console=screen, auto_refresh=False, screen=True)


def _screen(url: str, queues: list[dict[str, Any]], workers: list[dict[str, Any]]) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("QUEUE")
    for state in COUNTED:
        table.add_column(Text(state, state_style(state)), justify="right")
    table.add_column("oldest", justify="right")
    table.add_column("/min", justify="right")
    for queue in queues:
        counts = queue["counts"]
        name = Text(shown(queue["name"])).append("  paused" if queue["paused"] else "", "bold yellow")
        cells = (Text(f"{counts[state]:,}", "" if counts[state] else "dim") for state in COUNTED)
        table.add_row(name, *cells, latency_text(queue["latencyMs"]), f"{queue['throughputPerMinute'] or 0:,.0f}")
    people = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WORKER", "STATE", "BUSY", "RUNS"):
        people.add_column(column)
    for worker in workers:
        jobs = worker["currentJobs"]
        running = ", ".join(f"{shown(job['name'])} {age(job['startedAt'])}" for job in jobs[:4])
        people.add_row(
            f"{shown(worker['hostname'])}:{worker['pid']}",
            worker["state"].lower(),
            f"{len(jobs)}/{worker['concurrency']}",
            f"{running}{' …' if len(jobs) > 4 else ''}",
        )
    return Group(Text(f"Switchtower · {url} · Ctrl-C ends", "dim"), Text(), table, Text(), people)
