"""Conveyor's list of jobs by a part of their name."""

from __future__ import annotations

from typing import Any

from tests.app.rest.conftest import Server
from tests.conformance.situations import CALLER, enqueue, job_in


async def asked(server: Server, query: str) -> tuple[list[str], dict[str, Any]]:
    answer = await server.ask("GET", f"/api/jobs/search?{query}")
    assert answer.status == 200, answer.body
    return [job["name"] for job in answer.json["data"]], answer.json["meta"]


async def test_by_name(server: Server) -> None:
    await job_in(server.engine, "active", queue="a", name="send-now")
    for n in range(7):
        await enqueue(server.engine, queue="ab"[n % 2], name=f"Send-{n}")
    await enqueue(server.engine, queue="a", name="other")
    await server.engine.jobs.remove((await enqueue(server.engine, queue="a", name="send-gone")).id, caller=CALLER)
    names = [*(f"Send-{n}" for n in range(6, -1, -1)), "send-now"]
    assert await asked(server, "name=SEND") == (names, {"total": 8, "start": 0, "end": 50})
    assert await asked(server, "name=send&start=2&end=4") == (names[2:4], {"total": 8, "start": 2, "end": 4})
    assert (await asked(server, "name=send&queue=a"))[0] == ["Send-6", "Send-4", "Send-2", "Send-0", "send-now"]
    assert (await asked(server, "name=send&queue=a&state=active"))[0] == ["send-now"]
    assert (await asked(server, "name=send&state=waiting&start=6&end=9")) == (
        ["Send-0"],
        {"total": 7, "start": 6, "end": 9},
    )
    assert await asked(server, "name=send&start=5&end=5") == ([], {"total": 8, "start": 5, "end": 5})
    assert (await asked(server, "name=send&start=1000000000&end=1000000001"))[0] == []
    assert (await asked(server, "name=.*"))[0] == [], "a text, not a pattern"
