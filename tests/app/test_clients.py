"""The clients that people use: graphql-ws, graphql-sse, and the audit of GraphQL over HTTP."""

from __future__ import annotations

from typing import Any

from tests.app.node import node
from tests.app.serving import Served


def test_all_audits_pass_without_a_warning(served: Served) -> None:
    results = node("audit.mjs", served.graphql)
    assert [result for result in results if result["status"] != "ok"] == []
    assert len(results) == 61


def _values(result: dict[str, Any], field: str) -> list[Any]:
    return [each["data"][field] for each in result["received"]]


def test_graphql_ws_client(served: Served) -> None:
    [result] = node("transport-ws.mjs", served.websocket)
    assert _values(result["subscription"], "count") == [1, 2, 3]
    assert _values(result["query"], "hello") == ["world"]
    assert len(_values(result["mutation"], "increment")) == 1
    # A malformed operation ends itself and leaves the connection to the others.
    assert result["syntax"]["error"] == ["Syntax Error: Expected Name, found <EOF>."]
    assert result["validation"]["error"] == ["Cannot query field 'nope' on type 'Query'."]
    assert result["fails"]["received"][0]["data"] == {"fails": 1}
    [masked] = result["fails"]["received"][1]["errors"]
    assert masked["extensions"]["code"] == "INTERNAL" and "hunter2" not in masked["message"]
    assert result["parallel"] == [1, 2, 3, 4]


def test_graphql_sse_client(served: Served) -> None:
    [result] = node("sse.mjs", served.graphql)
    assert _values(result["subscription"], "count") == [1, 2, 3]
    assert _values(result["query"], "hello") == ["world"]
    assert len(_values(result["mutation"], "increment")) == 1
    [refused] = result["validation"]["received"]
    assert refused["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert result["fails"]["received"][1]["errors"][0]["extensions"]["code"] == "INTERNAL"
