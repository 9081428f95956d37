"""`switchtower retry`, `cancel`, `promote`: jobs by their ids, or all that a filter matches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated, Any

import typer

from switchtower.cli.documents import BULK, BULK_PROGRESS, CHANGE
from switchtower.cli.options import (
    AsJson,
    CreatedAfter,
    CreatedBefore,
    Fingerprint,
    Group,
    Names,
    Queues,
    States,
    Tags,
    Text,
    Url,
    Yes,
    call,
    confirm,
    interactive,
    job_filter,
)
from switchtower.cli.output import EXIT_REFUSED, console, print_json, print_text, report
from switchtower.errors import InvalidInput, StoreUnavailable, SwitchtowerError

__all__ = ["cancel", "promote", "retry"]

JobIds = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Jobs by id; or give a filter.")]
Everything = Annotated[bool, typer.Option("--all", help="All jobs: a filter that leaves nothing out.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would change.")]


def _command(verb: str, description: str) -> Callable[..., None]:
    """The command of one verb; all three take the same options."""

    def command(
        ids: JobIds = None,
        queue: Queues = None,
        name: Names = None,
        state: States = None,
        tag: Tags = None,
        group: Group = None,
        text: Text = None,
        error: Fingerprint = None,
        since: CreatedAfter = None,
        until: CreatedBefore = None,
        everything: Everything = False,
        dry_run: DryRun = False,
        yes: Yes = False,
        url: Url = None,
        as_json: AsJson = False,
    ) -> None:
        wanted = job_filter(
            queue=queue, name=name, state=state, tag=tag, group=group, text=text, error=error, since=since, until=until
        )
        _change(verb, ids or [], wanted, everything=everything, dry_run=dry_run, yes=yes, url=url, as_json=as_json)

    command.__doc__ = description
    return command


retry = _command("retry", "Run jobs again: `retry JOB`, or `retry --queue email --state failed --dry-run`.")
cancel = _command("cancel", "Cancel jobs; the handler of a running one is asked to stop.")
promote = _command("promote", "Run scheduled or retrying jobs now.")


def _change(
    verb: str,
    ids: list[str],
    wanted: dict[str, Any],
    *,
    everything: bool,
    dry_run: bool,
    yes: bool,
    url: str | None,
    as_json: bool,
) -> None:
    if ids and (wanted or everything):
        raise InvalidInput(verb, "give jobs or a filter, not both.")
    if ids and dry_run:
        raise InvalidInput("--dry-run", "is for a filter; a single job can be looked at with `switchtower job`.")
    if not ids and not wanted and not everything:
        raise InvalidInput(verb, "name a JOB, or give a filter such as --queue or --state, or --all.")
    if ids:
        raise typer.Exit(call(url, lambda client: _by_id(client, verb, ids, as_json=as_json)))
    if not dry_run and not yes and interactive():
        preview = call(url, lambda client: client.mutate(BULK[verb], {"filter": wanted, "dryRun": True}))
        confirm(f"This will {verb} {_count(preview)}. Continue?")
    raise typer.Exit(call(url, lambda client: _by_filter(client, verb, wanted, dry_run=dry_run, as_json=as_json)))


async def _by_id(client: Any, verb: str, ids: list[str], *, as_json: bool) -> int:
    changed: list[dict[str, Any]] = []
    refused: SwitchtowerError | None = None
    for id in ids:
        try:
            job = await client.mutate(CHANGE[verb], {"id": id})
        except (StoreUnavailable, InvalidInput):
            raise
        except SwitchtowerError as error:
            refused = error
            report(error)
        else:
            changed.append(job)
            if not as_json:
                print_text(f"{job['id']} is {job['state'].lower()}")
    if as_json:
        print_json(changed)
    return EXIT_REFUSED if refused else 0


async def _by_filter(client: Any, verb: str, wanted: dict[str, Any], *, dry_run: bool, as_json: bool) -> int:
    operation = await client.mutate(BULK[verb], {"filter": wanted, "dryRun": dry_run})
    if not dry_run and not operation["done"]:
        operation = await _finish(client, operation, as_json=as_json)
    if as_json:
        print_json(operation)
        return EXIT_REFUSED if operation["failed"] else 0
    if dry_run:
        print_text(f"Would {verb} {_count(operation)}; nothing was changed.")
        for id in operation["sampleIds"]:
            print_text(f"  {id}")
        return 0
    failed = f", {operation['failed']} could not be" if operation["failed"] else ""
    print_text(f"{verb}: {operation['changed']} of {_count(operation)} changed{failed}.")
    return EXIT_REFUSED if operation["failed"] else 0


async def _finish(client: Any, operation: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Shows a bulk operation's progress until it is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=as_json or not screen.is_terminal) as progress:
        task = progress.add_task(operation["verb"], total=operation["matched"] or None)
        async with aclosing(client.subscribe(BULK_PROGRESS, {"id": operation["id"]})) as stream:
            async for data in stream:
                if data is None or data["bulkOperation"] is None:
                    continue
                operation = data["bulkOperation"]
                done = operation["changed"] + operation["failed"]
                progress.update(task, completed=done, total=operation["matched"] or None)
                if operation["done"]:
                    break
    return operation


def _count(operation: dict[str, Any]) -> str:
    more = "" if operation["exact"] else "more than "
    return f"{more}{operation['matched']} job{'' if operation['matched'] == 1 else 's'}"
