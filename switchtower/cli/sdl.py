"""`switchtower schema`: the server's GraphQL schema."""

from __future__ import annotations

import typer

from switchtower.cli.options import AsJson, Url
from switchtower.cli.output import print_json
from switchtower.errors import ConfigurationError

__all__ = ["schema"]


def schema(url: Url = None, as_json: AsJson = False) -> None:
    """Print the server's schema as SDL; with --json, as {"sdl": …}."""
    import httpx2

    from switchtower.client import Client
    from switchtower.subscription import is_loopback, unreachable

    base = Client(url).url
    try:
        answer = httpx2.get(f"{base}/schema.graphql", trust_env=not is_loopback(base), timeout=30)
    except httpx2.TransportError as error:
        raise unreachable(base, error) from error
    if answer.status_code != 200:
        raise ConfigurationError(
            f"{base}/schema.graphql answers with status {answer.status_code}; is it a Switchtower server?"
        )
    if as_json:
        print_json({"sdl": answer.text})
    else:
        typer.echo(answer.text.rstrip())
