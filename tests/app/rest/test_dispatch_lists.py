"""Lists in Dispatch: filters, pages, and numbers that are none."""

from __future__ import annotations

import pytest

from switchtower.jobs import NewJob
from tests.app.rest.conftest import Server
from tests.conformance.situations import CALLER


async def test_filters_and_pages(server: Server) -> None:
    ids = [await server.enqueue(queue=queue, payload=n) for n, queue in enumerate("aabab")]
    held = await server.engine.claims.claim("w", ["a"])

    async def listed(query: str = "") -> list[str]:
        answer = await server.ask("GET", f"/v1/jobs{query}")
        assert answer.status == 200
        return [job["id"] for job in answer.json]

    assert await listed() == ids
    assert await listed("?queue=a") == [ids[0], ids[1], ids[3]]
    assert await listed("?queue=a&state=pending") == [ids[1], ids[3]]
    assert await listed("?state=running&queue=a&queue=b") == [held[0].id]
    assert await listed("?offset=1&limit=2") == ids[1:3]
    assert await listed("?queue=a&offset=1&limit=1") == [ids[1]]
    assert await listed("?offset=5") == await listed("?offset=9223372036854775807") == []
    for same in ("?limit=0", "?limit=-1", "?limit=", "?offset=-7", "?limit=5000", "?limit=%2B9", "?limit=1000000000"):
        assert await listed(same) == ids, same
    for none in ("?state=Pending", "?state=waiting", "?state=%00", "?queue=%F0%9F%90%A2", "?queue=a%00", "?queue=.*"):
        assert await listed(none) == [], none
    for ignored in ("?state[$ne]=x", "?queue[$regex]=.*", "?$where=1", "?limit[]=1", "?State=failed", "?&&=&;"):
        assert await listed(ignored) == ids, ignored


NOT_WHOLE = (
    "abc",
    "1e3",
    "%205",
    "5%20",
    "0x10",
    "%D9%A3",
    "9223372036854775808",
    "1.0",
    "NaN",
    "--1",
    "1_0",
    "9" * 400,
)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/workflows/runs", "/v1/dlq", "/v1/crons"])
@pytest.mark.parametrize("name", ["limit", "offset"])
async def test_a_number_that_is_none_is_refused(server: Server, path: str, name: str) -> None:
    for text in NOT_WHOLE:
        answer = await server.ask("GET", f"{path}?{name}={text}")
        assert answer.status == 400, text
        assert answer.json["error"].startswith(f"invalid request: {name}: must be a whole number"), text
        assert len(answer.body) < 300
    assert (await server.ask("GET", f"{path}?{name}=3&{name}=abc")).status == 200, "the first one counts"


async def test_a_page_has_fifty_items_and_a_thousand_at_most(server: Server) -> None:
    await server.engine.jobs.enqueue_many([NewJob(name="work")] * 1_001, caller=CALLER)
    for query, count in (("", 50), ("?limit=5000", 1_000), ("?limit=1000", 1_000), ("?offset=1000", 1)):
        assert len((await server.ask("GET", f"/v1/jobs{query}")).json) == count
