"""`switchtower workflows`: durable workflows, their runs, and the events that runs wait for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from switchtower.cli.options import AsJson, Url, Yes, call, confirm, duration_ms, interactive, parse_payload
from switchtower.cli.output import age, note, print_json, print_table, print_text, shown
from switchtower.cli.workflow_documents import CANCEL_RUN, PUBLISH_EVENT, REPLAY_RUN, RUN, RUNS, START_RUN, WORKFLOWS
from switchtower.errors import NotFound
from switchtower.workflows import RunState

__all__ = ["app"]

PAGE = 100

app = typer.Typer(
    help="Look at workflow runs, start, cancel and replay them, publish events.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, its job's, or the one that you chose.")]
Pairs = Annotated[list[str] | None, typer.Argument(metavar="[KEY=TEXT|KEY:=JSON]...", help="What it is given.")]
Whole = Annotated[str | None, typer.Option("--payload", help="The same as JSON, @file or - .")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="Makes repeating it safe.")]


@app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option("--workflow", "-w", help="Only of this workflow.")] = None,
    state: Annotated[list[RunState] | None, typer.Option("--state", "-s", help="Only in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    filter = {"workflow": workflow, "states": [one.name for one in state] if state else None}
    found = call(url, lambda client: _list(client, filter, limit))
    if as_json:
        print_json(found)
        return
    rows = (
        (
            run["id"],
            run["workflow"],
            run["version"],
            run["state"].lower(),
            run["currentStep"] or "",
            age(run["createdAt"]),
        )
        for run in found
    )
    print_table(("ID", "WORKFLOW", "VERSION", "STATE", "STEP", "AGE"), rows, right=("VERSION", "AGE"))
    if not found:
        note("No run matches." if workflow or state else "There are no runs.")


@app.command()
def names(url: Url = None, as_json: AsJson = False) -> None:
    """List the workflows that live workers have."""
    found = call(url, lambda client: client.execute(WORKFLOWS))["workflows"]
    if as_json:
        print_json(found)
        return
    print_table(("NAME", "VERSIONS"), ((one["name"], ", ".join(map(str, one["versions"]))) for one in found))
    if not found:
        note("No live worker has a workflow.")


@app.command()
def show(id: RunId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one run with its steps."""
    found = call(url, lambda client: client.execute(RUN, {"id": id}))["workflowRun"]
    if found is None:
        raise NotFound("Workflow run", id)
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key not in ("steps", "error") and value is not None:
            print_text(f"{key:<12} {shown(value.lower() if key == 'state' else value)}")
    if found["error"]:
        print_text(f"{'error':<12} {shown(_failure(found['error']))}")
    for step in found["steps"]:
        status = step["status"].lower()
        error = f"  {_failure(step['error'])}" if step["error"] else ""
        print_text(
            f"  {status:<10} {step['kind'].lower():<10} {shown(step['name'])} ({step['attempts']}){shown(error)}"
        )


@app.command()
def start(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="Its name.")],
    pairs: Pairs = None,
    payload: Whole = None,
    version: Annotated[int | None, typer.Option("--version", help="The newest of the workers if left out.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="The run's queue.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="Start it so much later: 30s, 5m.")] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="An id of your own.")] = None,
    key: Key = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Start a run: `workflows start order id:=7`."""
    given = {
        "workflow": workflow,
        "input": parse_payload(pairs or [], payload),
        "version": version,
        "queue": queue,
        "delayMs": duration_ms("--delay", delay),
        "runId": run_id,
        "idempotencyKey": key,
    }
    input = {name: value for name, value in given.items() if value is not None}
    _answer(call(url, lambda client: client.mutate(START_RUN, {"input": input})), as_json)


@app.command()
def cancel(id: RunId, yes: Yes = False, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a run; one that works now is asked to stop."""
    if not yes and interactive():
        confirm(f"This cancels the run {id}. Continue?")
    _answer(call(url, lambda client: client.mutate(CANCEL_RUN, {"id": id})), as_json)


@app.command()
def replay(
    id: RunId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The first step to run again.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Run a run that has ended again, from one of its steps on."""
    _answer(call(url, lambda client: client.mutate(REPLAY_RUN, {"id": id, "step": step})), as_json)


@app.command()
def publish(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's name.")],
    pairs: Pairs = None,
    payload: Whole = None,
    key: Key = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Publish an event to a run that waits for it, now or within 30 days: `workflows publish paid id:=7`."""
    input = {"name": event, "payload": parse_payload(pairs or [], payload), "idempotencyKey": key}
    made = call(url, lambda client: client.mutate(PUBLISH_EVENT, {"input": input}))
    if as_json:
        print_json(made)
    else:
        print_text(made["id"])


def _answer(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        print_text(f"{run['id']} {run['state'].lower()}")


def _failure(error: dict[str, Any]) -> str:
    return f"{error['type']}: {error['message']}".splitlines()[0][:100]


async def _list(client: Any, filter: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        variables = {"filter": filter, "first": min(PAGE, limit - len(found)), "after": after}
        page = (await client.execute(RUNS, variables))["workflowRuns"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"] or len(found) >= limit:
            return found
