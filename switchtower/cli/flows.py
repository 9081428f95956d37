"""`switchtower flows`: jobs that wait for each other."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

import typer

from switchtower.cli.options import AsJson, Url, Yes, call, confirm, interactive, parse_payload
from switchtower.cli.output import age, note, print_json, print_table, print_text, shown
from switchtower.cli.schedule_documents import CANCEL_FLOW, ENQUEUE_FLOW, FLOW, FLOWS, RETRY_FLOW
from switchtower.errors import InvalidInput, NotFound
from switchtower.states import JobState

__all__ = ["app"]

PAGE = 100

app = typer.Typer(
    help="Look at flows, enqueue them, cancel and retry them.", rich_markup_mode=None, no_args_is_help=True
)

FlowId = Annotated[str, typer.Argument(metavar="FLOW", help="The id of its root, or of any of its jobs.")]


@app.command("list")
def list_flows(
    state: Annotated[JobState | None, typer.Option("--state", "-s", help="Only with their root in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="At most so many, newest first.")] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List flows, newest first."""
    found = call(url, lambda client: _list(client, state.name if state else None, limit))
    if as_json:
        print_json(found)
        return
    rows = (
        (f["id"], f["root"]["name"], f["state"].lower(), f"{f['finished']}/{f['total']}", age(f["createdAt"]))
        for f in found
    )
    print_table(("ID", "ROOT", "STATE", "ENDED", "AGE"), rows, right=("ENDED", "AGE"))
    if not found:
        note("No flow matches." if state else "There are no flows.")


@app.command()
def show(id: FlowId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one flow as a tree."""
    found = call(url, lambda client: _show(client, id))
    if as_json:
        print_json(found)
        return
    print_text(f"{found['id']} is {found['state'].lower()}: {found['finished']} of {found['total']} jobs have ended.")
    below: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for job in found["jobs"]:
        below[job["parentId"] if job["id"] != found["id"] else None].append(job)
    stack = [(job, 0) for job in reversed(below[None])]
    while stack:
        job, depth = stack.pop()
        error = f"  {job['error']['type']}: {job['error']['message']}".splitlines()[0][:100] if job["error"] else ""
        print_text(f"{'  ' * depth}{job['state'].lower():<10} {shown(job['name'])}  {job['id']}{shown(error)}")
        stack += [(child, depth + 1) for child in reversed(below[job["id"]])]


@app.command()
def create(
    flow: Annotated[str, typer.Argument(metavar="JSON|@FILE|-", help="The root, as the schema's FlowNodeInput.")],
    key: Annotated[str | None, typer.Option("--idempotency-key", help="Makes repeating it safe.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue a flow: `flows create @flow.json`, with {"job": {"name": …}, "children": […]} in it."""
    root = parse_payload([], flow)
    if not isinstance(root, dict):
        raise InvalidInput("flow", 'must be an object such as {"job": {"name": "report"}, "children": []}.')
    variables = {"input": {"root": root, "idempotencyKey": key}}
    made = call(url, lambda client: client.mutate(ENQUEUE_FLOW, variables))
    if as_json:
        print_json(made)
    else:
        print_text(made["id"])


@app.command()
def cancel(id: FlowId, yes: Yes = False, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel every open job of a flow."""
    if not yes and interactive():
        confirm(f"This cancels every open job of the flow {id}. Continue?")
    operation = call(url, lambda client: client.mutate(CANCEL_FLOW, {"id": id}))
    if as_json:
        print_json(operation)
    else:
        going_on = "" if operation["done"] else "; it goes on"
        print_text(f"{operation['changed']} of {operation['matched']} jobs cancelled{going_on}")


@app.command()
def retry(id: FlowId, url: Url = None, as_json: AsJson = False) -> None:
    """Run what failed or was cancelled in a flow again."""
    flow = call(url, lambda client: client.mutate(RETRY_FLOW, {"id": id}))
    if as_json:
        print_json(flow)
    else:
        print_text(f"{flow['id']}: {flow['total'] - flow['finished']} of {flow['total']} jobs run again")


async def _list(client: Any, state: str | None, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = None
    while True:
        variables = {"state": state, "first": min(PAGE, limit - len(found)), "after": after}
        page = (await client.execute(FLOWS, variables))["flows"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"] or len(found) >= limit:
            return found


async def _show(client: Any, id: str) -> dict[str, Any]:
    """The flow with all its jobs as a plain list."""
    jobs: list[dict[str, Any]] = []
    after = None
    while True:
        flow: dict[str, Any] | None = (await client.execute(FLOW, {"id": id, "after": after}))["flow"]
        if flow is None:
            raise NotFound("Flow", id)
        jobs += flow["jobs"]["nodes"]
        after = flow["jobs"]["pageInfo"]["endCursor"]
        if not flow["jobs"]["pageInfo"]["hasNextPage"]:
            return flow | {"jobs": jobs}
