"""The whole server on a database of the test's own, served on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from app.main import create_app
from app.settings import ServerSettings
from tests.app.serving import Served, serving

ENQUEUE = """
mutation ($input: EnqueueJobInput!) {
  enqueueJob(input: $input) { __typename ... on Job { id state } ... on Error { code message } }
}
"""


@contextmanager
def product(mongodb_url: str, database_name: str, *, on_port: int = 0, **settings: Any) -> Iterator[Served]:
    app = create_app(ServerSettings(mongodb_url=mongodb_url, database=database_name, **settings))
    with serving(app, port=on_port, on_closing=app.state.closing.set) as served:
        yield served


def execute(http: httpx2.Client, query: str, **variables: Any) -> dict[str, Any]:
    """The data of an operation that must succeed."""
    response = http.post("/graphql", json={"query": query, "variables": variables})
    body = response.json()
    assert response.status_code == 200 and "errors" not in body, body
    return dict(body["data"])
