"""`switchtower stats`: totals, and failures grouped by their error."""

from __future__ import annotations

from typing import Annotated

import typer

from switchtower.cli.documents import ERRORS, STATS
from switchtower.cli.options import AsJson, Names, Queues, Url, call, job_filter
from switchtower.cli.output import age, note, print_json, print_table, print_text, shown
from switchtower.cli.queues import COUNTED

__all__ = ["stats"]


def stats(
    errors: Annotated[bool, typer.Option("--errors", help="Failed jobs, grouped by their error.")] = False,
    queue: Queues = None,
    name: Names = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show totals; with --errors, failures grouped by error (narrowed by --queue and --name)."""
    if errors or queue or name:
        _clusters(queue, name, url, as_json=as_json)
        return
    totals = call(url, lambda client: client.execute(STATS))["stats"]
    if as_json:
        print_json(totals)
        return
    for state in COUNTED:
        print_text(f"{state:<14} {totals['counts'][state]:>12,}")
    for key, label in (("jobs", "jobs"), ("deadLetters", "dead letters"), ("queues", "queues"), ("workers", "workers")):
        print_text(f"{label:<14} {totals[key]:>12,}")


def _clusters(queue: list[str] | None, name: list[str] | None, url: str | None, *, as_json: bool) -> None:
    wanted = job_filter(queue=queue, name=name)
    found = call(url, lambda client: client.execute(ERRORS, {"filter": wanted}))["errorClusters"]
    if as_json:
        print_json(found)
        return
    rows = (
        (
            c["fingerprint"],
            c["count"],
            f"{c['error']['type']}: {shown((c['error']['message'].splitlines() or [''])[0])[:80]}",
            ", ".join(c["names"]),
            age(c["firstSeen"]),
            age(c["lastSeen"]),
        )
        for c in found
    )
    print_table(("FINGERPRINT", "COUNT", "ERROR", "TASKS", "FIRST", "LAST"), rows, right=("COUNT", "FIRST", "LAST"))
    if found:
        note("`switchtower retry --error FINGERPRINT --dry-run` shows what a retry of one group would change.")
    else:
        note("No failed job matches.")
