"""`switchtower search`: where is this text?"""

from __future__ import annotations

from typing import Annotated

import typer

from switchtower.cli.documents import SEARCH
from switchtower.cli.options import AsJson, Url, call
from switchtower.cli.output import age, note, print_json, print_table, print_text
from switchtower.errors import InvalidInput

__all__ = ["search"]

PLACES = ("all", "id", "queue", "name", "payload", "error")


def search(
    text: Annotated[str, typer.Argument(help="A text, an id, or path:value of a payload, such as user.id:42.")],
    within: Annotated[str, typer.Option("--in", help="all, id, queue, name, payload or error.")] = "all",
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only jobs of this queue.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="At most so many jobs.")] = 50,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Go on where it stopped.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Find jobs and queues, newest first; looks for a second at most."""
    if within not in PLACES:
        raise InvalidInput("--in", f"must be one of {', '.join(PLACES)}.")
    variables = {"text": text, "type": within.upper(), "queue": queue, "first": limit, "after": after}
    found = call(url, lambda client: client.execute(SEARCH, variables))["search"]
    if as_json:
        print_json(found)
        return
    for name in found["queues"]:
        print_text(f"queue {name}")
    rows = ((job["id"], job["name"], job["queue"], job["state"], age(job["createdAt"])) for job in found["jobs"])
    print_table(("ID", "TASK", "QUEUE", "STATE", "AGE"), rows, right=("AGE",))
    if found["cursor"] is not None:
        note(f"Looked at {found['scanned']:,} jobs, not at all. Older ones: --after {found['cursor']}")
    elif not found["jobs"] and not found["queues"]:
        note("Nothing has it.")
