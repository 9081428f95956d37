"""`switchtower audit`: who did what."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from switchtower.cli.documents import AUDIT
from switchtower.cli.options import AsJson, Url, call, moment
from switchtower.cli.output import age, note, print_json, print_table, shown

__all__ = ["audit"]

PAGE = 200


def audit(
    action: Annotated[
        list[str] | None, typer.Option("--action", help="Only this action, such as job.retry; can be repeated.")
    ] = None,
    actor: Annotated[list[str] | None, typer.Option("--actor", help="Only by this one; can be repeated.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only on this queue and its jobs.")] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Only on this job.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Only with this text in action, actor, ids, error.")
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only since: 2h, or a time.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what operators did, newest first."""
    given = {
        "actions": action,
        "actors": actor,
        "queue": queue,
        "jobId": job,
        "text": text,
        "statuses": ["FAILED"] if refused else None,
        "after": moment("--since", since),
    }
    wanted = {key: value for key, value in given.items() if value not in (None, [])}
    found = call(url, lambda client: _list(client, wanted, limit))
    if as_json:
        print_json(found)
        return
    rows = (
        (
            age(row["at"]),
            row["action"],
            row["actor"] or "",
            row["source"],
            row["jobId"] or row["target"] or row["queue"] or "",
            _remark(row),
        )
        for row in found
    )
    print_table(("AGE", "ACTION", "ACTOR", "SOURCE", "ON", ""), rows, right=("AGE",))
    if not found:
        note("No entry matches." if wanted else "The audit trail is empty.")


async def _list(client: Any, wanted: dict[str, Any], limit: int) -> list[Any]:
    found: list[Any] = []
    after = None
    while len(found) < limit:
        variables = {"filter": wanted, "first": min(PAGE, limit - len(found)), "after": after}
        page = (await client.execute(AUDIT, variables))["audit"]
        found += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    return found


def _remark(row: dict[str, Any]) -> str:
    if row["status"] == "FAILED":
        return f"refused: {shown(row['error'])[:80]}"
    details = row["details"] or {}
    return ", ".join(f"{key}={shown(value)}" for key, value in details.items() if key != "name")[:80]
