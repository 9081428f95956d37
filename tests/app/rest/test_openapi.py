"""The descriptions say what the tables do, and are valid OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schemathesis

from app.main import create_app
from app.rest import DIALECTS
from app.rest.dialect import Dialect
from app.rest.openapi import combined, document
from app.settings import ServerSettings
from tests.app.direct import request
from tests.app.rest.conftest import Server


def references(value: Any) -> set[str]:
    return set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(value)))


def operations(description: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_document_has_exactly_the_table(dialect: Dialect) -> None:
    made = document(dialect, version="1")
    assert operations(made) == {(route.method, route.path) for route in dialect.routes}
    assert references(made) <= {f"#/components/schemas/{name}" for name in dialect.schemas}
    schema = schemathesis.openapi.from_dict(made)
    assert schema.validate() is None
    assert sum(1 for each in schema.get_all_operations() if each.ok()) == len(dialect.routes)


def test_the_combined_document_has_all_of_them_apart() -> None:
    made = combined(DIALECTS, version="1")
    expected = {(route.method, f"/{d.name}{route.path}") for d in DIALECTS for route in d.routes}
    assert operations(made) == expected
    assert references(made) <= {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    ids = [operation["operationId"] for methods in made["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)
    assert schemathesis.openapi.from_dict(made).validate() is None


async def test_the_combined_document_is_served(server: Server) -> None:
    answer = await server.ask("GET", "/docs/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    served = answer.json
    assert served == json.loads(json.dumps(combined(DIALECTS, version=served["info"]["version"])))


async def test_it_is_hidden_with_the_schema() -> None:
    app = create_app(ServerSettings(introspection=False))
    assert (await request(app, "GET", "/docs/openapi.json")).status == 404
