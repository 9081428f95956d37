"""`switchtower keys`: API keys, from beside the database: whoever reaches it needs no key to make the first one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from switchtower.cli.beside import beside_the_database
from switchtower.cli.options import AsJson, DataDir, MongodbUrl
from switchtower.cli.output import note, print_json, print_table, print_text

__all__ = ["app"]

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def _run(mongodb_url: str | None, data_dir: Any, do: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    return beside_the_database(mongodb_url, data_dir, lambda engine, caller: do(engine.keys, caller))


def _row(key: Any) -> dict[str, Any]:
    state = "revoked" if key.revoked_at else "active"
    return {"id": key.id, "name": key.name, "scopes": sorted(key.scopes), "org": key.org, "state": state}


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    scope: Annotated[list[str], typer.Option(help="read, operate, admin or work; repeat it for several.")],
    org: Annotated[str | None, typer.Option(help="The tenant that it sees; without it, an operator's key.")] = None,
    queue: Annotated[
        list[str] | None, typer.Option(help="A queue that exists for it; repeat it for several; without it, all.")
    ] = None,
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its text, once. From then on every request needs a key."""
    from switchtower.access import NewApiKey, Scope
    from switchtower.errors import InvalidInput

    try:
        scopes = [Scope(each.lower()) for each in scope]
    except ValueError:
        raise InvalidInput("scope", "must be read, operate, admin or work.") from None
    new = NewApiKey(name=name, scopes=scopes, org=org, queues=queue or None)
    created = _run(mongodb_url, data_dir, lambda keys, caller: keys.create(new, caller=caller))
    if as_json:
        print_json({**_row(created.key), "secret": created.secret})
    else:
        note(f"{created.key.id}: keep the key now, it is not shown again.")
        print_text(created.secret)


@app.command("list")
def list_all(mongodb_url: MongodbUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all keys; never their secrets."""
    rows = [_row(key) for key in _run(mongodb_url, data_dir, lambda keys, caller: keys.list(caller=caller))]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["ID", "Name", "Scopes", "Tenant", "State"],
            [(row["id"], row["name"], " ".join(row["scopes"]), row["org"], row["state"]) for row in rows],
        )


@app.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id.")],
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key for good."""
    _run(mongodb_url, data_dir, lambda keys, caller: keys.revoke(id, caller=caller))
    print_text(f"{id} is revoked.")
