"""`switchtower jobs`, `job`, `why`: look at jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from switchtower.cli.documents import CHANGE, JOB, JOBS, WHY
from switchtower.cli.follow import log_text, progress_text
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
    call,
    job_filter,
)
from switchtower.cli.output import age, note, print_json, print_table, print_text, shown
from switchtower.errors import NotFound

__all__ = ["job", "jobs", "why"]

PAGE = 100

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or your own id for it.")]


def jobs(
    queue: Queues = None,
    name: Names = None,
    state: States = None,
    tag: Tags = None,
    group: Group = None,
    text: Text = None,
    error: Fingerprint = None,
    since: CreatedAfter = None,
    until: CreatedBefore = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    wanted = job_filter(
        queue=queue, name=name, state=state, tag=tag, group=group, text=text, error=error, since=since, until=until
    )
    found, more = call(url, lambda client: _list(client, wanted, limit))
    if as_json:
        print_json(found)
        return
    rows = (
        (
            job["id"],
            job["state"].lower(),
            job["name"],
            job["queue"],
            f"{job['attempt']}/{job['maxAttempts']}",
            age(job["createdAt"]),
            _remark(job),
        )
        for job in found
    )
    print_table(("ID", "STATE", "TASK", "QUEUE", "ATTEMPT", "AGE", ""), rows, right=("ATTEMPT", "AGE"))
    if not found:
        note("No job matches." if wanted else "There are no jobs yet.")
    elif more:
        note(f"There are more; these are the newest {len(found)}. Raise --limit to see more.")


def job(id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show everything about one job."""
    found = call(url, lambda client: _read(client, JOB, id))
    if as_json:
        print_json(found)
        return
    skipped = {"logs", "attempts", "timeline", "error"}
    for key, value in found.items():
        if key not in skipped and value not in (None, [], 0):
            print_text(f"{key:<18} {shown(value.lower() if key == 'state' else value)}")
    _print_attempts(found)
    if found["logs"]:
        print_text("\nLogs")
        for line in found["logs"]:
            print_text(log_text(line))
    print_text("\nHistory")
    for entry in found["timeline"]:
        move = f"{entry['from'] or 'new'} → {entry['to']}" if entry["from"] != entry["to"] else entry["to"] or ""
        print_text(f"  {entry['at']}  {entry['type']:<10} {move.lower()}  {shown(entry['actor'])}".rstrip())


def why(id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Say why a job is not running, and what would let it run."""
    found = call(url, lambda client: _read(client, WHY, id))
    if as_json:
        print_json(found)
        return
    print_text(f"{found['id']} ({found['name']} in {found['queue']}) is {found['state'].lower()}.")
    for blockage in found["whyNotRunning"]:
        until = f" (until {blockage['until']})" if blockage["until"] else ""
        print_text(f"- {blockage['message']}{until}")
        if blockage["mutation"]:
            print_text(f"  To change that: {_remedy(blockage['mutation'], found)}")
    if found["error"] and found["state"] in {"FAILED", "RETRYING"}:
        print_text(f"- {found['error']['type']}: {found['error']['message']}")
    if not found["whyNotRunning"]:
        print_text(_progressing(found))


def _remedy(mutation: str, job: dict[str, Any]) -> str:
    """The command that runs a mutation on what blocks a job."""
    if mutation == "resumeQueue":
        return f"switchtower resume {job['queue']} (or --name {job['name']})"
    verb = mutation.removesuffix("Job")
    return f"switchtower {verb} {job['id']}" if verb in CHANGE else f"the mutation {mutation}"


def _progressing(job: dict[str, Any]) -> str:
    match job["state"]:
        case "ACTIVE":
            return f"It is running, since {age(job['startedAt'])}." if job["startedAt"] else "It is starting."
        case "COMPLETED" | "CANCELLED" | "FAILED":
            return f"It ended {age(job['finishedAt'])} ago."
        case _:
            return "Nothing holds it back; a worker takes it next."


async def _list(client: Any, wanted: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        first = min(PAGE, limit - len(found))
        page = (await client.execute(JOBS, {"filter": wanted, "first": first, "after": after}))["jobs"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        more = page["pageInfo"]["hasNextPage"]
        if not more or len(found) >= limit:
            return found, more


async def _read(client: Any, document: str, id: str) -> dict[str, Any]:
    found: dict[str, Any] | None = (await client.execute(document, {"id": id}))["job"]
    if found is None:
        raise NotFound("Job", id)
    return found


def _remark(job: dict[str, Any]) -> str:
    match job["state"]:
        case "FAILED" | "RETRYING" if job["error"]:
            return shown(f"{job['error']['type']}: {job['error']['message']}".splitlines()[0])[:100]
        case "SCHEDULED":
            return f"due {age(job['runAt'])}"
        case "ACTIVE":
            return progress_text(job["progress"])
        case _:
            return ""


def _print_attempts(job: dict[str, Any]) -> None:
    if not job["attempts"]:
        return
    print_text("\nAttempts")
    for attempt in job["attempts"]:
        number = f"{attempt['generation']}.{attempt['number']}"
        print_text(f"  {number:<5} {attempt['outcome']:<10} {attempt['startedAt']} - {attempt['endedAt'] or ''}")
        if attempt["error"]:
            print_text(f"        {attempt['error']['type']}: {attempt['error']['message']}")
    if job["error"] and job["error"]["stack"]:
        print_text()
        for line in job["error"]["stack"].rstrip().splitlines():
            print_text(f"  {line}")
