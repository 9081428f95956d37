"""`switchtower crons`: what runs by time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from switchtower.cli.options import (
    AsJson,
    Url,
    Yes,
    call,
    confirm,
    duration_ms,
    interactive,
    parse_payload,
)
from switchtower.cli.output import age, note, print_json, print_table, print_text, shown
from switchtower.cli.schedule_documents import CHANGE_CRON, CREATE_CRON, CRON, CRONS, DELETE_CRON, TRIGGER_CRON
from switchtower.crons import CatchUp, Overlap
from switchtower.errors import NotFound

__all__ = ["app"]

PAGE = 100

app = typer.Typer(help="Look at crons, make them, switch them, run them.", rich_markup_mode=None, no_args_is_help=True)

CronId = Annotated[str, typer.Argument(metavar="CRON", help="The cron's id or its name.")]


@app.command("list")
def list_crons(url: Url = None, as_json: AsJson = False) -> None:
    """List crons, oldest first."""
    found = call(url, _all)
    if as_json:
        print_json(found)
        return
    rows = (
        (
            cron["id"],
            cron["name"],
            _schedule(cron),
            cron["job"]["name"],
            cron["job"]["queue"],
            cron["nextRunAt"] or ("disabled" if not cron["enabled"] else "no more"),
            age(cron["lastFiredAt"]) if cron["lastFiredAt"] else "",
            cron["fired"],
        )
        for cron in found
    )
    print_table(("ID", "NAME", "SCHEDULE", "TASK", "QUEUE", "NEXT", "LAST", "FIRED"), rows, right=("LAST", "FIRED"))
    if not found:
        note("There are no crons.")


@app.command()
def show(id: CronId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one cron with its next ten slots and its last fires."""
    found = call(url, lambda client: _show(client, id))
    if as_json:
        print_json(found)
        return
    skipped = {"fires", "nextRuns", "job"}
    for key, value in found.items():
        if key not in skipped and value not in (None, []):
            print_text(f"{key:<18} {shown(value.lower() if key in ('overlap', 'catchUp') else value)}")
    for key, value in found["job"].items():
        if value not in (None, []):
            print_text(f"job.{key:<14} {shown(value)}")
    print_text("\nNext")
    for slot in found["nextRuns"]:
        print_text(f"  {slot}")
    print_text("\nLast")
    for fire in found["fires"]:
        state = (fire["job"] or {}).get("state", "removed").lower() if fire["jobId"] else fire["reason"]
        print_text(f"  {fire['slot']}  {fire['outcome']:<8} {fire['jobId'] or ''} {shown(state)}".rstrip())


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The cron's name.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task that each slot runs.")],
    payload: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=TEXT|KEY:=JSON]...", help="What the task is given.")
    ] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="A cron expression, such as '0 3 * * *'.")] = None,
    every: Annotated[str | None, typer.Option("--every", help="An interval instead: 30s, 5m.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="The expression's time zone (UTC if left out).")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The jobs' queue.")] = None,
    overlap: Annotated[Overlap | None, typer.Option("--overlap", help="While the job before is open.")] = None,
    catch_up: Annotated[CatchUp | None, typer.Option("--catch-up", help="For slots that were missed.")] = None,
    jitter: Annotated[str | None, typer.Option("--jitter", help="Delay each job by up to this: 30s.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-l", help="How many slots fire in all.")] = None,
    whole: Annotated[str | None, typer.Option("--payload", help="The payload as JSON, @file or - .")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Make it, and do not let it fire yet.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a cron: `crons create nightly sweep --cron '0 3 * * *' --tz Europe/Berlin`."""
    job = {"name": task, "queue": queue, "payload": parse_payload(payload or [], whole)}
    given = {
        "name": name,
        "job": {key: value for key, value in job.items() if value is not None},
        "expression": cron,
        "everyMs": duration_ms("--every", every),
        "timezone": tz,
        "overlap": overlap.name if overlap else None,
        "catchUp": catch_up.name if catch_up else None,
        "jitterMs": duration_ms("--jitter", jitter),
        "limit": limit,
        "enabled": False if disabled else None,
    }
    variables = {"input": {key: value for key, value in given.items() if value is not None}}
    made = call(url, lambda client: client.mutate(CREATE_CRON, variables))
    if as_json:
        print_json(made)
    else:
        print_text(made["id"])
        note(f"Next at {made['nextRunAt']}." if made["nextRunAt"] else "It does not fire by itself.")


@app.command()
def enable(id: CronId, url: Url = None, as_json: AsJson = False) -> None:
    """Let a cron fire again, from its next slot on."""
    _switch("enable", id, url, as_json=as_json)


@app.command()
def disable(id: CronId, url: Url = None, as_json: AsJson = False) -> None:
    """Stop a cron; its jobs stay."""
    _switch("disable", id, url, as_json=as_json)


@app.command()
def run(id: CronId, url: Url = None, as_json: AsJson = False) -> None:
    """Enqueue a cron's job now, beside its slots."""
    job = call(url, lambda client: _change(client, TRIGGER_CRON, id))
    if as_json:
        print_json(job)
    else:
        print_text(job["id"])


@app.command()
def delete(id: CronId, yes: Yes = False, url: Url = None, as_json: AsJson = False) -> None:
    """Delete a cron for good; its jobs stay."""
    if not yes and interactive():
        confirm(f"This deletes the cron {id}. Continue?")
    cron = call(url, lambda client: _change(client, DELETE_CRON, id))
    if as_json:
        print_json(cron)
    else:
        print_text(f"{cron['name']} is deleted")


def _switch(verb: str, id: str, url: str | None, *, as_json: bool) -> None:
    cron = call(url, lambda client: _change(client, CHANGE_CRON[verb], id))
    if as_json:
        print_json(cron)
        return
    following = f"; next at {cron['nextRunAt']}" if cron["nextRunAt"] else ""
    print_text(f"{cron['name']} is {'enabled' if cron['enabled'] else 'disabled'}{following}")


async def _all(client: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = (await client.execute(CRONS, {"first": PAGE, "after": after}))["crons"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            return found


async def _id_of(client: Any, id: str) -> str:
    """The id of the cron with this id or name. Raises NotFound."""
    if id.startswith("cron_"):
        return id
    named = [cron["id"] for cron in await _all(client) if cron["name"] == id]
    if not named:
        raise NotFound("Cron", id)
    return str(named[0])


async def _show(client: Any, id: str) -> dict[str, Any]:
    found: dict[str, Any] | None = (await client.execute(CRON, {"id": await _id_of(client, id)}))["cron"]
    if found is None:
        raise NotFound("Cron", id)
    return found


async def _change(client: Any, mutation: str, id: str) -> dict[str, Any]:
    changed: dict[str, Any] = await client.mutate(mutation, {"id": await _id_of(client, id)})
    return changed


def _schedule(cron: dict[str, Any]) -> str:
    if cron["expression"] is None:
        return f"every {cron['everyMs'] / 1000:g} s"
    zone = "" if cron["timezone"] == "UTC" else f" {cron['timezone']}"
    return f"{cron['expression']}{zone}"
