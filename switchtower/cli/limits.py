"""`switchtower limits`: how many jobs of a queue may run at once, and start in an interval."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from switchtower.cli.documents import QUEUE_LIMITS, SET_QUEUE_LIMITS
from switchtower.cli.options import AsJson, Url, call, duration_ms
from switchtower.cli.output import note, print_json, print_table
from switchtower.errors import InvalidInput

__all__ = ["limits"]

Limit = dict[str, Any]

_NONE: Limit = {"concurrency": None, "rate": None}


def limits(
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")],
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", "-c", metavar="N", help="How many jobs at once; none for any number.")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", "-r", metavar="N/TIME", help="How many starts in an interval: 100/1m; none for any."),
    ] = None,
    job_name: Annotated[str | None, typer.Option("--name", "-n", help="Limit jobs of this task.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Limit this group.")] = None,
    per_group: Annotated[bool, typer.Option("--per-group", help="Limit each group.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Take the limits away.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show the limits of a queue, or change one: of the whole queue, or of what --name, --group or --per-group says."""
    if sum((job_name is not None, group is not None, per_group)) > 1:
        raise InvalidInput("--name", "give one of --name, --group and --per-group.")
    if clear and (concurrency is not None or rate is not None):
        raise InvalidInput("--clear", "takes all limits away; leave --concurrency and --rate out.")
    queue = call(url, lambda client: client.execute(QUEUE_LIMITS, {"name": name}))["queue"]
    found = queue["limits"] if queue else {**_NONE, "names": [], "perGroup": dict(_NONE), "groups": []}
    change: Limit = dict(_NONE) if clear else {}
    if concurrency is not None:
        change["concurrency"] = _count(concurrency)
    if rate is not None:
        change["rate"] = _rate(rate)
    if clear and job_name is None and group is None and not per_group:
        found = {}
    elif change:
        _apply(found, change, job_name, group, per_group=per_group)
    if change:
        answer = call(url, lambda client: client.mutate(SET_QUEUE_LIMITS, {"name": name, "input": found}))
        found = answer["limits"]
    if as_json:
        print_json(found)
    else:
        _print(found)


def _apply(found: Limit, change: Limit, job_name: str | None, group: str | None, *, per_group: bool) -> None:
    if per_group:
        found["perGroup"] |= change
    elif job_name is None and group is None:
        found |= change
    else:
        rows, name = (found["names"], job_name) if job_name is not None else (found["groups"], group)
        row = next((row for row in rows if row["name"] == name), None)
        if row is None:
            row = {"name": name, **_NONE}
            rows.append(row)
        row |= change
        if row["concurrency"] is None and row["rate"] is None:
            rows.remove(row)


def _count(text: str) -> int | None:
    if text == "none":
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidInput("--concurrency", "must be a number, or none.")
    return int(text)


def _rate(text: str) -> Limit | None:
    if text == "none":
        return None
    starts, slash, interval = text.partition("/")
    if not slash or not re.fullmatch(r"\d{1,9}", starts, re.ASCII):
        raise InvalidInput("--rate", "must be like 100/1m, or none.")
    return {"starts": int(starts), "perMs": duration_ms("--rate", interval)}


def _print(found: Limit) -> None:
    parts = [("the queue", found), *((f"task {row['name']}", row) for row in found["names"])]
    parts += [("each group", found["perGroup"]), *((f"group {row['name']}", row) for row in found["groups"])]
    rows = [
        (whose, "" if row["concurrency"] is None else row["concurrency"], _rate_text(row["rate"]))
        for whose, row in parts
        if row["concurrency"] is not None or row["rate"] is not None
    ]
    if rows:
        print_table(("OF", "AT ONCE", "RATE"), rows, right=("AT ONCE",))
    else:
        note("It has no limits.")


def _rate_text(rate: Limit | None) -> str:
    if rate is None:
        return ""
    for unit, ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if rate["perMs"] % ms == 0:
            return f"{rate['starts']}/{rate['perMs'] // ms}{unit}"
    return f"{rate['starts']}/{rate['perMs']}ms"
