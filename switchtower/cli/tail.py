"""`switchtower tail`: what happens, as it happens."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import typer

from switchtower.cli.follow import follow, outcome_code, progress_text
from switchtower.cli.options import AsJson, Group, Names, Queues, States, Tags, Url, call
from switchtower.cli.output import console, print_json_line, shown, state_style

__all__ = ["tail"]


def tail(
    id: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Follow this job's log until it ends.")] = None,
    queue: Queues = None,
    name: Names = None,
    state: States = None,
    tag: Tags = None,
    group: Group = None,
    after: Annotated[str | None, typer.Option("--after", help="Begin behind this event's cursor.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many events.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Follow the events of jobs, or the log of one JOB. Ends with Ctrl-C."""
    if id is not None:
        job = call(url, lambda client: follow(client, id, as_json=as_json, logs_only=True))
        raise typer.Exit(outcome_code(job))
    given = {
        "queues": queue or None,
        "names": name or None,
        "to": [s.name for s in state] if state else None,
        "tags": tag or None,
        "group": group,
    }
    wanted = {key: value for key, value in given.items() if value is not None}
    call(url, lambda client: _events(client, wanted, after, count, as_json=as_json))


async def _events(client: Any, wanted: dict[str, Any], after: str | None, count: int | None, *, as_json: bool) -> None:
    screen = console()
    seen = 0
    async with aclosing(client.events(wanted, after)) as events:
        async for event in events:
            if as_json:
                print_json_line(event)
            else:
                _print(screen, event)
            seen += 1
            if seen == count:
                return


def _print(screen: Any, event: dict[str, Any]) -> None:
    from rich.text import Text

    at = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3] if event["at"] else ""
    if event["__typename"] == "StreamGap":
        screen.print(Text(f"{at} events are missing here: {shown(event['reason'])}", "bold red"))
        return
    line = Text(f"{at} {event['jobId']} {shown(event['queue'])}/{shown(event['jobName'])} ")
    match event["__typename"]:
        case "JobProgress":
            line.append(progress_text(event["progress"]), "dim")
        case "JobLogged":
            line.append(" | ".join(shown(entry["line"]) for entry in event["lines"]), "dim")
        case _:
            line.append(event["type"].lower())
            if event["to"] and event["to"] != event["from"]:
                line.append(" → ").append(event["to"].lower(), state_style(event["to"]))
            if event["attempt"] > 1:
                line.append(f" (attempt {event['attempt']})")
    screen.print(line, soft_wrap=True)
