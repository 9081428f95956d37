"""`switchtower dlq`: what failed for good."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from switchtower.cli.documents import (
    DEAD_LETTER,
    DEAD_LETTERS,
    PURGE_DEAD_LETTERS,
    REMOVE_DEAD_LETTERS,
    REPLAY_DEAD_LETTER,
    REPLAY_DEAD_LETTERS,
)
from switchtower.cli.options import (
    AsJson,
    Names,
    Queues,
    Text,
    Url,
    Yes,
    call,
    confirm,
    duration_ms,
    interactive,
    moment,
)
from switchtower.cli.output import EXIT_REFUSED, age, note, print_json, print_table, print_text, report, shown
from switchtower.errors import InvalidInput, NotFound, StoreUnavailable, SwitchtowerError

__all__ = ["app"]

PAGE = 100

app = typer.Typer(help="Look at dead letters, replay them, remove them.", rich_markup_mode=None, no_args_is_help=True)

Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only failed since: 2h, or a time.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only failed until: like --since.")]
Fingerprint = Annotated[str | None, typer.Option("--error", metavar="FINGERPRINT", help="Only with this error.")]
Replayed = Annotated[bool | None, typer.Option("--replayed/--not-replayed", help="Only those replayed, or not.")]


@app.command("list")
def list_dead_letters(
    queue: Queues = None,
    name: Names = None,
    text: Text = None,
    error: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    wanted = _filter(queue, name, text, error, since, until, replayed)
    found = call(url, lambda client: _list(client, wanted, limit))
    if as_json:
        print_json(found)
        return
    rows = (
        (d["id"], d["name"], d["queue"], f"{d['attempt']}/{d['maxAttempts']}", age(d["failedAt"]), _remark(d))
        for d in found
    )
    print_table(("ID", "TASK", "QUEUE", "ATTEMPT", "AGE", ""), rows, right=("ATTEMPT", "AGE"))
    if not found:
        note("No dead letter matches." if wanted else "There are no dead letters.")


@app.command()
def show(id: Annotated[str, typer.Argument(metavar="DLQ_ID")], url: Url = None, as_json: AsJson = False) -> None:
    """Show one dead letter with its payload and stack."""
    found = call(url, lambda client: client.execute(DEAD_LETTER, {"id": id}))["deadLetter"]
    if found is None:
        raise NotFound("Dead letter", id)
    if as_json:
        print_json(found)
        return
    error = found.pop("error") or {}
    for key, value in found.items():
        if value not in (None, []):
            print_text(f"{key:<18} {shown(value)}")
    print_text(f"\n{error.get('type')}: {error.get('message')}")
    for line in (error.get("stack") or "").rstrip().splitlines():
        print_text(f"  {line}")


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[DLQ_ID]...", help="By id; or give a filter.")] = None,
    queue: Queues = None,
    name: Names = None,
    text: Text = None,
    error: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    yes: Yes = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue dead letters again as new jobs."""
    wanted = _filter(queue, name, text, error, since, until, None)
    if ids and (wanted or everything):
        raise InvalidInput("replay", "give dead letters or a filter, not both.")
    if not ids and not wanted and not everything:
        raise InvalidInput("replay", "name a DLQ_ID, or give a filter such as --queue, or --all.")
    if ids:
        raise typer.Exit(call(url, lambda client: _replay(client, ids, as_json=as_json)))
    if not yes and interactive():
        confirm("This enqueues every matching dead letter that was not replayed yet. Continue?")
    replayed, errors = call(url, lambda client: _replay_all(client, {**wanted, "replayed": False}))
    if as_json:
        print_json({"replayed": replayed, "errors": errors})
    else:
        for problem in errors:
            note(f"Error: {problem['message']}")
        print_text(f"{replayed} replayed, {len(errors)} could not be.")
    raise typer.Exit(EXIT_REFUSED if errors else 0)


@app.command()
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="DLQ_ID...")], url: Url = None, as_json: AsJson = False
) -> None:
    """Remove dead letters; their jobs stay."""
    answer = call(url, lambda client: client.mutate(REMOVE_DEAD_LETTERS, {"ids": ids}))
    _print_removed(answer, as_json=as_json)


@app.command()
def purge(
    older_than: Annotated[str, typer.Option("--older-than", help="Failed longer ago than this: 7d.")],
    yes: Yes = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Remove old dead letters."""
    ms = duration_ms("--older-than", older_than)
    if not yes and interactive():
        confirm(f"This removes every dead letter older than {older_than}. Continue?")
    answer = call(url, lambda client: client.mutate(PURGE_DEAD_LETTERS, {"olderThanMs": ms}))
    _print_removed(answer, as_json=as_json)


def _filter(
    queue: list[str] | None,
    name: list[str] | None,
    text: str | None,
    error: str | None,
    since: str | None,
    until: str | None,
    replayed: bool | None,
) -> dict[str, Any]:
    given = {
        "queues": queue or None,
        "names": name or None,
        "text": text,
        "fingerprint": error,
        "failedAfter": moment("--since", since),
        "failedBefore": moment("--until", until),
        "replayed": replayed,
    }
    return {key: value for key, value in given.items() if value is not None}


async def _list(client: Any, wanted: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        variables = {"filter": wanted, "first": min(PAGE, limit - len(found)), "after": after}
        page = (await client.execute(DEAD_LETTERS, variables))["deadLetters"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"] or len(found) >= limit:
            return found


async def _replay(client: Any, ids: list[str], *, as_json: bool) -> int:
    made: list[dict[str, Any]] = []
    refused = False
    for id in ids:
        try:
            job = await client.mutate(REPLAY_DEAD_LETTER, {"id": id})
        except (StoreUnavailable, InvalidInput):
            raise
        except SwitchtowerError as error:
            refused = True
            report(error)
        else:
            made.append(job)
            if not as_json:
                print_text(f"{id} → {job['id']}")
    if as_json:
        print_json(made)
    return EXIT_REFUSED if refused else 0


async def _replay_all(client: Any, wanted: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """Replays what is there now, in rounds; returns how many, and what the last round refused.

    What fails again meanwhile is not replayed again: a job that always fails would go round for ever.
    """
    newest = await _list(client, wanted, 1)
    if not newest:
        return 0, []
    after_it = datetime.fromisoformat(newest[0]["failedAt"]) + timedelta(milliseconds=1)
    wanted, total = {**wanted, "failedBefore": after_it.isoformat()}, 0
    while True:
        answer = await client.mutate(REPLAY_DEAD_LETTERS, {"filter": wanted})
        total += answer["replayed"]
        if not answer["replayed"]:
            return total, answer["errors"]


def _remark(letter: dict[str, Any]) -> str:
    error = letter["error"] or {"type": "", "message": ""}
    text = shown(f"{error['type']}: {error['message']}".splitlines()[0])[:100]
    return f"{text} (replayed)" if letter["replayedAt"] else text


def _print_removed(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"removed": answer["removed"]})
    else:
        print_text(f"{answer['removed']} removed")
