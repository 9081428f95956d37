"""How does a person follow one job: its state, its progress, its log lines?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from switchtower.cli.documents import WATCH_JOB, WHY
from switchtower.cli.output import EXIT_REFUSED, console, note, print_json_line, print_text, shown, state_style
from switchtower.errors import NotFound, SwitchtowerError

if TYPE_CHECKING:
    import asyncio

    from rich.console import RenderableType

    from switchtower.client import Client

__all__ = ["FINAL", "follow", "log_text", "new_lines", "outcome_code", "outcome_text", "progress_text"]

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
REMOVED = "REMOVED"
IDLE = frozenset({"WAITING", "SCHEDULED", "BLOCKED"})
PATIENCE_SECONDS = 2.0


async def follow(client: Client, id: str, *, as_json: bool = False, logs_only: bool = False) -> dict[str, Any]:
    """Shows a job until it is final and returns it: a live bar on a terminal, lines elsewhere. Its state is `REMOVED`
    where it was removed before its end could be read.

    With `as_json` each change is one line of JSON; with `logs_only` only its log lines are shown. A job that does not
    start for a while is explained on standard error. Raises NotFound.
    """
    out = console()
    live = out.is_terminal and not as_json and not logs_only
    with _display(live) as display, _explained(client, id, display) as started:
        job: dict[str, Any] | None = None
        lines: list[dict[str, Any]] = []
        said = ""
        async with aclosing(client.subscribe(WATCH_JOB, {"id": id})) as stream:
            async for data in stream:
                if data is None:
                    continue
                if data["job"] is None:
                    # Only a job that was never there is an error: one that is gone may have been removed at its end.
                    return {**job, "state": REMOVED} if job is not None else _missing(id)
                job = data["job"]
                if job["state"] not in IDLE:
                    started.set()
                fresh = new_lines(lines, job["logs"])
                lines = job["logs"]
                if as_json:
                    _print_change(job, fresh, logs_only=logs_only)
                    continue
                for line in fresh:
                    if live:
                        display.console.print(log_text(line), soft_wrap=True)
                    else:
                        print_text(log_text(line))
                if live:
                    display.update(_bar(job))
                elif not logs_only and said != (said := _line(job)):
                    print_text(said)
    return job if job is not None else _missing(id)


def new_lines(seen: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log lines of `now` behind those of `seen`; the job keeps only its last ones, so the first may be gone."""
    for gone in range(len(seen) + 1):
        kept = len(seen) - gone
        if list(now[:kept]) == list(seen[gone:]):
            return list(now[kept:])
    return list(now)


def outcome_text(job: dict[str, Any]) -> str:
    """How a job ended, in a line or a few."""
    took = ""
    if job["startedAt"] and job["finishedAt"]:
        seconds = (datetime.fromisoformat(job["finishedAt"]) - datetime.fromisoformat(job["startedAt"])).total_seconds()
        took = f" in {seconds:.3g} s" if seconds < 100 else f" in {seconds:.0f} s"
    text = f"{job['id']} {job['state'].lower()}{took}"
    if job["state"] == "FAILED" and job["error"]:
        return f"{text}: {job['error']['type']}: {job['error']['message']}"
    return text if job["result"] is None else f"{text}\n{shown(job['result'])}"


def outcome_code(job: dict[str, Any], *, removed_means_completed: bool = False) -> int:
    """The exit code that a job's end gives."""
    if job["state"] == REMOVED:
        return 0 if removed_means_completed else EXIT_REFUSED
    return 0 if job["state"] == "COMPLETED" else EXIT_REFUSED


def progress_text(progress: Any) -> str:
    """What a handler reported, as `50 % connecting` where it is a percentage."""
    percent, message = _progress(progress)
    if percent is None:
        return message or shown(progress)
    return f"{percent:.0f} % {message}".rstrip()


def log_text(line: dict[str, Any]) -> str:
    """A log line with its time of day, and its level where it is not `info`."""
    at = datetime.fromisoformat(line["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    level = "" if line["level"] == "info" else f"{line['level'].upper()} "
    return f"  {at} {level}{shown(line['line'])}"


def _missing(id: str) -> NoReturn:
    raise NotFound("Job", id)


def _progress(progress: Any) -> tuple[float | None, str]:
    message = ""
    if isinstance(progress, dict):
        message = shown(progress.get("message"))
        progress = progress.get("percent")
    if isinstance(progress, int | float) and not isinstance(progress, bool):
        return min(100.0, max(0.0, float(progress))), message
    return None, message


def _line(job: dict[str, Any]) -> str:
    state = job["state"].lower()
    parts = [job["id"], "cancelling" if job["cancelRequestedAt"] and job["state"] == "ACTIVE" else state]
    if job["attempt"] > 1 or job["state"] == "RETRYING":
        parts.append(f"attempt {job['attempt']} of {job['maxAttempts']}")
    if job["state"] == "RETRYING" and job["error"]:
        parts.append(f"after {job['error']['type']}: {job['error']['message']}")
    if job["state"] == "ACTIVE" and job["progress"] is not None:
        parts.append(progress_text(job["progress"]))
    return " · ".join(parts)


def _print_change(job: dict[str, Any], fresh: list[dict[str, Any]], *, logs_only: bool) -> None:
    if logs_only:
        for line in fresh:
            print_json_line(line)
    else:
        print_json_line(job)


def _bar(job: dict[str, Any]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    percent, message = _progress(job["progress"])
    grid = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [
        Text("▸"),
        Text(shown(job["name"])),
        Text(job["state"].lower(), state_style(job["state"])),
    ]
    if percent is not None and job["state"] == "ACTIVE":
        cells += [ProgressBar(total=100, completed=percent, width=30), Text(f"{percent:.0f} %")]
    if message:
        cells.append(Text(message, "dim"))
    if job["attempt"] > 1:
        cells.append(Text(f"attempt {job['attempt']}/{job['maxAttempts']}", "dim"))
    grid.add_row(*cells)
    return grid


@contextmanager
def _explained(client: Client, id: str, display: Any) -> Iterator[asyncio.Event]:
    """Says why the job does not start, unless the event is set within some seconds."""
    import asyncio

    started = asyncio.Event()

    async def explain() -> None:
        try:
            await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            with suppress(SwitchtowerError):
                job = (await client.execute(WHY, {"id": id}))["job"]
                for blockage in (job or {}).get("whyNotRunning", ()):
                    if display is not None:
                        display.console.print(shown(blockage["message"]), soft_wrap=True)
                    else:
                        note(blockage["message"])

    explaining = asyncio.create_task(explain())
    try:
        yield started
    finally:
        explaining.cancel()


def _display(live: bool) -> Any:
    if not live:
        return nullcontext()
    from rich.live import Live

    return Live(console=console(), refresh_per_second=10, transient=True)
