"""`switchtower webhooks`: where jobs are delivered, from beside the database, as `switchtower keys`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from switchtower.cli.beside import beside_the_database
from switchtower.cli.options import AsJson, DataDir, MongodbUrl
from switchtower.cli.output import note, print_json, print_table, print_text

__all__ = ["app"]

app = typer.Typer(help="Say where webhooks are delivered, and rotate their secrets.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The webhook's id.")]


def _run(mongodb_url: str | None, data_dir: Any, do: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    return beside_the_database(mongodb_url, data_dir, lambda engine, caller: do(engine.webhooks, caller))


def _row(webhook: Any) -> dict[str, Any]:
    target = webhook.target
    return {
        "id": webhook.id,
        "key": target.key_id,
        "org": webhook.org or None,
        "app": target.app or None,
        "url": webhook.url,
        "secrets": [secret.id for secret in webhook.secrets],
    }


def _print(made: Any, as_json: bool) -> None:
    if as_json:
        print_json({**_row(made.webhook), "secret": made.secret})
        return
    note(f"{made.webhook.id}: deliveries go to {made.webhook.url or 'nowhere yet'}.")
    if made.secret is not None:
        note("Keep the secret now, it is not shown again.")
        print_text(made.secret)


@app.command("set")
def set_webhook(
    url: Annotated[str | None, typer.Argument(help="The address; without it, a secret is made and jobs wait.")] = None,
    key: Annotated[str | None, typer.Option(help="The API key whose jobs go there; else a project's do.")] = None,
    org: Annotated[str, typer.Option(help="The tenant of the project.")] = "",
    app_name: Annotated[str, typer.Option("--app", help="The application that is the project.")] = "",
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say where the jobs of a key or project are delivered; the first time, print the secret, once."""
    from switchtower.webhooks import SetWebhook, Target

    new = SetWebhook(Target(key, org, app_name), url)
    _print(_run(mongodb_url, data_dir, lambda webhooks, caller: webhooks.set(new, caller=caller)), as_json)


@app.command("list")
def list_all(mongodb_url: MongodbUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all webhooks; never the texts of their secrets."""
    rows = [_row(each) for each in _run(mongodb_url, data_dir, lambda webhooks, caller: webhooks.list(caller=caller))]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["ID", "Key", "Tenant", "App", "Address", "Secrets"],
            [(r["id"], r["key"], r["org"], r["app"], r["url"], " ".join(r["secrets"])) for r in rows],
        )


@app.command("rotate")
def rotate(id: Id, mongodb_url: MongodbUrl = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a second secret and print it, once; both are valid until you revoke one."""
    _print(_run(mongodb_url, data_dir, lambda webhooks, caller: webhooks.rotate(id, caller=caller)), as_json)


@app.command("revoke-secret")
def revoke_secret(
    id: Id,
    secret: Annotated[str, typer.Argument(help="The secret's id.")],
    mongodb_url: MongodbUrl = None,
    data_dir: DataDir = None,
) -> None:
    """End one of two secrets for good."""
    _run(mongodb_url, data_dir, lambda webhooks, caller: webhooks.revoke_secret(id, secret, caller=caller))
    print_text(f"{secret} is revoked.")


@app.command("remove")
def remove(id: Id, mongodb_url: MongodbUrl = None, data_dir: DataDir = None) -> None:
    """Remove a webhook and its secrets; jobs for it wait, or go to their project's."""
    _run(mongodb_url, data_dir, lambda webhooks, caller: webhooks.remove(id, caller=caller))
    print_text(f"{id} is removed.")
