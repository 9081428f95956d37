"""Every GraphQL document that the client and the command line send is valid in the committed schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema, parse, validate

from switchtower import client
from switchtower.cli import documents, schedule_documents, workflow_documents


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema((Path(__file__).parents[3] / "schema.graphql").read_text())


def sent() -> Iterator[tuple[str, str]]:
    for module in (client, documents, schedule_documents, workflow_documents):
        for name, value in vars(module).items():
            texts = value.values() if isinstance(value, dict) else [value]
            for text in texts:
                if isinstance(text, str) and text.lstrip().startswith(("query", "mutation", "subscription")):
                    yield f"{module.__name__}.{name}", text


@pytest.mark.parametrize(("name", "text"), list(sent()))
def test_document_is_valid(schema: GraphQLSchema, name: str, text: str) -> None:
    assert validate(schema, parse(text)) == []


def test_the_documents_were_found() -> None:
    assert len(list(sent())) > 25
